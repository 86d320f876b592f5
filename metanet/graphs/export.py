"""Lists of all edges of a parameter graph, for other graph libraries."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

from metanet.errors import MetanetError
from metanet.graphs.blocks import edge_blocks, node_parameters
from metanet.graphs.topology import NodeSet, Topology
from metanet.graphs.view import ParameterGraph


class EdgeArrays(NamedTuple):
    """All edges of a graph as flat arrays, in the form that PyTorch Geometric takes.

    Nodes are numbered through all node sets in the topology's order. The last node is a
    bias node, the source of parameters that multiply no activation.

    Attributes:
        edge_index: ``[2, E]`` int64, source and target of every edge.
        edge_attr: ``[E, F]`` values of the parameter, 0 for parameter-free edges.
        edge_set: ``[E]`` index into ``topology.edges`` followed by
            ``topology.identity_edges``.
        edge_position: ``[E]`` number among parallel edges (kernel position).
        node_set: ``[N]`` index into ``topology.nodes``; -1 for the bias node.
        node_unit: ``[N]`` number of the node within its set.
    """

    edge_index: np.ndarray
    edge_attr: np.ndarray
    edge_set: np.ndarray
    edge_position: np.ndarray
    node_set: np.ndarray
    node_unit: np.ndarray


def edge_arrays(graph: ParameterGraph) -> EdgeArrays:
    """Lists the edges of one graph, an edge set at a time.

    ``torch_geometric.data.Data(edge_index=torch.from_numpy(a.edge_index), ...)`` takes
    the arrays without conversion.

    Args:
        graph: The graph of one network, without leading axes.

    Raises:
        MetanetError: for graphs with leading axes.
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
    for block in edge_blocks(topology):
        source = first[block.source] + block.ends[0].node_numbers()
        target = first[block.target] + block.ends[1].node_numbers()
        if block.edge >= 0:
            values, index = blocks[block.edge], block.edge
        else:
            values = np.zeros((*block.shape, 1, width), blocks[0].dtype)
            index = len(topology.edges) + block.identity_edge
        parts.append((source, target, values, index))
    for node, parameters in enumerate(node_parameters(topology)):
        for index, axis_map in parameters:
            target = first[node] + axis_map.node_numbers()
            source = np.full((*target.shape[:2], 1, 1), bias)
            parts.append((source, target, blocks[index], index))
    lists = [_list_edges(*part) for part in parts]
    columns = [np.concatenate(column) for column in zip(*lists, strict=True)]
    source, target, values, edge_set, position = columns
    return EdgeArrays(
        edge_index=np.stack([source, target]).astype(np.int64),
        edge_attr=values,
        edge_set=edge_set,
        edge_position=position,
        node_set=np.append(np.repeat(np.arange(len(sizes)), sizes), -1),
        node_unit=np.append(np.concatenate([np.arange(n) for n in sizes]), 0),
    )


def _list_edges(
    source: np.ndarray, target: np.ndarray, block: np.ndarray, index: int
) -> tuple[np.ndarray, ...]:
    """Lists the edges of a block.

    Args:
        source: Node numbers ``[shared, diagonal, S, rest]``.
        target: Node numbers ``[shared, diagonal, T, rest]``.
        block: Values ``[diagonal, S, T, M, F]``.
        index: Index of the edge set.

    Returns:
        Sources, targets, values, edge sets and positions of E edges.
    """
    diagonal, _, _, parallel, width = block.shape
    ends_shape = (*source.shape[2:], *target.shape[2:])
    shape = (source.shape[0], diagonal, *ends_shape, parallel)

    def per_edge(x: np.ndarray) -> np.ndarray:
        return np.broadcast_to(x, shape).ravel()

    starts = per_edge(source[:, :, :, :, None, None, None])
    ends = per_edge(target[:, :, None, None, :, :, None])
    position = per_edge(np.arange(parallel))
    values = np.broadcast_to(
        block[None, :, :, None, :, None, :, :], (*shape, width)
    ).reshape(-1, width)
    return starts, ends, values, np.full(starts.shape, index), position


def to_networkx(graph: ParameterGraph) -> Any:
    """Returns the graph as a ``networkx.MultiDiGraph``.

    Nodes have the attributes ``set``, ``kind`` and ``unit``. Edges have ``kind`` and, if
    they have a parameter, ``parameter``, ``position`` and ``value`` (or ``values``, a
    tuple).

    Args:
        graph: The graph of one network, without leading axes.

    Raises:
        MetanetError: if networkx is not installed, and as `edge_arrays`.
    """
    try:
        import networkx
    except ImportError:
        raise MetanetError("to_networkx needs networkx: pip install networkx") from None
    topology, arrays = graph.topology, edge_arrays(graph)
    multigraph = networkx.MultiDiGraph()
    bias = NodeSet("bias", (), "bias", 0)
    for number, (index, unit) in enumerate(
        zip(arrays.node_set.tolist(), arrays.node_unit.tolist(), strict=True)
    ):
        node = topology.nodes[index] if index >= 0 else bias
        multigraph.add_node(number, set=node.name, kind=node.kind, unit=unit)
    set_attributes = _edge_set_attributes(topology)
    sources, targets = arrays.edge_index.tolist()
    for source, target, index, position, values in zip(
        sources,
        targets,
        arrays.edge_set.tolist(),
        arrays.edge_position.tolist(),
        arrays.edge_attr.tolist(),
        strict=True,
    ):
        attributes: dict[str, Any] = dict(set_attributes[index])
        if "parameter" in attributes:
            attributes["position"] = position
            if len(values) == 1:
                attributes["value"] = values[0]
            else:
                attributes["values"] = tuple(values)
        multigraph.add_edge(source, target, **attributes)
    return multigraph


def _edge_set_attributes(topology: Topology) -> list[dict[str, str]]:
    """Returns the attributes that all edges of a set share, per edge set."""
    edges = [{"kind": edge.kind, "parameter": edge.name} for edge in topology.edges]
    return [*edges, *({"kind": edge.kind} for edge in topology.identity_edges)]
