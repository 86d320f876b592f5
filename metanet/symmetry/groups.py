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

from metanet.symmetry.indices import Axis, Indices
from metanet.symmetry.structure import Index, PermutationGroup, ScalingGroup


def nesting(
    indices: Indices, tensors: Iterable[list[Axis]], wanted: Iterable[int]
) -> dict[int, frozenset[int]]:
    """Per wanted atom: the wanted atoms that stand beside it wherever it stands."""
    wanted = set(wanted)
    seen: set[tuple[int, ...]] = set()
    for axes in tensors:
        segments = [
            [
                [o.axis_index for o in s if not indices.is_uniform(o.axis_index)]
                for s in indices.normal(axis)
            ]
            for axis in axes
        ]
        for choice in itertools.product(*segments):
            seen.add(tuple(sorted(a for segment in choice for a in segment)))
    nest: dict[int, frozenset[int]] = {}
    for members in seen:
        fast_compile_options = {
            a for a in members if members.count(a) == 1 and not indices.is_opaque(a)
        }
        for b in wanted.intersection(members):
            beside = frozenset((fast_compile_options - {b}) & wanted)
            nest[b] = nest[b] & beside if b in nest else beside
    return {b: nest.get(b, frozenset()) for b in wanted}


def find_groups(
    indices: tuple[Index, ...], nest: Mapping[int, frozenset[int]]
) -> tuple[PermutationGroup, ...]:
    """The permutation groups, parents before children.

    Two free atoms that nest in each other are permuted jointly, as one index.
    """
    groups, done = [], set()
    for b, axis_index in enumerate(indices):
        if b in done or axis_index.pinned or b not in nest:
            continue
        joint = [
            b,
            *sorted(a for a in nest[b] if b in nest[a] and not indices[a].pinned),
        ]
        done.update(joint)
        parents = frozenset.intersection(*(nest[j] for j in joint)) - set(joint)
        groups.append(
            PermutationGroup(
                indices=tuple(joint),
                parents=tuple(sorted(parents)),
                degree=math.prod(indices[j].size for j in joint),
                copies=math.prod(indices[p].size for p in parents),
            )
        )
    return tuple(sorted(groups, key=lambda g: len(g.parents)))


def name_linear(
    groups: Sequence[PermutationGroup],
    scaling_groups: Sequence[ScalingGroup],
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
    for scaling_group in scaling_groups:
        if all(abs(e.power) == 1 for e in scaling_group.exponents):
            kinds.setdefault(scaling_group.axis_index, set()).add(scaling_group.kind)
    named = []
    for group in groups:
        held = kinds.get(group.indices[0], set())
        linear = len(group.indices) == 1 and group.indices[0] not in entrywise
        if linear and "sign" in held:
            group = replace(group, linear="GL" if "positive" in held else "O")
        named.append(group)
    return tuple(named)
