"""Independent indices of a program, unified and refined as the program is read.

An axis of an array is a list of segments (a concatenation), sorted by their first
entries; a segment is a product of occurrences of indices, the first one major (a
reshape). Each occurrence has a stride, so that segments may interleave: where the
channels of every head are cut in two, both parts of all heads are segments. Indices live
in a union-find. A class of it is free, pinned with a reason, uniform, or refined:
replaced by a product, a concatenation or an interleaving of finer indices. Refinement
belongs to the class, so it reaches every axis that shares it.

A *uniform* index marks an axis along which a value is constant (a broadcast, an axis of
size 1). It matches anything and is never unified, so that rules need no special cases for
broadcasting.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np

from metanet.symmetry.symmetry import AxisPart, Position


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
        stride: Distance along the axis of two entries whose indices are neighbours.
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
    stride: int = 1


Segment = list[Occurrence]
Axis = list[Segment]
Step = Literal["again", "done", "failed"]


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
        if all(
            self.find(o.axis_index) not in self._children for s in segments for o in s
        ):
            return [self._representatives(s) for s in segments]
        starts = self.starts(segments)
        pieces = [
            piece
            for start, segment in zip(starts, segments, strict=True)
            for piece in self._refined(start, segment)
        ]
        return [segment for _, segment in sorted(pieces, key=lambda piece: piece[0])]

    def _representatives(self, segment: Segment) -> Segment:
        return [
            o._replace(axis_index=self.find(o.axis_index))
            for o in segment
            if self.size(o.axis_index) != 1
        ]

    def _refined(self, start: int, segment: Segment) -> list[tuple[int, Segment]]:
        """Returns the finer segments of a segment, each with its first entry."""
        for position, occurrence in enumerate(segment):
            root = self.find(occurrence.axis_index)
            if root not in self._children:
                continue
            kind, children = self._children[root]
            before, after = segment[:position], segment[position + 1 :]
            stride = occurrence.stride
            if kind == "product":
                finer: Segment = []
                for child in reversed(children):
                    finer.insert(
                        0, occurrence._replace(axis_index=child, stride=stride)
                    )
                    stride *= self.size(child)
                return self._refined(start, before + finer + after)
            pieces = []
            if kind == "interleaving":
                for child in children:
                    part = occurrence._replace(
                        axis_index=child, stride=stride * len(children)
                    )
                    pieces += self._refined(start, [*before, part, *after])
                    start += stride
                return pieces
            for child in children:
                part = occurrence._replace(axis_index=child)
                pieces += self._refined(start, [*before, part, *after])
                start += stride * self.size(child)
            return pieces
        return [(start, self._representatives(segment))]

    def starts(self, axis: Axis) -> list[int]:
        """Returns the first entry of each segment."""
        if all(self._is_dense(segment) for segment in axis):
            sizes = [self.segment_size(segment) for segment in axis]
            return [*itertools.accumulate(sizes, initial=0)][:-1]
        covered = np.zeros(self.axis_size(axis), bool)
        starts = []
        for segment in axis:
            # Segments are sorted, so that each begins at the first entry that is left.
            starts.append(int(covered.argmin()))
            covered[self.part_of(starts[-1], segment).entries()] = True
        return starts

    def part_of(self, start: int, segment: Segment) -> AxisPart:
        """Returns the entries of a segment."""
        sizes = tuple(self.size(o.axis_index) for o in segment)
        return AxisPart(start, sizes, tuple(o.stride for o in segment))

    def _is_dense(self, segment: Segment) -> bool:
        inner = 1
        for o in reversed(segment):
            size = self.size(o.axis_index)
            if size != 1 and o.stride != inner:
                return False
            inner *= size
        return True

    def product(self, axes: Sequence[Axis]) -> Axis:
        """Returns the axis of the joint values of several, the first one major."""
        total: list[tuple[int, Segment]] = [(0, [])]
        for axis in axes:
            segments, width = self.normal(axis), self.axis_size(axis)
            starts = self.starts(segments)
            total = [
                (
                    start * width + inner_start,
                    [o._replace(stride=o.stride * width) for o in outer] + inner,
                )
                for start, outer in total
                for inner_start, inner in zip(starts, segments, strict=True)
            ]
        return [segment for _, segment in sorted(total, key=lambda piece: piece[0])]

    def _split(self, root: int, kind: str, sizes: Sequence[int]) -> None:
        pin, uniform = self.pins.get(root), root in self._uniform
        children = [self.new(n, pin, uniform) for n in sizes]
        for child in children:
            self.notes[child] = list(self.notes.get(root, ()))
        self._children[root] = (kind, children)

    def _cut(self, root: int, size: int) -> None:
        """Replaces an index by the concatenation of its first values and the rest."""
        self._split(root, "concatenation", [size, self.size(root) - size])

    def _factor(self, root: int, size: int) -> bool:
        """Replaces an index by a product with a minor factor; False if impossible."""
        if self.size(root) % size:
            return False
        self._split(root, "product", [self.size(root) // size, size])
        return True

    def _unify_step(self, left: Axis, right: Axis, why: str) -> Step:
        """Makes two axes agree in one more index."""
        for x, y in zip(left, right, strict=False):
            step = self._unify_segments(x, y, why)
            if step != "done":
                return step
        return "done"

    def _unify_segments(self, x: Segment, y: Segment, why: str) -> Step:
        """Makes two segments with the same first entry agree in one more index."""
        small, big = sorted((x, y), key=self.segment_size)
        width, inner = self.segment_size(small), self.segment_size(big[1:])
        if width < self.segment_size(big) and width % inner == 0:
            if self._is_dense(small) and self._is_dense(big):
                self._cut(big[0].axis_index, width // inner)
                return "again"
        for depth in range(max(len(x), len(y))):
            i, j = len(x) - 1 - depth, len(y) - 1 - depth
            if min(i, j) < 0:
                # One segment ends here: the other is cut after the first value.
                self._cut((y[j] if i < 0 else x[i]).axis_index, 1)
                return "again"
            a, b = x[i], y[j]
            if a.stride != b.stride:
                return self._end_before(*((a, b) if a.stride < b.stride else (b, a)))
            p, q = a.axis_index, b.axis_index
            if p == q:
                continue
            if self.size(p) == self.size(q):
                if p in self._uniform or q in self._uniform:
                    continue
                self._union(p, q, why)
                return "again"
            if self.size(p) < self.size(q):
                return self._resize(q, a, x[i - 1] if i else None)
            return self._resize(p, b, y[j - 1] if j else None)
        return "done"

    def _end_before(self, inner: Occurrence, outer: Occurrence) -> Step:
        """Cuts an index where the other axis has a gap, and an index of a larger stride."""
        root, period = inner.axis_index, outer.stride // inner.stride
        if outer.stride % inner.stride:
            return "failed"
        if self.size(root) > period:
            return "again" if self._factor(root, period) else "failed"
        self._cut(root, 1)
        return "again"

    def _resize(self, big: int, small: Occurrence, outer: Occurrence | None) -> Step:
        """Refines an index that meets a smaller one.

        Args:
            big: The index.
            small: The smaller index.
            outer: The next index outside of the smaller one, if any.
        """
        size = self.size(small.axis_index)
        if outer is None:
            self._cut(big, size)
            return "again"
        period = outer.stride // small.stride
        if self.size(big) > period or period == size:
            return "again" if self._factor(big, period) else "failed"
        self._cut(big, size)
        return "again"

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
        ends = [*itertools.accumulate(sizes)]
        parts: list[Axis] = [[] for _ in sizes]
        for start, segment in zip(self.starts(aligned[0]), aligned[0], strict=True):
            parts[bisect.bisect(ends, start)].append(segment)
        return parts

    def every_few(self, axis: Axis, start: int, step: int, why: str) -> Axis | None:
        """Returns every ``step``-th entry of an axis; None if impossible.

        Args:
            axis: The axis, of a size that the step divides.
            start: The first entry, less than the step.
            step: Distance of the entries.
            why: The equation that reads them.
        """
        size = self.axis_size(axis) // step
        segments = self.normal(axis)
        if len(segments) == 1 and len(segments[0]) == 1:
            # The entries between those that are read are independent of them.
            root = segments[0][0].axis_index
            self._split(root, "interleaving", [size] * step)
        pattern = [
            [Occurrence(self.new(size, uniform=True), stride=step)] for _ in range(step)
        ]
        aligned = self.align(axis, pattern, why)
        if aligned is None:
            return None
        return [
            [o._replace(stride=o.stride // step) for o in segment]
            for first, segment in zip(self.starts(aligned[0]), aligned[0], strict=True)
            if first % step == start
        ]

    def factor_axis(
        self, axis: Axis, sizes: Sequence[int], why: str
    ) -> list[list[Axis]] | None:
        """Factors an axis into a product of axes of given sizes, major first.

        Returns:
            For each axis, its content at every combination of parts of the other axes:
            a concatenation may have other channels in each part. None if impossible.
        """
        strides = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
        pattern = [
            Occurrence(self.new(n, uniform=True), stride=s)
            for n, s in zip(sizes, strides, strict=True)
        ]
        aligned = self.align(axis, [pattern], why)
        if aligned is None:
            return None
        contents: list[dict[tuple[int, ...], Axis]] = [{} for _ in sizes]
        for start, segment in zip(self.starts(aligned[0]), aligned[0], strict=True):
            digits = [start // s % n for n, s in zip(sizes, strides, strict=True)]
            for k, (n, stride) in enumerate(zip(sizes, strides, strict=True)):
                inside = [
                    o._replace(stride=o.stride // stride)
                    for o in segment
                    if stride <= o.stride < n * stride
                ]
                others = (*digits[:k], *digits[k + 1 :])
                contents[k].setdefault(others, []).append(inside)
        return [list(content.values()) for content in contents]
