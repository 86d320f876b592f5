"""The canonical representative of a network's scale, sign and phase orbit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from metanet.symmetry.elements import Element, act, factor_shape
from metanet.symmetry.structure import Block, Exponent, Position, ScalingGroup, Shift
from metanet.symmetry.symmetry import Symmetry

_ORDER = {"positive": 0, "nonzero": 0, "phase": 1, "sign": 2}


def canonicalize(symmetry: Symmetry, params: Any) -> Any:
    """Moves parameters to one representative per orbit of scales, signs and phases.

    Scales: incoming weights of each unit, with its bias, have norm 1. Phases: biases lie
    within a quarter turn of 0. Signs: biases (without one, the sums of the incoming
    weights' cubes) are not negative. Permutations are left alone. The representative
    jumps where a bias crosses the border of its range; everywhere else it is smooth.

    Pure; works under `jit` and `vmap`. Source of the idea for SIREN: Kalogeropoulos et
    al. 2024, appendix A.

    Args:
        symmetry: The network's symmetry.
        params: Parameters of one network.
    """
    for step in _plan(symmetry):
        scaling_group = symmetry.scaling_groups[step.scaling_group]
        leaves = jax.tree.leaves(params)
        if scaling_group.kind == "phase":
            values = _turns(symmetry, scaling_group, leaves)
        else:
            values = _factors(symmetry, scaling_group, step, leaves)
        alone = replace(symmetry, groups=(), scaling_groups=(scaling_group,))
        params = act(alone, Element((), (values,)), params)
    return params


@dataclass(frozen=True)
class _Reading:
    """A tile that a family multiplies by ``power`` along one position."""

    block: Block
    position: Position
    power: Fraction

    @property
    def place(self) -> tuple[int, tuple[int, ...], Position]:
        return self.block.leaf, self.block.segments, self.position


@dataclass(frozen=True)
class _Step:
    """A family, and the tiles that fix its factors.

    Tiles of one tier are read together; where they are all 0 (biases at the start of
    training), the next tier decides.
    """

    scaling_group: int
    tiers: tuple[tuple[_Reading, ...], ...]


@lru_cache(maxsize=64)
def _plan(symmetry: Symmetry) -> tuple[_Step, ...]:
    """The order of families, and what each is fixed by.

    A family is fixed by tiles that no family fixed later changes, so nothing is undone.
    Families whose tiles all depend on each other's in a circle are left out: they keep
    what they have (signs per head beside signs per channel of normalised queries).
    """
    scaling_groups = symmetry.scaling_groups
    incoming = _incoming(symmetry)
    open_ = sorted(
        range(len(scaling_groups)), key=lambda i: _rank(symmetry, scaling_groups[i])
    )
    steps: list[_Step] = []
    while open_:
        found = None
        # First a family that all of its incoming tiles can fix, then one that a weight
        # or a gain can, then one that only biases can: these may all be 0.
        for need in ("all", "weight", "any"):
            for index in open_:
                others = [scaling_groups[i] for i in open_ if i != index]
                step = _step(symmetry, index, others, incoming, need)
                if step is not None:
                    found = step
                    break
            if found is not None:
                break
        if found is None:
            break
        steps.append(found)
        open_.remove(found.scaling_group)
    return tuple(steps)


def _rank(symmetry: Symmetry, scaling_group: ScalingGroup) -> tuple[int, int]:
    """From the inputs to the outputs; per unit scales, phases, signs."""
    at = [
        i
        for i, s in enumerate(symmetry.activations)
        if scaling_group.axis_index in s.units
    ]
    return (at[0] if at else len(symmetry.activations), _ORDER[scaling_group.kind])


def _step(
    symmetry: Symmetry,
    index: int,
    others: Sequence[ScalingGroup],
    incoming: dict[tuple[int, tuple[int, ...], Position], str],
    need: str,
) -> _Step | None:
    scaling_group = symmetry.scaling_groups[index]
    if scaling_group.kind == "phase":
        blocks = [t for t in symmetry.blocks if t.leaf == scaling_group.shifts[0].leaf]
        moved = any(_disturbs(o, t, scaling_group.kind) for o in others for t in blocks)
        return None if moved else _Step(index, ())
    readings = _readings(symmetry, scaling_group)
    if not readings:
        return None
    free = [
        r
        for r in readings
        if not any(_disturbs(o, r.block, scaling_group.kind) for o in others)
    ]
    into = {r for r in readings if r.place in incoming and r.power == 1}
    weights = [r for r in free if incoming.get(r.place, "bias") != "bias"]
    enough = {"all": into and into <= set(free), "weight": weights, "any": free}
    if not enough[need]:
        return None
    # Incoming tiles first, the bias, which is the smallest, before all.
    free.sort(key=lambda r: (r not in into, len(r.block.indices), r.block.leaf))
    tiers: list[tuple[_Reading, ...]] = [(r,) for r in free]
    if scaling_group.kind != "sign":
        tiers.insert(0, tuple(r for r in free if r in into))
    return _Step(index, tuple(t for t in tiers if t))


def _readings(symmetry: Symmetry, scaling_group: ScalingGroup) -> list[_Reading]:
    """The tiles that a family multiplies along exactly one of their indices."""
    found = []
    for block in symmetry.blocks:
        here = [
            e
            for e in scaling_group.exponents
            if e.leaf == block.leaf and e.position in block.positions
        ]
        odd = scaling_group.kind != "sign" or all(e.power % 2 for e in here)
        if (
            len(here) == 1
            and odd
            and block.indices.count(scaling_group.axis_index) == 1
        ):
            found.append(_Reading(block, here[0].position, here[0].power))
    return found


def _disturbs(other: ScalingGroup, block: Block, kind: str) -> bool:
    """Whether another family changes what fixes a family of a kind.

    Norms, and the range of a bias (symmetric about 0), do not see signs.
    """

    def here(term: Exponent | Shift) -> bool:
        return term.leaf == block.leaf and term.position in block.positions

    if any(here(s) for s in other.shifts):
        return True
    sees = kind == "sign" or other.kind not in ("sign", "phase")
    return sees and any(here(e) for e in other.exponents)


def _incoming(
    symmetry: Symmetry,
) -> dict[tuple[int, tuple[int, ...], Position], str]:
    """Places of tiles that index the units which a use ends at, and its kind."""
    blocks = {(t.leaf, t.segments): t for t in symmetry.blocks}
    return {
        (parameter_edge.leaf, parameter_edge.segments, position): parameter_edge.kind
        for parameter_edge in symmetry.parameter_edges
        for position, roles in zip(
            blocks[parameter_edge.leaf, parameter_edge.segments].positions,
            parameter_edge.roles,
            strict=True,
        )
        if any(r.end == "target" for r in roles)
    }


def _turns(
    symmetry: Symmetry, scaling_group: ScalingGroup, leaves: Sequence[jax.Array]
) -> jax.Array:
    """Half turns that bring biases next to 0."""
    shift = scaling_group.shifts[0]
    block = next(t for t in symmetry.blocks if t.leaf == shift.leaf)
    bias = leaves[shift.leaf].reshape([symmetry.indices[a].size for a in block.indices])
    return -jnp.floor(bias / shift.amount + 0.5)


def _factors(
    symmetry: Symmetry,
    scaling_group: ScalingGroup,
    step: _Step,
    leaves: Sequence[jax.Array],
) -> jax.Array:
    """Factors ``[*parents, size]`` that bring a family's units to their places."""
    sign = scaling_group.kind == "sign"
    factors = jnp.ones(factor_shape(symmetry, scaling_group))
    for tier in reversed(step.tiers):
        total = jnp.zeros_like(factors)
        for r in tier:
            where = tuple(slice(*b) for b in r.block.bounds)
            sizes = [symmetry.indices[a].size for a in r.block.indices]
            array = leaves[r.block.leaf][where].reshape(sizes)
            total += _over_unit(scaling_group, r, array**3 if sign else array * array)
        if sign:
            factors = jnp.where(total == 0, factors, jnp.sign(total))
        else:
            norm = jnp.sqrt(jnp.where(total > 0, total, 1.0))
            fixed = norm ** float(-1 / tier[0].power)
            factors = jnp.where(total > 0, fixed, factors)
    return factors


def _over_unit(
    scaling_group: ScalingGroup, reading: _Reading, array: jax.Array
) -> jax.Array:
    """Sums a tile's array to ``[*parents, size]`` of a family."""
    block = reading.block
    kept = [block.indices.index(p) for p in scaling_group.parents]
    kept.append(block.positions.index(reading.position))
    total = array.sum(axis=tuple(i for i in range(array.ndim) if i not in kept))
    return total.transpose([sorted(kept).index(k) for k in kept])
