"""Permutation groups from the nesting of indices.

The permutation of index b may depend on the value of a if a occurs beside b in every
tensor of the program that contains b. This one rule yields channels within heads, groups
of a GroupNorm, experts, grouped convolutions, ensembles and stacked layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from metanet.symmetry.indices import Axis, Indices
from metanet.symmetry.lookups import rows_beside
from metanet.symmetry.symmetry import Index, PermutationGroup, ScalingGroup
from metanet.symmetry.values import Lookup


def nesting(
    indices: Indices,
    tensors: Iterable[tuple[Sequence[Axis], Sequence[Lookup]]],
    wanted: Iterable[int],
) -> dict[int, frozenset[int]]:
    """Returns, per wanted index, those that occur beside it in every tensor.

    Args:
        indices: The union-find.
        tensors: Axes that occur together, and the rows looked up beside them.
        wanted: Representatives of indices.
    """
    wanted = set(wanted)
    products: set[tuple[int, ...]] = set()
    for axes, lookups in tensors:
        segments = [
            [
                [o.axis_index for o in s if not indices.is_uniform(o.axis_index)]
                for s in indices.normal(axis)
            ]
            for axis in axes
        ]
        for choice in itertools.product(*segments):
            members = [a for segment in choice for a in segment]
            rows = rows_beside(indices, members, lookups)
            members += [o.axis_index for segment in rows for o in segment]
            products.add(tuple(sorted(members)))
    nest: dict[int, frozenset[int]] = {}
    for members in products:
        once = {
            a
            for a in members
            if members.count(a) == 1 and not indices.is_unstructured(a)
        }
        for b in wanted.intersection(members):
            parents = frozenset((once - {b}) & wanted)
            nest[b] = nest[b] & parents if b in nest else parents
    return {b: nest.get(b, frozenset()) for b in wanted}


def find_groups(
    indices: tuple[Index, ...], nest: Mapping[int, frozenset[int]]
) -> tuple[PermutationGroup, ...]:
    """Returns the permutation groups, parents before children.

    Two free indices that nest in each other are permuted jointly, as one index.

    Args:
        indices: All indices.
        nest: Per index the indices on which its permutation may depend.
    """
    groups: list[PermutationGroup] = []
    done: set[int] = set()
    for b, index in enumerate(indices):
        if b in done or index.pinned or b not in nest:
            continue
        mutual = [a for a in nest[b] if b in nest[a] and not indices[a].pinned]
        joint = [b, *sorted(mutual)]
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
        scaling_groups: Groups of scales and signs; a matrix replaces the factors of a
            group all of whose exponents are 1 or -1.
        entrywise: Indices on whose single entries some equation acts.
    """
    kinds: dict[int, set[str]] = {}
    for scaling_group in scaling_groups:
        if all(abs(e.power) == 1 for e in scaling_group.exponents):
            kinds.setdefault(scaling_group.axis_index, set()).add(scaling_group.kind)

    def linear(group: PermutationGroup) -> str:
        index = group.indices[0]
        scalings = kinds.get(index, set())
        if len(group.indices) > 1 or index in entrywise or "sign" not in scalings:
            return ""
        return "GL" if "positive" in scalings else "O"

    return tuple(replace(g, linear=linear(g) or g.linear) for g in groups)
