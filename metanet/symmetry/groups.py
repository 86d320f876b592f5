"""Permutation groups from the nesting of atoms.

The permutation of atom b may depend on the index of a if a stands beside b in every
tensor of the program that contains b. This one rule yields channels within heads, groups
of a GroupNorm, experts, grouped convolutions, ensembles and stacked layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from metanet.symmetry.atoms import Atoms, Axis
from metanet.symmetry.structure import Atom, Family, PermutationGroup


def nesting(
    atoms: Atoms, tensors: Iterable[list[Axis]], wanted: Iterable[int]
) -> dict[int, frozenset[int]]:
    """Per wanted atom: the wanted atoms that stand beside it wherever it stands."""
    wanted = set(wanted)
    seen: set[tuple[int, ...]] = set()
    for axes in tensors:
        segments = [
            [
                [o.atom for o in s if not atoms.is_uniform(o.atom)]
                for s in atoms.normal(axis)
            ]
            for axis in axes
        ]
        for choice in itertools.product(*segments):
            seen.add(tuple(sorted(a for segment in choice for a in segment)))
    nest: dict[int, frozenset[int]] = {}
    for members in seen:
        once = {a for a in members if members.count(a) == 1 and not atoms.is_opaque(a)}
        for b in wanted.intersection(members):
            beside = frozenset((once - {b}) & wanted)
            nest[b] = nest[b] & beside if b in nest else beside
    return {b: nest.get(b, frozenset()) for b in wanted}


def find_groups(
    atoms: tuple[Atom, ...], nest: Mapping[int, frozenset[int]]
) -> tuple[PermutationGroup, ...]:
    """The permutation groups, parents before children.

    Two free atoms that nest in each other are permuted jointly, as one index.
    """
    groups, done = [], set()
    for b, atom in enumerate(atoms):
        if b in done or atom.pinned or b not in nest:
            continue
        joint = [b, *sorted(a for a in nest[b] if b in nest[a] and not atoms[a].pinned)]
        done.update(joint)
        parents = frozenset.intersection(*(nest[j] for j in joint)) - set(joint)
        groups.append(
            PermutationGroup(
                atoms=tuple(joint),
                parents=tuple(sorted(parents)),
                degree=math.prod(atoms[j].size for j in joint),
                copies=math.prod(atoms[p].size for p in parents),
            )
        )
    return tuple(sorted(groups, key=lambda g: len(g.parents)))


def name_linear(
    groups: Sequence[PermutationGroup],
    families: Sequence[Family],
    entrywise: Collection[int],
) -> tuple[PermutationGroup, ...]:
    """Marks the groups that are part of a continuous one.

    Args:
        groups: The permutation groups.
        families: The scale and sign families; a matrix takes the place of a family's
            factors where all exponents are 1 or -1.
        entrywise: Atoms on whose single entries some equation acts.
    """
    kinds: dict[int, set[str]] = {}
    for family in families:
        if all(abs(e.power) == 1 for e in family.exponents):
            kinds.setdefault(family.atom, set()).add(family.kind)
    named = []
    for group in groups:
        held = kinds.get(group.atoms[0], set())
        linear = len(group.atoms) == 1 and group.atoms[0] not in entrywise
        if linear and "sign" in held:
            group = replace(group, linear="GL" if "positive" in held else "O")
        named.append(group)
    return tuple(named)
