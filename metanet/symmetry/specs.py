"""Hand-written permutation specs of other projects, to and from a `Symmetry`.

* Git Re-Basin (Ainsworth et al. 2023; ``axes_to_perm`` in their code): per parameter the
  name of the permutation of each axis, or None.
* Universal Neural Functionals (Zhou et al. 2024): the parameters' pytree with a tuple of
  integers per array; axes with equal integers are permuted alike. Every axis has an
  integer: those of inputs and outputs, which must not move, are to be set apart.

Neither can say that an axis is a concatenation or a product of indices, or that a
permutation depends on another index (channels within heads).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import jax

from metanet.errors import MetanetError, suggest
from metanet.symmetry.structure import Atom, Leaf, PermutationGroup, Position, Tile
from metanet.symmetry.symmetry import Symmetry

AxisNames = dict[str, tuple[str | None, ...]]


def _atoms_of_axes(symmetry: Symmetry) -> list[list[int | None]]:
    """Per leaf the atom of each axis; None for axes of size 1.

    Raises:
        MetanetError: for an axis that is not one index, or a group that is not plain.
    """
    nested = {a for g in symmetry.groups for a in g.atoms if g.parents or g.atoms[1:]}
    found: list[list[int | None]] = [[None] * len(x.shape) for x in symmetry.leaves]
    for tile in symmetry.tiles:
        leaf = symmetry.leaves[tile.leaf]
        for axis, size in enumerate(leaf.shape):
            if tile.bounds[axis] != (0, size):
                _refuse(leaf, axis, "is a concatenation of several indices")
            held = [
                a
                for a, p in zip(tile.atoms, tile.positions, strict=True)
                if p.axis == axis
            ]
            if len(held) > 1:
                _refuse(leaf, axis, "is a product of several indices")
            for atom in held:
                if atom in nested:
                    _refuse(leaf, axis, "has a permutation for each value of another")
                found[tile.leaf][axis] = atom
    return found


def _refuse(leaf: Leaf, axis: int, why: str) -> None:
    raise MetanetError(
        f"{leaf.path}: axis {axis} {why}, which a spec by axes cannot say; use the "
        "Symmetry itself"
    )


def to_rebasin(symmetry: Symmetry) -> AxisNames:
    """A symmetry in Git Re-Basin's form, ``{"fc/kernel": (None, "P_0")}``.

    Scale and sign families are left out.

    Raises:
        MetanetError: naming the parameter and axis that the form cannot describe.
    """
    names: dict[int, str] = {}
    spec: AxisNames = {}
    for leaf, atoms in zip(symmetry.leaves, _atoms_of_axes(symmetry), strict=True):
        row = []
        for atom in atoms:
            if atom is None or symmetry.atoms[atom].pinned is not None:
                row.append(None)
            else:
                row.append(names.setdefault(atom, f"P_{len(names)}"))
        spec[leaf.path] = tuple(row)
    return spec


def from_rebasin(axes: Mapping[str, tuple[str | None, ...]], params: Any) -> Symmetry:
    """The permutations of a spec in Git Re-Basin's form.

    Nothing is checked against a network; see `check`.

    Args:
        axes: Per parameter the name of the permutation of each axis, or None. Paths are
            those of the pytree ("fc/kernel"), or with dots.
        params: The parameters, or their shapes.

    Raises:
        MetanetError: for a parameter that is unknown or missing, a wrong number of
            axes, or one permutation of axes of different lengths.
    """
    leaves = _leaves(params)
    paths = {leaf.path: i for i, leaf in enumerate(leaves)}
    rows: list[tuple[str | None, ...] | None] = [None] * len(leaves)
    for name, row in axes.items():
        index = paths.get(name, paths.get(name.replace(".", "/")))
        if index is None:
            raise MetanetError(f"no parameter {name!r}.{suggest(name, paths)}")
        rows[index] = tuple(row)
    return _assembled(leaves, rows)


def to_unf(symmetry: Symmetry, params: Any) -> tuple[Any, frozenset[int]]:
    """A symmetry in the form of Universal Neural Functionals.

    Args:
        symmetry: The symmetry.
        params: Parameters, for the structure of the result.

    Returns:
        The pytree of tuples of integers, and the integers of axes that must not be
        permuted (inputs, outputs, kernel positions): UNF takes all for permutations, so
        that these need position encodings.

    Raises:
        MetanetError: naming the parameter and axis that the form cannot describe.
    """
    numbers: dict[Any, int] = {}
    fixed = set()
    rows = []
    for index, atoms in enumerate(_atoms_of_axes(symmetry)):
        row = []
        for axis, atom in enumerate(atoms):
            key = (index, axis) if atom is None else atom
            row.append(numbers.setdefault(key, len(numbers)))
            if atom is None or symmetry.atoms[atom].pinned is not None:
                fixed.add(row[-1])
        rows.append(tuple(row))
    return jax.tree.structure(params).unflatten(rows), frozenset(fixed)


def from_unf(spec: Any, params: Any, fixed: Collection[int] = ()) -> Symmetry:
    """The permutations of a spec in the form of Universal Neural Functionals.

    Args:
        spec: The parameters' pytree with a tuple of integers in place of each array.
        params: The parameters, or their shapes.
        fixed: Integers of axes that must not be permuted (inputs and outputs).

    Raises:
        MetanetError: when the spec has another structure than the parameters, a wrong
            number of axes, or one permutation of axes of different lengths.
    """
    treedef = jax.tree.structure(params)
    try:
        rows = treedef.flatten_up_to(spec)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise MetanetError(f"spec: not the parameters' structure: {reason}") from None
    named = [
        tuple(None if n in fixed else f"P_{n}" for n in row) if isinstance(row, tuple)
        else None
        for row in rows
    ]  # fmt: skip
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


def _assembled(
    leaves: list[Leaf], rows: list[tuple[str | None, ...] | None]
) -> Symmetry:
    atoms: list[Atom] = []
    by_name: dict[str, tuple[int, str]] = {}
    tiles = []
    for index, (leaf, row) in enumerate(zip(leaves, rows, strict=True)):
        if row is None:
            raise MetanetError(f"parameter {leaf.path}: missing in the specification")
        if len(row) != len(leaf.shape):
            raise MetanetError(
                f"parameter {leaf.path}: {len(row)} axes in the specification, it has "
                f"{len(leaf.shape)}"
            )
        held = []
        for axis, (name, size) in enumerate(zip(row, leaf.shape, strict=True)):
            if name is None:
                atoms.append(Atom(size, "not permuted in the specification"))
                held.append(len(atoms) - 1)
                continue
            if name not in by_name:
                atoms.append(Atom(size))
                by_name[name] = (len(atoms) - 1, f"{leaf.path} axis {axis}")
            atom, first = by_name[name]
            if atoms[atom].size != size:
                raise MetanetError(
                    f"permutation {name}: of length {atoms[atom].size} at {first}, but "
                    f"{size} at {leaf.path} axis {axis}"
                )
            held.append(atom)
        tiles.append(
            Tile(
                leaf=index,
                segments=(0,) * len(row),
                bounds=tuple((0, n) for n in leaf.shape),
                positions=tuple(Position(i, 0, 0) for i in range(len(row))),
                atoms=tuple(held),
            )
        )
    groups = tuple(
        PermutationGroup((atom,), (), atoms[atom].size, 1)
        for atom, _ in by_name.values()
    )
    return Symmetry(
        leaves=tuple(leaves),
        atoms=tuple(atoms),
        tiles=tuple(tiles),
        groups=groups,
        families=(),
        sites=(),
        uses=(),
        joins=(),
    )
