"""Which scale and sign factors pass through a graph as through a plain layer.

A factor s of a unit passes through its node when it multiplies the activation and every
parameter that arrives, and divides every parameter that leaves: then a message, a
parameter times the activation that it reads, carries the factor of its target alone
(ScaleGMN). Families of other forms (through products of activations, through gains of
norms) are left to `metanet.symmetry.canonicalize`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

from metanet.graphs.topology import EdgeSet, Topology

if TYPE_CHECKING:
    from metanet.symmetry import Symmetry

# Joins along which an activation passes as it is.
_PLAIN_JOINS = frozenset({"residual", "recurrence", "init", "bias"})
_KINDS = {"positive": "positive", "sign": "sign"}


@lru_cache(maxsize=256)
def passing_families(
    symmetry: Symmetry, topology: Topology
) -> dict[int, frozenset[int]]:
    """Families that pass, by index, with the node sets that they act on."""
    powers: dict[int, dict[tuple[int, tuple[tuple[int, int], ...], int], Fraction]]
    powers = defaultdict(dict)
    blocks = defaultdict(list)
    for block in symmetry.blocks:
        blocks[block.leaf].append(block)
    for index, scaling_group in enumerate(symmetry.scaling_groups):
        for term in scaling_group.exponents:
            for block in blocks[term.leaf]:
                for i, position in enumerate(block.positions):
                    if position == term.position and term.power:
                        powers[index][block.leaf, block.bounds, i] = term.power
    found = {}
    for index, scaling_group in enumerate(symmetry.scaling_groups):
        if scaling_group.kind in _KINDS and not scaling_group.shifts:
            sets = _acts_on(powers[index], topology, scaling_group.kind == "sign")
            if sets:
                found[index] = frozenset(sets)
    # What is left is canonicalised by reading parameters that no passing factor may
    # change. (A phase is read from the bias alone, and turns along with its sign.)
    touched = {i: {key[:2] for key in powers[i]} for i in powers}
    while True:
        left = [
            keys
            for i, keys in touched.items()
            if i not in found and symmetry.scaling_groups[i].kind != "phase"
        ]
        mixed = [i for i in found if any(touched[i] & keys for keys in left)]
        if not mixed:
            return found
        for i in mixed:
            del found[i]


def _acts_on(powers: dict, topology: Topology, sign: bool) -> set[int]:
    """Node sets on which a family acts; none where it does not pass."""
    sets: set[int] = set()
    read: list[tuple[EdgeSet, int, int, Fraction]] = []
    for edge in topology.edges:
        place = {axis: k for k, axis in enumerate(edge.order)}
        for axis in range(len(edge.split)):
            power = powers.get((edge.leaf, edge.bounds, axis))
            if power is None:
                continue
            source, target = edge.units[place[axis]]
            read.append((edge, source, target, power))
            # A sign is its own reciprocal.
            divides, multiplies = (power % 2 == 1,) * 2 if sign else (
                power == -1, power == 1)  # fmt: skip
            if target >= 0 and source < 0 and multiplies:
                sets.add(edge.target)
            elif source >= 0 and target < 0 and divides and edge.source is not None:
                sets.add(edge.source)
            else:
                return set()
    # Every parameter at one of these sets must be multiplied or divided accordingly.
    arriving = {e.name for e, _, target, _ in read if target >= 0}
    leaving = {e.name for e, source, _, _ in read if source >= 0}
    for edge in topology.edges:
        if edge.target in sets and edge.name not in arriving:
            return set()
        if edge.source is not None and edge.source in sets and edge.name not in leaving:
            return set()
    for join in topology.identity_edges:
        touched = (join.source in sets) + (join.target in sets)
        if touched == 1 or (touched and join.kind not in _PLAIN_JOINS):
            return set()
    return sets


def with_carries(symmetry: Symmetry, topology: Topology) -> Topology:
    """The topology with `NodeSet.carries` filled in."""
    kinds: dict[int, set[str]] = defaultdict(set)
    for index, sets in passing_families(symmetry, topology).items():
        for node in sets:
            kinds[node].add(_KINDS[symmetry.scaling_groups[index].kind])
    nodes = tuple(
        replace(node, carries=tuple(sorted(kinds[i])))
        for i, node in enumerate(topology.nodes)
    )
    return replace(topology, nodes=nodes)


def remaining_symmetry(symmetry: Symmetry, topology: Topology) -> Symmetry:
    """The symmetry without the families that pass: what is left to canonicalise.

    Args:
        symmetry: What was discovered.
        topology: Its topology, as `build_topology` made it.
    """
    plain = replace(
        topology, nodes=tuple(replace(n, carries=()) for n in topology.nodes)
    )
    passing = passing_families(symmetry, plain)
    scaling_groups = tuple(
        f for i, f in enumerate(symmetry.scaling_groups) if i not in passing
    )
    return replace(symmetry, scaling_groups=scaling_groups)
