"""Scale, sign and phase families: nullspaces of the exponent equations.

Every parameter axis has one exponent; the rules have emitted linear equations. Their
nullspace over the rationals gives the scalings, over GF(2) the signs. A phase is a
variable of the sign system that turns on at a sine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from math import pi
from typing import Any

from metanet.symmetry.atoms import Form
from metanet.symmetry.structure import Exponent, Family, Shift, Tile, Use


def exponent_variable(leaf: int, position: Any) -> tuple[str, int, Any]:
    """The variable of one atom's place in a leaf."""
    return ("exponent", leaf, position)


def phase_variable(leaf: int) -> tuple[str, int]:
    """The variable of a half turn of a bias."""
    return ("phase", leaf)


def nullspace(
    equations: Iterable[Form], variables: Sequence[Any], modulus: int = 0
) -> list[tuple[Any, dict[Any, Fraction]]]:
    """A basis of the solutions, each with the free variable that generates it.

    Args:
        equations: Forms that must be 0.
        variables: All variables; later ones are left free where there is a choice.
        modulus: 2 for GF(2), 0 for the rationals.
    """

    def reduced(value: Fraction) -> Fraction:
        return Fraction(int(value) % 2) if modulus else value

    rank = {v: i for i, v in enumerate(variables)}
    pivots: dict[Any, dict[Any, Fraction]] = {}

    def substitute(row: dict[Any, Fraction]) -> dict[Any, Fraction]:
        out: dict[Any, Fraction] = {}
        for variable, value in row.items():
            terms = pivots.get(variable, {variable: Fraction(1)})
            for v, c in terms.items():
                out[v] = reduced(out.get(v, Fraction(0)) + value * c)
        return {v: c for v, c in out.items() if c}

    for equation in equations:
        row = substitute({v: reduced(c) for v, c in equation})
        if not row:
            continue
        pivot = min(row, key=rank.__getitem__)
        value = row.pop(pivot)
        pivots[pivot] = {v: reduced(-c / value) for v, c in row.items()}
        for other in list(pivots):
            if other != pivot and pivot in pivots[other]:
                pivots[other] = substitute(pivots[other])
    basis = []
    for free in variables:
        if free in pivots:
            continue
        vector = {v: row[free] for v, row in pivots.items() if free in row}
        basis.append((free, {free: Fraction(1), **vector}))
    return basis


def find_families(
    tiles: Sequence[Tile],
    equations: Sequence[tuple[str, Form]],
    phases: Mapping[int, float],
    opaque: frozenset[int],
    nest: Mapping[int, frozenset[int]],
    uses: Sequence[Use],
) -> tuple[Family, ...]:
    """The scale, sign and phase families of a network.

    Args:
        tiles: All tiles, with final atom numbers.
        equations: ("real" or "sign", form that must be 0).
        phases: Factor c of ``sin(c (h + b))`` per bias leaf; 0 where a phase is ruled out.
        opaque: Atoms along which no exponent is allowed.
        nest: Per atom the atoms whose index its factor may depend on.
        uses: Uses of the parameters: a factor is that of the weights into a unit.
    """
    atom_of = {
        exponent_variable(t.leaf, p): a
        for t in tiles
        for p, a in zip(t.positions, t.atoms, strict=True)
        if a not in opaque
    }
    allowed = {leaf: c for leaf, c in phases.items() if c}
    ruled_out = [((phase_variable(leaf), Fraction(1)),) for leaf in phases
                 if leaf not in allowed]  # fmt: skip
    into = _incoming(tiles, uses)
    families = []
    for which, kind in (("real", "positive"), ("sign", "sign")):
        rows = [form for w, form in equations if w == which]
        # A loop's state has exponents of its own; eliminated first, none stays free.
        carried = dict.fromkeys(v for f in rows for v, _ in f if v[0] == "carry")
        variables: list[Any] = [
            *carried,
            *sorted(atom_of, key=lambda v: (v in into, v)),
        ]
        if which == "sign":
            rows += ruled_out
            variables += [phase_variable(leaf) for leaf in phases]
        for _, vector in nullspace(rows, variables, 2 if which == "sign" else 0):
            turns = [v[1] for v in vector if v[0] == "phase"]
            exponents = tuple(
                Exponent(v[1], v[2], c)
                for v, c in sorted(vector.items(), key=lambda item: item[0])
                if v[0] == "exponent"
            )
            shifts = tuple(
                Shift(t.leaf, t.positions[0], pi / allowed[t.leaf])
                for t in tiles
                if t.leaf in turns
            )
            places = [atom_of[exponent_variable(e.leaf, e.position)] for e in exponents]
            places += [t.atoms[0] for t in tiles if t.leaf in turns]
            if len(set(places)) != 1:
                continue
            parents = tuple(sorted(nest[places[0]]))
            name = "phase" if shifts else kind
            families.append(Family(name, places[0], parents, exponents, shifts))
    return _without_redundant(families, tiles)


def _without_redundant(
    families: Sequence[Family], tiles: Sequence[Tile]
) -> tuple[Family, ...]:
    """Drops factors per head that factors per channel of each head already give."""

    def powers(family: Family) -> dict[Tile, Fraction]:
        total: dict[Tile, Fraction] = {}
        for tile in tiles:
            for e in family.exponents:
                if e.leaf == tile.leaf and e.position in tile.positions:
                    total[tile] = total.get(tile, Fraction(0)) + e.power
        return total

    kept = list(families)
    for family in families:
        index = {family.atom, *family.parents}
        finer = [
            powers(other)
            for other in kept
            if other is not family
            and other.kind == family.kind != "phase"
            and index <= {other.atom, *other.parents}
        ]
        if _spans(finer, powers(family), 2 if family.kind == "sign" else 0):
            kept.remove(family)
    return tuple(kept)


def _spans(
    vectors: Sequence[Mapping[Any, Fraction]],
    target: Mapping[Any, Fraction],
    modulus: int,
) -> bool:
    """Whether a vector is a linear combination of others."""
    # A combination exists if every form that vanishes on the vectors does on the target.
    entries = list(dict.fromkeys(k for v in (*vectors, target) for k in v))
    rows = [tuple((k, v[k]) for k in entries if k in v) for v in vectors]
    for _, form in nullspace(rows, entries, modulus):
        value = sum((c * target.get(k, 0) for k, c in form.items()), Fraction(0))
        if value % modulus if modulus else value:
            return False
    return True


def _incoming(tiles: Sequence[Tile], uses: Sequence[Use]) -> set[Any]:
    """Variables of the places that index the units a use ends at."""
    held = {(t.leaf, t.segments): t for t in tiles}
    return {
        exponent_variable(use.leaf, position)
        for use in uses
        for position, roles in zip(
            held[use.leaf, use.segments].positions, use.roles, strict=True
        )
        if any(r.end == "target" for r in roles)
    }
