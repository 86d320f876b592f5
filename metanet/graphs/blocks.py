"""Dense edge blocks, and the index maps from node sets to the axes of a block.

An edge block is a dense array of edges ``[diagonal, S, T]``, where ``diagonal`` runs over an
index shared by source and target (1 for a fully connected block; the number of nodes for residual
edges; groups of a grouped convolution).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from metanet.errors import MetanetError
from metanet.graphs.topology import EdgeSet, Topology

End = Literal["source", "target"]


@dataclass(frozen=True)
class AxisMap:
    """The unit indices of a node set, sorted by their role at one end of an edge block.

    Attributes:
        units: Sizes of the set's unit indices.
        order: Positions of the units, sorted by role: shared by both ends without an
            axis in the block (the channels of a product over tokens), diagonal, indices
            of the edges at this end, and the rest, over which values are averaged.
        shape: Number of joint indices of each of the four roles.
    """

    units: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, int, int, int]

    @property
    def plain(self) -> bool:
        """True if node values need only be reshaped."""
        shared, _, _, rest = self.shape
        return shared == rest == 1 and self.order == tuple(range(len(self.units)))


@dataclass(frozen=True)
class EdgeBlock:
    """A dense array of edges between two node sets.

    Attributes:
        source, target: Node set indices.
        shape: ``(diagonal, sources, targets)``.
        ends: Axis maps of the source and of the target.
        edge: Index of the edge set whose parameters the block holds; -1 for identity
            edges.
        identity_edge: Index of the set of identity edges; -1 for parameters.
    """

    source: int
    target: int
    shape: tuple[int, int, int]
    ends: tuple[AxisMap, AxisMap]
    edge: int = -1
    identity_edge: int = -1


def edge_blocks(topology: Topology) -> tuple[EdgeBlock, ...]:
    """Returns a block per edge set with a source, and per set of identity edges.

    Edge sets without a source (biases, gains, running statistics) are features of the
    nodes that they reach, not edges; see `node_parameters`. There is one identity edge per
    pair of nodes whose joined indices agree (every channel of a head to the head).

    Raises:
        MetanetError: for an edge set that indexes the same units twice at one end.
    """
    blocks = []
    for i, edge in enumerate(topology.edges):
        if edge.source is None:
            continue
        diagonal, sources, targets, _ = edge.shape
        ends = (
            _axis_map(topology, edge, "source"),
            _axis_map(topology, edge, "target"),
        )
        shape = (diagonal, sources, targets)
        blocks.append(EdgeBlock(edge.source, edge.target, shape, ends, edge=i))
    for i, edge in enumerate(topology.identity_edges):
        source, target = topology.nodes[edge.source], topology.nodes[edge.target]
        ends = (
            _identity_axis_map(source.units, [unit for unit, _ in edge.join]),
            _identity_axis_map(target.units, [unit for _, unit in edge.join]),
        )
        diagonal = ends[0].shape[1]
        if ends[1].shape[1] != diagonal:
            raise MetanetError(
                f"{edge.kind} edges from {source.name} to {target.name}: an index is "
                "joined twice, which the dense layout does not support"
            )
        shape = (diagonal, ends[0].shape[2], ends[1].shape[2])
        blocks.append(EdgeBlock(edge.source, edge.target, shape, ends, identity_edge=i))
    return tuple(blocks)


def _axis_map(topology: Topology, edge: EdgeSet, end: End) -> AxisMap:
    """Returns the axis map of the nodes at one end of an edge set."""
    k = 0 if end == "source" else 1
    index = edge.source if end == "source" else edge.target
    assert index is not None, "an edge set without a source has one end"
    node = topology.nodes[index]
    pairs = [unit for unit in edge.units if unit[0] >= 0 and unit[1] >= 0]
    diagonal = tuple(pair[k] for pair in pairs)
    at_end = tuple(unit[k] for unit in edge.units if unit[k] >= 0 and unit[1 - k] < 0)
    shared = tuple(pair[k] for pair in edge.join if pair not in pairs)
    indexed = (*diagonal, *at_end, *shared)
    if len(set(indexed)) < len(indexed):
        raise MetanetError(
            f"parameter {edge.name}: indexes {node.name} twice, which the dense layout "
            "does not support"
        )
    return _sorted_units(node.units, shared, diagonal, at_end)


def _sorted_units(
    units: tuple[int, ...],
    shared: tuple[int, ...],
    diagonal: tuple[int, ...],
    at_end: tuple[int, ...],
) -> AxisMap:
    """Returns the axis map of units whose roles are known; the others are the rest."""
    indexed = (*shared, *diagonal, *at_end)
    rest = tuple(i for i in range(len(units)) if i not in indexed)

    def count(positions: tuple[int, ...]) -> int:
        return math.prod(units[i] for i in positions)

    shape = (count(shared), count(diagonal), count(at_end), count(rest))
    return AxisMap(units, (*indexed, *rest), shape)


def _identity_axis_map(units: tuple[int, ...], joined: list[int]) -> AxisMap:
    """Returns the axis map at an end of identity edges, from its joined units."""
    diagonal = tuple(dict.fromkeys(joined))
    at_end = tuple(i for i in range(len(units)) if i not in diagonal)
    return _sorted_units(units, (), diagonal, at_end)


def node_parameters(topology: Topology) -> tuple[tuple[tuple[int, AxisMap], ...], ...]:
    """Returns per node set its edge sets without a source, the features of its nodes.

    Each comes with the axis map that brings its values to the nodes.
    """
    sets: list[list[tuple[int, AxisMap]]] = [[] for _ in topology.nodes]
    for i, edge in enumerate(topology.edges):
        if edge.source is None:
            sets[edge.target].append((i, _axis_map(topology, edge, "target")))
    return tuple(map(tuple, sets))
