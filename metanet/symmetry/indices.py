"""Independent indices of a program, unified and refined as the program is read.

An axis of an array is a list of segments (a concatenation); a segment is a product of
occurrences of indices, the first one major (a reshape). Indices live in a union-find. A
class of it is free, pinned with a reason, uniform, or refined: replaced by the product or
the concatenation of finer indices. Refinement belongs to the class, so it reaches every
axis that shares it.

A *uniform* index marks an axis along which a value is constant (a broadcast, an axis of
size 1). It matches anything and is never unified, so that rules need no special cases for
broadcasting.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from metanet.symmetry.symmetry import Position


class ParamTag(NamedTuple):
    """Tag of an index that is a position of a parameter leaf."""

    leaf: int
    position: Position


class UnitTag(NamedTuple):
    """Tag of an index that is a unit of an activation."""

    activation: int
    unit: int


class ExponentVar(NamedTuple):
    """Variable for the exponent of a scaling along a position of a leaf."""

    leaf: int
    position: Position


class PhaseVar(NamedTuple):
    """Variable for a half turn of a bias leaf."""

    leaf: int


class StateVar(NamedTuple):
    """Variable for the exponent along a factor of an axis of a loop's state."""

    location: tuple[int, ...]
    state: int
    axis: int
    segment: int
    factor: int


Tag = ParamTag | UnitTag
Variable = ExponentVar | PhaseVar | StateVar

# A linear form over exponent variables: sorted (variable, coefficient) pairs.
Form = tuple[tuple[Variable, Fraction], ...]
ZERO: Form = ()


def _sort_key(term: tuple[Variable, Fraction]) -> tuple[str, Variable]:
    return type(term[0]).__name__, term[0]


def add_forms(a: Form, b: Form, factor: Fraction | int = 1) -> Form:
    """Returns ``a + factor * b``."""
    total = dict(a)
    for variable, value in b:
        total[variable] = total.get(variable, Fraction(0)) + value * factor
    return tuple(sorted(((v, c) for v, c in total.items() if c), key=_sort_key))


def scale_form(a: Form, factor: Fraction | int) -> Form:
    """Returns ``factor * a``."""
    return tuple((v, c * factor) for v, c in a if c * factor)


class Occurrence(NamedTuple):
    """Occurrence of an index in an axis of a value.

    Attributes:
        axis_index: The index (any member of its class).
        tags: Positions of parameters and units of activations that it indexes here.
        real, sign: Exponents of scale and sign symmetries along the index.
        sources: Leaves and inputs through which entries along the index are independent,
            see `metanet.symmetry.distinctness`.
        distinct: No two entries along the index are equal, with probability one.
    """

    axis_index: int
    tags: frozenset[Tag] = frozenset()
    real: Form = ZERO
    sign: Form = ZERO
    sources: frozenset[int] = frozenset()
    distinct: bool = False


Segment = list[Occurrence]
Axis = list[Segment]


def param_positions(occurrence: Occurrence, leaf: int) -> list[Position]:
    """Returns the positions of a leaf that an occurrence indexes."""
    tags = (t for t in occurrence.tags if isinstance(t, ParamTag))
    return [t.position for t in tags if t.leaf == leaf]


def unit_tags(occurrence: Occurrence) -> list[UnitTag]:
    """Returns the activations' units that an occurrence indexes, in order."""
    return sorted(t for t in occurrence.tags if isinstance(t, UnitTag))


def units_of(occurrence: Occurrence, activation: int) -> list[int]:
    """Returns the units of one activation that an occurrence indexes, in order."""
    return [t.unit for t in unit_tags(occurrence) if t.activation == activation]


def activations_of(occurrences: Iterable[Occurrence]) -> set[int]:
    """Returns the activations whose units some occurrences index."""
    return {t.activation for o in occurrences for t in unit_tags(o)}


class Indices:
    """Union-find of indices with refinement into products and concatenations."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._size: list[int] = []
        self._children: dict[int, tuple[str, list[int]]] = {}
        self._uniform: set[int] = set()
        self._unstructured: set[int] = set()
        self.pins: dict[int, str] = {}
        self.notes: dict[int, list[str]] = {}

    def new(self, size: int, pin: str | None = None, uniform: bool = False) -> int:
        """Makes a new index."""
        axis_index = len(self._parent)
        self._parent.append(axis_index)
        self._size.append(int(size))
        if pin:
            self.pins[axis_index] = pin
        if uniform:
            self._uniform.add(axis_index)
        return axis_index

    def find(self, axis_index: int) -> int:
        """Returns the representative of an index's class."""
        root = axis_index
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[axis_index] != root:
            self._parent[axis_index], axis_index = root, self._parent[axis_index]
        return root

    def size(self, axis_index: int) -> int:
        """Returns the number of values of an index."""
        return self._size[self.find(axis_index)]

    def is_uniform(self, axis_index: int) -> bool:
        """Returns True if values are constant along the index."""
        return self.find(axis_index) in self._uniform

    def is_unstructured(self, axis_index: int) -> bool:
        """Returns True if structure was lost: no exponents, no dependence on the index."""
        return self.find(axis_index) in self._unstructured

    def lose_structure(self, axis: Axis) -> None:
        """Marks indices of which structure was lost, so that nothing may depend on them."""
        self._unstructured.update(o.axis_index for s in self.normal(axis) for o in s)

    def pin(self, axis: Axis, why: str) -> None:
        """Pins every index of an axis."""
        for segment in self.normal(axis):
            for occurrence in segment:
                if occurrence.axis_index not in self._uniform:
                    self.pins.setdefault(occurrence.axis_index, why)

    def segment_size(self, segment: Iterable[Occurrence]) -> int:
        """Returns the number of values of a product of occurrences."""
        return math.prod(self.size(o.axis_index) for o in segment)

    def axis_size(self, axis: Axis) -> int:
        """Returns the number of values of an axis."""
        return sum(self.segment_size(s) for s in axis)

    def normal(self, axis: Axis) -> Axis:
        """Returns the axis over refined representatives, without indices of size 1.

        Segments without values are left out, so that an axis of size 0 has none.
        """
        segments = [s for s in axis if self.segment_size(s)]
        return [part for segment in segments for part in self._normal_segment(segment)]

    def _normal_segment(self, segment: Segment) -> list[Segment]:
        for position, occurrence in enumerate(segment):
            root = self.find(occurrence.axis_index)
            if root not in self._children:
                continue
            kind, children = self._children[root]
            if kind == "product":
                finer = [occurrence._replace(axis_index=k) for k in children]
                return self._normal_segment(
                    segment[:position] + finer + segment[position + 1 :]
                )
            if position == 0:
                return [
                    part
                    for child in children
                    for part in self._normal_segment(
                        [occurrence._replace(axis_index=child), *segment[1:]]
                    )
                ]
            # A concatenation in a minor position of a product has no segments.
            if root not in self._unstructured:
                why = "a concatenation inside a product of axes"
                self._unstructured.add(root)
                self.pins.setdefault(root, why)
                for child in children:
                    self.pin([[occurrence._replace(axis_index=child)]], why)
        return [
            [
                o._replace(axis_index=self.find(o.axis_index))
                for o in segment
                if self.size(o.axis_index) != 1
            ]
        ]

    def _split(self, root: int, kind: str, sizes: Sequence[int]) -> None:
        pin, uniform = self.pins.get(root), root in self._uniform
        children = [self.new(n, pin, uniform) for n in sizes]
        for child in children:
            self.notes[child] = list(self.notes.get(root, ()))
        self._children[root] = (kind, children)

    def _cut(self, segment: Segment, size: int) -> bool:
        """Makes a segment boundary after ``size`` values; returns False if impossible."""
        rest = self.segment_size(segment[1:])
        root = segment[0].axis_index
        if size % rest or root in self._children:
            return False
        self._split(
            root, "concatenation", [size // rest, self.size(root) - size // rest]
        )
        return True

    def _unify_step(self, left: Axis, right: Axis, why: str) -> str:
        """Makes two axes agree in one more index; returns "again", "done" or "failed"."""
        for x, y in zip(left, right, strict=False):
            nx, ny = self.segment_size(x), self.segment_size(y)
            if nx != ny:
                was_cut = self._cut(y, nx) if nx < ny else self._cut(x, ny)
                return "again" if was_cut else "failed"
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
                if self.size(big) % small or big in self._children:
                    return "failed"
                self._split(big, "product", [self.size(big) // small, small])
                return "again"
        return "done"

    def _union(self, p: int, q: int, why: str) -> None:
        # The older index represents the class, so that those of parameters keep their
        # numbers.
        p, q = max(p, q), min(p, q)
        self._parent[p] = q
        if p in self.pins:
            self.pins.setdefault(q, self.pins[p])
        if p in self._unstructured:
            self._unstructured.add(q)
        notes = self.notes.setdefault(q, [])
        for note in [*self.notes.pop(p, ()), why]:
            if note not in notes:
                notes.append(note)

    def align(self, left: Axis, right: Axis, why: str) -> tuple[Axis, Axis] | None:
        """Unifies two axes of equal length.

        Returns:
            Both axes in equal segments; None if they cannot be made to agree: then both
            are pinned and have lost their structure.
        """
        while True:
            x, y = self.normal(left), self.normal(right)
            outcome = self._unify_step(x, y, why)
            if outcome == "done":
                return x, y
            if outcome == "failed":
                for axis in (x, y):
                    self.pin(axis, f"axes that do not factor alike: {why}")
                    self.lose_structure(axis)
                return None

    def split_axis(
        self, axis: Axis, sizes: Sequence[int], why: str
    ) -> list[Axis] | None:
        """Cuts an axis into consecutive parts of given sizes; None if impossible."""
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
        """Factors a segment into a product of given sizes; None if impossible."""
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
