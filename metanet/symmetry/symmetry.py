"""Data model of a discovered symmetry: leaves, blocks, indices, groups, activations.

All of it is static and hashable (usable as a jit-static argument and as a dictionary key)
and free of arrays, so that a `Symmetry` can be printed, compared and written as JSON.
Indices are referred to by their number in `Symmetry.indices`, leaves by their number in
`Symmetry.leaves` (the flattening order of the parameter pytree), activations by their
number in `Symmetry.activations`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from metanet.errors import MetanetError, suggest

# Distance of neighbours (negative in the opposite order), or distances from the first.
Stride = int | tuple[int, ...]


def stride_offsets(stride: Stride, size: int) -> np.ndarray:
    """Returns the distances of entries from the first of them, the smallest being 0."""
    if isinstance(stride, tuple):
        return np.asarray(stride, np.int32)
    steps = np.arange(size, dtype=np.int32)
    return (steps if stride > 0 else steps[::-1]) * abs(stride)


@dataclass(frozen=True, order=True)
class AxisPart:
    """Entries of an axis of an array that form a grid.

    A part of consecutive entries is a grid whose strides are the numbers of entries
    inside. The channels of one kind in each head of a fused projection are a grid of
    heads and channels that leaves out the channels of the other kinds.

    Attributes:
        start: The first entry.
        sizes: Sizes of the grid, major first.
        strides: Distance of two neighbours along each axis of the grid, negative for
            entries in the opposite order; or the distances from the first entry of the
            part, for any other order. The start is the first entry in each case.
    """

    start: int
    sizes: tuple[int, ...]
    strides: tuple[Stride, ...]

    @classmethod
    def interval(cls, start: int, stop: int) -> AxisPart:
        """Returns the entries from start to stop, without a grid."""
        return cls(start, (stop - start,), (1,))

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.sizes)

    @property
    def is_interval(self) -> bool:
        """True for consecutive entries."""
        inner = [math.prod(self.sizes[i + 1 :]) for i in range(len(self.sizes))]
        return list(self.strides) == inner

    def entries(self) -> np.ndarray:
        """Returns the entries in the order of the grid."""
        total = np.full((), self.start, np.int32)
        for size, stride in zip(self.sizes, self.strides, strict=True):
            total = total[..., None] + stride_offsets(stride, size)
        return total.reshape(-1)

    def select(self, array: Any, axis: int) -> Any:
        """Returns the entries of an array along one of its axes, counted from the last.

        Args:
            array: The array.
            axis: A negative number.
        """
        if self.is_interval:
            index: Any = slice(self.start, self.start + self.size)
        else:
            index = self.entries()
        return array[(..., index, *(slice(None),) * (-1 - axis))]


# Part of an axis, and the unit (or -1) that each factor of it is.
ViewAxis = tuple[AxisPart, tuple[int, ...]]


@dataclass(frozen=True)
class Leaf:
    """One array of the parameter pytree: its path ("layers/0/kernel"), shape, dtype."""

    path: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Index:
    """Independent index of the program: an axis, or a factor or part of one.

    Attributes:
        size: Number of values the index takes.
        pinned: Reason for which the index cannot be permuted (an output, a kernel
            position, a constant that varies along it, an unknown primitive); None if it
            is free.
    """

    size: int
    pinned: str | None = None


@dataclass(frozen=True, order=True)
class Position:
    """Position of an index in a leaf: axis, segment of the axis, factor of the segment."""

    axis: int
    segment: int
    factor: int


@dataclass(frozen=True)
class Block:
    """Block of a leaf: one segment per axis, factored into indices.

    `Block.select` reshaped to the sizes of ``indices`` (axes in order, factors major
    first) has one array axis per index. A leaf without concatenated axes is one block. A
    scalar leaf is one block without indices.

    Attributes:
        leaf: Number of the leaf.
        segments: Number of the segment per axis of the leaf.
        parts: Its entries along each axis of the leaf.
        positions: Position of each index.
        indices: Number of the index at each position (axes of size 1 have none).
    """

    leaf: int
    segments: tuple[int, ...]
    parts: tuple[AxisPart, ...]
    positions: tuple[Position, ...]
    indices: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of entries along the axes of the leaf."""
        return tuple(part.size for part in self.parts)

    def select(self, leaf: Any) -> Any:
        """Returns the block's entries of a leaf ``[..., *shape of the leaf]``."""
        return select_parts(leaf, self.parts)


def select_parts(array: Any, parts: Sequence[AxisPart]) -> Any:
    """Returns the entries of an array in a part of each of its last axes."""
    for i, part in enumerate(parts):
        axis = i - len(parts)
        if not part.is_interval or part.size != array.shape[axis]:
            array = part.select(array, axis)
    return array


@dataclass(frozen=True)
class PermutationGroup:
    """Independent permutations of a joint index, one per value of the parents.

    Attributes:
        indices: Indices permuted jointly (usually one).
        parents: Indices on which the permutation may depend (heads for the channels
            within heads).
        degree: Number of permuted units, the product of the sizes of ``indices``.
        copies: Number of independent permutations, the product of the parents' sizes.
        linear: "GL" if the permutations are part of the group of all invertible
            matrices, "O" for all orthogonal ones: the index occurs in linear algebra
            alone. Elements of a symmetry are permutations nonetheless.
    """

    indices: tuple[int, ...]
    parents: tuple[int, ...]
    degree: int
    copies: int
    linear: str = ""

    @property
    def order(self) -> int:
        """Order of the group."""
        return math.factorial(self.degree) ** self.copies


@dataclass(frozen=True)
class Exponent:
    """Power with which a factor multiplies one leaf along one position."""

    leaf: int
    position: Position
    power: Fraction


@dataclass(frozen=True)
class Shift:
    """Term that a phase adds to one leaf, per turn of its unit (SIREN)."""

    leaf: int
    position: Position
    amount: float


@dataclass(frozen=True)
class ScalingGroup:
    """Free factors, one per value of an index (and of its parents).

    Attributes:
        kind: "positive": any factor > 0 (ReLU); "nonzero": any factor except 0, which
            discovery represents by a positive and a sign group; "sign": factor -1 or 1
            (tanh, sine); "phase": an integer k per unit, factor (-1)^k and shifts of k
            times ``Shift.amount`` (sine: b -> b + k pi / w0; where the sign of the sine
            matters to later layers, the factor reflects its argument, or the shifts are
            full turns).
        axis_index: Number of the index.
        parents: Indices on which the factors may depend.
        exponents: Powers with which the factors multiply the leaves.
        shifts: Terms that a phase adds. Only phases of earlier groups add to the first
            one's leaf, so that a shift of it determines k.
    """

    kind: str
    axis_index: int
    parents: tuple[int, ...]
    exponents: tuple[Exponent, ...]
    shifts: tuple[Shift, ...] = ()


@dataclass(frozen=True)
class View:
    """Units of an activation in an array of the traced program.

    Attributes:
        location: Path of equation indices from the outermost jaxpr, then the operand's
            number (``operand`` True) or the result's.
        operand: The array is an operand of the equation, not a result.
        axes: Per axis None (carries no unit), or the part that carries units, and the
            unit that each factor of the part is, -1 for an index that is no unit.
        turns: Per `scan` around the array, outermost first, the unit that its
            iterations are, or -1.
    """

    location: tuple[int, ...]
    operand: bool
    axes: tuple[ViewAxis | None, ...]
    turns: tuple[int, ...] = ()


@dataclass(frozen=True)
class Activation:
    """Activation that a parametrised or combining operation produces.

    Attributes:
        kind: "input" (also a constant that parameters read like one), "output",
            "hidden" or "state" (of a loop).
        units: Indices whose joint values enumerate the nodes, major first; () is one
            node.
        location: Path of equation indices from the outermost jaxpr to the equation that
            produced the value, then the number of its output; for an input ``(-1, i)``,
            for a constant array that parameters read like one ``(-2, i)``.
        view: The array to capture, as the first reader reads it; None if it cannot be
            captured.
    """

    kind: str
    units: tuple[int, ...]
    location: tuple[int, ...]
    view: View | None = None


@dataclass(frozen=True)
class Role:
    """End of an edge that a position of a block indexes.

    Attributes:
        end: "source" or "target".
        unit: Number in the ``units`` of the activation at that end.
    """

    end: str
    unit: int


@dataclass(frozen=True)
class ParameterEdge:
    """Use of a parameter block: its edges between two activations.

    Attributes:
        leaf: Number of the leaf.
        segments: Segment per axis of the leaf: identifies the block.
        source: Activation read, or None (bias, scale, token: from a bias node).
        target: Activation produced.
        kind: "weight", "conv", "bias", "scale", "embedding", ...
        chain: Nonlinearities applied to the source before it is read, in order ("sin",).
        roles: Roles of each position of the block. () is a multiplicity index (kernel or
            spatial position); source and target both: a diagonal index.
        join: Pairs (source unit, target unit) that agree without indexing the block.
        attributes: Further static facts, sorted: (("stride", (2, 2)), ("dilation", ...)).
    """

    leaf: int
    segments: tuple[int, ...]
    source: int | None
    target: int
    kind: str
    chain: tuple[str, ...]
    roles: tuple[tuple[Role, ...], ...]
    join: tuple[tuple[int, int], ...] = ()
    attributes: tuple[tuple[str, tuple[int, ...]], ...] = ()


@dataclass(frozen=True)
class IdentityEdge:
    """Parameter-free edge set: an edge wherever the joined units agree.

    Attributes:
        source: Activation read.
        target: Activation produced.
        kind: "residual", "gate", "pairing", "recurrence", "bias" or "scale" (from the
            activation before the addition of a bias), ...
        chain: Nonlinearities applied to the source before it is read, in order.
        join: Pairs (source unit, target unit), no unit in two of them.
    """

    source: int
    target: int
    kind: str
    chain: tuple[str, ...]
    join: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Coverage:
    """Share of a network that has a symmetry.

    Attributes:
        share: Share of the parameters that some element moves or changes.
        parameters: Number of parameters.
        pinned: Reason -> number of pinned indices.
        unknown: Primitives without a rule -> description of the first equation.
        pinned_by_unknown: Primitives without a rule -> axes of parameters ("path[axis]")
            on which they pinned an index: what a rule may win back.
    """

    share: float
    parameters: int
    pinned: dict[str, int]
    unknown: dict[str, str]
    pinned_by_unknown: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Symmetry:
    """Weight symmetries of a network, with the activations and edges of its program.

    Static and hashable; two discoveries of one architecture are equal.

    Attributes:
        leaves: The parameters.
        indices: Independent indices of the program.
        blocks: Blocks of the parameters over these indices.
        groups: Permutation groups, parents before children.
        scaling_groups: Groups of scales, signs and phases.
        activations: Activations of the program.
        parameter_edges, identity_edges: Edges between them; `metanet.graphs` builds the
            parameter graph of these.
        unknown: Primitives without a rule, and their first equations.
        notes: Per index the equations that joined axes to it.
        program: Digest of the program's equations; locations refer to it.
        state_outputs: Pairs (output, leaf): outputs that are a leaf's next value
            (statistics of a batch) and so move along with it; see `discover`.
    """

    leaves: tuple[Leaf, ...]
    indices: tuple[Index, ...]
    blocks: tuple[Block, ...]
    groups: tuple[PermutationGroup, ...]
    scaling_groups: tuple[ScalingGroup, ...]
    activations: tuple[Activation, ...]
    parameter_edges: tuple[ParameterEdge, ...]
    identity_edges: tuple[IdentityEdge, ...]
    unknown: tuple[tuple[str, str], ...] = ()
    notes: tuple[tuple[str, ...], ...] = field(default=(), compare=False)
    program: str = ""
    state_outputs: tuple[tuple[int, int], ...] = ()

    @property
    def order(self) -> int:
        """Order of the permutation group."""
        return math.prod(g.order for g in self.groups)

    def __str__(self) -> str:
        lines = [f"permutations: order {_short(self.order)}"]
        for group in self.groups:
            copies = f" x {group.copies} copies" if group.copies > 1 else ""
            where = ", ".join(self.axes_of(group.indices))
            whole = f" in {group.linear}({group.degree})" if group.linear else ""
            lines.append(f"  S{group.degree}{whole}{copies}: {where}")
        lines.append("scales, signs and phases:")
        for scaling_group in self.scaling_groups:
            powers = ", ".join(
                f"{self.leaves[e.leaf].path}[{e.position.axis}]^{e.power}"
                for e in scaling_group.exponents
            )
            shifts = "".join(
                f", {self.leaves[s.leaf].path} + {s.amount:.4g} k"
                for s in scaling_group.shifts
            )
            size = self.indices[scaling_group.axis_index].size
            lines.append(f"  {scaling_group.kind} per unit of {size}: {powers}{shifts}")
        coverage = self.coverage()
        lines.append(f"coverage: {coverage.share:.1%} of {coverage.parameters:,}")
        for name, where in self.unknown:
            axes = ", ".join(coverage.pinned_by_unknown[name]) or "no parameter's axis"
            lines.append(f"  no rule for {name} ({where}): pinned {axes}")
        return "\n".join(lines)

    def axes_of(self, indices: tuple[int, ...]) -> list[str]:
        """Returns "path[axis]" for every parameter axis that contains one of the indices."""
        axes = {
            f"{self.leaves[t.leaf].path}[{p.axis}]"
            for t in self.blocks
            for p, a in zip(t.positions, t.indices, strict=True)
            if a in indices
        }
        return sorted(axes)

    def explain(self, path: str, axis: int) -> str:
        """Explains in words why an axis is permuted, joined to others, or pinned.

        Args:
            path: Path of the parameter ("layers/0/kernel").
            axis: Its axis; negative from the last.

        Raises:
            MetanetError: for an unknown path or axis.
        """
        index, axis = self._find_axis(path, axis)
        indices = dict.fromkeys(
            a
            for t in self.blocks
            if t.leaf == index
            for p, a in zip(t.positions, t.indices, strict=True)
            if p.axis == axis
        )
        lines = [f"{path} axis {axis} ({self.leaves[index].shape[axis]}):"]
        if not indices:
            lines.append("  has size 1: nothing to permute")
        for a in indices:
            axis_index = self.indices[a]
            others = [o for o in self.axes_of((a,)) if o != f"{path}[{axis}]"]
            state = f"pinned: {axis_index.pinned}" if axis_index.pinned else "free"
            lines.append(f"  index of size {axis_index.size}, {state}")
            if others:
                lines.append(f"    shared with {', '.join(others)}")
            for note in self.notes[a] if a < len(self.notes) else ():
                lines.append(f"    joined by {note}")
        return "\n".join(lines)

    def _find_axis(self, path: str, axis: int) -> tuple[int, int]:
        paths = [leaf.path for leaf in self.leaves]
        if path not in paths:
            raise MetanetError(f"no parameter {path!r}.{suggest(path, paths)}")
        index = paths.index(path)
        rank = len(self.leaves[index].shape)
        if not -rank <= axis < rank:
            raise MetanetError(f"parameter {path}: axis {axis}, it has {rank} axes")
        return index, axis % rank

    def coverage(self) -> Coverage:
        """Returns the share of parameters with a symmetry, and the reasons of pinning."""
        moved = {a for g in self.groups for a in g.indices if g.degree > 1}
        scaled = {
            (e.leaf, e.position)
            for f in self.scaling_groups
            for e in f.exponents
            if e.power
        }
        scaled |= {(s.leaf, s.position) for f in self.scaling_groups for s in f.shifts}
        covered = total = 0
        for block in self.blocks:
            size = math.prod(block.shape)
            total += size
            touched = moved.intersection(block.indices) or any(
                (block.leaf, p) in scaled for p in block.positions
            )
            covered += size if touched else 0
        pinned: dict[str, int] = {}
        for axis_index in self.indices:
            if axis_index.pinned:
                pinned[axis_index.pinned] = pinned.get(axis_index.pinned, 0) + 1
        by_unknown = {name: self._axes_pinned_by(name) for name, _ in self.unknown}
        share = covered / max(total, 1)
        return Coverage(share, total, pinned, dict(self.unknown), by_unknown)

    def _axes_pinned_by(self, primitive: str) -> tuple[str, ...]:
        """Returns the axes of parameters on which equations of a primitive pinned."""
        # The reason is the description of an equation: its primitive, and its line.
        indices = tuple(
            a
            for a, index in enumerate(self.indices)
            if index.pinned is not None and index.pinned.split(" at ")[0] == primitive
        )
        return tuple(self.axes_of(indices))

    def to_json(self) -> str:
        """Returns the symmetry as JSON text."""
        return json.dumps(_encode(self))

    @classmethod
    def from_json(cls, text: str) -> Symmetry:
        """Reads text that `to_json` wrote.

        Raises:
            MetanetError: if it is no such text.
        """
        try:
            return _decode(cls, json.loads(text))
        except (ValueError, TypeError, KeyError) as error:
            raise MetanetError(f"symmetry: not readable as JSON: {error}") from error


def _short(number: int) -> str:
    return f"{number:,}" if number < 10**9 else f"about 10^{len(str(number)) - 1}"


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {f.name: _encode(getattr(value, f.name)) for f in fields}
    if isinstance(value, tuple):
        return [_encode(v) for v in value]
    return str(value) if isinstance(value, Fraction) else value


def _decode(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{k: _decode(hints[k], v) for k, v in value.items()})  # type: ignore[operator]
    if kind is Fraction:
        return Fraction(value)
    if isinstance(kind, types.UnionType):
        inner = [a for a in typing.get_args(kind) if a is not type(None)]
        is_list = isinstance(value, list) and len(inner) > 1
        return None if value is None else _decode(inner[is_list], value)
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_decode(inner[0], v) for v in value)
        return tuple(_decode(k, v) for k, v in zip(inner, value, strict=True))
    return value
