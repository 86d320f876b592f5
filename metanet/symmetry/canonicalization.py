"""Canonical representatives of the orbits of scales, signs and phases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from metanet.symmetry.action import Element, act, factor_shape
from metanet.symmetry.scaling import incoming_positions
from metanet.symmetry.symmetry import (
    Block,
    Exponent,
    Position,
    ScalingGroup,
    Shift,
    Symmetry,
)

_ORDER = {"positive": 0, "nonzero": 0, "phase": 1, "sign": 2}


def canonicalize(symmetry: Symmetry, params: Any) -> Any:
    """Moves parameters to the canonical representative of their orbit.

    Scales: incoming weights of each unit, with its bias, have norm 1. Phases: biases lie
    within a quarter turn of 0. Signs: biases (without one, the sums of the incoming
    weights' cubes) are not negative. Permutations are not applied. The
    representative is discontinuous where a bias crosses the border of its range, and
    smooth everywhere else.

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
    """Block that a scaling group multiplies by ``power`` along one position."""

    block: Block
    position: Position
    power: Fraction

    @property
    def key(self) -> tuple[int, tuple[int, ...], Position]:
        """Key of `incoming_positions`."""
        return self.block.leaf, self.block.segments, self.position


@dataclass(frozen=True)
class _Step:
    """Scaling group, and the blocks that determine its factors.

    Blocks of one tier are read together; where they are all 0 (biases at the start of
    training), the next tier decides.
    """

    scaling_group: int
    tiers: tuple[tuple[_Reading, ...], ...]


@lru_cache(maxsize=64)
def _plan(symmetry: Symmetry) -> tuple[_Step, ...]:
    """Returns the order of the scaling groups, and the blocks that determine each.

    A group is determined by blocks that no later group changes, so that nothing is
    undone. Groups whose blocks depend on each other in a circle are left out: their
    factors stay as they are (signs per head beside signs per channel of normalised
    queries).
    """
    scaling_groups = symmetry.scaling_groups
    incoming = incoming_positions(symmetry.blocks, symmetry.parameter_edges)

    def rank(index: int) -> tuple[int, int]:
        return _rank(symmetry, scaling_groups[index])

    remaining = sorted(range(len(scaling_groups)), key=rank)

    def next_step() -> _Step | None:
        # First a group that all of its incoming blocks can determine, then one that a
        # weight or a gain can, then one that only biases can: these may all be 0.
        for need in ("all", "weight", "any"):
            for index in remaining:
                others = [scaling_groups[i] for i in remaining if i != index]
                step = _step(symmetry, index, others, incoming, need)
                if step is not None:
                    return step
        return None

    steps: list[_Step] = []
    while (step := next_step()) is not None:
        steps.append(step)
        remaining.remove(step.scaling_group)
    return tuple(steps)


def _rank(symmetry: Symmetry, scaling_group: ScalingGroup) -> tuple[int, int]:
    """Orders groups from the inputs to the outputs; per unit scales, phases, signs."""
    order = _ORDER[scaling_group.kind]
    for i, activation in enumerate(symmetry.activations):
        if scaling_group.axis_index in activation.units:
            return i, order
    return len(symmetry.activations), order


def _step(
    symmetry: Symmetry,
    index: int,
    others: Sequence[ScalingGroup],
    incoming: dict[tuple[int, tuple[int, ...], Position], str],
    need: str,
) -> _Step | None:
    """Returns the step of a scaling group, or None if other groups disturb it.

    Args:
        symmetry: The symmetry.
        index: Number of the group.
        others: Groups that are determined later.
        incoming: See `incoming_positions`.
        need: Blocks that no other group may change: "all" incoming ones, a "weight" or
            "any".
    """
    scaling_group = symmetry.scaling_groups[index]
    if scaling_group.kind == "phase":
        leaf = scaling_group.shifts[0].leaf
        blocks = [b for b in symmetry.blocks if b.leaf == leaf]
        disturbed = any(_disturbs(o, b, "phase") for o in others for b in blocks)
        return None if disturbed else _Step(index, ())
    readings = _readings(symmetry, scaling_group)
    if not readings:
        return None
    free = [
        r
        for r in readings
        if not any(_disturbs(o, r.block, scaling_group.kind) for o in others)
    ]
    into = {r for r in readings if r.key in incoming and r.power == 1}
    weights = [r for r in free if incoming.get(r.key, "bias") != "bias"]
    enough = {"all": into and into <= set(free), "weight": weights, "any": free}
    if not enough[need]:
        return None
    # Incoming blocks first, and the bias, which is the smallest, before all others.
    free.sort(key=lambda r: (r not in into, len(r.block.indices), r.block.leaf))
    tiers: list[tuple[_Reading, ...]] = [(r,) for r in free]
    if scaling_group.kind != "sign":
        tiers.insert(0, tuple(r for r in free if r in into))
    return _Step(index, tuple(t for t in tiers if t))


def _readings(symmetry: Symmetry, scaling_group: ScalingGroup) -> list[_Reading]:
    """Returns the blocks that a group multiplies along exactly one of their indices."""
    readings = []
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
            readings.append(_Reading(block, here[0].position, here[0].power))
    return readings


def _disturbs(other: ScalingGroup, block: Block, kind: str) -> bool:
    """Returns True if another group changes the block as a group of a kind reads it.

    Norms, and the range of a bias (symmetric about 0), do not depend on signs.
    """

    def acts_on_block(term: Exponent | Shift) -> bool:
        return term.leaf == block.leaf and term.position in block.positions

    if any(acts_on_block(s) for s in other.shifts):
        return True
    reads_factor = kind == "sign" or other.kind not in ("sign", "phase")
    return reads_factor and any(acts_on_block(e) for e in other.exponents)


def _turns(
    symmetry: Symmetry, scaling_group: ScalingGroup, leaves: Sequence[jax.Array]
) -> jax.Array:
    """Returns the half turns that bring biases next to 0."""
    shift = scaling_group.shifts[0]
    block = next(b for b in symmetry.blocks if b.leaf == shift.leaf)
    bias = leaves[shift.leaf].reshape([symmetry.indices[a].size for a in block.indices])
    return -jnp.floor(bias / shift.amount + 0.5)


def _factors(
    symmetry: Symmetry,
    scaling_group: ScalingGroup,
    step: _Step,
    leaves: Sequence[jax.Array],
) -> jax.Array:
    """Returns the factors ``[*parents, size]`` that lead to the representative."""
    sign = scaling_group.kind == "sign"
    factors = jnp.ones(factor_shape(symmetry, scaling_group))
    for tier in reversed(step.tiers):
        total = jnp.zeros_like(factors)
        for r in tier:
            sizes = [symmetry.indices[a].size for a in r.block.indices]
            array = r.block.select(leaves[r.block.leaf]).reshape(sizes)
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
    """Sums a block's array to the shape ``[*parents, size]`` of a scaling group."""
    block = reading.block
    axes = [block.indices.index(p) for p in scaling_group.parents]
    axes.append(block.positions.index(reading.position))
    total = array.sum(axis=tuple(i for i in range(array.ndim) if i not in axes))
    return total.transpose([sorted(axes).index(k) for k in axes])
