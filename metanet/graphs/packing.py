"""Packing: networks of many architectures in lists of edges of one fixed size.

What depends on an architecture alone (ends, types, where each value lies in the flat
weights) is worked out once per topology; packing a batch copies index arrays and gathers
weights. One `Budget` gives every batch the same shapes, so one compiled step serves
thousands of architectures.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from metanet.errors import MetanetError
from metanet.graphs.batch import AxisMap, edge_blocks, node_parameters
from metanet.graphs.form import apply_form
from metanet.graphs.schema import (
    GraphSchema,
    degree,
    edge_type,
    join_type,
    node_key,
    node_parameter_kinds,
    node_type,
)
from metanet.graphs.topology import EdgeSet, Topology
from metanet.graphs.view import block_of


class PackedGraphs(NamedTuple):
    """Graphs of many topologies behind one another, padded to a budget.

    E edges, N nodes, G graphs; a leading axis may run over chunks. Ends of padding edges
    are N, graphs of padding edges and nodes G: whatever is sent there is dropped.

    Attributes:
        edge_values: ``[E, C]`` values in the columns of the edge grids.
        node_values: ``[N, C']`` likewise for parameters of nodes.
        source, target: ``[E]`` node numbers.
        edge_type: ``[E]`` index into ``schema.edge_types``.
        edge_place: ``[E]`` kernel position of a parallel edge.
        edge_graph: ``[E]`` graph of the edge.
        fan: ``[E, 2]`` edges of the same group at the edge's source and target.
        node_type, identity: ``[N]`` see `Layout`.
        node_keys: ``[N, K]`` per node grid index into ``schema.node_keys``; -1
            where the node has no such parameter.
        node_graph: ``[N]`` graph of the node.
        degree: ``[N, 2]`` edges that leave and arrive.
        graph_mask: ``[G]`` 1 for graphs, 0 for padding.
        parameter_cells: ``[G, P]`` position of each parameter of a graph among the
            flattened columns of all edges and, behind them, of all nodes; -1 for none.
            None unless `pack` was asked for it; see `Layout.decode`.
    """

    edge_values: np.ndarray
    node_values: np.ndarray
    source: np.ndarray
    target: np.ndarray
    edge_type: np.ndarray
    edge_place: np.ndarray
    edge_graph: np.ndarray
    fan: np.ndarray
    node_type: np.ndarray
    identity: np.ndarray
    node_keys: np.ndarray
    node_graph: np.ndarray
    degree: np.ndarray
    graph_mask: np.ndarray
    parameter_cells: np.ndarray | None = None


@dataclass(frozen=True)
class Budget:
    """Sizes of a packed batch: the most nodes, edges and graphs that it holds."""

    nodes: int
    edges: int
    graphs: int


class Plan(NamedTuple):
    """A topology's part of a packed batch, without weights.

    ``edge_index`` and ``node_index`` say where each column's value lies in the network's
    flat weights, -1 for none; ``edge_cells`` and ``node_cells`` ``[P]`` are the inverse,
    over primary edge sets: the place of each parameter among the flattened columns. The
    other fields are those of `PackedGraphs`.
    """

    edge_index: np.ndarray
    node_index: np.ndarray
    source: np.ndarray
    target: np.ndarray
    edge_type: np.ndarray
    edge_place: np.ndarray
    fan: np.ndarray
    node_type: np.ndarray
    identity: np.ndarray
    node_keys: np.ndarray
    degree: np.ndarray
    edge_cells: np.ndarray
    node_cells: np.ndarray
    parameters: int

    @property
    def edges(self) -> int:
        """Number of edges."""
        return len(self.source)

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return len(self.node_type)


@lru_cache(maxsize=16384)
def plan(topology: Topology, schema: GraphSchema) -> Plan:
    """What packing needs to know of an architecture; kept for later calls.

    Raises:
        MetanetError: for graphs that the schema does not cover, or in which several
            pairs of nodes share a parameter (products over tokens): these can only be
            stacked.
    """
    schema.require(topology)
    topology, form = apply_form(topology, schema.form), schema.form
    sizes = [node.size for node in topology.nodes]
    first = [0, *itertools.accumulate(sizes)]
    numbers = leaf_numbers(topology)
    grids = {c.kind: c for c in schema.edge_grids}
    columns = 1 if form.parallel else schema.edge_columns
    rows: list[tuple[np.ndarray, ...]] = []
    primary: list[np.ndarray] = []
    for group in edge_blocks(topology):
        parallel, places = 1, (0,)
        if group.edge < 0:
            key = join_type(topology, group.join)
            name = f"join {key}"
        else:
            edge = topology.edges[group.edge]
            key, name = edge_type(topology, edge), f"parameter {edge.name}"
            grid = grids[edge.kind]
            places = tuple(grid.start + i for i in grid.places(edge))
            parallel = edge.shape[3] if form.parallel else 1
        shape = (*group.shape, parallel)
        index = np.full((*shape, columns), -1, np.int32)
        if group.edge >= 0:
            block = numbers(topology.edges[group.edge])
            if form.parallel:
                index[..., 0] = block
            else:
                index[:, :, :, 0][..., list(places)] = block
        wide = lambda x, shape=shape: np.broadcast_to(x, shape).ravel()
        source, target = (
            first[node] + _single(view, name)
            for node, view in zip((group.source, group.target), group.ends, strict=True)
        )
        count = int(np.prod(shape))
        number = schema.edge_types.index(key)
        holds = group.edge >= 0 and topology.edges[group.edge].primary
        primary.append(np.full(count, holds))
        rows.append(
            (
                index.reshape(count, columns),
                wide(source[:, :, None, None]),
                wide(target[:, None, :, None]),
                np.full(count, number),
                wide(np.asarray(places if form.parallel and group.edge >= 0 else (0,))),
                np.tile(np.asarray([[group.shape[2], group.shape[1]]]), (count, 1)),
            )
        )
    parts = [np.concatenate(column) for column in zip(*rows, strict=True)]
    node_index, node_keys = _of_nodes(topology, schema, numbers, first)
    types = [schema.node_types.index(node_type(n)) for n in topology.nodes]
    index, source, target, kinds, places, fan = parts
    parameters = sum(math.prod(shape) for _, shape in topology.leaves)
    primary_edges = np.concatenate(primary)
    return Plan(
        edge_index=index,
        node_index=node_index,
        source=source.astype(np.int32),
        target=target.astype(np.int32),
        edge_type=kinds.astype(np.int32),
        edge_place=places.astype(np.int32),
        fan=fan.astype(np.float32),
        node_type=np.repeat(np.asarray(types, np.int32), sizes),
        identity=np.concatenate([schema.identity(n) for n in topology.nodes]),
        node_keys=node_keys,
        degree=np.stack(
            [degree(topology, form, "source"), degree(topology, form, "target")], -1
        ),
        edge_cells=_cells(index, primary_edges, parameters),
        node_cells=_cells(node_index, np.ones(len(node_index), bool), parameters),
        parameters=parameters,
    )


def _cells(index: np.ndarray, rows: np.ndarray, parameters: int) -> np.ndarray:
    """Returns the place ``[P]`` of each parameter in ``index [R, C]``, -1 for none.

    Only rows whose entry in ``rows [R]`` is True count.
    """
    cells = np.full(parameters, -1, np.int32)
    row, column = np.nonzero((index >= 0) & rows[:, None])
    cells[index[row, column]] = row * index.shape[1] + column
    return cells


def leaf_numbers(topology: Topology) -> Callable[[EdgeSet], np.ndarray]:
    """Per edge set the block ``[both, S, T, M]`` of places in the flat weights."""
    shapes = [shape for _, shape in topology.leaves]
    starts = [0, *itertools.accumulate(int(np.prod(s)) for s in shapes)]

    def numbers(edge: EdgeSet) -> np.ndarray:
        shape = shapes[edge.leaf]
        start = starts[edge.leaf]
        leaf = np.arange(start, start + int(np.prod(shape)), dtype=np.int32)
        return block_of(edge, shape, leaf.reshape(shape))

    return numbers


def _single(view: AxisMap, name: str) -> np.ndarray:
    """Node numbers ``[both, n]`` at an end where each edge has one node."""
    shared, both, count, rest = view.shape
    if shared > 1 or rest > 1:
        raise MetanetError(
            f"{name}: several nodes share its edges (a product over tokens, or a mean), "
            "which the packed layout does not support; stack graphs of one topology"
        )
    numbers = np.arange(both * count).reshape(view.units)
    return numbers.transpose(view.order).reshape(both, count)


def _of_nodes(
    topology: Topology, schema: GraphSchema, numbers, first: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    index = np.full((first[-1], schema.node_columns), -1, np.int32)
    keys = np.full((first[-1], len(schema.node_grids)), -1, np.int32)
    grids = {c.kind: (i, c) for i, c in enumerate(schema.node_grids)}
    for start, held in zip(first, node_parameters(topology), strict=False):
        for slot, (place, view) in zip(
            node_parameter_kinds(topology, held), held, strict=True
        ):
            edge = topology.edges[place]
            kind, grid = grids[slot]
            order = np.arange(int(np.prod(view.units, dtype=int))).reshape(view.units)
            nodes = start + order.transpose(view.order).reshape(view.shape)
            # [1, 1, 1, n, M] to [n, 1, M] beside nodes [1, 1, n, rest]
            block = numbers(edge).reshape(-1, 1, edge.shape[3])
            at = nodes.reshape(*nodes.shape[2:], 1)
            columns = grid.start + np.asarray(grid.places(edge))
            index[at, columns] = block
            keys[nodes.ravel(), kind] = schema.node_keys.index(
                node_key(topology, edge, slot)
            )
    return index, keys


def first_fit_decreasing(
    sizes: Sequence[tuple[int, int]], budget: Budget
) -> list[list[int]]:
    """Bins of networks that fit a budget each, first fit decreasing by edges.

    Args:
        sizes: ``(nodes, edges)`` of each network.
        budget: What a bin holds.

    Raises:
        MetanetError: for a network that no bin can hold.
    """
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i][1])
    bins: list[list[int]] = []
    left: list[list[int]] = []
    for i in order:
        nodes, edges = sizes[i]
        if nodes > budget.nodes or edges > budget.edges:
            raise MetanetError(
                f"pack: network {i} has {nodes} nodes and {edges} edges, more than the "
                f"budget of {budget.nodes} and {budget.edges}"
            )
        fits = (
            k
            for k, room in enumerate(left)
            if room[0] >= nodes and room[1] >= edges and room[2] >= 1
        )
        at = next(fits, len(bins))
        if at == len(bins):
            bins.append([])
            left.append([budget.nodes, budget.edges, budget.graphs])
        bins[at].append(i)
        room = left[at]
        room[0] -= nodes
        room[1] -= edges
        room[2] -= 1
    return bins


def pack(
    plans: Sequence[Plan],
    weights: Sequence[np.ndarray],
    budget: Budget,
    *,
    parameters: int = 0,
) -> PackedGraphs:
    """Packs networks behind one another.

    Args:
        plans: One per network; see `plan`.
        weights: Flat weights of each, its leaves in order; ``[P]`` or ``[P, F]``.
        budget: Sizes of the result.
        parameters: Width P of ``parameter_cells``, at least the size of the largest
            network; 0 leaves them out.

    Raises:
        MetanetError: when they do not fit the budget, or weights have another length.
    """
    nodes, edges = sum(p.nodes for p in plans), sum(p.edges for p in plans)
    if nodes > budget.nodes or edges > budget.edges or len(plans) > budget.graphs:
        raise MetanetError(
            f"pack: {len(plans)} networks with {nodes} nodes and {edges} edges exceed "
            f"the budget of {budget.graphs}, {budget.nodes} and {budget.edges}"
        )
    features = 1 if weights[0].ndim == 1 else weights[0].shape[1]
    width = lambda index: index.shape[1] * features
    n, e, g = budget.nodes, budget.edges, budget.graphs
    out = PackedGraphs(
        edge_values=np.zeros((e, width(plans[0].edge_index)), np.float32),
        node_values=np.zeros((n, width(plans[0].node_index)), np.float32),
        source=np.full(e, n, np.int32),
        target=np.full(e, n, np.int32),
        edge_type=np.zeros(e, np.int32),
        edge_place=np.zeros(e, np.int32),
        edge_graph=np.full(e, g, np.int32),
        fan=np.ones((e, 2), np.float32),
        node_type=np.zeros(n, np.int32),
        identity=np.full(n, -1, np.int32),
        node_keys=np.full((n, plans[0].node_keys.shape[1]), -1, np.int32),
        node_graph=np.full(n, g, np.int32),
        degree=np.ones((n, 2), np.float32),
        graph_mask=(np.arange(g) < len(plans)).astype(np.float32),
        parameter_cells=np.full((g, parameters), -1, np.int32) if parameters else None,
    )
    columns, node_columns = plans[0].edge_index.shape[1], plans[0].node_index.shape[1]
    node, edge = 0, 0
    for number, (part, flat) in enumerate(zip(plans, weights, strict=True)):
        if len(flat) != part.parameters:
            raise MetanetError(
                f"pack: network {number} has {len(flat)} weights, its topology "
                f"{part.parameters}"
            )
        # Index -1 reads the zero behind the weights.
        held = np.append(flat, np.zeros((1, *flat.shape[1:]), flat.dtype), axis=0)
        at, on = slice(edge, edge + part.edges), slice(node, node + part.nodes)
        out.edge_values[at] = held[part.edge_index].reshape(part.edges, -1)
        out.node_values[on] = held[part.node_index].reshape(part.nodes, -1)
        out.source[at] = part.source + node
        out.target[at] = part.target + node
        out.edge_graph[at] = number
        out.node_graph[on] = number
        for name in ("edge_type", "edge_place", "fan"):
            getattr(out, name)[at] = getattr(part, name)
        for name in ("node_type", "identity", "node_keys", "degree"):
            getattr(out, name)[on] = getattr(part, name)
        if out.parameter_cells is not None:
            on_edge, on_node = part.edge_cells >= 0, part.node_cells >= 0
            cells = out.parameter_cells[number, : part.parameters]
            cells[on_edge] = part.edge_cells[on_edge] + edge * columns
            first = e * columns + node * node_columns
            cells[on_node] = part.node_cells[on_node] + first
        node, edge = node + part.nodes, edge + part.edges
    return out
