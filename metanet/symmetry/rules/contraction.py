"""Rules of products that contract an index: dot_general and convolution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from jax.extend.core import JaxprEqn

from metanet.programs import shape_of
from metanet.symmetry.indices import Axis, Occurrence, add_forms
from metanet.symmetry.recorder import (
    Attributes,
    Trace,
    register_rule,
    zip_occurrences,
)
from metanet.symmetry.values import Value


def _batch_axes(
    trace: Trace, eqn: JaxprEqn, operands: Sequence[Value]
) -> Iterable[Axis]:
    """Returns the axes along which a dot_general multiplies entry by entry."""
    _, batch = eqn.params["dimension_numbers"]
    for x, axes in zip(operands, batch, strict=True):
        yield from (x.axes[i] for i in axes)


@register_rule("dot_general", entrywise=_batch_axes)
def _dot(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    x, y = inputs
    (xc, yc), (xb, yb) = eqn.params["dimension_numbers"]
    left = [a for i, a in enumerate(x.axes) if i not in (*xc, *xb)]
    right = [a for i, a in enumerate(y.axes) if i not in (*yc, *yb)]

    def arrange(shared: list[Axis]) -> list[Axis]:
        return [*shared, *left, *right]

    kind = "weight" if x.leaves or y.leaves else "pairing"
    contracted = [(x.axes[i], y.axes[j]) for i, j in zip(xc, yc, strict=True)]
    shared = [(x.axes[i], y.axes[j]) for i, j in zip(xb, yb, strict=True)]
    return [_bilinear(trace, kind, (x, y), contracted, shared, arrange)]


def _grouped_channels(
    trace: Trace, eqn: JaxprEqn, operands: Sequence[Value]
) -> Iterable[Axis]:
    """Returns all axes for a grouped convolution; a plain one is linear."""
    if eqn.params["feature_group_count"] == eqn.params["batch_group_count"] == 1:
        return ()
    return [axis for x in operands for axis in x.axes]


@register_rule("conv_general_dilated", entrywise=_grouped_channels)
def _convolution(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    params, (x, kernel) = eqn.params, inputs
    numbers = params["dimension_numbers"]
    lhs, rhs, out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    # Either the channels read or the batch (in the gradient of a grouped convolution)
    # are in as many groups as the channels made.
    by_batch = params["batch_group_count"] > 1
    groups = max(params["batch_group_count"], params["feature_group_count"])
    grouped_axis = lhs[0] if by_batch else lhs[1]
    spatial_why = f"spatial position: {trace.why}"
    for i in rhs[2:]:
        trace.pinned_axis(kernel.axes[i], f"kernel position: {trace.why}")
    spatial = [trace.pinned_axis(x.axes[i], spatial_why) for i in lhs[2:]]
    batch, channels_in, channels_out = (
        x.axes[lhs[0]],
        x.axes[lhs[1]],
        kernel.axes[rhs[0]],
    )
    shared: list[tuple[Axis, Axis]] = []
    if groups > 1:
        in_width = shape_of(eqn.invars[0])[grouped_axis] // groups
        out_width = shape_of(eqn.invars[1])[rhs[0]] // groups
        grouped_in = trace.factored_axis(x.axes[grouped_axis], (groups, in_width))
        grouped_out = trace.factored_axis(channels_out, (groups, out_width))
        if grouped_in is None or grouped_out is None:
            return trace.pin_all(eqn, inputs)
        shared = [(grouped_in[0], grouped_out[0])]
        channels_out = grouped_out[1]
        if by_batch:
            batch = grouped_in[1]
        else:
            channels_in = grouped_in[1]
    shape = shape_of(eqn.outvars[0])

    def arrange(joined: list[Axis]) -> list[Axis]:
        axes: list[Axis] = [[] for _ in shape]
        axes[out[0]] = batch
        for i in out[2:]:
            axes[i] = trace.fresh(shape[i], spatial_why)
        axes[out[1]] = channels_out
        if joined:
            axes[out[1]] = trace.indices.product([joined[0], channels_out])
        trace.record([*axes, *spatial])
        return axes

    attributes = (
        ("dilation", tuple(params["rhs_dilation"])),
        ("stride", tuple(params["window_strides"])),
        ("upsample", tuple(params["lhs_dilation"])),
    )
    contracted = [(channels_in, kernel.axes[rhs[1]])]
    kind = "conv" if x.leaves or kernel.leaves else "pairing"
    operands = (x, kernel)
    return [_bilinear(trace, kind, operands, contracted, shared, arrange, attributes)]


@register_rule("ragged_dot_general")
def _ragged_dot(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Multiplies rows, in groups of given sizes, by the matrix of their group.

    Rows and groups are pinned: both are in an order that the sizes refer to.
    """
    x, y, *rest = inputs
    if any(len(v.axes) > 1 for v in rest):
        return trace.pin_all(eqn, inputs)  # other rows of a batch have other groups
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    (xc, yc), (xb, yb) = numbers.dot_dimension_numbers
    (ragged,) = numbers.lhs_ragged_dimensions
    groups = [y.axes[i] for i in numbers.rhs_group_dimensions]
    for axis in (x.axes[ragged], *groups, *(a for v in rest for a in v.axes)):
        trace.pinned_axis(axis, trace.why)
    removed = (*yc, *yb, *numbers.rhs_group_dimensions)
    left = [a for i, a in enumerate(x.axes) if i not in (*xc, *xb)]
    right = [a for i, a in enumerate(y.axes) if i not in removed]
    # Rows that are summed over leave an axis of groups in the result.
    sizes = shape_of(eqn.outvars[0])[:1] if ragged in xc else ()
    made = [trace.fresh(n, trace.why) for n in sizes]

    def arrange(shared: list[Axis]) -> list[Axis]:
        trace.record([*made, *shared, *left, *right, *groups])
        return [*made, *shared, *left, *right]

    kind = "weight" if x.leaves or y.leaves else "pairing"
    contracted = [(x.axes[i], y.axes[j]) for i, j in zip(xc, yc, strict=True)]
    shared = [(x.axes[i], y.axes[j]) for i, j in zip(xb, yb, strict=True)]
    return [_bilinear(trace, kind, (x, y), contracted, shared, arrange)]


def _constant_as_input(trace: Trace, x: Value, other: Value) -> Value:
    """Makes a constant that meets a parameter an input."""
    is_input = x.constant and x.scalar is None
    if is_input and other.leaves and not other.activations:
        return trace.dataflow.add_constant(trace, x)
    return x


def _bilinear(
    trace: Trace,
    kind: str,
    operands: tuple[Value, Value],
    contracted: Sequence[tuple[Axis, Axis]],
    shared: Sequence[tuple[Axis, Axis]],
    arrange: Callable[[list[Axis]], list[Axis]],
    attributes: Attributes = (),
) -> Value:
    """Returns a product that is summed over some axes and elementwise over others.

    Args:
        trace: The pass.
        kind: Kind of the edges.
        operands: The factors.
        contracted: Pairs of axes summed over.
        shared: Pairs of axes that the result retains once.
        arrange: Returns the axes of the result from the shared ones.
        attributes: Static facts of the edges.
    """
    x, y = operands
    trace.forbid_phase(x, y)
    if trace.closed_over:
        # A network without inputs reads constants instead.
        x, y = _constant_as_input(trace, x, y), _constant_as_input(trace, y, x)

    def multiply(a: Occurrence, b: Occurrence) -> Occurrence:
        source = b if trace.indices.is_uniform(a.axis_index) else a
        real, sign = add_forms(a.real, b.real), add_forms(a.sign, b.sign)
        return source._replace(tags=a.tags | b.tags, real=real, sign=sign)

    def contract(a: Occurrence, b: Occurrence) -> Occurrence:
        product = multiply(a, b)
        trace.require("real", product.real)
        trace.require("sign", product.sign)
        return product

    def join(
        axes: tuple[Axis, Axis], pair: Callable[[Occurrence, Occurrence], Occurrence]
    ) -> Axis:
        aligned = trace.indices.align(*axes, trace.why)
        if aligned is None:
            return trace.indices.normal(axes[0])
        return zip_occurrences(aligned, pair)

    inner = [join(pair, contract) for pair in contracted]
    axes = arrange([join(pair, multiply) for pair in shared])
    trace.record([*axes, *inner])
    activations = dict(x.activations)
    for activation, chain in y.activations.items():
        activations[activation] = activations.get(activation, ()) + chain
    leaves = x.leaves | y.leaves
    value = Value(
        axes,
        activations,
        leaves,
        constant=x.constant and y.constant,
        zero=x.zero or y.zero,
    )
    if not activations or not (leaves or (x.activations and y.activations)):
        return value
    trace.dataflow.note_reads(trace, (x, y))
    return trace.dataflow.connect(trace, kind, value, inner, leaves, attributes)
