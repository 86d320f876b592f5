"""Scaling symmetries that act on a node set as in a plain linear layer.

A factor s of a unit acts plainly on its node when it multiplies the activation and every
incoming parameter, and divides every outgoing parameter: then a message, a parameter
times the activation that it reads, scales with the factor of its target alone (ScaleGMN,
Kalogeropoulos et al., 2024). Scaling groups of other forms (through products of
activations, through gains of norms) are left to `metanet.symmetry.canonicalize`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from metanet.graphs.topology import EdgeSet, Topology

if TYPE_CHECKING:
    from metanet.symmetry import AxisPart, Symmetry

# Identity edges that pass an activation on unchanged.
_PLAIN_IDENTITY_EDGES = frozenset({"residual", "recurrence", "init", "bias"})
# Kinds of scaling groups on which a scale-equivariant model can act.
_SCALE_KINDS = frozenset({"positive", "sign"})


class _BlockAxis(NamedTuple):
    """An axis of a block of a parameter leaf."""

    leaf: int
    parts: tuple[AxisPart, ...]
    axis: int


class _ScaledAxis(NamedTuple):
    """An axis of an edge set along which a scaling group acts.

    Attributes:
        edge: The edge set.
        source, target: Units of the ends that the axis indexes; -1 for none.
        power: Exponent of the factor.
    """

    edge: EdgeSet
    source: int
    target: int
    power: Fraction


def plain_scaling_groups(
    symmetry: Symmetry, topology: Topology
) -> dict[int, frozenset[int]]:
    """Returns the scaling groups that act plainly, with the node sets that they act on.

    Args:
        symmetry: Symmetry of the network.
        topology: Topology that was built from it.

    Returns:
        From the index of a scaling group to the indices of node sets.
    """
    powers = _exponents_by_axis(symmetry)
    plain: dict[int, frozenset[int]] = {}
    for index, group in enumerate(symmetry.scaling_groups):
        if group.kind in _SCALE_KINDS and not group.shifts:
            sets = _scaled_node_sets(powers[index], topology, group.kind == "sign")
            if sets:
                plain[index] = frozenset(sets)
    # Canonicalisation of the other groups reads parameters, which no plain group may
    # change. (A phase is read from the bias alone, and changes sign along with it.)
    scaled_blocks = [{key[:2] for key in group_powers} for group_powers in powers]
    while True:
        remaining = [
            blocks
            for index, blocks in enumerate(scaled_blocks)
            if index not in plain and symmetry.scaling_groups[index].kind != "phase"
        ]
        mixed = [
            index
            for index in plain
            if any(scaled_blocks[index] & blocks for blocks in remaining)
        ]
        if not mixed:
            return plain
        for index in mixed:
            del plain[index]


def _exponents_by_axis(symmetry: Symmetry) -> list[dict[_BlockAxis, Fraction]]:
    """Returns per scaling group its nonzero exponents by axis of a parameter block."""
    blocks = defaultdict(list)
    for block in symmetry.blocks:
        blocks[block.leaf].append(block)
    powers: list[dict[_BlockAxis, Fraction]] = []
    for group in symmetry.scaling_groups:
        group_powers = {}
        for term in group.exponents:
            if not term.power:
                continue
            for block in blocks[term.leaf]:
                for axis, position in enumerate(block.positions):
                    if position == term.position:
                        key = _BlockAxis(block.leaf, block.parts, axis)
                        group_powers[key] = term.power
        powers.append(group_powers)
    return powers


def _scaled_node_sets(
    powers: dict[_BlockAxis, Fraction], topology: Topology, sign: bool
) -> set[int]:
    """Returns the node sets on which a group acts; none if it does not act plainly."""
    sets: set[int] = set()
    scaled: list[_ScaledAxis] = []
    for edge in topology.edges:
        column = {axis: i for i, axis in enumerate(edge.order)}
        for axis in range(len(edge.split)):
            power = powers.get(_BlockAxis(edge.leaf, edge.parts, axis))
            if power is None:
                continue
            source, target = edge.units[column[axis]]
            scaled.append(_ScaledAxis(edge, source, target, power))
            if sign:
                # A sign is its own reciprocal.
                divides = multiplies = power % 2 == 1
            else:
                divides, multiplies = power == -1, power == 1
            if target >= 0 and source < 0 and multiplies:
                sets.add(edge.target)
            elif source >= 0 and target < 0 and divides and edge.source is not None:
                sets.add(edge.source)
            else:
                return set()
    # All parameters at these sets must be multiplied or divided accordingly.
    incoming = {axis.edge.name for axis in scaled if axis.target >= 0}
    outgoing = {axis.edge.name for axis in scaled if axis.source >= 0}
    for edge in topology.edges:
        if edge.target in sets and edge.name not in incoming:
            return set()
        if edge.source in sets and edge.name not in outgoing:
            return set()
    for edge in topology.identity_edges:
        at_source, at_target = edge.source in sets, edge.target in sets
        if at_source != at_target:
            return set()
        if at_source and edge.kind not in _PLAIN_IDENTITY_EDGES:
            return set()
    return sets


def with_scale_kinds(symmetry: Symmetry, topology: Topology) -> Topology:
    """Returns the topology with `NodeSet.scale_kinds` filled in."""
    kinds: dict[int, set[str]] = defaultdict(set)
    for index, sets in plain_scaling_groups(symmetry, topology).items():
        for node in sets:
            kinds[node].add(symmetry.scaling_groups[index].kind)
    nodes = tuple(
        replace(node, scale_kinds=tuple(sorted(kinds[i])))
        for i, node in enumerate(topology.nodes)
    )
    return replace(topology, nodes=nodes)


def remaining_symmetry(symmetry: Symmetry, topology: Topology) -> Symmetry:
    """Returns the symmetry that a scale-equivariant model leaves to canonicalisation.

    Its scaling groups are those that do not act plainly on node sets.

    Args:
        symmetry: Symmetry of the network.
        topology: Topology that `build_topology` made from it.
    """
    plain = plain_scaling_groups(symmetry, topology)
    groups = symmetry.scaling_groups
    remaining = tuple(group for i, group in enumerate(groups) if i not in plain)
    return replace(symmetry, scaling_groups=remaining)
