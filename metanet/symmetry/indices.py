"""Atoms: the independent indices of a program, unified and refined as it is read.

An axis of an array is a list of segments (a concatenation); a segment is a product of
occurrences of atoms, major first (a reshape). Atoms live in a union-find. A class is
free, pinned with a reason, uniform, or refined: replaced by the product or the
concatenation of finer atoms. Refinement belongs to the class, so it reaches every axis
that shares it.

A *uniform* atom marks an axis along which a value is constant (a broadcast, a size-1
axis). It matches anything and is never unified; all special cases of broadcasting vanish
with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

# A linear form over exponent variables: sorted (variable, coefficient) pairs.
Form = tuple[tuple[Any, Fraction], ...]
ZERO: Form = ()


def add_forms(a: Form, b: Form, factor: Fraction | int = 1) -> Form:
    """``a + factor * b``."""
    total = dict(a)
    for variable, value in b:
        total[variable] = total.get(variable, Fraction(0)) + value * factor
    return tuple(sorted((v, c) for v, c in total.items() if c))


def scale_form(a: Form, factor: Fraction | int) -> Form:
    """``factor * a``."""
    return tuple((v, c * factor) for v, c in a if c * factor)


class Occurrence(NamedTuple):
    """One atom in one axis of one value.

    Attributes:
        atom: The atom (any member of its class).
        tags: ("p", leaf, position): the atom indexes a parameter here;
            ("s", site, unit): it indexes a unit of a site.
        real, sign: Exponents of scale and sign symmetries along this index.
    """

    axis_index: int
    tags: frozenset = frozenset()
    real: Form = ZERO
    sign: Form = ZERO


Segment = list[Occurrence]
Axis = list[Segment]


class Indices:
    """The union-find of atoms with product and concatenation refinement."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._size: list[int] = []
        self._kids: dict[int, tuple[str, list[int]]] = {}
        self._uniform: set[int] = set()
        self._opaque: set[int] = set()
        self.pins: dict[int, str] = {}
        self.notes: dict[int, list[str]] = {}

    def new(self, size: int, pin: str | None = None, uniform: bool = False) -> int:
        """A new atom."""
        axis_index = len(self._parent)
        self._parent.append(axis_index)
        self._size.append(int(size))
        if pin:
            self.pins[axis_index] = pin
        if uniform:
            self._uniform.add(axis_index)
        return axis_index

    def find(self, axis_index: int) -> int:
        """The representative of an atom's class."""
        root = axis_index
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[axis_index] != root:
            self._parent[axis_index], axis_index = root, self._parent[axis_index]
        return root

    def size(self, axis_index: int) -> int:
        """Number of values of an atom."""
        return self._size[self.find(axis_index)]

    def is_uniform(self, axis_index: int) -> bool:
        """Whether values are constant along the atom."""
        return self.find(axis_index) in self._uniform

    def is_opaque(self, axis_index: int) -> bool:
        """Whether structure was lost here: no exponents along the atom, no parent."""
        return self.find(axis_index) in self._opaque

    def obscure(self, axis: Axis) -> None:
        """Notes that structure was lost: nothing may depend on these indices."""
        self._opaque.update(o.axis_index for s in self.normal(axis) for o in s)

    def pin(self, axis: Axis, why: str) -> None:
        """Pins every atom of an axis."""
        for segment in self.normal(axis):
            for occurrence in segment:
                if occurrence.axis_index not in self._uniform:
                    self.pins.setdefault(occurrence.axis_index, why)

    def segment_size(self, segment: Iterable[Occurrence]) -> int:
        """Number of values of a product of occurrences."""
        return math.prod(self.size(o.axis_index) for o in segment)

    def axis_size(self, axis: Axis) -> int:
        """Number of values of an axis."""
        return sum(self.segment_size(s) for s in axis)

    def normal(self, axis: Axis) -> Axis:
        """The axis over refined class representatives, without size-1 atoms."""
        return [part for segment in axis for part in self._normal_segment(segment)]

    def _normal_segment(self, segment: Segment) -> list[Segment]:
        for place, occurrence in enumerate(segment):
            root = self.find(occurrence.axis_index)
            if root not in self._kids:
                continue
            kind, kids = self._kids[root]
            if kind == "product":
                finer = [occurrence._replace(axis_index=k) for k in kids]
                return self._normal_segment(
                    segment[:place] + finer + segment[place + 1 :]
                )
            if place == 0:
                return [
                    part
                    for kid in kids
                    for part in self._normal_segment(
                        [occurrence._replace(axis_index=kid), *segment[1:]]
                    )
                ]
            # A concatenation in a minor position of a product has no segments.
            if root not in self._opaque:
                why = "a concatenation inside a product of axes"
                self._opaque.add(root)
                self.pins.setdefault(root, why)
                for kid in kids:
                    self.pin([[occurrence._replace(axis_index=kid)]], why)
        return [
            [
                o._replace(axis_index=self.find(o.axis_index))
                for o in segment
                if self.size(o.axis_index) != 1
            ]
        ]

    def _split(self, root: int, kind: str, sizes: Sequence[int]) -> None:
        pin, uniform = self.pins.get(root), root in self._uniform
        kids = [self.new(n, pin, uniform) for n in sizes]
        for kid in kids:
            self.notes[kid] = list(self.notes.get(root, ()))
        self._kids[root] = (kind, kids)

    def _cut(self, segment: Segment, size: int) -> bool:
        """Makes a segment boundary ``size`` values from the segment's start."""
        rest = self.segment_size(segment[1:])
        root = segment[0].axis_index
        if size % rest or root in self._kids:
            return False
        self._split(
            root, "concatenation", [size // rest, self.size(root) - size // rest]
        )
        return True

    def _unify_step(self, left: Axis, right: Axis, why: str) -> str:
        """Makes two axes agree a little more: "again", "done" or "failed"."""
        for x, y in zip(left, right, strict=False):
            nx, ny = self.segment_size(x), self.segment_size(y)
            if nx != ny:
                made = self._cut(y, nx) if nx < ny else self._cut(x, ny)
                return "again" if made else "failed"
            for a, b in zip(reversed(x), reversed(y), strict=False):
                p, q = a.axis_index, b.axis_index
                na, nb = self.size(p), self.size(q)
                if p == q:
                    continue
                if na == nb:
                    if p in self._uniform or q in self._uniform:
                        continue
                    self._union(p, q, why)
                    return "again"
                big, small = (p, nb) if na > nb else (q, na)
                if self.size(big) % small or big in self._kids:
                    return "failed"
                self._split(big, "product", [self.size(big) // small, small])
                return "again"
        return "done"

    def _union(self, p: int, q: int, why: str) -> None:
        # The older atom stands for the class, so that those of parameters, once they
        # are all joined, keep their numbers.
        p, q = max(p, q), min(p, q)
        self._parent[p] = q
        if p in self.pins:
            self.pins.setdefault(q, self.pins[p])
        if p in self._opaque:
            self._opaque.add(q)
        notes = self.notes.setdefault(q, [])
        for note in [*self.notes.pop(p, ()), why]:
            if note not in notes:
                notes.append(note)

    def align(self, left: Axis, right: Axis, why: str) -> tuple[Axis, Axis] | None:
        """Unifies two axes of one length; both in equal segments, or None.

        Where they cannot be made to agree, both are pinned (and opaque).
        """
        while True:
            x, y = self.normal(left), self.normal(right)
            outcome = self._unify_step(x, y, why)
            if outcome == "done":
                return x, y
            if outcome == "failed":
                for axis in (x, y):
                    self.pin(axis, f"axes that do not factor alike: {why}")
                    self.obscure(axis)
                return None

    def split_axis(
        self, axis: Axis, sizes: Sequence[int], why: str
    ) -> list[Axis] | None:
        """Cuts an axis into consecutive parts of given sizes; None where it cannot be."""
        pattern = [[Occurrence(self.new(n, uniform=True))] for n in sizes]
        aligned = self.align(axis, pattern, why)
        if aligned is None:
            return None
        segments = iter(aligned[0])
        parts = []
        for size in sizes:
            part: Axis = []
            while self.axis_size(part) < size:
                part.append(next(segments))
            parts.append(part)
        return parts

    def factor_segment(
        self, segment: Segment, sizes: Sequence[int], why: str
    ) -> list[Segment] | None:
        """Factors one segment into a product of given sizes; None where it cannot be."""
        pattern = [[Occurrence(self.new(n, uniform=True)) for n in sizes]]
        aligned = self.align([segment], pattern, why)
        if aligned is None or len(aligned[0]) > 1:
            return None
        rest = list(aligned[0][0])
        factors = []
        for size in sizes:
            factor: Segment = []
            while self.segment_size(factor) < size:
                factor.append(rest.pop(0))
            factors.append(factor)
        return factors
