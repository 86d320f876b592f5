"""Conversion between a `Symmetry` and hand-written specs of other projects.

* Git Re-Basin (Ainsworth et al. 2023; ``axes_to_perm`` in samuela/git-re-basin): per
  parameter path a tuple with the name of the permutation of each axis, or None. The
  format, unlike their matching, allows one permutation on two axes of an array.
* Universal Neural Functionals (Zhou et al. 2024; ``perm_spec`` in
  AllanYangZhou/universal_neural_functional): the parameters' pytree with a tuple of
  integers per array, one per axis. Axes with equal integers are permuted alike. No value
  means that an axis is fixed: the integers of such axes are listed beside the spec.

Neither can express that a permuted axis is a concatenation or product of indices, that
axes are permuted jointly, or that a permutation depends on another index (the channels of
heads).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import jax

from metanet.errors import MetanetError, suggest
from metanet.symmetry.symmetry import (
    AxisPart,
    Block,
    Index,
    Leaf,
    PermutationGroup,
    Position,
    Symmetry,
)

AxisNames = dict[str, tuple[str | None, ...]]


def _axes(symmetry: Symmetry) -> list[list[int | tuple[Any, ...]]]:
    """Returns, per leaf and axis, the permuted index, or a tuple for a fixed axis.

    Two axes made of the same pinned indices have equal tuples.

    Raises:
        MetanetError: for a permuted axis that is not one index with one permutation.
    """
    groups = {a: g for g in symmetry.groups for a in g.indices}
    rows = []
    for index, leaf in enumerate(symmetry.leaves):
        blocks = [b for b in symmetry.blocks if b.leaf == index]
        row = []
        for axis in range(len(leaf.shape)):
            parts = sorted({(b.parts[axis], _indices_along(b, axis)) for b in blocks})
            indices = [a for _, members in parts for a in members]
            free = [a for a in indices if symmetry.indices[a].pinned is None]
            if not free:
                row.append(tuple(parts) if indices else (index, axis))
                continue
            why = _obstacle(symmetry, parts, groups[free[0]])
            if why:
                raise MetanetError(
                    f"{leaf.path}: axis {axis} {why}, which a spec by axes cannot "
                    "express; use the Symmetry itself"
                )
            row.append(free[0])
        rows.append(row)
    return rows


def _indices_along(block: Block, axis: int) -> tuple[int, ...]:
    pairs = zip(block.indices, block.positions, strict=True)
    return tuple(a for a, p in pairs if p.axis == axis)


def _obstacle(
    symmetry: Symmetry,
    parts: list[tuple[AxisPart, tuple[int, ...]]],
    group: PermutationGroup,
) -> str:
    """Returns the reason why an axis is not one index with one permutation, or ""."""
    if len({part for part, _ in parts}) > 1:
        return "is a concatenation of several indices"
    if len(parts) > 1:
        return "is another index in each part of the array"
    indices = parts[0][1]
    if len(indices) > 1:
        return "is a product of several indices"
    others = tuple(a for a in group.indices if a not in indices)
    if others:
        return f"is permuted jointly with {', '.join(symmetry.axes_of(others))}"
    if group.parents:
        axes = ", ".join(symmetry.axes_of(group.parents))
        return f"has a permutation for each value of another index ({axes})"
    return ""


def to_rebasin(symmetry: Symmetry) -> AxisNames:
    """Converts a symmetry to Git Re-Basin's format, ``{"fc/kernel": (None, "P_0")}``.

    Permutations are numbered in the order of their groups. Groups of scales,
    signs and phases are left out.

    Raises:
        MetanetError: for an axis that the format cannot describe.
    """
    names: dict[int, str] = {}
    return {
        leaf.path: tuple(
            names.setdefault(key, f"P_{len(names)}") if isinstance(key, int) else None
            for key in row
        )
        for leaf, row in zip(symmetry.leaves, _axes(symmetry), strict=True)
    }


def from_rebasin(axes: Mapping[str, tuple[str | None, ...]], params: Any) -> Symmetry:
    """Converts a spec in Git Re-Basin's format to a symmetry of permutations.

    Nothing is checked against a network; see `check`. Groups are in the order of the
    parameters' axes: a discovered symmetry's own, after a round trip.

    Args:
        axes: Per parameter the name of the permutation of each axis, or None. Paths are
            those of the pytree ("fc/kernel"), or with dots.
        params: The parameters, or their shapes.

    Raises:
        MetanetError: for a parameter that is unknown, missing or specified twice, a wrong
            number of axes, or one permutation of axes of different lengths.
    """
    leaves = _leaves(params)
    paths = {leaf.path: i for i, leaf in enumerate(leaves)}
    dotted = {path.replace("/", "."): i for path, i in paths.items()}
    rows: list[Any] = [None] * len(leaves)
    for name, row in axes.items():
        index = paths.get(name, dotted.get(name.replace("/", ".")))
        if index is None:
            raise MetanetError(f"no parameter {name!r}.{suggest(name, paths)}")
        if rows[index] is not None:
            raise MetanetError(f"parameter {leaves[index].path}: specified twice")
        rows[index] = row
    return _assembled(leaves, rows)


def to_unf(symmetry: Symmetry, params: Any) -> tuple[Any, frozenset[int]]:
    """Converts a symmetry to the format of Universal Neural Functionals.

    Args:
        symmetry: The symmetry.
        params: Parameters, or their shapes, for the structure of the result.

    Returns:
        The pytree of tuples of integers, counted from 0, and the integers of axes that
        must not be permuted (inputs, outputs, kernel positions): UNF takes all for
        permutations, so that these need position encodings.

    Raises:
        MetanetError: for an axis that the format cannot describe, and for parameters
            that are not those of the symmetry.
    """
    known = [(leaf.path, leaf.shape) for leaf in symmetry.leaves]
    if [(leaf.path, leaf.shape) for leaf in _leaves(params)] != known:
        raise MetanetError("parameters: other paths or shapes than the symmetry's")
    numbers: dict[int | tuple[Any, ...], int] = {}
    rows = [
        tuple(numbers.setdefault(key, len(numbers)) for key in row)
        for row in _axes(symmetry)
    ]
    fixed = frozenset(n for key, n in numbers.items() if isinstance(key, tuple))
    return jax.tree.structure(params).unflatten(rows), fixed


def from_unf(spec: Any, params: Any, fixed: Collection[int] = ()) -> Symmetry:
    """Converts a spec of Universal Neural Functionals to a symmetry of permutations.

    Args:
        spec: The parameters' pytree with a tuple of integers in place of each array.
        params: The parameters, or their shapes.
        fixed: Integers of axes that must not be permuted (inputs and outputs).

    Raises:
        MetanetError: if the spec has another structure than the parameters, a wrong
            number of axes, or one permutation of axes of different lengths.
    """
    try:
        rows = jax.tree.structure(params).flatten_up_to(spec)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise MetanetError(f"spec: not the parameters' structure: {reason}") from None
    named = [
        tuple(None if n in fixed else f"P_{n}" for n in row)
        if isinstance(row, tuple | list)
        else row
        for row in rows
    ]
    return _assembled(_leaves(params), named)


def _leaves(params: Any) -> list[Leaf]:
    return [
        Leaf(
            jax.tree_util.keystr(path, simple=True, separator="/"),
            tuple(x.shape),
            str(x.dtype),
        )
        for path, x in jax.tree_util.tree_flatten_with_path(params)[0]
    ]


def _assembled(leaves: list[Leaf], rows: list[Any]) -> Symmetry:
    indices: list[Index] = []
    names: dict[str, tuple[int, int, str]] = {}
    blocks = []
    for index, (leaf, row) in enumerate(zip(leaves, rows, strict=True)):
        _require_axes(leaf, row)
        factors = []
        for axis, (name, size) in enumerate(zip(row, leaf.shape, strict=True)):
            label, axis_index = f"{leaf.path} axis {axis}", len(indices)
            if name is not None:
                axis_index, known, first = names.setdefault(
                    name, (axis_index, size, label)
                )
                if known != size:
                    raise MetanetError(
                        f"permutation {name}: of length {known} at {first}, but {size} "
                        f"at {label}"
                    )
            if size != 1:  # Axes of size 1 have no index, as in discovery.
                factors.append((Position(axis, 0, 0), axis_index))
                if axis_index == len(indices):
                    pin = "not permuted in the given specification"
                    indices.append(Index(size, pin if name is None else None))
        blocks.append(
            Block(
                leaf=index,
                segments=(0,) * len(row),
                parts=tuple(AxisPart.interval(0, n) for n in leaf.shape),
                positions=tuple(p for p, _ in factors),
                indices=tuple(a for _, a in factors),
            )
        )
    groups = tuple(
        PermutationGroup((axis_index,), (), size, 1)
        for axis_index, size, _ in names.values()
        if size != 1
    )
    return Symmetry(
        leaves=tuple(leaves),
        indices=tuple(indices),
        blocks=tuple(blocks),
        groups=groups,
        scaling_groups=(),
        activations=(),
        parameter_edges=(),
        identity_edges=(),
    )


def _require_axes(leaf: Leaf, row: Any) -> None:
    if row is None:
        raise MetanetError(f"parameter {leaf.path}: missing in the specification")
    if not isinstance(row, tuple | list):
        raise MetanetError(
            f"parameter {leaf.path}: {row!r} in the specification, not a tuple of axes"
        )
    if len(row) != len(leaf.shape):
        raise MetanetError(
            f"parameter {leaf.path}: {len(row)} axes in the specification, it has "
            f"{len(leaf.shape)}"
        )
