"""Rules of reductions: sums and extrema over axes, windows and prefixes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from jax.extend.core import JaxprEqn

from metanet.programs import shape_of
from metanet.symmetry.distinctness import is_distinct
from metanet.symmetry.indices import Axis, Occurrence
from metanet.symmetry.recorder import Trace, register_rule, zip_occurrences
from metanet.symmetry.values import Value, map_occurrences


def _summed_axes(
    trace: Trace, eqn: JaxprEqn, operands: Sequence[Value]
) -> Iterable[Axis]:
    """Returns the axes that are summed over; along the others a sum is linear."""
    axes = eqn.params.get("axes", (eqn.params.get("axis"),))
    return [operands[0].axes[i] for i in axes]


@register_rule("reduce_sum", entrywise=_summed_axes)
def _sum(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    (x,) = inputs
    trace.forbid_phase(x)
    return [_without_axes(trace, eqn, x, "sum")]


@register_rule("reduce_max", "reduce_min")
def _extremum(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    x = trace.map_indices(inputs[0], trace.without_sign)
    return [_without_axes(trace, eqn, x, eqn.primitive.name.removeprefix("reduce_"))]


@register_rule("reduce_prod", "reduce_and", "reduce_or", "reduce_xor")
def _reduce(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    x = trace.map_indices(inputs[0], trace.without_exponents)
    return [_without_axes(trace, eqn, x, eqn.primitive.name.removeprefix("reduce_"))]


@register_rule("argmax", "argmin")
def _arg_extremum(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Returns indices into the axis; it is pinned if entries may be equal."""
    x = trace.map_indices(inputs[0], trace.without_exponents)
    (reduced,) = eqn.params["axes"]
    axis, is_distinct_axis = x.axes[reduced], is_distinct(trace.indices, x, reduced)
    if not is_distinct_axis:
        trace.indices.pin(axis, f"entries that may be equal: {trace.why}")
    value = _without_axes(trace, eqn, x, eqn.primitive.name)
    return [replace(value, index_of=axis if is_distinct_axis else None)]


def _without_axes(trace: Trace, eqn: JaxprEqn, x: Value, name: str) -> Value:
    """Returns the value without the reduced axes, along which nothing may scale."""
    reduced = eqn.params["axes"]
    tagged = False
    for i in reduced:
        (axis,) = map_occurrences(trace.indices, [x.axes[i]], trace.without_exponents)
        tagged = tagged or any(o.tags for segment in axis for o in segment)
    axes = [a for i, a in enumerate(x.axes) if i not in reduced]
    value = replace(x, axes=axes, shift={}, scalar=None, index_of=None)
    return trace.chain(value, name) if tagged else value


@register_rule("cumsum", entrywise=_summed_axes)
def _cumulative_sum(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    (x,) = inputs
    trace.forbid_phase(x)
    return [_cumulative(trace, eqn, x)]


@register_rule("cumprod", "cummax", "cummin", "cumlogsumexp")
def _general_cumulative(
    trace: Trace, eqn: JaxprEqn, inputs: list[Value]
) -> list[Value]:
    x = trace.map_indices(inputs[0], trace.without_exponents)
    return [_cumulative(trace, eqn, x)]


def _cumulative(trace: Trace, eqn: JaxprEqn, x: Value) -> Value:
    """Returns the value after a cumulation, which pins the axis whose order matters."""
    axes = trace.replaced_axes(x, {eqn.params["axis"]}, shape_of(eqn.outvars[0]))
    value = replace(x, axes=axes, shift={}, scalar=None, index_of=None)
    return trace.chain(value, eqn.primitive.name)


@register_rule("reduce_window_max", "reduce_window_sum", "reduce_window_min")
def _pool(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    (x,) = inputs
    name = eqn.primitive.name.removeprefix("reduce_window_")
    trace.forbid_phase(x)
    value = _over_windows(trace, eqn, x)
    if name != "sum":
        value = trace.map_indices(value, trace.without_sign)
    return [trace.chain(value, f"{name}_pool")]


@register_rule("reduce_window")
def _general_pool(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Preserves the axes that no window covers."""
    pooled = _over_windows(trace, eqn, _joint_operand(trace, inputs))
    return [trace.chain(pooled, eqn.primitive.name) for _ in eqn.outvars]


@register_rule("select_and_scatter_add", "select_and_gather_add")
def _unpool(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Moves entries to or from the greatest of each window: pins the windows' axes.

    Linear in the first operand; the second decides, whatever its positive scale.
    """
    moved, decides = inputs

    def exponents_of_moved(a: Occurrence, b: Occurrence) -> Occurrence:
        source = b if trace.indices.is_uniform(a.axis_index) else a
        return source._replace(tags=a.tags | b.tags, real=a.real, sign=a.sign)

    trace.forbid_phase(moved, decides)
    decides = trace.map_indices(decides, trace.without_sign)
    touched = _windowed_axes(eqn)
    shape = shape_of(eqn.outvars[0])
    axes = trace.replaced_axes(moved, touched, shape)
    ended = [trace.pinned_axis(decides.axes[i], trace.why) for i in touched]
    for i in set(range(len(shape))) - set(touched):
        aligned = trace.indices.align(axes[i], decides.axes[i], trace.why)
        if aligned is not None:
            axes[i] = zip_occurrences(aligned, exponents_of_moved)
    trace.record([*axes, *ended])
    value = trace.function_of(inputs, axes)
    return [trace.chain(value, eqn.primitive.name)]


@register_rule("reduce")
def _general_reduce(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Pins the axes that a function of the program reduces."""
    x, reduced = _joint_operand(trace, inputs), eqn.params["dimensions"]
    for i in reduced:
        trace.indices.pin(x.axes[i], trace.why)
    x = x.with_axes([a for i, a in enumerate(x.axes) if i not in reduced])
    return [trace.chain(x, eqn.primitive.name) for _ in eqn.outvars]


def _joint_operand(trace: Trace, inputs: Sequence[Value]) -> Value:
    """Returns one value for several arrays over common axes, with their first values."""
    arrays = inputs[: len(inputs) // 2]
    trace.forbid_exponents(*inputs)
    axes = trace.common_axes([x.axes for x in arrays])
    return trace.function_of(inputs, axes)


def _over_windows(trace: Trace, eqn: JaxprEqn, x: Value) -> Value:
    """Returns a value whose axes under windows are pinned and replaced."""
    touched = _windowed_axes(eqn)
    axes = trace.replaced_axes(x, touched, shape_of(eqn.outvars[0]))
    return replace(x, axes=axes, shift={}, scalar=None, index_of=None)


def _windowed_axes(eqn: JaxprEqn) -> list[int]:
    """Returns the axes along which windows slide."""
    params = eqn.params
    dimensions = params["window_dimensions"]
    per_axis = zip(
        dimensions,
        params["window_strides"],
        params.get("base_dilation", (1,) * len(dimensions)),
        (2 if any(p) else 1 for p in params["padding"]),
        strict=True,
    )
    return [i for i, sizes in enumerate(per_axis) if set(sizes) != {1}]
