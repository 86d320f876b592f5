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

from metanet.symmetry.indices import Form
from metanet.symmetry.structure import (
    Block,
    Exponent,
    ParameterEdge,
    ScalingGroup,
    Shift,
)

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


def find_scaling_groups(
    blocks: Sequence[Block],
    equations: Sequence[tuple[str, Form]],
    phases: Mapping[int, float],
    opaque: frozenset[int],
    nest: Mapping[int, frozenset[int]],
    parameter_edges: Sequence[ParameterEdge],
) -> tuple[ScalingGroup, ...]:
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
        for t in blocks
        for p, a in zip(t.positions, t.indices, strict=True)
        if a not in opaque
    }
    allowed = {leaf: c for leaf, c in phases.items() if c}
    ruled_out = [((phase_variable(leaf), Fraction(1)),) for leaf in phases
                 if leaf not in allowed]  # fmt: skip
    into = _incoming(blocks, parameter_edges)
    scaling_groups = []
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
                for t in blocks
                if t.leaf in turns
            )
            places = [atom_of[exponent_variable(e.leaf, e.position)] for e in exponents]
            places += [t.indices[0] for t in blocks if t.leaf in turns]
            if len(set(places)) != 1:
                continue
            parents = tuple(sorted(nest[places[0]]))
            name = "phase" if shifts else kind
            scaling_groups.append(
                ScalingGroup(name, places[0], parents, exponents, shifts)
            )
    return _without_redundant(scaling_groups, blocks)


def _without_redundant(
    scaling_groups: Sequence[ScalingGroup], blocks: Sequence[Block]
) -> tuple[ScalingGroup, ...]:
    """Drops factors per head that factors per channel of each head already give."""

    held: dict[Any, list[Block]] = {}
    for block in blocks:
        for position in block.positions:
            held.setdefault((block.leaf, position), []).append(block)

    def powers(scaling_group: ScalingGroup) -> dict[Block, Fraction]:
        total: dict[Block, Fraction] = {}
        for e in scaling_group.exponents:
            for block in held.get((e.leaf, e.position), ()):
                total[block] = total.get(block, Fraction(0)) + e.power
        return total

    def index(scaling_group: ScalingGroup) -> frozenset[int]:
        return frozenset({scaling_group.axis_index, *scaling_group.parents})

    near: dict[tuple[str, int], list[ScalingGroup]] = {}
    for scaling_group in scaling_groups:
        for axis_index in index(scaling_group) if scaling_group.kind != "phase" else ():
            near.setdefault((scaling_group.kind, axis_index), []).append(scaling_group)
    gone: set[int] = set()
    for scaling_group in scaling_groups:
        others = [
            other
            for other in near.get((scaling_group.kind, scaling_group.axis_index), ())
            if other is not scaling_group
            and id(other) not in gone
            and index(scaling_group) <= index(other)
        ]
        # Those along the same index are independent of each other.
        if all(index(other) == index(scaling_group) for other in others):
            continue
        finer = [powers(other) for other in others]
        if _spans(
            finer, powers(scaling_group), 2 if scaling_group.kind == "sign" else 0
        ):
            gone.add(id(scaling_group))
    return tuple(f for f in scaling_groups if id(f) not in gone)


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


def _incoming(
    blocks: Sequence[Block], parameter_edges: Sequence[ParameterEdge]
) -> set[Any]:
    """Variables of the places that index the units a use ends at."""
    held = {(t.leaf, t.segments): t for t in blocks}
    return {
        exponent_variable(parameter_edge.leaf, position)
        for parameter_edge in parameter_edges
        for position, roles in zip(
            held[parameter_edge.leaf, parameter_edge.segments].positions,
            parameter_edge.roles,
            strict=True,
        )
        if any(r.end == "target" for r in roles)
    }
