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
from metanet.symmetry.structure import Exponent, Family, Position, Shift, Tile
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
        family = symmetry.families[step.family]
        leaves = jax.tree.leaves(params)
        if family.kind == "phase":
            values = _turns(symmetry, family, leaves)
        else:
            values = _factors(symmetry, family, step, leaves)
        alone = replace(symmetry, groups=(), families=(family,))
        params = act(alone, Element((), (values,)), params)
    return params


@dataclass(frozen=True)
class _Reading:
    """A tile that a family multiplies by ``power`` along one position."""

    tile: Tile
    position: Position
    power: Fraction

    @property
    def place(self) -> tuple[int, tuple[int, ...], Position]:
        return self.tile.leaf, self.tile.segments, self.position


@dataclass(frozen=True)
class _Step:
    """A family, and the tiles that fix its factors.

    Tiles of one tier are read together; where they are all 0 (biases at the start of
    training), the next tier decides.
    """

    family: int
    tiers: tuple[tuple[_Reading, ...], ...]


@lru_cache(maxsize=64)
def _plan(symmetry: Symmetry) -> tuple[_Step, ...]:
    """The order of families, and what each is fixed by.

    A family is fixed by tiles that no family fixed later changes, so nothing is undone.
    Families whose tiles all depend on each other's in a circle are left out: they keep
    what they have (signs per head beside signs per channel of normalised queries).
    """
    families = symmetry.families
    incoming = _incoming(symmetry)
    open_ = sorted(range(len(families)), key=lambda i: _rank(symmetry, families[i]))
    steps: list[_Step] = []
    while open_:
        found = None
        # First a family that all of its incoming tiles can fix, then one that a weight
        # or a gain can, then one that only biases can: these may all be 0.
        for need in ("all", "weight", "any"):
            for index in open_:
                others = [families[i] for i in open_ if i != index]
                step = _step(symmetry, index, others, incoming, need)
                if step is not None:
                    found = step
                    break
            if found is not None:
                break
        if found is None:
            break
        steps.append(found)
        open_.remove(found.family)
    return tuple(steps)


def _rank(symmetry: Symmetry, family: Family) -> tuple[int, int]:
    """From the inputs to the outputs; per unit scales, phases, signs."""
    at = [i for i, s in enumerate(symmetry.sites) if family.atom in s.units]
    return (at[0] if at else len(symmetry.sites), _ORDER[family.kind])


def _step(
    symmetry: Symmetry,
    index: int,
    others: Sequence[Family],
    incoming: dict[tuple[int, tuple[int, ...], Position], str],
    need: str,
) -> _Step | None:
    family = symmetry.families[index]
    if family.kind == "phase":
        tiles = [t for t in symmetry.tiles if t.leaf == family.shifts[0].leaf]
        moved = any(_disturbs(o, t, family.kind) for o in others for t in tiles)
        return None if moved else _Step(index, ())
    readings = _readings(symmetry, family)
    if not readings:
        return None
    free = [
        r
        for r in readings
        if not any(_disturbs(o, r.tile, family.kind) for o in others)
    ]
    into = {r for r in readings if r.place in incoming and r.power == 1}
    weights = [r for r in free if incoming.get(r.place, "bias") != "bias"]
    enough = {"all": into and into <= set(free), "weight": weights, "any": free}
    if not enough[need]:
        return None
    # Incoming tiles first, the bias, which is the smallest, before all.
    free.sort(key=lambda r: (r not in into, len(r.tile.atoms), r.tile.leaf))
    tiers: list[tuple[_Reading, ...]] = [(r,) for r in free]
    if family.kind != "sign":
        tiers.insert(0, tuple(r for r in free if r in into))
    return _Step(index, tuple(t for t in tiers if t))


def _readings(symmetry: Symmetry, family: Family) -> list[_Reading]:
    """The tiles that a family multiplies along exactly one of their indices."""
    found = []
    for tile in symmetry.tiles:
        here = [
            e
            for e in family.exponents
            if e.leaf == tile.leaf and e.position in tile.positions
        ]
        odd = family.kind != "sign" or all(e.power % 2 for e in here)
        if len(here) == 1 and odd and tile.atoms.count(family.atom) == 1:
            found.append(_Reading(tile, here[0].position, here[0].power))
    return found


def _disturbs(other: Family, tile: Tile, kind: str) -> bool:
    """Whether another family changes what fixes a family of a kind.

    Norms, and the range of a bias (symmetric about 0), do not see signs.
    """

    def here(term: Exponent | Shift) -> bool:
        return term.leaf == tile.leaf and term.position in tile.positions

    if any(here(s) for s in other.shifts):
        return True
    sees = kind == "sign" or other.kind not in ("sign", "phase")
    return sees and any(here(e) for e in other.exponents)


def _incoming(
    symmetry: Symmetry,
) -> dict[tuple[int, tuple[int, ...], Position], str]:
    """Places of tiles that index the units which a use ends at, and its kind."""
    tiles = {(t.leaf, t.segments): t for t in symmetry.tiles}
    return {
        (use.leaf, use.segments, position): use.kind
        for use in symmetry.uses
        for position, roles in zip(
            tiles[use.leaf, use.segments].positions, use.roles, strict=True
        )
        if any(r.end == "target" for r in roles)
    }


def _turns(
    symmetry: Symmetry, family: Family, leaves: Sequence[jax.Array]
) -> jax.Array:
    """Half turns that bring biases next to 0."""
    shift = family.shifts[0]
    tile = next(t for t in symmetry.tiles if t.leaf == shift.leaf)
    bias = leaves[shift.leaf].reshape([symmetry.atoms[a].size for a in tile.atoms])
    return -jnp.floor(bias / shift.amount + 0.5)


def _factors(
    symmetry: Symmetry, family: Family, step: _Step, leaves: Sequence[jax.Array]
) -> jax.Array:
    """Factors ``[*parents, size]`` that bring a family's units to their places."""
    sign = family.kind == "sign"
    factors = jnp.ones(factor_shape(symmetry, family))
    for tier in reversed(step.tiers):
        total = jnp.zeros_like(factors)
        for r in tier:
            where = tuple(slice(*b) for b in r.tile.bounds)
            sizes = [symmetry.atoms[a].size for a in r.tile.atoms]
            array = leaves[r.tile.leaf][where].reshape(sizes)
            total += _over_unit(family, r, array**3 if sign else array * array)
        if sign:
            factors = jnp.where(total == 0, factors, jnp.sign(total))
        else:
            norm = jnp.sqrt(jnp.where(total > 0, total, 1.0))
            fixed = norm ** float(-1 / tier[0].power)
            factors = jnp.where(total > 0, fixed, factors)
    return factors


def _over_unit(family: Family, reading: _Reading, array: jax.Array) -> jax.Array:
    """Sums a tile's array to ``[*parents, size]`` of a family."""
    tile = reading.tile
    kept = [tile.atoms.index(p) for p in family.parents]
    kept.append(tile.positions.index(reading.position))
    total = array.sum(axis=tuple(i for i in range(array.ndim) if i not in kept))
    return total.transpose([sorted(kept).index(k) for k in kept])
