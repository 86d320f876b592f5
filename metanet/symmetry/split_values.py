"""Arrays that are only read part by part: fused projections, stacked layers.

``reshape(..., 3, heads, width)`` whose result is only read one index of the new axis at
a time is a concatenation of three arrays, not a product: refined as a product it would
tie the three together. Likewise a parameter of which every layer reads its own slice is
several parameters. Looking ahead at the readers of an array decides; its value is then a
tuple of values, which meet only where the program joins them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from jax.extend.core import Jaxpr, JaxprEqn, Var

from metanet.programs import Readers, call_jaxpr, readers_of, shape_of, traits_of
from metanet.symmetry.indices import Axis
from metanet.symmetry.recorder import Trace
from metanet.symmetry.values import Chain, SplitValue, Value

Interval = tuple[int, int]


def read_intervals(
    readers: Readers, variable: Any, axis: int, merged: bool = False
) -> set[Interval] | None:
    """Returns the intervals of an axis that are read; None if all of it is read at once.

    Args:
        readers: Readers of every variable of the jaxpr.
        variable: The array.
        axis: Its axis.
        merged: A reshape that merges the axis with the next, as a concatenation does,
            reads its entries one by one.
    """
    intervals: set[Interval] = set()
    for eqn in readers.get(variable, ()):
        if eqn is None:
            return None
        more = _intervals_of(readers, eqn, variable, axis, merged)
        if more is None:
            return None
        intervals |= more
    return intervals


def _intervals_of(
    readers: Readers, eqn: JaxprEqn, variable: Var, axis: int, merged: bool
) -> set[Interval] | None:
    """Returns the intervals of an axis that one equation reads."""
    shape, params, name = shape_of(variable), eqn.params, eqn.primitive.name
    inner = call_jaxpr(eqn)
    if inner is not None:
        arguments = [
            inside
            for outside, inside in zip(eqn.invars, inner[0].invars, strict=True)
            if outside is variable
        ]
        return _read_of_all(readers_of(inner[0]), arguments, axis, merged)
    if traits_of(name).returns_operands:
        results = [
            result
            for operand, result in zip(eqn.invars, eqn.outvars, strict=True)
            if operand is variable
        ]
        return _read_of_all(readers, results, axis, merged)
    if name == "slice":
        bounds = [*zip(params["start_indices"], params["limit_indices"], strict=True)]
        others = [b == (0, n) for b, n in zip(bounds, shape, strict=True)]
        del others[axis]
        strided = any(s != 1 for s in params["strides"] or ())
        return {bounds[axis]} if all(others) and not strided else None
    if name == "split" and params["axis"] == axis:
        # Some callers pass NumPy integers, which cannot be stored.
        ends = [*itertools.accumulate(map(int, params["sizes"]), initial=0)]
        return {*itertools.pairwise(ends)}
    unstacks = name == "unstack" and params["axis"] == axis
    if unstacks or (merged and name == "reshape" and _merges_with_next(eqn, axis)):
        return {(i, i + 1) for i in range(shape[axis])}
    after = _axis_after(eqn, variable, axis)
    if after is None:
        return None
    return read_intervals(readers, eqn.outvars[0], after, merged)


def _read_of_all(
    readers: Readers, variables: Sequence[Var], axis: int, merged: bool
) -> set[Interval] | None:
    """Returns the intervals that are read of several copies of an array."""
    intervals: set[Interval] = set()
    for variable in variables:
        more = read_intervals(readers, variable, axis, merged)
        if more is None:
            return None
        intervals |= more
    return intervals


def _merges_with_next(eqn: JaxprEqn, axis: int) -> bool:
    """Returns True for a reshape that only merges an axis with the next."""
    before, after = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    pair = before[axis : axis + 2]
    return after == (*before[:axis], math.prod(pair), *before[axis + 2 :])


def _axis_after(eqn: JaxprEqn, variable: Any, axis: int) -> int | None:
    """Returns the axis of the result that is an axis of the operand; None if none is."""
    name, params = eqn.primitive.name, eqn.params
    if name == "transpose":
        return tuple(params["permutation"]).index(axis)
    if name == "squeeze":
        return axis - sum(d < axis for d in params["dimensions"])
    before, after = shape_of(variable), shape_of(eqn.outvars[0])
    if name in ("reduce_sum", "reduce_max", "reduce_min"):
        reduced = params["axes"]
        return None if axis in reduced else axis - sum(d < axis for d in reduced)
    if name == "reshape":
        wide = [[i for i, n in enumerate(s) if n != 1] for s in (before, after)]
        is_same = [before[i] for i in wide[0]] == [after[i] for i in wide[1]]
        return wide[1][wide[0].index(axis)] if is_same and axis in wide[0] else None
    if name == "broadcast_in_dim":
        target = params["broadcast_dimensions"][axis]
        unchanged = after[target] == before[axis]
        return target if unchanged and len(eqn.invars) == 1 else None
    unchanged = len(before) == len(after) and before[axis] == after[axis]
    return axis if traits_of(name).elementwise and unchanged else None


def seam_reshape(trace: Trace, eqn: JaxprEqn, x: Value) -> Value | None:
    """Returns a reshape of a concatenation into groups, in parts between its seams.

    The channels in the groups of one array have nothing to do with those in the groups of
    another.

    Returns:
        The value; None if no seam is a border of groups, or if the groups are not read
        group by group.
    """
    before, after = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    added = len(after) - len(before)
    for i in range(len(before) if added > 0 else 0):
        count, *inner = after[i : i + added + 1]
        is_factored = (*before[:i], count, *inner, *before[i + 1 :]) == after
        width, axis = math.prod(inner), trace.indices.normal(x.axes[i])
        if not is_factored or count == 1 or width == 1 or len(axis) < 2:
            continue
        ends = [
            (start, start + trace.indices.segment_size(segment))
            for start, segment in zip(trace.indices.starts(axis), axis, strict=True)
        ]
        if any(a[1] != b[0] for a, b in itertools.pairwise(ends)):
            continue  # parts of every head
        seams = [start // width for start, _ in ends if start % width == 0]
        starts = (*seams, count)
        if len(starts) > 2 and _reads_groups(trace.readers, eqn.outvars[0], i):
            return _in_parts(trace, x, i, starts, tuple(inner), after)
    return None


def _reads_groups(readers: Readers, variable: Any, axis: int) -> bool:
    """Returns True if entries along an axis do not meet until they are joined again."""
    for eqn in readers.get(variable, (None,)):
        if eqn is None:
            return False
        if eqn.primitive.name == "reshape" and _merges_with_next(eqn, axis):
            continue
        inner = call_jaxpr(eqn)
        if inner is not None:
            if not _reads_groups_inside(readers, eqn, inner[0], variable, axis):
                return False
            continue
        after = _axis_after(eqn, variable, axis)
        if after is None or not _reads_groups(readers, eqn.outvars[0], after):
            return False
    return True


def _reads_groups_inside(
    readers: Readers, eqn: JaxprEqn, jaxpr: Jaxpr, variable: Any, axis: int
) -> bool:
    """Returns True if a called function, too, reads an axis entry by entry."""
    inside = readers_of(jaxpr)
    # What the function returns is read on by the equations around it.
    joined = {
        inner: [
            *(e for e in inside.get(inner, ()) if e is not None),
            *(
                reader
                for result, outer in zip(jaxpr.outvars, eqn.outvars, strict=True)
                if result is inner
                for reader in readers.get(outer, ())
            ),
        ]
        for inner in {*inside, *jaxpr.outvars}
        if isinstance(inner, Var)
    }
    everywhere = {**readers, **joined}
    return all(
        _reads_groups(everywhere, inner, axis)
        for outer, inner in zip(eqn.invars, jaxpr.invars, strict=True)
        if outer is variable
    )


def concatenated(
    trace: Trace, inputs: Sequence[Value], at: int, shape: Sequence[int]
) -> Value:
    """Returns the concatenation of values along an axis.

    Args:
        trace: The pass.
        inputs: The values.
        at: The axis.
        shape: Shape of the result.
    """
    axes = [trace.indices.normal(a) for a in inputs[0].axes]
    live = not inputs[0].zero
    for x in inputs[1:]:
        for i in range(len(axes)):
            if i == at:
                axes[i] = axes[i] + trace.indices.normal(x.axes[i])
                continue
            aligned = trace.indices.align(axes[i], x.axes[i], trace.why)
            if aligned is None:
                old = [axes[i], x.axes[i]]
                axes[i] = trace.fresh(shape[i], trace.why)
                trace.record([*axes, *old])
                continue
            axes[i] = trace.joined_axis(aligned, live, not x.zero)
        live = live or not x.zero
    activations: dict[int, Chain] = {}
    for x in inputs:
        activations |= x.activations
    of_same_axis = all(
        x.index_of == inputs[0].index_of and x.from_end == inputs[0].from_end
        for x in inputs
    )
    return Value(
        axes,
        activations,
        frozenset().union(*(x.leaves for x in inputs)),
        constant=all(x.constant for x in inputs),
        zero=all(x.zero for x in inputs),
        index_of=inputs[0].index_of if of_same_axis else None,
        from_end=inputs[0].from_end,
    )


def partition(intervals: set[Interval] | None, size: int) -> tuple[int, ...] | None:
    """Returns starts and end of the parts if intervals cover an axis without overlap."""
    ordered = sorted(intervals or ())
    ends = [0, *(stop for _, stop in ordered)]
    if len(ordered) < 2 or [start for start, _ in ordered] != ends[:-1]:
        return None
    return tuple(ends) if ends[-1] == size else None


def unstack_reshape(trace: Trace, eqn: JaxprEqn, x: Value) -> Value | None:
    """Returns the result of a reshape in parts, or None if it is not read in parts."""
    before, after = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    added = len(after) - len(before)
    if added < 1:
        return None
    for i, size in enumerate(before):
        factors = after[i : i + added + 1]
        around = (*before[:i], *factors, *before[i + 1 :])
        if size == 1 or around != after:
            continue
        # Heads may precede the axis that is read index by index.
        for lead, count in enumerate(factors[:-1]):
            axis = i + lead
            intervals = read_intervals(trace.readers, eqn.outvars[0], axis)
            starts = partition(intervals, count)
            if count in (1, size) or starts is None:
                continue
            sizes = (*factors[:lead], math.prod(factors[lead:]))
            outer = trace.factored_axis(x.axes[i], sizes)
            if outer is None:
                return None
            heads = replace(x, axes=[*x.axes[:i], *outer, *x.axes[i + 1 :]])
            inner = factors[lead + 1 :]
            return _in_parts(trace, heads, axis, starts, inner, after)
    return None


def _in_parts(
    trace: Trace,
    x: Value,
    axis: int,
    starts: tuple[int, ...],
    inner: tuple[int, ...],
    shape: Sequence[int],
) -> Value | None:
    """Returns an array as parts of one of its axes, each factored.

    Args:
        trace: The pass.
        x: The array.
        axis: Its axis, a product of the axis that is read in parts and inner ones.
        starts: First entry of each part, and the size of the axis read in parts.
        inner: Sizes of the inner axes.
        shape: Shape of the result.

    Returns:
        The array; None if the axis does not factor so.
    """
    counts = [stop - start for start, stop in itertools.pairwise(starts)]
    widths = [n * math.prod(inner) for n in counts]
    cut = trace.indices.split_axis(x.axes[axis], widths, trace.why)
    if cut is None:
        return None
    values = []
    for part, count in zip(cut, counts, strict=True):
        new = trace.factored_axis(part, (count, *inner))
        if new is None:
            return None
        axes = [*x.axes[:axis], *new, *x.axes[axis + 1 :]]
        activations = trace.dataflow.remaining(x, axes)
        values.append(replace(x, axes=axes, activations=activations, shift={}))
    trace.forbid_phase(x)
    return trace.split_value(shape, axis, starts, values)


def read_split(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Returns the results of an equation that reads values in parts."""
    name, params = eqn.primitive.name, eqn.params
    number, split = next((i, x.split) for i, x in enumerate(inputs) if x.split)
    if traits_of(name).returns_operands:
        return list(inputs)
    if name == "slice":
        start = params["start_indices"][split.axis]
        return [split.parts[split.starts.index(start)]]
    if name == "split":
        starts = itertools.accumulate(map(int, params["sizes"][:-1]), initial=0)
        return [split.parts[split.starts.index(s)] for s in starts]
    if name == "unstack":
        return [p.with_axes(_without(p.axes, split.axis)) for p in split.parts]
    if name == "reshape" and _merges_with_next(eqn, split.axis):
        return trace.apply_rule(eqn, inputs)
    after = _axis_after(eqn, eqn.invars[number], split.axis)
    assert after is not None
    operands = [
        _operand_parts(trace, x, split, shape_of(variable))
        for x, variable in zip(inputs, eqn.invars, strict=True)
    ]
    shape = shape_of(eqn.outvars[0])
    values = []
    # A part does not know its position in the whole, which is what is captured.
    with trace.not_capturable():
        for k, (start, stop) in enumerate(itertools.pairwise(split.starts)):
            size = stop - start
            shapes = [
                _resized(shape_of(variable), split.axis, size)
                if len({id(part) for part in parts}) > 1
                else shape_of(variable)
                for variable, parts in zip(eqn.invars, operands, strict=True)
            ]
            smaller = _resized_equation(eqn, shapes, _resized(shape, after, size))
            (value,) = trace.apply_rule(smaller, [parts[k] for parts in operands])
            trace.record(value.axes)
            values.append(value)
    return [trace.split_value(shape, after, split.starts, values)]


def _operand_parts(
    trace: Trace, x: Value, split: SplitValue, shape: Sequence[int]
) -> list[Value]:
    """Returns an operand part by part; the same for all if it is constant along them.

    Args:
        trace: The pass.
        x: The operand.
        split: The parts of another operand.
        shape: Shape of the operand.
    """
    sizes = [stop - start for start, stop in itertools.pairwise(split.starts)]
    if x.split is not None:
        if (x.split.starts, x.split.axis) == (split.starts, split.axis):
            return list(x.split.parts)
        x = concatenated(trace, x.split.parts, x.split.axis, shape)
    axis = split.axis
    if len(x.axes) <= axis or trace.indices.axis_size(x.axes[axis]) == 1:
        return [x] * len(sizes)
    trace.forbid_phase(x)
    cut = trace.indices.split_axis(x.axes[axis], sizes, trace.why)
    if cut is None:
        return [x] * len(sizes)
    parts = []
    for part in cut:
        axes = [*x.axes[:axis], part, *x.axes[axis + 1 :]]
        activations = trace.dataflow.remaining(x, axes)
        parts.append(replace(x, axes=axes, activations=activations, shift={}))
    return parts


def _without(axes: Sequence[Axis], axis: int) -> list[Axis]:
    return [*axes[:axis], *axes[axis + 1 :]]


def _resized(shape: Sequence[int], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


class _ResizedVariable:
    """A part of a variable, which no equation of the program reads by itself."""

    def __init__(self, aval: Any):
        self.aval = aval


def _resized_equation(
    eqn: JaxprEqn, shapes: Sequence[tuple[int, ...]], shape: tuple[int, ...]
) -> JaxprEqn:
    """Returns the equation with operands and result of other shapes, for a rule."""

    def variable(like: Any, shape: tuple[int, ...]) -> _ResizedVariable:
        return _ResizedVariable(SimpleNamespace(shape=shape, dtype=like.aval.dtype))

    resized = SimpleNamespace(
        primitive=eqn.primitive,
        params=eqn.params,
        invars=[variable(v, s) for v, s in zip(eqn.invars, shapes, strict=True)],
        outvars=[variable(eqn.outvars[0], shape)],
    )
    return cast(JaxprEqn, resized)
