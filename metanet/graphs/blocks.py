"""Edge blocks of a topology, and how the axes of node sets map to axes of a block.

An edge block is a dense block of edges ``[both, S, T]``: ``both`` runs over a diagonal index
shared by source and target (1 for a fully connected block; the number of nodes for residual
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
        order: Positions of the units: first those that both ends share although no axis of
            the block stands for them (the channels of a product over tokens), then the
            diagonal ones, those that index the edges at this end, and the rest, over
            which values are averaged.
        shape: Number of joint indices of each of the four kinds.
    """

    units: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, int, int, int]

    @property
    def plain(self) -> bool:
        """True where nodes need only be reshaped."""
        shared, _, _, rest = self.shape
        return shared == rest == 1 and self.order == tuple(range(len(self.units)))


@dataclass(frozen=True)
class EdgeBlock:
    """Edges between two node sets that one array holds.

    Attributes:
        source, target: Node set indices.
        shape: ``(both, sources, targets)``.
        ends: Axis maps of the source and of the target.
        edge: Index of the edge set whose parameters the block holds; -1 for identity
            edges.
        join: Index of the set of identity edges; -1 for parameters.
    """

    source: int
    target: int
    shape: tuple[int, int, int]
    ends: tuple[AxisMap, AxisMap]
    edge: int = -1
    join: int = -1


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
        both, sources, targets, _ = edge.shape
        ends = (
            _axis_map(topology, edge, "source"),
            _axis_map(topology, edge, "target"),
        )
        shape = (both, sources, targets)
        blocks.append(EdgeBlock(edge.source, edge.target, shape, ends, edge=i))
    for i, join in enumerate(topology.identity_edges):
        ends = (
            _identity_axis_map(
                topology.nodes[join.source].units, [a for a, _ in join.join]
            ),
            _identity_axis_map(
                topology.nodes[join.target].units, [b for _, b in join.join]
            ),
        )
        both = ends[0].shape[1]
        if ends[1].shape[1] != both:
            raise MetanetError(
                f"join {join.kind} of {topology.nodes[join.source].name} and "
                f"{topology.nodes[join.target].name}: an index is joined twice, which "
                "the dense layout does not support"
            )
        shape = (both, ends[0].shape[2], ends[1].shape[2])
        blocks.append(EdgeBlock(join.source, join.target, shape, ends, join=i))
    return tuple(blocks)


def _axis_map(topology: Topology, edge: EdgeSet, end: End) -> AxisMap:
    """Returns the axis map of the nodes at one end of an edge set."""
    k = 0 if end == "source" else 1
    index = edge.source if end == "source" else edge.target
    assert index is not None, "an edge set without a source has one end"
    node = topology.nodes[index]
    both = tuple(u[k] for u in edge.units if u[0] >= 0 and u[1] >= 0)
    own = tuple(u[k] for u in edge.units if u[k] >= 0 and u[1 - k] < 0)
    diagonal = {u for u in edge.units if u[0] >= 0 and u[1] >= 0}
    shared = tuple(pair[k] for pair in edge.join if pair not in diagonal)
    if len({*both, *own, *shared}) < len(both) + len(own) + len(shared):
        raise MetanetError(
            f"parameter {edge.name}: indexes {node.name} twice, which the dense layout "
            "does not support"
        )
    return _sorted_units(node.units, shared, both, own)


def _sorted_units(
    units: tuple[int, ...],
    shared: tuple[int, ...],
    both: tuple[int, ...],
    own: tuple[int, ...],
) -> AxisMap:
    rest = tuple(i for i in range(len(units)) if i not in {*shared, *both, *own})
    kinds = (shared, both, own, rest)
    shared_n, both_n, own_n, rest_n = (math.prod(units[i] for i in k) for k in kinds)
    return AxisMap(
        units, (*shared, *both, *own, *rest), (shared_n, both_n, own_n, rest_n)
    )


def _identity_axis_map(units: tuple[int, ...], joined: list[int]) -> AxisMap:
    both = tuple(dict.fromkeys(joined))
    own = tuple(i for i in range(len(units)) if i not in both)
    return _sorted_units(units, (), both, own)


def node_parameters(topology: Topology) -> tuple[tuple[tuple[int, AxisMap], ...], ...]:
    """Returns per node set the edge sets without a source, features of its nodes.

    Each with the axis map that brings its values to the nodes.
    """
    sets: list[list[tuple[int, AxisMap]]] = [[] for _ in topology.nodes]
    for i, edge in enumerate(topology.edges):
        if edge.source is None:
            sets[edge.target].append((i, _axis_map(topology, edge, "target")))
    return tuple(map(tuple, sets))
