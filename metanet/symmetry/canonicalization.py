"""Canonical representatives of the orbits of scales, signs and phases."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metanet.symmetry.action import Element, act, factor_shape, spread
from metanet.symmetry.scaling import incoming_positions
from metanet.symmetry.symmetry import Block, Position, ScalingGroup, Symmetry

_MOST_ITERATIONS = 200

_Arrays = tuple[jax.Array, ...]


def canonicalize(symmetry: Symmetry, params: Any) -> Any:
    """Moves parameters to the canonical representative of their orbit.

    Scales: incoming weights of each unit, with its bias, have norm 1. Phases: biases lie
    within half of the smallest shift (a quarter or half turn) of 0. Signs: biases
    (without one, the sums of the incoming weights' cubes) are not negative.

    Groups that multiply the same arrays along several axes, so that none can be
    determined before the others (rows and columns of a matrix), are determined together:
    scales such that the logarithms of the norms of the slices that a factor multiplies
    add up to 0, times its powers; signs such that slices are positive, the largest ones
    first, as far as the group can make them so.

    Permutations are not applied: they move the representative along. All parameters of
    an orbit have one representative if they are in general position, that is, unless all
    parameters that determine a factor are 0, a bias lies on the border of its range, or
    two slices that compete for a sign are equally large. The representative is
    discontinuous there, and smooth everywhere else.

    Pure; works under `jit`, `vmap` and `grad`. Source of the idea for SIREN:
    Kalogeropoulos et al. 2024, appendix A.

    Args:
        symmetry: The network's symmetry.
        params: Parameters of one network.
    """
    for step in _plan(symmetry):
        groups = tuple(symmetry.scaling_groups[i] for i in step.scaling_groups)
        part = replace(symmetry, groups=(), scaling_groups=groups)
        leaves = jax.tree.leaves(params)
        if groups[0].kind == "phase":
            factors = (_turns(part, leaves),)
        elif step.tiers:
            factors = (_factors(part, step, leaves),)
        elif groups[0].kind == "sign":
            factors = _joint_signs(part, leaves)
        else:
            factors = _joint_scales(part, leaves)
        params = act(part, Element((), factors), params)
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
    """Scaling groups that are determined at once.

    Attributes:
        scaling_groups: Their numbers.
        tiers: For one group of scales or signs, the blocks that determine it. Blocks of
            one tier are read together; where they are all 0 (biases at the start of
            training), the next tier decides. () for a phase, and for groups that are
            determined together.
    """

    scaling_groups: tuple[int, ...]
    tiers: tuple[tuple[_Reading, ...], ...] = ()


@lru_cache(maxsize=64)
def _plan(symmetry: Symmetry) -> tuple[_Step, ...]:
    """Returns the steps that determine all scaling groups.

    Scales first, since norms do not depend on signs and shifted biases have no scale;
    then phases, since the ranges of biases are symmetric about 0; then signs.
    """
    kinds = [g.kind for g in symmetry.scaling_groups]
    scales = [i for i, k in enumerate(kinds) if k not in ("phase", "sign")]
    signs = [i for i, k in enumerate(kinds) if k == "sign"]
    return (
        *_plan_factors(symmetry, scales),
        *(_Step((i,)) for i, k in enumerate(kinds) if k == "phase"),
        *_plan_factors(symmetry, signs),
    )


def _plan_factors(symmetry: Symmetry, members: list[int]) -> list[_Step]:
    """Returns the steps that determine groups of scales, or of signs.

    A group is determined by blocks that no later group changes, so that nothing is
    undone. Where there is no such group, those that share blocks are determined at once.
    """
    incoming = incoming_positions(symmetry.blocks, symmetry.parameter_edges)
    remaining = sorted(members, key=lambda i: _rank(symmetry, i))
    steps: list[_Step] = []

    def next_step() -> _Step | None:
        # First a group that all of its incoming blocks can determine, then one that a
        # weight or a gain into it can, then any other that more than biases can: these
        # may all be 0.
        for need in ("all", "weight", "any"):
            for index in remaining:
                others = [symmetry.scaling_groups[i] for i in remaining if i != index]
                step = _step(symmetry, index, others, incoming, need)
                if step is not None:
                    return step
        return None

    while remaining:
        step = next_step()
        if step is None:
            step = _Step(_sharing_blocks(symmetry, remaining))
        steps.append(step)
        remaining = [i for i in remaining if i not in step.scaling_groups]
    return steps


def _rank(symmetry: Symmetry, index: int) -> int:
    """Orders groups from the inputs to the outputs."""
    unit = symmetry.scaling_groups[index].axis_index
    for i, activation in enumerate(symmetry.activations):
        if unit in activation.units:
            return i
    return len(symmetry.activations)


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
        others: Groups of its kind that are determined later.
        incoming: See `incoming_positions`.
        need: Blocks that no other group may change: "all" incoming ones, a "weight" or
            "any" but a bias.
    """
    scaling_group = symmetry.scaling_groups[index]
    readings = _readings(symmetry, scaling_group)
    free = [r for r in readings if not any(_terms(o, r.block) for o in others)]
    into = {r for r in readings if r.key in incoming and r.power == 1}
    any_weight = any(incoming.get(r.key) != "bias" for r in free)
    enough = {
        "all": into and into <= set(free),
        "weight": any(incoming.get(r.key, "bias") != "bias" for r in free),
        "any": True,
    }
    if not enough[need] or not (any_weight or len(free) == len(readings) > 0):
        return None
    # Incoming blocks first, and the bias, which is the smallest, before all others.
    free.sort(key=lambda r: (r not in into, len(r.block.indices), r.block.leaf))
    tiers: list[tuple[_Reading, ...]] = [(r,) for r in free]
    if scaling_group.kind != "sign":
        tiers.insert(0, tuple(r for r in free if r in into))
    return _Step((index,), tuple(t for t in tiers if t))


class _Term(NamedTuple):
    """Power with which a group multiplies a block along one position."""

    position: Position
    power: Fraction


def _terms(scaling_group: ScalingGroup, block: Block) -> list[_Term]:
    """Returns the powers with which a group changes a block."""
    return [
        _Term(e.position, e.power)
        for e in scaling_group.exponents
        if e.leaf == block.leaf
        and e.position in block.positions
        and (scaling_group.kind != "sign" or e.power % 2)
    ]


def _readings(symmetry: Symmetry, scaling_group: ScalingGroup) -> list[_Reading]:
    """Returns the blocks that a group multiplies along exactly one of their indices."""
    readings = []
    for block in symmetry.blocks:
        terms = _terms(scaling_group, block)
        if len(terms) == 1 and block.indices.count(scaling_group.axis_index) == 1:
            readings.append(_Reading(block, *terms[0]))
    return readings


def _sharing_blocks(symmetry: Symmetry, members: Sequence[int]) -> tuple[int, ...]:
    """Returns the first group, and those that it shares blocks with, directly or not."""
    blocks = {
        i: {b for b in symmetry.blocks if _terms(symmetry.scaling_groups[i], b)}
        for i in members
    }
    joined, reached = [members[0]], set(blocks[members[0]])
    while True:
        more = [i for i in members if i not in joined and blocks[i] & reached]
        if not more:
            return tuple(joined)
        joined += more
        reached.update(*(blocks[i] for i in more))


# Phases and groups that are determined one by one.


def _turns(part: Symmetry, leaves: Sequence[jax.Array]) -> jax.Array:
    """Returns the turns of a phase that bring its first bias next to 0."""
    (scaling_group,) = part.scaling_groups
    shift = scaling_group.shifts[0]
    block = next(b for b in part.blocks if b.leaf == shift.leaf)
    bias = leaves[shift.leaf].reshape([part.indices[a].size for a in block.indices])
    nearest = jnp.floor(bias / shift.amount + 0.5)
    powers = [
        e.power
        for e in scaling_group.exponents
        if (e.leaf, e.position) == (shift.leaf, shift.position)
    ]
    if sum(powers) % 2:
        # An odd turn reflects the bias before it shifts it.
        return jnp.where(nearest % 2 == 0, -nearest, nearest)
    return -nearest


def _factors(part: Symmetry, step: _Step, leaves: Sequence[jax.Array]) -> jax.Array:
    """Returns the factors ``[*parents, size]`` that lead to the representative."""
    (scaling_group,) = part.scaling_groups
    sign = scaling_group.kind == "sign"
    factors = jnp.ones(factor_shape(part, scaling_group))
    for tier in reversed(step.tiers):
        total = jnp.zeros_like(factors)
        for r in tier:
            array = _powers(part, r.block, leaves, 3 if sign else 2)
            total += _over_unit(scaling_group, r, array)
        if sign:
            factors = jnp.where(total == 0, factors, jnp.sign(total))
        else:
            norm = jnp.sqrt(jnp.where(total > 0, total, 1.0))
            fixed = norm ** float(-1 / tier[0].power)
            factors = jnp.where(total > 0, fixed, factors)
    return factors


def _powers(
    part: Symmetry, block: Block, leaves: Sequence[jax.Array], exponent: int
) -> jax.Array:
    """Returns powers of a block's entries, in the type of the factors.

    The block has one axis per index. Of complex numbers, powers of both parts are added.
    """
    sizes = [part.indices[a].size for a in block.indices]
    array = jnp.asarray(block.select(leaves[block.leaf])).reshape(sizes)
    powers = array.real.astype(float) ** exponent
    if jnp.iscomplexobj(array):
        powers += array.imag.astype(float) ** exponent
    return powers


def _over_unit(
    scaling_group: ScalingGroup, reading: _Reading, array: jax.Array
) -> jax.Array:
    """Sums a block's array to the shape ``[*parents, size]`` of a scaling group."""
    block = reading.block
    axes = [block.indices.index(p) for p in scaling_group.parents]
    axes.append(block.positions.index(reading.position))
    total = array.sum(axis=tuple(i for i in range(array.ndim) if i not in axes))
    return total.transpose([sorted(axes).index(k) for k in axes])


# Groups that are determined together.


class _Scaled(NamedTuple):
    """Block that some groups multiply.

    Attributes:
        block: The block.
        terms: Numbers of the groups, and their powers.
        rest: Axes of the block along which all factors are constant.
    """

    block: Block
    terms: tuple[tuple[int, _Term], ...]
    rest: tuple[int, ...]


def _scaled_blocks(part: Symmetry) -> list[_Scaled]:
    """Returns the blocks that some group multiplies."""
    scaled = []
    for block in part.blocks:
        terms = tuple(
            (i, term)
            for i, group in enumerate(part.scaling_groups)
            for term in _terms(group, block)
        )
        if terms:
            axes = {block.positions.index(term.position) for _, term in terms}
            for i, _ in terms:
                parents = part.scaling_groups[i].parents
                axes |= {block.indices.index(p) for p in parents}
            rest = tuple(k for k in range(len(block.indices)) if k not in axes)
            scaled.append(_Scaled(block, terms, rest))
    return scaled


def _joint_scales(part: Symmetry, leaves: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """Returns factors that bring the log norms of slices closest to 0.

    The logarithms of the norms move along a linear subspace, and the representative is
    the point of it that is nearest to 0. Slices of zeros do not count.
    """
    scaled = _scaled_blocks(part)
    squares = [
        _powers(part, s.block, leaves, 2).sum(s.rest, keepdims=True) for s in scaled
    ]
    present = [x > 0 for x in squares]
    logs = [
        jnp.where(p, 0.5 * jnp.log(jnp.where(p, x, 1.0)), 0.0)
        for p, x in zip(present, squares, strict=True)
    ]

    def changes(
        power_of: Callable[[Fraction], float], log_factors: _Arrays
    ) -> list[jax.Array]:
        """Returns by how much log norms change, for a function of the powers."""
        out = []
        for s, p in zip(scaled, present, strict=True):
            change = jnp.zeros(p.shape)
            for i, term in s.terms:
                group = part.scaling_groups[i]
                log_factor = spread(group, log_factors[i], s.block, term.position)
                change += power_of(term.power) * log_factor
            out.append(p * change)
        return out

    zeros = tuple(jnp.zeros(factor_shape(part, g)) for g in part.scaling_groups)
    linear = functools.partial(changes, float)
    transposed = jax.linear_transpose(linear, zeros)
    squared = functools.partial(changes, lambda power: float(power**2))
    ones = [p.astype(float) for p in present]
    (diagonal,) = jax.linear_transpose(squared, zeros)(ones)
    (right,) = transposed([-x for x in logs])
    solution = jax.lax.custom_linear_solve(
        lambda x: transposed(linear(x))[0],
        right,
        functools.partial(_conjugate_gradients, diagonal=diagonal),
        symmetric=True,
    )
    return tuple(map(jnp.exp, solution))


class _Iteration(NamedTuple):
    """State of the method of conjugate gradients.

    Attributes:
        solution, residual, direction: Of the next iteration.
        size: Square of the preconditioned residual.
        steps: Number of iterations so far.
        proceed: False if the solution does not improve any more.
    """

    solution: _Arrays
    residual: _Arrays
    direction: _Arrays
    size: jax.Array
    steps: jax.Array
    proceed: jax.Array


def _conjugate_gradients(
    matvec: Callable[[_Arrays], _Arrays], right: _Arrays, diagonal: _Arrays
) -> _Arrays:
    """Solves a consistent linear system whose matrix is positive semidefinite.

    Args:
        matvec: Product with the matrix.
        right: The right-hand side.
        diagonal: Diagonal of the matrix, its preconditioner.
    """

    def dot(x: _Arrays, y: _Arrays) -> jax.Array:
        return sum((jnp.vdot(a, b) for a, b in zip(x, y, strict=True)), jnp.zeros(()))

    def add(x: _Arrays, factor: jax.Array, y: _Arrays) -> _Arrays:
        return tuple(a + factor * b for a, b in zip(x, y, strict=True))

    def scaled(x: _Arrays) -> _Arrays:
        return tuple(
            jnp.where(d > 0, a / jnp.where(d > 0, d, 1.0), 0.0)
            for a, d in zip(x, diagonal, strict=True)
        )

    def iterate(state: _Iteration) -> _Iteration:
        product = matvec(state.direction)
        curvature = dot(state.direction, product)
        # Rounding errors leave directions that the matrix maps to 0.
        weighted = [d * p for d, p in zip(diagonal, state.direction, strict=True)]
        improves = curvature > 1e-5 * dot(state.direction, tuple(weighted))
        step = jnp.where(improves, state.size, 0.0) / jnp.where(
            improves, curvature, 1.0
        )
        residual = add(state.residual, -step, product)
        preconditioned = scaled(residual)
        size = dot(residual, preconditioned)
        direction = add(preconditioned, size / state.size, state.direction)
        solution = add(state.solution, step, state.direction)
        proceed = improves & (size > rounding)
        proceed &= state.steps + 1 < _MOST_ITERATIONS
        return _Iteration(solution, residual, direction, size, state.steps + 1, proceed)

    start = scaled(right)
    start_size = dot(right, start)
    # The right-hand side is a sum of logarithms, each with an error of a few units.
    unit = 4 * float(jnp.finfo(right[0].dtype).eps)
    rounding = unit**2 * sum(d.sum() for d in diagonal)
    zeros = tuple(map(jnp.zeros_like, right))
    first = _Iteration(
        zeros, right, start, start_size, jnp.zeros((), int), start_size > rounding
    )
    return jax.lax.while_loop(lambda state: state.proceed, iterate, first).solution


def _joint_signs(part: Symmetry, leaves: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """Returns signs that make slices positive, the largest ones first.

    Signs are 0 or 1 in GF(2), and a positive slice is a linear equation between those
    that multiply it. Gaussian elimination in the order of the slices' sizes takes each
    equation that does not contradict earlier ones; signs that remain free change
    nothing.
    """
    shapes = [factor_shape(part, g) for g in part.scaling_groups]
    counts = [int(np.prod(shape)) for shape in shapes]
    starts = np.cumsum([0, *counts])
    count = int(starts[-1])
    scaled = _scaled_blocks(part)
    width = max(len(s.terms) for s in scaled)
    totals, members = [], []
    for s in scaled:
        cubes = _powers(part, s.block, leaves, 3).sum(s.rest, keepdims=True)
        # Numbers of the signs that multiply each slice; the last stands for none.
        numbers = np.full((*cubes.shape, width), count)
        for k, (i, term) in enumerate(s.terms):
            group = part.scaling_groups[i]
            of_group = starts[i] + np.arange(counts[i]).reshape(shapes[i])
            numbers[..., k] = spread(group, of_group, s.block, term.position)
        totals.append(cubes.ravel())
        members.append(numbers.reshape(-1, width))
    total = jax.lax.stop_gradient(jnp.concatenate(totals))
    signs = _solve_signs(total, np.concatenate(members), count)
    return tuple(
        1.0 - 2.0 * signs[a : a + n].reshape(shape)
        for a, n, shape in zip(starts[:-1], counts, shapes, strict=True)
    )


class _Signs(NamedTuple):
    """Signs as affine functions of those that are still free, in GF(2).

    Attributes:
        forms: ``[signs, signs]``, True where a sign depends on a free one.
        offsets: ``[signs]``, the constant terms.
        codes: ``[signs, 2]``, a random linear function of each form: a sum of forms is 0
            if that of their codes is (else with probability 2^-64), which takes less time.
        strongest: Number of the largest slice whose sign is not determined.
        proceed: False if there is none.
    """

    forms: jax.Array
    offsets: jax.Array
    codes: jax.Array
    strongest: jax.Array
    proceed: jax.Array


def _solve_signs(values: jax.Array, members: np.ndarray, count: int) -> jax.Array:
    """Returns signs (0 or 1) that make values positive, the largest ones first.

    Args:
        values: ``[values]``.
        members: ``[values, width]``, numbers of the signs that multiply each value;
            ``count`` stands for none.
        count: Number of signs.
    """

    def total(x: jax.Array, rows: Any) -> jax.Array:
        return functools.reduce(operator.xor, [x[row] for row in rows])

    def next_value(codes: jax.Array) -> tuple[jax.Array, jax.Array]:
        is_open = (total(codes, members.T) != 0).any(-1) & (values != 0)
        sizes = jnp.where(is_open, jnp.abs(values), -1.0)
        strongest = jnp.argmax(sizes)
        return strongest, sizes[strongest] > 0

    def eliminate(signs: _Signs) -> _Signs:
        rows = list(jnp.asarray(members)[signs.strongest])
        form = total(signs.forms, rows)
        offset = total(signs.offsets, rows) ^ (values[signs.strongest] < 0)
        code = total(signs.codes, rows)
        uses = signs.forms[:, jnp.argmax(form)]
        forms = signs.forms ^ (uses[:, None] & form[None])
        offsets = signs.offsets ^ (uses & offset)
        codes = signs.codes ^ jnp.where(uses[:, None], code[None], 0)
        return _Signs(forms, offsets, codes, *next_value(codes))

    random = np.random.default_rng(0).integers(0, 2**32, (count + 1, 2), np.uint32)
    random[count] = 0
    codes = jnp.asarray(random)
    start = _Signs(
        jnp.eye(count + 1, count, dtype=bool),
        jnp.zeros(count + 1, bool),
        codes,
        *next_value(codes),
    )
    signs = jax.lax.while_loop(lambda signs: signs.proceed, eliminate, start)
    return signs.offsets[:count]
