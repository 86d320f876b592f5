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

from metanet.symmetry.symmetry import AxisPart, Position, Stride, stride_offsets


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
        stride: Distance along the axis of two entries whose indices are neighbours, or
            the places of all values of the index, see `AxisPart`.
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
    stride: Stride = 1


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


class _Refinement(NamedTuple):
    """Finer indices in place of one.

    Attributes:
        children: The finer indices.
        values: For parts of the index, the values in each; None for a product.
    """

    children: list[int]
    values: list[Sequence[int]] | None


def _as_stride(offsets: np.ndarray) -> Stride:
    """Returns the stride of offsets from the smallest of them."""
    if len(offsets) == 1:
        return 1
    steps = np.diff(offsets)
    if (steps == steps[0]).all():
        return int(steps[0])
    return tuple(int(n) for n in offsets)


def _times(stride: Stride, factor: int) -> Stride:
    return (
        tuple(n * factor for n in stride)
        if isinstance(stride, tuple)
        else stride * factor
    )


def _over(stride: Stride, divisor: int) -> Stride:
    if isinstance(stride, tuple):
        return tuple(n // divisor for n in stride)
    return stride // divisor if stride > 0 else -(-stride // divisor)


def _step(o: Occurrence) -> int:
    """Returns the smallest distance of two values of an index along its axis."""
    if isinstance(o.stride, tuple):
        return int(np.diff(np.sort(o.stride)).min())
    return abs(o.stride)


def _as_run(values: np.ndarray) -> Sequence[int]:
    """Returns ascending values, as a range if they are consecutive."""
    if values[-1] - values[0] == len(values) - 1:
        return range(int(values[0]), int(values[-1]) + 1)
    return tuple(int(n) for n in values)


class Indices:
    """Union-find of indices with refinement into products and concatenations."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._size: list[int] = []
        self._children: dict[int, _Refinement] = {}
        self._opaque: dict[int, int] = {}
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
        if not any(self.find(o.axis_index) in self._children for s in axis for o in s):
            normal = [self._representatives(segment) for segment in axis]
            return [segment for segment in normal if segment is not None]
        segments = [s for s in axis if self.segment_size(s)]
        starts = self.starts(segments)
        pieces = [
            piece
            for start, segment in zip(starts, segments, strict=True)
            for piece in self._refined(start, segment)
        ]
        return [segment for _, segment in sorted(pieces, key=lambda piece: piece[0])]

    def _representatives(self, segment: Segment) -> Segment | None:
        """Returns a segment without indices of size 1; None if it has no values."""
        occurrences = []
        for o in segment:
            root = self.find(o.axis_index)
            size = self._size[root]
            if size == 0:
                return None
            if size != 1:
                same = root == o.axis_index
                occurrences.append(o if same else o._replace(axis_index=root))
        return occurrences

    def _refined(self, start: int, segment: Segment) -> list[tuple[int, Segment]]:
        """Returns the finer segments of a segment, each with its first entry."""
        for position, occurrence in enumerate(segment):
            root = self.find(occurrence.axis_index)
            if root not in self._children:
                continue
            children, values = self._children[root]
            before, after = segment[:position], segment[position + 1 :]
            if values is None:
                finer = self._product_of(occurrence, root, children)
                return self._refined(start, before + finer + after)
            pieces = []
            for child, chosen in zip(children, values, strict=True):
                first, stride = self._part(occurrence, chosen)
                part = occurrence._replace(axis_index=child, stride=stride)
                pieces += self._refined(start + first, [*before, part, *after])
            return pieces
        return [(start, self._representatives(segment) or [])]

    def _part(
        self, occurrence: Occurrence, values: Sequence[int]
    ) -> tuple[int, Stride]:
        """Returns first place and stride of some values of an index."""
        stride = occurrence.stride
        if isinstance(stride, int) and stride > 0 and isinstance(values, range):
            return values.start * stride, values.step * stride
        size = self._size[self.find(occurrence.axis_index)]
        offsets = stride_offsets(stride, size)[np.asarray(values)]
        first = int(offsets.min())
        return first, _as_stride(offsets - first)

    def _product_of(
        self, occurrence: Occurrence, root: int, children: Sequence[int]
    ) -> Segment:
        """Returns the factors of an occurrence whose index is a product."""
        stride = occurrence.stride
        if isinstance(stride, int):
            factors: Segment = []
            for child in reversed(children):
                factors.insert(0, occurrence._replace(axis_index=child, stride=stride))
                stride *= self.size(child)
            return factors
        major, minor = children
        grid = np.asarray(stride).reshape(self.size(major), self.size(minor))
        if (grid - grid[:1] == grid[:, :1] - grid[0, 0]).all():
            outer, inner = grid[:, 0], grid[0]
            return [
                occurrence._replace(axis_index=child, stride=_as_stride(o - o.min()))
                for child, o in ((major, outer), (minor, inner))
            ]
        # In this order the values are no product.
        if root not in self._opaque:
            why = "a product whose values are in another order"
            self._opaque[root] = self.new(self._size[root], why)
            self._unstructured.add(self._opaque[root])
            for child in children:
                self._unstructured.add(self.find(child))
                self.pin([[occurrence._replace(axis_index=child, stride=1)]], why)
        return [occurrence._replace(axis_index=self._opaque[root])]

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
                    [o._replace(stride=_times(o.stride, width)) for o in outer] + inner,
                )
                for start, outer in total
                for inner_start, inner in zip(starts, segments, strict=True)
            ]
        return [segment for _, segment in sorted(total, key=lambda piece: piece[0])]

    def _split(
        self, root: int, sizes: Sequence[int], values: list[Sequence[int]] | None
    ) -> None:
        pin, uniform = self.pins.get(root), root in self._uniform
        children = [self.new(n, pin, uniform) for n in sizes]
        for child in children:
            self.notes[child] = list(self.notes.get(root, ()))
        self._children[root] = _Refinement(children, values)

    def _cut(self, occurrence: Occurrence, size: int) -> None:
        """Replaces an index by its values at the first places of the axis, and the rest."""
        root = occurrence.axis_index
        total, stride = self.size(root), occurrence.stride
        if isinstance(stride, int) and stride > 0:
            values: list[Sequence[int]] = [range(size), range(size, total)]
            return self._split(root, [size, total - size], values)
        order = np.argsort(stride_offsets(occurrence.stride, total))
        first, rest = np.sort(order[:size]), np.sort(order[size:])
        values = [_as_run(first), _as_run(rest)]
        return self._split(root, [size, total - size], values)

    def _cut_places(self, big: Occurrence, small: Occurrence) -> Step:
        """Replaces an index by its values at the places of another, and the rest."""
        mine, others = (
            stride_offsets(o.stride, self.size(o.axis_index)) for o in (big, small)
        )
        is_chosen = np.isin(mine, others)
        if is_chosen.sum() < len(others):
            return "failed"
        values = [_as_run(np.flatnonzero(c)) for c in (is_chosen, ~is_chosen)]
        self._split(big.axis_index, [len(v) for v in values], values)
        return "again"

    def classes_axis(self, classes: np.ndarray, why: str) -> Axis:
        """Returns an axis along which a value is constant in each of several classes.

        Args:
            classes: Number of the class of each entry.
            why: Reason for which an entry that is alone in its class is pinned.
        """
        members = [np.flatnonzero(classes == c) for c in np.unique(classes)]
        root = self.new(len(classes))
        sizes = [len(entries) for entries in members]
        self._split(root, sizes, [_as_run(entries) for entries in members])
        for child, size in zip(self._children[root].children, sizes, strict=True):
            if size > 1:
                self._uniform.add(child)
            else:
                self.pins[child] = why
        return [[Occurrence(root)]]

    def _factor(self, root: int, size: int) -> bool:
        """Replaces an index by a product with a minor factor; False if impossible."""
        if self.size(root) % size:
            return False
        self._split(root, [self.size(root) // size, size], None)
        return True

    def _relabel(self, index: Occurrence, like: Occurrence) -> bool:
        """Renumbers the values of an index to be in the order of another; False if not."""
        size = self.size(index.axis_index)
        mine = stride_offsets(index.stride, size)
        other = stride_offsets(like.stride, size)
        if not np.array_equal(np.sort(mine), np.sort(other)):
            return False
        # Value j of the new index is at the place of value j of the other one.
        order = np.argsort(mine)[np.argsort(np.argsort(other))]
        self._split(index.axis_index, [size], [tuple(int(n) for n in order)])
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
                self._cut(big[0], width // inner)
                return "again"
        if width < self.segment_size(big) and len(small) == len(big) == 1:
            return self._cut_places(big[0], small[0])
        for depth in range(max(len(x), len(y))):
            i, j = len(x) - 1 - depth, len(y) - 1 - depth
            if min(i, j) < 0:
                # One segment ends here: the other is cut after the first value.
                self._cut(y[j] if i < 0 else x[i], 1)
                return "again"
            a, b = x[i], y[j]
            p, q = a.axis_index, b.axis_index
            m, n = self.size(p), self.size(q)
            if a.stride == b.stride and p == q:
                continue
            if m == n and (a.stride == b.stride or self._same_places(a, b)):
                if p in self._uniform or q in self._uniform:
                    continue
                if a.stride == b.stride:
                    self._union(p, q, why)
                    return "again"
                # The older index represents the class, see `_union`.
                newer, older = (a, b) if p > q else (b, a)
                is_other = p != q and self._relabel(newer, older)
                return "again" if is_other else "failed"
            if isinstance(a.stride, tuple) or isinstance(b.stride, tuple):
                return self._straighten(a if isinstance(a.stride, tuple) else b)
            if abs(a.stride) != abs(b.stride):
                inner, outer = sorted((a, b), key=_step)
                return self._end_before(inner, outer)
            if m < n:
                return self._resize(b, a, x[i - 1] if i else None)
            return self._resize(a, b, y[j - 1] if j else None)
        return "done"

    def _straighten(self, occurrence: Occurrence) -> Step:
        """Renumbers the values of an index by their places."""
        offsets = np.asarray(occurrence.stride)
        order = np.argsort(offsets)
        if isinstance(_as_stride(offsets[order]), tuple):
            return "failed"
        values = tuple(int(n) for n in order)
        self._split(occurrence.axis_index, [len(values)], [values])
        return "again"

    def _same_places(self, a: Occurrence, b: Occurrence) -> bool:
        """Returns True if the values of two indices of one size have the same places."""
        size = self.size(a.axis_index)
        left, right = (np.sort(stride_offsets(o.stride, size)) for o in (a, b))
        return np.array_equal(left, right)

    def _end_before(self, inner: Occurrence, outer: Occurrence) -> Step:
        """Cuts an index where the other axis has a gap, and an index of a larger stride."""
        size = self.size(inner.axis_index)
        period, rest = divmod(_step(outer), _step(inner))
        if rest:
            return "failed"
        if size > period:
            return "again" if self._factor(inner.axis_index, period) else "failed"
        self._cut(inner, 1)
        return "again"

    def _resize(
        self, big: Occurrence, small: Occurrence, outer: Occurrence | None
    ) -> Step:
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
        period = _step(outer) // _step(small)
        if self.size(big.axis_index) > period or period == size:
            return "again" if self._factor(big.axis_index, period) else "failed"
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
            values: list[Sequence[int]] = [
                range(first, size * step, step) for first in range(step)
            ]
            self._split(root, [size] * step, values)
        pattern = [
            [Occurrence(self.new(size, uniform=True), stride=step)] for _ in range(step)
        ]
        aligned = self.align(axis, pattern, why)
        if aligned is None:
            return None
        return [
            [o._replace(stride=_over(o.stride, step)) for o in segment]
            for first, segment in zip(self.starts(aligned[0]), aligned[0], strict=True)
            if first % step == start
        ]

    def rearrange(self, axis: Axis, entries: Sequence[int]) -> Axis | None:
        """Returns an axis in another order.

        Args:
            axis: The axis.
            entries: Its entry at each place of the result, each entry once.

        Returns:
            The axis; None if an index of it would have values at places of no grid.
        """
        places = np.argsort(np.asarray(entries))
        pieces = []
        segments = self.normal(axis)
        for start, segment in zip(self.starts(segments), segments, strict=True):
            sizes = [self.size(o.axis_index) for o in segment]
            grid = places[self.part_of(start, segment).entries()].reshape(sizes)
            first, total, moved = int(grid.min()), np.zeros_like(grid), []
            for k, o in enumerate(segment):
                along = grid[
                    tuple(slice(None) if i == k else 0 for i in range(len(sizes)))
                ]
                offsets = along - along.min()
                moved.append(o._replace(stride=_as_stride(offsets)))
                shape = [-1 if i == k else 1 for i in range(len(sizes))]
                total += offsets.reshape(shape)
            if (total + first != grid).any():
                return None
            pieces.append((first, moved))
        return [segment for _, segment in sorted(pieces, key=lambda piece: piece[0])]

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
                    o._replace(stride=_over(o.stride, stride))
                    for o in segment
                    if stride <= _step(o) < n * stride
                ]
                others = (*digits[:k], *digits[k + 1 :])
                contents[k].setdefault(others, []).append(inside)
        return [list(content.values()) for content in contents]
