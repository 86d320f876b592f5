"""Group elements, and how they act on parameters.

An element first permutes, then multiplies (scales, signs, (-1)^k of phases), then adds
(phase shifts). Convention of permutations: ``new[i] = old[perm[i]]``. All functions are
pure and work under `jit`, `vmap` and `grad`; data that depends on the symmetry alone is
Python data and costs nothing at run time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from metanet.errors import MetanetError
from metanet.symmetry.symmetry import (
    AxisPart,
    Block,
    PermutationGroup,
    Position,
    ScalingGroup,
    Symmetry,
)

AxisParts = tuple[AxisPart, ...]
T = TypeVar("T", jax.Array, np.ndarray)


class Element(NamedTuple):
    """Element of a symmetry.

    Attributes:
        permutations: Per group ``[copies, degree]`` indices.
        factors: Per scaling group ``[*parents, size]``: the factors; for a phase the
            numbers k of turns (as floats).
    """

    permutations: tuple[jax.Array, ...]
    factors: tuple[jax.Array, ...]


def factor_shape(symmetry: Symmetry, scaling_group: ScalingGroup) -> tuple[int, ...]:
    """Returns the shape ``[*parents, size]`` of the factors of a scaling group."""
    return tuple(
        symmetry.indices[a].size
        for a in (*scaling_group.parents, scaling_group.axis_index)
    )


def identity(symmetry: Symmetry) -> Element:
    """Returns the element that changes nothing."""
    permutations = tuple(
        jnp.broadcast_to(jnp.arange(g.degree)[None], (g.copies, g.degree))
        for g in symmetry.groups
    )
    factors = tuple(
        jnp.full(factor_shape(symmetry, f), 0.0 if f.kind == "phase" else 1.0)
        for f in symmetry.scaling_groups
    )
    return Element(permutations, factors)


def random_element(
    symmetry: Symmetry,
    key: jax.Array,
    *,
    permutations: bool = True,
    signs: bool = True,
    scales: bool = True,
    phases: bool = True,
) -> Element:
    """Draws a random element.

    Permutations and signs are uniform, scales log-normal with deviation 0.3, phases -1,
    0 or 1 turns.

    Args:
        symmetry: The network's symmetry.
        key: Random key.
        permutations, signs, scales, phases: False: the identity for groups of this kind.
    """
    plain = identity(symmetry)
    drawn = []
    for i, group in enumerate(symmetry.groups):
        if permutations:
            keys = jax.random.split(jax.random.fold_in(key, i), group.copies)
            draw = functools.partial(jax.random.permutation, x=group.degree)
            drawn.append(jax.vmap(draw)(keys))
        else:
            drawn.append(plain.permutations[i])
    factors = []
    enabled = {"sign": signs, "positive": scales, "nonzero": scales, "phase": phases}
    for i, scaling_group in enumerate(symmetry.scaling_groups):
        k = jax.random.fold_in(key, 1_000_003 + i)
        shape = factor_shape(symmetry, scaling_group)
        if not enabled[scaling_group.kind]:
            factors.append(plain.factors[i])
        elif scaling_group.kind == "phase":
            factors.append(jax.random.randint(k, shape, -1, 2).astype(jnp.float32))
        elif scaling_group.kind == "sign":
            factors.append(jax.random.rademacher(k, shape, jnp.float32))
        else:
            factors.append(jnp.exp(0.3 * jax.random.normal(k, shape)))
    return Element(tuple(drawn), tuple(factors))


def _parity(k: jax.Array) -> jax.Array:
    """Returns ``(-1)^k`` for whole numbers stored as floats."""
    return 1 - 2 * jnp.abs(k - 2 * jnp.floor(k / 2))


def _power(scaling_group: ScalingGroup, factor: jax.Array, power: float) -> jax.Array:
    base = _parity(factor) if scaling_group.kind == "phase" else factor
    if scaling_group.kind in ("phase", "sign"):
        return base if int(power) % 2 else jnp.ones_like(base)
    return base**power if power != 1 else base


def _permute(
    symmetry: Symmetry,
    permutations: Sequence[jax.Array],
    array: jax.Array,
    indices: tuple[int, ...],
) -> jax.Array:
    """Applies all groups to an array with one axis per index, parents before children."""
    for group, perm in zip(symmetry.groups, permutations, strict=True):
        if not set(group.indices) & set(indices) or group.degree == 1:
            continue
        first = [i for i, a in enumerate(indices) if a == group.indices[0]]
        for occurrence in range(len(first)):
            moved = [
                [i for i, a in enumerate(indices) if a == j][occurrence]
                for j in group.indices
            ]
            array = _permute_once(group, perm, array, indices, moved)
    return array


def _permute_once(
    group: PermutationGroup,
    perm: jax.Array,
    array: jax.Array,
    indices: tuple[int, ...],
    moved: list[int],
) -> jax.Array:
    if group.copies == 1 and len(moved) == 1:
        return jnp.take(array, perm[0], axis=moved[0], mode="clip")
    parents = [indices.index(p) for p in group.parents]
    rest = [i for i in range(len(indices)) if i not in moved and i not in parents]
    order = parents + moved + rest
    turned = array.transpose(order)
    flat = turned.reshape(group.copies, group.degree, -1)
    flat = jnp.take_along_axis(flat, perm[:, :, None], axis=1, mode="clip")
    back = sorted(range(len(order)), key=order.__getitem__)
    return flat.reshape(turned.shape).transpose(back)


def spread(
    scaling_group: ScalingGroup, values: T, block: Block, position: Position
) -> T:
    """Reshapes ``[*parents, size]`` to an array that broadcasts over a block's indices."""
    axes = [block.indices.index(p) for p in scaling_group.parents]
    axes.append(block.positions.index(position))
    order = sorted(range(len(axes)), key=axes.__getitem__)
    shape = [1] * len(block.indices)
    for axis, size in zip(axes, values.shape, strict=True):
        shape[axis] = size
    return values.transpose(order).reshape(shape)


def _map_blocks(
    symmetry: Symmetry, params: Any, change: Callable[[Block, jax.Array], jax.Array]
) -> Any:
    """Applies a function to every block, as an array with one axis per index."""
    leaves, treedef = jax.tree.flatten(params)
    if len(leaves) != len(symmetry.leaves):
        raise MetanetError(
            f"parameters: {len(leaves)} arrays, the symmetry is of {len(symmetry.leaves)}"
        )
    blocks: list[list[tuple[AxisParts, jax.Array]]] = [[] for _ in leaves]
    for block in symmetry.blocks:
        sizes = [symmetry.indices[a].size for a in block.indices]
        part = block.select(jnp.asarray(leaves[block.leaf])).reshape(sizes)
        new = change(block, part).reshape(block.shape)
        blocks[block.leaf].append((block.parts, new))
    leaves = [join_blocks(b) if b else x for b, x in zip(blocks, leaves, strict=True)]
    return jax.tree.unflatten(treedef, leaves)


def join_blocks(blocks: Sequence[tuple[AxisParts, jax.Array]]) -> jax.Array:
    """Joins blocks that fill an array.

    Writing one block after the other into a copy is no alternative: XLA may read a block
    from the half-written array (seen with jax 0.10 on CPU).

    Args:
        blocks: Per block its part along each of the array's last axes, and its values
            ``[..., *sizes]``.
    """
    rank = len(blocks[0][0])
    if len(blocks) == 1:
        ((parts, joined),) = blocks
        for axis, part in enumerate(parts):
            joined = _in_order(joined, part.entries(), axis - rank)
        return joined
    for axis in range(rank):
        parts = sorted({b[axis] for b, _ in blocks})
        entries = np.concatenate([np.sort(part.entries()) for part in parts])
        if len(parts) == 1 or len(np.unique(entries)) < len(entries):
            continue
        rows = [join_blocks([b for b in blocks if b[0][axis] == p]) for p in parts]
        return _in_order(jnp.concatenate(rows, axis - rank), entries, axis - rank)
    raise AssertionError("blocks that do not fill an array")


def _in_order(array: jax.Array, entries: np.ndarray, axis: int) -> jax.Array:
    """Sorts an array along an axis by the entries that it holds."""
    order = np.argsort(entries)
    if (np.diff(order) == 1).all():
        return array
    return jnp.take(array, order.astype(np.int32), axis, mode="clip")


def act(symmetry: Symmetry, element: Element, params: Any) -> Any:
    """Applies an element to parameters; the network's function does not change.

    Args:
        symmetry: The network's symmetry.
        element: The element.
        params: Parameters of one network (use `vmap` for many).
    """

    def change(block: Block, array: jax.Array) -> jax.Array:
        array = _permute(symmetry, element.permutations, array, block.indices)
        shift = None
        for scaling_group, factor in zip(
            symmetry.scaling_groups, element.factors, strict=True
        ):
            for e in scaling_group.exponents:
                if e.leaf == block.leaf and e.position in block.positions:
                    value = _power(scaling_group, factor, float(e.power))
                    value = spread(scaling_group, value, block, e.position)
                    array = array * value.astype(array.dtype)
            for s in scaling_group.shifts:
                if s.leaf == block.leaf and s.position in block.positions:
                    value = spread(scaling_group, factor * s.amount, block, s.position)
                    shift = value if shift is None else shift + value
        return array if shift is None else array + shift.astype(array.dtype)

    return _map_blocks(symmetry, params, change)


def _permuted_factors(
    symmetry: Symmetry, permutations: Sequence[jax.Array], factors: Sequence[jax.Array]
) -> list[jax.Array]:
    return [
        _permute(
            symmetry,
            permutations,
            values,
            (*scaling_group.parents, scaling_group.axis_index),
        )
        for scaling_group, values in zip(symmetry.scaling_groups, factors, strict=True)
    ]


def _source_index(
    symmetry: Symmetry, elements: Sequence[Sequence[jax.Array]], group: PermutationGroup
) -> jax.Array:
    """Returns the origin of each joint index of a group after elements act in turn."""
    indices = (*group.parents, *group.indices)
    sizes = [symmetry.indices[a].size for a in indices]
    index = jnp.arange(math.prod(sizes)).reshape(sizes)
    for permutations in elements:
        index = _permute(symmetry, permutations, index, indices)
    return index.reshape(-1)


def _as_permutation(group: PermutationGroup, source: jax.Array) -> jax.Array:
    """Returns ``[copies, degree]`` from the origin of each joint index."""
    return (source % group.degree).reshape(group.copies, group.degree)


class _Bias(NamedTuple):
    """Position of a leaf to which phases add."""

    leaf: int
    position: Position


def _biases(symmetry: Symmetry) -> list[_Bias]:
    """Returns the positions to which phases add."""
    shifts = [s for g in symmetry.scaling_groups for s in g.shifts]
    return list(dict.fromkeys(_Bias(s.leaf, s.position) for s in shifts))


def _bias_signs(
    symmetry: Symmetry, factors: Sequence[jax.Array], bias: _Bias
) -> jax.Array | float:
    """Returns the signs that an element gives to a bias."""
    sign: jax.Array | float = 1.0
    for scaling_group, values in zip(symmetry.scaling_groups, factors, strict=True):
        for e in scaling_group.exponents:
            if _Bias(e.leaf, e.position) == bias:
                sign = sign * _power(scaling_group, values, float(e.power))
    return sign


def _bias_shifts(
    symmetry: Symmetry, factors: Sequence[jax.Array]
) -> dict[_Bias, jax.Array | float]:
    """Returns the terms that an element adds to the biases."""
    total: dict[_Bias, jax.Array | float] = dict.fromkeys(_biases(symmetry), 0.0)
    for scaling_group, values in zip(symmetry.scaling_groups, factors, strict=True):
        for s in scaling_group.shifts:
            total[_Bias(s.leaf, s.position)] += values * s.amount
    return total


def _turns(
    scaling_group: ScalingGroup, shifts: dict[_Bias, jax.Array | float]
) -> jax.Array:
    """Returns the turns of a phase that account for its first bias's shift.

    Subtracts from ``shifts`` what these turns add to all of its biases: the rest is that
    of later phases.
    """
    first = scaling_group.shifts[0]
    turns = jnp.round(shifts[_Bias(first.leaf, first.position)] / first.amount)
    for s in scaling_group.shifts:
        shifts[_Bias(s.leaf, s.position)] -= turns * s.amount
    return turns


def compose(symmetry: Symmetry, a: Element, b: Element) -> Element:
    """Returns the element that acts like b, then a."""
    both = (b.permutations, a.permutations)
    permutations = tuple(
        _as_permutation(g, _source_index(symmetry, both, g)) for g in symmetry.groups
    )
    moved = _permuted_factors(symmetry, a.permutations, b.factors)
    first, last = _bias_shifts(symmetry, moved), _bias_shifts(symmetry, a.factors)
    shifts = {
        bias: last[bias] + _bias_signs(symmetry, a.factors, bias) * first[bias]
        for bias in first
    }
    factors = tuple(
        _turns(scaling_group, shifts) if scaling_group.kind == "phase" else x * y
        for scaling_group, x, y in zip(
            symmetry.scaling_groups, a.factors, moved, strict=True
        )
    )
    return Element(permutations, factors)


def invert(symmetry: Symmetry, a: Element) -> Element:
    """Returns the inverse of an element."""
    permutations = tuple(
        _as_permutation(g, jnp.argsort(_source_index(symmetry, (a.permutations,), g)))
        for g in symmetry.groups
    )
    shifts = {
        bias: -_bias_signs(symmetry, a.factors, bias) * shift
        for bias, shift in _bias_shifts(symmetry, a.factors).items()
    }
    undone = [
        _turns(scaling_group, shifts) if scaling_group.kind == "phase" else 1 / values
        for scaling_group, values in zip(
            symmetry.scaling_groups, a.factors, strict=True
        )
    ]
    return Element(
        permutations, tuple(_permuted_factors(symmetry, permutations, undone))
    )
