"""Rules of primitives that cut, join, pad and reverse axes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from jax.extend.core import JaxprEqn

from metanet.programs import shape_of
from metanet.symmetry.indices import Axis
from metanet.symmetry.recorder import Trace, register_rule
from metanet.symmetry.split_values import concatenated, partition, read_intervals
from metanet.symmetry.values import Value

# Cuts.


@register_rule("split")
def _split(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    (x,) = inputs
    return _all_parts(trace, x, eqn.params["axis"], eqn.params["sizes"])


@register_rule("unstack")
def _unstack(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    (x,), at, count = inputs, eqn.params["axis"], len(eqn.outvars)
    parts = _all_parts(trace, x, at, (1,) * count)
    return [p.with_axes([*p.axes[:at], *p.axes[at + 1 :]]) for p in parts]


@register_rule("slice")
def _slice(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    params, shape = eqn.params, shape_of(eqn.invars[0])
    (x,) = inputs
    strides = params["strides"] or (1,) * len(shape)
    bounds = [*zip(params["start_indices"], params["limit_indices"], strict=True)]
    strided = [i for i, s in enumerate(strides) if s != 1]
    x = _every_few(trace, x, {i: (bounds[i][0], strides[i]) for i in strided}, eqn)
    cuts = {
        i: (start, stop - start, shape[i] - stop)
        for i, (start, stop) in enumerate(bounds)
        if stop - start != shape[i] and i not in strided
    }
    return [_middle_part(trace, x, cuts)]


def _every_few(
    trace: Trace, x: Value, steps: Mapping[int, tuple[int, int]], eqn: JaxprEqn
) -> Value:
    """Returns an array of which some axes are read in steps.

    The axis is pinned if the entries between those that are read are not as many each
    time.

    Args:
        trace: The pass.
        x: The array.
        steps: First entry and step per axis.
        eqn: The slice.
    """
    if not steps:
        return x
    trace.forbid_phase(x)
    before, after = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    axes, irregular = list(x.axes), []
    for i, (start, step) in steps.items():
        read = None
        if before[i] == after[i] * step and start < step:
            read = trace.indices.every_few(axes[i], start, step, trace.why)
        if read is None:
            irregular.append(i)
        else:
            axes[i] = read
    x = _part(trace, x, axes)
    axes = trace.replaced_axes(x, irregular, after)
    return replace(x, axes=axes, shift={})


def _all_parts(trace: Trace, x: Value, axis: int, sizes: Sequence[int]) -> list[Value]:
    """Returns all parts of an array that is cut along one axis."""
    # A part of a bias can be used as the whole is not.
    trace.forbid_phase(x)
    parts = _cut_axis(trace, x.axes[axis], sizes)
    if parts is None:
        # Cut across its factors: the axis is pinned, the others are as before.
        pinned = trace.pinned_axis(x.axes[axis], trace.why)
        x = x.with_axes(_with_axis(x.axes, axis, pinned))
        parts = [trace.fresh(size, trace.why) for size in sizes]
        for part in parts:
            trace.record([*_with_axis(x.axes, axis, part), pinned])
    return [_part(trace, x, _with_axis(x.axes, axis, part)) for part in parts]


def _middle_part(
    trace: Trace, x: Value, cuts: Mapping[int, tuple[int, int, int]]
) -> Value:
    """Returns the middle one of three parts along each axis that is cut."""
    trace.forbid_phase(x)
    axes = list(x.axes)
    for i, sizes in cuts.items():
        parts = _cut_axis(trace, x.axes[i], sizes)
        if parts is not None:
            axes[i] = parts[1]
            continue
        pinned = trace.pinned_axis(x.axes[i], trace.why)
        x = x.with_axes(_with_axis(x.axes, i, pinned))
        axes[i] = trace.fresh(sizes[1], trace.why)
        trace.record([*axes, pinned])
    return _part(trace, x, axes)


def _cut_axis(trace: Trace, axis: Axis, sizes: Sequence[int]) -> list[Axis] | None:
    """Returns consecutive parts of an axis, [] for those of size 0; None if impossible."""
    parts = trace.indices.split_axis(axis, [n for n in sizes if n], trace.why)
    if parts is None:
        return None
    rest = iter(parts)
    return [next(rest) if n else [] for n in sizes]


def _with_axis(axes: Sequence[Axis], position: int, axis: Axis) -> list[Axis]:
    return [*axes[:position], axis, *axes[position + 1 :]]


def _part(trace: Trace, x: Value, axes: list[Axis]) -> Value:
    activations = trace.dataflow.remaining(x, axes)
    return replace(x, axes=axes, activations=activations, shift={})


@register_rule("dynamic_slice")
def _dynamic_slice(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Pins the axes that are cut at an index that the program computes."""
    x, *starts = inputs
    trace.forbid_phase(x)
    trace.forbid_exponents(*starts)
    before, after = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    touched = [i for i, n in enumerate(before) if n != after[i]]
    return [_part(trace, x, trace.replaced_axes(x, touched, after))]


@register_rule("dynamic_update_slice")
def _dynamic_update(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Pins the axes that are written in part, at an index that the program computes."""
    x, update, *starts = inputs
    trace.forbid_phase(x, update)
    trace.forbid_exponents(*starts)
    x, update = _with_tokens(trace, [x, update])
    before, part = shape_of(eqn.invars[0]), shape_of(eqn.invars[1])
    touched = [i for i, n in enumerate(before) if n != part[i]]
    axes = trace.replaced_axes(x, touched, before)
    ended = [trace.pinned_axis(update.axes[i], trace.why) for i in touched]
    for i in range(len(before)):
        if i in touched:
            continue
        aligned = trace.indices.align(axes[i], update.axes[i], trace.why)
        if aligned is None:
            ended += [axes[i], update.axes[i]]
            axes[i] = trace.fresh(before[i], trace.why)
            continue
        axes[i] = trace.joined_axis(aligned, not x.zero, not update.zero)
    trace.record([*axes, *ended])
    return [
        Value(
            axes,
            {**x.activations, **update.activations},
            x.leaves | update.leaves,
            constant=all(v.constant for v in inputs),
            zero=x.zero and update.zero,
        )
    ]


# Joins.


def _with_tokens(trace: Trace, inputs: Sequence[Value]) -> list[Value]:
    """Makes parameters that are joined to activations (a class token) activations."""
    if not any(x.activations for x in inputs):
        return list(inputs)
    return [
        trace.dataflow.connect(trace, "token", x, [], x.leaves)
        if x.leaves and not x.activations
        else x
        for x in inputs
    ]


@register_rule("concatenate")
def _concatenate(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    return join_along(trace, eqn, inputs, eqn.params["dimension"])


@register_rule("stack")
def _stack(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    at = eqn.params["axis"]
    rows = [x.with_axes([*x.axes[:at], trace.fresh(1), *x.axes[at:]]) for x in inputs]
    return join_along(trace, eqn, rows, at)


@register_rule("tile")
def _tile(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Multiplies axes by an index along which the result is constant."""
    (x,) = inputs
    trace.forbid_phase(x)
    axes = [
        trace.indices.product([trace.fresh(count, uniform=True), axis])
        for axis, count in zip(x.axes, eqn.params["reps"], strict=True)
    ]
    return [replace(x, axes=axes, shift={}, index_of=None)]


def join_along(
    trace: Trace, eqn: JaxprEqn, inputs: list[Value], at: int
) -> list[Value]:
    """Returns the concatenation of values along an axis.

    Args:
        trace: The pass.
        eqn: The equation.
        inputs: The values.
        at: The axis.
    """
    trace.forbid_phase(*inputs)
    inputs = _with_tokens(trace, inputs)
    shape = shape_of(eqn.outvars[0])
    sizes = [trace.indices.axis_size(x.axes[at]) for x in inputs]
    starts = tuple(itertools.accumulate(sizes, initial=0))
    intervals = read_intervals(trace.readers, eqn.outvars[0], at, merged=True)
    if eqn.primitive.name != "reshape" and partition(intervals, starts[-1]) == starts:
        return [trace.split_value(shape, at, starts, inputs)]
    return [concatenated(trace, inputs, at, shape)]


# Padding and reversal.


def _entrywise_in_padding(
    trace: Trace, eqn: JaxprEqn, operands: Sequence[Value]
) -> Iterable[Axis]:
    """Returns no axis for padding by zeros, which is linear, else all."""
    if operands[1].zero:
        return ()
    return [axis for x in operands for axis in x.axes]


@register_rule("pad", entrywise=_entrywise_in_padding)
def _pad(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Concatenates zeros to units; other axes are pinned."""
    x, filler = inputs
    config, shape = eqn.params["padding_config"], shape_of(eqn.outvars[0])
    trace.forbid_phase(x)
    if not filler.zero:
        x = trace.map_indices(x, trace.without_exponents)
    touched: list[int] = []
    concatenated: dict[int, tuple[int, int]] = {}
    for i, (low, high, interior) in enumerate(config):
        if low == high == interior == 0:
            continue
        surrounds = filler.zero and interior == 0 and min(low, high) >= 0
        if surrounds and _has_free_index(trace, x.axes[i]):
            concatenated[i] = (low, high)
        else:
            touched.append(i)
    axes = trace.replaced_axes(x, touched, shape)
    for i, (low, high) in concatenated.items():
        before = trace.fresh(low, uniform=True) if low else []
        after = trace.fresh(high, uniform=True) if high else []
        axes[i] = [*before, *trace.indices.normal(axes[i]), *after]
    value = replace(x, axes=axes, shift={}, scalar=None, index_of=None)
    # Zeros around an image are no nonlinearity: a convolution may add them itself.
    return [trace.chain(value, "pad") if touched and not filler.zero else value]


def _has_free_index(trace: Trace, axis: Axis) -> bool:
    """Returns True if some index of an axis is not pinned (yet)."""
    indices = trace.indices
    return any(
        o.axis_index not in indices.pins and not indices.is_uniform(o.axis_index)
        for segment in indices.normal(axis)
        for o in segment
    )


@register_rule("rev")
def _reverse(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Reverses the places of units; other axes, whose order matters, are pinned."""
    (x,) = inputs
    trace.forbid_phase(x)
    axes, shape, touched = list(x.axes), shape_of(eqn.outvars[0]), set()
    for i in eqn.params["dimensions"]:
        moved = rearranged_axis(trace, axes[i], range(shape[i])[::-1])
        if moved is None:
            touched.add(i)
        else:
            axes[i] = moved
    axes = trace.replaced_axes(x.with_axes(axes), touched, shape)
    value = replace(x, axes=axes, shift={}, scalar=None, index_of=None)
    return [trace.chain(value, "rev")]


def rearranged_axis(trace: Trace, axis: Axis, entries: Sequence[int]) -> Axis | None:
    """Returns some entries of an axis of units, in another order.

    Args:
        trace: The pass.
        axis: The axis.
        entries: Its entry at each place of the result.

    Returns:
        The axis; None if an entry is read twice, or if no index of the axis is free.
    """
    size = trace.indices.axis_size(axis)
    rest = set(range(size)).difference(entries)
    if len(rest) + len(entries) != size or not _has_free_index(trace, axis):
        return None
    moved = trace.indices.rearrange(axis, [*entries, *sorted(rest)])
    if moved is None or not rest:
        return moved
    parts = trace.indices.split_axis(moved, [len(entries), len(rest)], trace.why)
    return None if parts is None else parts[0]
