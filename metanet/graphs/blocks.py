"""Dense edge blocks, and the index maps from node sets to the axes of a block.

An edge block is a dense array of edges ``[diagonal, S, T]``, where ``diagonal`` runs over an
index shared by source and target (1 for a fully connected block; the number of nodes for residual
edges; groups of a grouped convolution).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from metanet.graphs.topology import EdgeSet, IdentityEdgeSet, Topology

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

    def node_numbers(self) -> np.ndarray:
        """Returns numbers within the set, ``[shared, diagonal, n, rest]``."""
        numbers = np.arange(math.prod(self.units)).reshape(self.units)
        return numbers.transpose(self.order).reshape(self.shape)


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
        ends = (
            _identity_axis_map(topology, edge, "source"),
            _identity_axis_map(topology, edge, "target"),
        )
        shape = (ends[0].shape[1], ends[0].shape[2], ends[1].shape[2])
        blocks.append(EdgeBlock(edge.source, edge.target, shape, ends, identity_edge=i))
    return tuple(blocks)


def _axis_map(topology: Topology, edge: EdgeSet, end: End) -> AxisMap:
    """Returns the axis map of the nodes at one end of an edge set."""
    k = 0 if end == "source" else 1
    index = edge.source if end == "source" else edge.target
    assert index is not None, "an edge set without a source has one end"
    pairs = [unit for unit in edge.units if unit[0] >= 0 and unit[1] >= 0]
    diagonal = tuple(pair[k] for pair in pairs)
    at_end = tuple(unit[k] for unit in edge.units if unit[k] >= 0 and unit[1 - k] < 0)
    shared = tuple(pair[k] for pair in edge.join if pair not in pairs)
    units = topology.nodes[index].units
    return _sorted_units(units, shared, diagonal, at_end)


def _identity_axis_map(topology: Topology, edge: IdentityEdgeSet, end: End) -> AxisMap:
    """Returns the axis map of the nodes at one end of identity edges."""
    k = 0 if end == "source" else 1
    units = topology.nodes[edge.source if end == "source" else edge.target].units
    diagonal = tuple(pair[k] for pair in edge.join)
    at_end = tuple(i for i in range(len(units)) if i not in diagonal)
    return _sorted_units(units, (), diagonal, at_end)


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


def node_parameters(topology: Topology) -> tuple[tuple[tuple[int, AxisMap], ...], ...]:
    """Returns per node set its edge sets without a source, the features of its nodes.

    Each comes with the axis map that brings its values to the nodes.
    """
    sets: list[list[tuple[int, AxisMap]]] = [[] for _ in topology.nodes]
    for i, edge in enumerate(topology.edges):
        if edge.source is None:
            sets[edge.target].append((i, _axis_map(topology, edge, "target")))
    return tuple(map(tuple, sets))
