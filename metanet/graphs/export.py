"""A parameter graph edge by edge, for other graph libraries."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from metanet.errors import MetanetError
from metanet.graphs.blocks import AxisMap, edge_blocks, node_parameters
from metanet.graphs.topology import NodeSet, Topology
from metanet.graphs.view import ParameterGraph


class EdgeArrays(NamedTuple):
    """All edges of a graph as flat arrays, as PyTorch Geometric takes them.

    Nodes are numbered through all node sets in the topology's order; behind them stands
    one bias node, the source of parameters that no other node is read through.

    Attributes:
        edge_index: ``[2, E]`` int64, source and target of every edge.
        edge_attr: ``[E, F]`` values of the parameter, 0 for parameter-free edges.
        edge_set: ``[E]`` index into ``topology.edges``, and behind these into
            ``topology.identity_edges``.
        edge_position: ``[E]`` which of the parallel edges (kernel position).
        node_set: ``[N]`` index into ``topology.nodes``; -1 for the bias node.
        node_unit: ``[N]`` place of a node in its set.
    """

    edge_index: np.ndarray
    edge_attr: np.ndarray
    edge_set: np.ndarray
    edge_position: np.ndarray
    node_set: np.ndarray
    node_unit: np.ndarray


def edge_arrays(graph: ParameterGraph) -> EdgeArrays:
    """Lists the edges of one graph; nothing is looped over but the edge sets.

    ``torch_geometric.data.Data(edge_index=torch.from_numpy(a.edge_index), ...)`` takes
    the arrays as they are.

    Args:
        graph: The graph of one network, without leading axes.

    Raises:
        MetanetError: for graphs with leading axes, or an edge set that indexes the same
            units twice at one end.
    """
    topology = graph.topology
    if graph.batch_shape:
        raise MetanetError(
            f"edge_arrays: takes the graph of one network, got {graph.batch_shape}"
        )
    sizes = [node.size for node in topology.nodes]
    first = [0, *itertools.accumulate(sizes)]
    bias = first[-1]
    blocks = [np.asarray(block) for block in graph.edges]
    width = blocks[0].shape[-1] if blocks else 1
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, int]] = []
    for group in edge_blocks(topology):
        source, target = (
            first[node] + _nodes(view)
            for node, view in zip((group.source, group.target), group.ends, strict=True)
        )
        if group.edge >= 0:
            block, index = blocks[group.edge], group.edge
        else:
            block = np.zeros((*group.shape, 1, width), blocks[0].dtype)
            index = len(topology.edges) + group.join
        parts.append((source, target, block, index))
    for node, parameters in enumerate(node_parameters(topology)):
        for index, view in parameters:
            target = first[node] + _nodes(view)
            source = np.full((*target.shape[:2], 1, 1), bias)
            parts.append((source, target, blocks[index], index))
    listed = [_listed(*part) for part in parts]
    columns = [np.concatenate(column) for column in zip(*listed, strict=True)]
    source, target, values, edge_set, position = columns
    return EdgeArrays(
        edge_index=np.stack([source, target]).astype(np.int64),
        edge_attr=values,
        edge_set=edge_set,
        edge_position=position,
        node_set=np.append(np.repeat(np.arange(len(sizes)), sizes), -1),
        node_unit=np.append(np.concatenate([np.arange(n) for n in sizes]), 0),
    )


def _nodes(view: AxisMap) -> np.ndarray:
    """Node numbers ``[shared, both, n, rest]`` within a set."""
    numbers = np.arange(math.prod(view.units)).reshape(view.units)
    return numbers.transpose(view.order).reshape(view.shape)


def _listed(
    source: np.ndarray, target: np.ndarray, block: np.ndarray, index: int
) -> tuple[np.ndarray, ...]:
    """Every edge of a block ``[both, S, T, M, F]`` between node numbers
    ``[shared, both, S, rest]`` and ``[shared, both, T, rest]``."""
    both, _, _, parallel, width = block.shape
    shape = (
        source.shape[0], both, *source.shape[2:], *target.shape[2:], parallel,
    )  # fmt: skip
    wide = lambda x: np.broadcast_to(x, shape).ravel()
    starts = wide(source[:, :, :, :, None, None, None])
    ends = wide(target[:, :, None, None, :, :, None])
    position = wide(np.arange(parallel))
    values = np.broadcast_to(
        block[None, :, :, None, :, None, :, :], (*shape, width)
    ).reshape(-1, width)
    return starts, ends, values, np.full(starts.shape, index), position


def to_networkx(graph: ParameterGraph) -> Any:
    """The graph as a ``networkx.MultiDiGraph``.

    Nodes have ``set``, ``kind`` and ``unit``; edges ``kind`` and, where a parameter
    makes them, ``parameter``, ``position`` and ``value`` (or ``values``, a tuple).

    Args:
        graph: The graph of one network, without leading axes.

    Raises:
        MetanetError: networkx is not installed; else as `edge_arrays`.
    """
    try:
        import networkx
    except ImportError:
        raise MetanetError("to_networkx needs networkx: pip install networkx") from None
    topology, arrays = graph.topology, edge_arrays(graph)
    made = networkx.MultiDiGraph()
    for number, (place, unit) in enumerate(
        zip(arrays.node_set.tolist(), arrays.node_unit.tolist(), strict=True)
    ):
        node = topology.nodes[place] if place >= 0 else NodeSet("bias", (), "bias", 0)
        made.add_node(number, set=node.name, kind=node.kind, unit=unit)
    facts = _facts(topology)
    columns = (
        *arrays.edge_index.tolist(), arrays.edge_set.tolist(),
        arrays.edge_position.tolist(), arrays.edge_attr.tolist(),
    )  # fmt: skip
    for source, target, place, position, values in zip(*columns, strict=True):
        known = dict(facts[place])
        if "parameter" in known:
            known["position"] = position
            known |= (
                {"value": values[0]} if len(values) == 1 else {"values": (*values,)}
            )
        made.add_edge(source, target, **known)
    return made


def _facts(topology: Topology) -> list[dict[str, Any]]:
    edges = [{"kind": e.kind, "parameter": e.name} for e in topology.edges]
    return [*edges, *({"kind": j.kind} for j in topology.identity_edges)]
