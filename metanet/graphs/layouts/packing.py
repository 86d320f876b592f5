"""Packing of networks of many architectures into lists of edges of a fixed size.

The index arrays of an architecture (ends, types, position of each value in the flat
weights) are derived once, see `CompiledTopology.packed`; packing a batch copies them and
gathers weights. A `Budget` gives all batches the same shapes, so that one compiled step
serves thousands of architectures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from metanet.errors import MetanetError
from metanet.graphs.compiled import PackedTopology


class PackedGraphs(NamedTuple):
    """Concatenated graphs of many topologies, padded to a budget.

    E rows of edges, N nodes, A averages, G graphs; a leading axis may run over chunks. Ends
    of padding edges are N + A, graphs of padding edges and nodes G: these indices are out of
    range and dropped.

    An edge that several pairs of nodes share (a product over tokens) has a row per pair,
    all but the first of which repeat it; an end of an edge may be an average of nodes.

    Attributes:
        edge_values: ``[E, C]`` values in the columns of the edge grids.
        node_values: ``[N, C']`` likewise for parameters of nodes.
        source, target: ``[E]`` numbers of nodes, or N plus the number of an average.
        edge_type: ``[E]`` index into ``schema.edge_types``.
        edge_position: ``[E]`` kernel position of a parallel edge.
        edge_graph: ``[E]`` graph of the edge.
        fan: ``[E, 2]`` edges of the same block at the edge's source and target.
        node_type, identity: ``[N]`` see `Layout`.
        node_keys: ``[N, K]`` per node grid index into ``schema.node_keys``; -1
            if the node has no such parameter.
        node_graph: ``[N]`` graph of the node.
        degree: ``[N, 2]`` edges that leave and arrive.
        averaged, average: ``[M]`` nodes, and the average of which each is a part; N and A
            on padding.
        average_size: ``[A]`` number of nodes of each average.
        repeat, repeated: ``[R]`` rows that repeat an edge, behind those of all edges of
            their graph, and the first row of the same edge; E on padding.
        graph_mask: ``[G]`` 1 for graphs, 0 for padding.
        parameter_cells: ``[G, P]`` position of each parameter of a graph among the
            flattened columns of all edges, followed by those of all nodes; -1 for none.
            None unless `pack` was asked for it; see `Layout.decode`.
    """

    edge_values: np.ndarray
    node_values: np.ndarray
    source: np.ndarray
    target: np.ndarray
    edge_type: np.ndarray
    edge_position: np.ndarray
    edge_graph: np.ndarray
    fan: np.ndarray
    node_type: np.ndarray
    identity: np.ndarray
    node_keys: np.ndarray
    node_graph: np.ndarray
    degree: np.ndarray
    averaged: np.ndarray
    average: np.ndarray
    average_size: np.ndarray
    repeat: np.ndarray
    repeated: np.ndarray
    graph_mask: np.ndarray
    parameter_cells: np.ndarray | None = None


@dataclass(frozen=True)
class Budget:
    """Sizes of a packed batch: the most of everything that it holds.

    Attributes:
        nodes: Nodes.
        edges: Rows of edges.
        graphs: Graphs.
        averages: Averages of nodes.
        averaged: Nodes of all averages together.
        repeats: Rows that repeat an edge.
    """

    nodes: int
    edges: int
    graphs: int
    averages: int = 0
    averaged: int = 0
    repeats: int = 0

    @classmethod
    def of(cls, topologies: Sequence[PackedTopology]) -> Budget:
        """Returns the budget of a batch that holds networks of some topologies exactly."""
        return cls(
            sum(t.nodes for t in topologies),
            sum(t.edges for t in topologies),
            len(topologies),
            sum(len(t.average_size) for t in topologies),
            sum(len(t.averaged) for t in topologies),
            sum(len(t.repeat) for t in topologies),
        )


def first_fit_decreasing(
    sizes: Sequence[tuple[int, int]], budget: Budget
) -> list[list[int]]:
    """Divides networks into bins that fit a budget, first fit decreasing by edges.

    Args:
        sizes: ``(nodes, edges)`` of each network.
        budget: Sizes of a bin.

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
    topologies: Sequence[PackedTopology],
    weights: Sequence[np.ndarray],
    budget: Budget,
    *,
    parameters: int = 0,
) -> PackedGraphs:
    """Packs networks into one batch.

    Args:
        topologies: Index arrays of each network; see `CompiledTopology.packed`.
        weights: Flat weights of each, its leaves in order; ``[P]`` or ``[P, F]``.
        budget: Sizes of the result.
        parameters: Width P of ``parameter_cells``, at least the size of the largest
            network; 0 leaves them out.

    Raises:
        MetanetError: when they do not fit the budget, or weights have another length.
    """
    needed = Budget.of(topologies)
    for name, most in asdict(budget).items():
        count = getattr(needed, name)
        if count > most:
            raise MetanetError(
                f"pack: {len(topologies)} networks exceed the budget of {most} {name} "
                f"({count})"
            )
    features = 1 if weights[0].ndim == 1 else weights[0].shape[1]
    columns = topologies[0].edge_index.shape[1]
    node_columns = topologies[0].node_index.shape[1]
    n, e, g, a = budget.nodes, budget.edges, budget.graphs, budget.averages
    out = PackedGraphs(
        edge_values=np.zeros((e, columns * features), np.float32),
        node_values=np.zeros((n, node_columns * features), np.float32),
        source=np.full(e, n + a, np.int32),
        target=np.full(e, n + a, np.int32),
        edge_type=np.zeros(e, np.int32),
        edge_position=np.zeros(e, np.int32),
        edge_graph=np.full(e, g, np.int32),
        fan=np.ones((e, 2), np.float32),
        node_type=np.zeros(n, np.int32),
        identity=np.full(n, -1, np.int32),
        node_keys=np.full((n, topologies[0].node_keys.shape[1]), -1, np.int32),
        node_graph=np.full(n, g, np.int32),
        degree=np.ones((n, 2), np.float32),
        averaged=np.full(budget.averaged, n, np.int32),
        average=np.full(budget.averaged, a, np.int32),
        average_size=np.ones(a, np.float32),
        repeat=np.full(budget.repeats, e, np.int32),
        repeated=np.full(budget.repeats, e, np.int32),
        graph_mask=(np.arange(g) < len(topologies)).astype(np.float32),
        parameter_cells=np.full((g, parameters), -1, np.int32) if parameters else None,
    )
    node = edge = average = member = repeat = 0
    for number, (part, flat) in enumerate(zip(topologies, weights, strict=True)):
        if len(flat) != part.parameters:
            raise MetanetError(
                f"pack: network {number} has {len(flat)} weights, its topology "
                f"{part.parameters}"
            )
        # Index -1 reads the zero behind the weights.
        padded = np.append(flat, np.zeros((1, *flat.shape[1:]), flat.dtype), axis=0)
        at, on = slice(edge, edge + part.edges), slice(node, node + part.nodes)
        out.edge_values[at] = padded[part.edge_index].reshape(part.edges, -1)
        out.node_values[on] = padded[part.node_index].reshape(part.nodes, -1)
        for name in ("source", "target"):
            ends = getattr(part, name)
            is_node = ends < part.nodes
            shift = np.where(is_node, node, n + average - part.nodes)
            getattr(out, name)[at] = ends + shift
        out.edge_graph[at] = number
        out.node_graph[on] = number
        for name in ("edge_type", "edge_position", "fan"):
            getattr(out, name)[at] = getattr(part, name)
        for name in ("node_type", "identity", "node_keys", "degree"):
            getattr(out, name)[on] = getattr(part, name)
        of_average = slice(average, average + len(part.average_size))
        members = slice(member, member + len(part.averaged))
        repeats = slice(repeat, repeat + len(part.repeat))
        out.average_size[of_average] = part.average_size
        out.averaged[members] = part.averaged + node
        out.average[members] = part.average + average
        out.repeat[repeats] = part.repeat + edge
        out.repeated[repeats] = part.repeated + edge
        if out.parameter_cells is not None:
            on_edge, on_node = part.edge_cells >= 0, part.node_cells >= 0
            cells = out.parameter_cells[number, : part.parameters]
            cells[on_edge] = part.edge_cells[on_edge] + edge * columns
            first = e * columns + node * node_columns
            cells[on_node] = part.node_cells[on_node] + first
        node, edge = node + part.nodes, edge + part.edges
        average, member, repeat = of_average.stop, members.stop, repeats.stop
    return out
