"""Rules of reductions: sums and extrema over axes, windows and prefixes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from jax.extend.core import JaxprEqn

from metanet.programs import shape_of
from metanet.symmetry.distinctness import is_distinct
from metanet.symmetry.indices import Axis
from metanet.symmetry.recorder import Trace, register_rule
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


@register_rule("reduce_prod", "reduce_and", "reduce_or")
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
    params = eqn.params
    per_axis = zip(
        params["window_dimensions"],
        params["window_strides"],
        params["base_dilation"],
        (sum(p) + 1 for p in params["padding"]),
        strict=True,
    )
    touched = [i for i, sizes in enumerate(per_axis) if set(sizes) != {1}]
    axes = trace.replaced_axes(x, touched, shape_of(eqn.outvars[0]))
    value = replace(x, axes=axes, shift={}, scalar=None, index_of=None)
    if name != "sum":
        value = trace.map_indices(value, trace.without_sign)
    return [trace.chain(value, f"{name}_pool")]
