"""Group elements, and how they act on parameters.

An element first permutes, then multiplies (scales, signs, (-1)^k of phases), then adds
(phase shifts). Convention of permutations: ``new[i] = old[perm[i]]``. All functions are
pure and work under `jit`, `vmap` and `grad`; what depends on the symmetry alone is
Python data and costs nothing at run time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metanet.errors import MetanetError
from metanet.symmetry.blocks import Bounds, join_blocks
from metanet.symmetry.structure import Block, PermutationGroup, Position, ScalingGroup
from metanet.symmetry.symmetry import Symmetry


class Element(NamedTuple):
    """An element of a symmetry.

    Attributes:
        permutations: Per group ``[copies, degree]`` indices.
        factors: Per family ``[*parents, size]``: the factors; for a phase the numbers k
            of half turns (as floats).
    """

    permutations: tuple[jax.Array, ...]
    factors: tuple[jax.Array, ...]


def factor_shape(symmetry: Symmetry, scaling_group: ScalingGroup) -> tuple[int, ...]:
    return tuple(
        symmetry.indices[a].size
        for a in (*scaling_group.parents, scaling_group.axis_index)
    )


def identity(symmetry: Symmetry) -> Element:
    """The element that changes nothing."""
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
    """A random element; parts that are switched off are the identity.

    Permutations and signs are uniform, scales log-normal with deviation 0.3, phases -1,
    0 or 1 half turns.
    """
    plain = identity(symmetry)
    drawn = []
    for i, group in enumerate(symmetry.groups):
        if permutations:
            keys = jax.random.split(jax.random.fold_in(key, i), group.copies)
            row = jax.vmap(lambda k, n=group.degree: jax.random.permutation(k, n))
            drawn.append(row(keys))
        else:
            drawn.append(plain.permutations[i])
    factors = []
    wanted = {"sign": signs, "positive": scales, "nonzero": scales, "phase": phases}
    for i, scaling_group in enumerate(symmetry.scaling_groups):
        k = jax.random.fold_in(key, 1_000_003 + i)
        shape = factor_shape(symmetry, scaling_group)
        if not wanted[scaling_group.kind]:
            factors.append(plain.factors[i])
        elif scaling_group.kind == "phase":
            factors.append(jax.random.randint(k, shape, -1, 2).astype(jnp.float32))
        elif scaling_group.kind == "sign":
            factors.append(jax.random.rademacher(k, shape, jnp.float32))
        else:
            factors.append(jnp.exp(0.3 * jax.random.normal(k, shape)))
    return Element(tuple(drawn), tuple(factors))


def _parity(k: jax.Array) -> jax.Array:
    """``(-1)^k`` for whole numbers stored as floats."""
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
    """Applies all groups to an array with one axis per atom, parents before children."""
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


def _spread(
    scaling_group: ScalingGroup, values: jax.Array, block: Block, position: Position
) -> jax.Array:
    """Values ``[*parents, size]`` as an array that broadcasts over a tile's atoms."""
    places = [block.indices.index(p) for p in scaling_group.parents]
    places.append(block.positions.index(position))
    order = sorted(range(len(places)), key=places.__getitem__)
    shape = [1] * len(block.indices)
    for place, size in zip(places, values.shape, strict=True):
        shape[place] = size
    return values.transpose(order).reshape(shape)


def _tiles(
    symmetry: Symmetry, params: Any, change: Callable[[Block, jax.Array], jax.Array]
) -> Any:
    """Applies a function to every tile, as an array with one axis per atom."""
    leaves, treedef = jax.tree.flatten(params)
    if len(leaves) != len(symmetry.leaves):
        raise MetanetError(
            f"parameters: {len(leaves)} arrays, the symmetry is of {len(symmetry.leaves)}"
        )
    blocks: list[list[tuple[Bounds, jax.Array]]] = [[] for _ in leaves]
    for block in symmetry.blocks:
        leaf = jnp.asarray(leaves[block.leaf])
        whole = block.bounds == tuple((0, n) for n in leaf.shape)
        part = leaf if whole else leaf[tuple(slice(*b) for b in block.bounds)]
        sizes = [symmetry.indices[a].size for a in block.indices]
        new = change(block, part.reshape(sizes)).reshape(part.shape)
        blocks[block.leaf].append((block.bounds, new))
    leaves = [join_blocks(b) if b else x for b, x in zip(blocks, leaves, strict=True)]
    return jax.tree.unflatten(treedef, leaves)


def act(symmetry: Symmetry, element: Element, params: Any) -> Any:
    """Moves parameters by an element; the network's function does not change.

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
                    value = _spread(scaling_group, value, block, e.position)
                    array = array * value.astype(array.dtype)
            for s in scaling_group.shifts:
                if s.leaf == block.leaf and s.position in block.positions:
                    value = _spread(scaling_group, factor * s.amount, block, s.position)
                    shift = value if shift is None else shift + value
        return array if shift is None else array + shift.astype(array.dtype)

    return _tiles(symmetry, params, change)


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
    """Where each joint index of a group comes from after elements act in turn."""
    indices = (*group.parents, *group.indices)
    sizes = [symmetry.indices[a].size for a in indices]
    index = jnp.arange(math.prod(sizes)).reshape(sizes)
    for permutations in elements:
        index = _permute(symmetry, permutations, index, indices)
    return index.reshape(-1)


def _turn_signs(
    symmetry: Symmetry, factors: Sequence[jax.Array], scaling_group: ScalingGroup
) -> jax.Array | float:
    """The sign that the sign families give to the biases of a phase family."""
    sign: jax.Array | float = 1.0
    for other, values in zip(symmetry.scaling_groups, factors, strict=True):
        for e in other.exponents:
            for s in scaling_group.shifts[:1]:
                if (e.leaf, e.position) == (s.leaf, s.position):
                    sign = sign * _power(other, values, float(e.power))
    return sign


def compose(symmetry: Symmetry, a: Element, b: Element) -> Element:
    """The element that acts as b first, then a."""
    permutations = tuple(
        (_source_index(symmetry, (b.permutations, a.permutations), g) % g.degree)
        .reshape(g.copies, g.degree)
        for g in symmetry.groups
    )  # fmt: skip
    moved = _permuted_factors(symmetry, a.permutations, b.factors)
    factors = []
    for scaling_group, mine, theirs in zip(
        symmetry.scaling_groups, a.factors, moved, strict=True
    ):
        if scaling_group.kind == "phase":
            factors.append(
                mine + _turn_signs(symmetry, a.factors, scaling_group) * theirs
            )
        else:
            factors.append(mine * theirs)
    return Element(permutations, tuple(factors))


def invert(symmetry: Symmetry, a: Element) -> Element:
    """The element that undoes a."""
    permutations = tuple(
        (jnp.argsort(_source_index(symmetry, (a.permutations,), g)) % g.degree)
        .reshape(g.copies, g.degree)
        for g in symmetry.groups
    )  # fmt: skip
    undone = [
        -_turn_signs(symmetry, a.factors, scaling_group) * values
        if scaling_group.kind == "phase"
        else 1 / values
        for scaling_group, values in zip(
            symmetry.scaling_groups, a.factors, strict=True
        )
    ]
    factors = _permuted_factors(symmetry, permutations, undone)
    return Element(permutations, tuple(factors))
