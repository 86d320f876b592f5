"""The canonical representative of a network's scale, sign and phase orbit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from metanet.symmetry.elements import Element, act
from metanet.symmetry.structure import Exponent, Family, Tile
from metanet.symmetry.symmetry import Symmetry

_ORDER = {"positive": 0, "nonzero": 0, "phase": 1, "sign": 2}


def canonicalize(symmetry: Symmetry, params: Any) -> Any:
    """Moves parameters to one representative per orbit of scales, signs and phases.

    Scales: incoming weights of each unit have norm 1. Phases: biases lie within a
    quarter turn of 0. Signs: biases (without one, the sums of the incoming weights'
    cubes) are not negative. Permutations are left alone. The representative jumps where
    a bias crosses the border of its range; everywhere else it is smooth.

    Pure; works under `jit` and `vmap`. Source of the idea for SIREN: Kalogeropoulos et
    al. 2024, appendix A.

    Args:
        symmetry: The network's symmetry.
        params: Parameters of one network.
    """
    for index in _program_order(symmetry):
        family = symmetry.families[index]
        values = _choice(symmetry, family, jax.tree.leaves(params))
        if values is None:
            continue
        alone = replace(symmetry, groups=(), families=(family,))
        params = act(alone, Element((), (values,)), params)
    return params


def _program_order(symmetry: Symmetry) -> list[int]:
    """Families from the inputs to the outputs; per unit scales, phases, signs."""

    def rank(index: int) -> tuple[int, int]:
        family = symmetry.families[index]
        at = [i for i, s in enumerate(symmetry.sites) if family.atom in s.units]
        return (at[0] if at else len(symmetry.sites), _ORDER[family.kind])

    return sorted(range(len(symmetry.families)), key=rank)


def _choice(
    symmetry: Symmetry, family: Family, leaves: list[jax.Array]
) -> jax.Array | None:
    """Factors that bring a family's units to their representatives."""
    if family.kind == "phase":
        shift = family.shifts[0]
        tile = next(t for t in symmetry.tiles if t.leaf == shift.leaf)
        bias = leaves[shift.leaf].reshape([symmetry.atoms[a].size for a in tile.atoms])
        return -jnp.round(bias / shift.amount)
    read = _readings(symmetry, family, leaves)
    if not read:
        return None
    if family.kind == "sign":
        # The smallest tile is the bias where there is one.
        _, tile, exponent, array = min(read, key=lambda r: r[0])
        total = _over_unit(family, tile, exponent, array**3)
        return jnp.where(total < 0, -1.0, 1.0)
    square: jax.Array | float = 0.0
    for _, tile, exponent, array in read:
        square = square + _over_unit(family, tile, exponent, array * array)
    norm = jnp.sqrt(square)
    safe = jnp.where(norm > 0, norm, 1.0)
    return jnp.where(norm > 0, 1 / safe, 1.0)


def _readings(
    symmetry: Symmetry, family: Family, leaves: list[jax.Array]
) -> list[tuple[int, Tile, Exponent, jax.Array]]:
    """The tiles that set a unit's representative: those multiplied by the factor itself,
    of the first use of the unit."""
    into = _incoming(symmetry, family)
    found = []
    for tile in symmetry.tiles:
        for exponent in family.exponents:
            here = exponent.leaf == tile.leaf and exponent.position in tile.positions
            plain = exponent.power == 1 and tile.atoms.count(family.atom) == 1
            if here and plain and (tile.leaf, tile.segments) in into:
                where = tuple(slice(*b) for b in tile.bounds)
                sizes = [symmetry.atoms[a].size for a in tile.atoms]
                array = leaves[tile.leaf][where].reshape(sizes)
                found.append((len(tile.atoms), tile, exponent, array))
    return found


def _incoming(symmetry: Symmetry, family: Family) -> set[tuple[int, tuple[int, ...]]]:
    """Tiles whose use ends (not starts) at units of the family's atom."""
    tiles = {(t.leaf, t.segments): t for t in symmetry.tiles}
    into = set()
    for use in symmetry.uses:
        tile = tiles[use.leaf, use.segments]
        for atom, roles in zip(tile.atoms, use.roles, strict=True):
            if atom == family.atom and any(r.end == "target" for r in roles):
                into.add((use.leaf, use.segments))
    return into


def _over_unit(
    family: Family, tile: Tile, exponent: Exponent, array: jax.Array
) -> jax.Array:
    """Sums a tile's array to ``[*parents, size]`` of a family."""
    kept = [tile.atoms.index(p) for p in family.parents]
    kept.append(tile.positions.index(exponent.position))
    total = array.sum(axis=tuple(i for i in range(array.ndim) if i not in kept))
    order = sorted(range(len(kept)), key=kept.__getitem__)
    back = sorted(range(len(order)), key=order.__getitem__)
    return total.transpose(back)
