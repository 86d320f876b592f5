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

Number = int | Fraction


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

    def reduced(value: Number) -> Number:
        if modulus:
            return int(value) % modulus
        # Whole numbers are plain integers, which are ten times as fast.
        return int(value) if value.denominator == 1 else value

    rank = {v: i for i, v in enumerate(variables)}
    pivots: dict[Any, dict[Any, Number]] = {}
    users: dict[Any, set[Any]] = {}  # variable -> pivots whose rows hold it

    def substitute(row: Mapping[Any, Number]) -> dict[Any, Number]:
        out: dict[Any, Number] = {}
        for variable, value in row.items():
            for v, c in pivots.get(variable, {variable: 1}).items():
                out[v] = reduced(out.get(v, 0) + value * c)
        return {v: c for v, c in out.items() if c}

    def enter(pivot: Any, row: dict[Any, Number]) -> None:
        for v in row:
            users.setdefault(v, set()).add(pivot)
        pivots[pivot] = row

    for equation in equations:
        row = substitute({v: reduced(c) for v, c in equation})
        if not row:
            continue
        pivot = min(row, key=rank.__getitem__)
        value = row.pop(pivot)
        enter(pivot, {v: reduced(-Fraction(c) / value) for v, c in row.items()})
        for other in users.pop(pivot, ()):
            if pivot in pivots[other]:
                enter(other, substitute(pivots[other]))
    solutions: dict[Any, dict[Any, Fraction]] = {
        v: {v: Fraction(1)} for v in variables if v not in pivots
    }
    for pivot in sorted(pivots, key=rank.__getitem__):
        for v, c in pivots[pivot].items():
            if v in solutions:
                solutions[v][pivot] = Fraction(c)
    return list(solutions.items())


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

    held: dict[Any, list[Tile]] = {}
    for tile in tiles:
        for position in tile.positions:
            held.setdefault((tile.leaf, position), []).append(tile)

    def powers(family: Family) -> dict[Tile, Fraction]:
        total: dict[Tile, Fraction] = {}
        for e in family.exponents:
            for tile in held.get((e.leaf, e.position), ()):
                total[tile] = total.get(tile, Fraction(0)) + e.power
        return total

    def index(family: Family) -> frozenset[int]:
        return frozenset({family.atom, *family.parents})

    near: dict[tuple[str, int], list[Family]] = {}
    for family in families:
        for atom in index(family) if family.kind != "phase" else ():
            near.setdefault((family.kind, atom), []).append(family)
    gone: set[int] = set()
    for family in families:
        others = [
            other
            for other in near.get((family.kind, family.atom), ())
            if other is not family
            and id(other) not in gone
            and index(family) <= index(other)
        ]
        # Those along the same index are independent of each other.
        if all(index(other) == index(family) for other in others):
            continue
        finer = [powers(other) for other in others]
        if _spans(finer, powers(family), 2 if family.kind == "sign" else 0):
            gone.add(id(family))
    return tuple(f for f in families if id(f) not in gone)


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
