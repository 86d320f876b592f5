"""Rules of products that contract an index: dot_general and convolution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from metanet.symmetry.indices import Axis, Occurrence, add_forms
from metanet.symmetry.interpreter import Interpreter, register_rule
from metanet.symmetry.values import Value

Attributes = tuple[tuple[str, tuple[int, ...]], ...]


@register_rule("dot_general")
def _dot(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    x, y = inputs
    (xc, yc), (xb, yb) = eqn.params["dimension_numbers"]
    left = [a for i, a in enumerate(x.axes) if i not in (*xc, *xb)]
    right = [a for i, a in enumerate(y.axes) if i not in (*yc, *yb)]
    return [
        _bilinear(
            run,
            "weight" if x.leaves or y.leaves else "pairing",
            (x, y),
            [(x.axes[i], y.axes[j]) for i, j in zip(xc, yc, strict=True)],
            [(x.axes[i], y.axes[j]) for i, j in zip(xb, yb, strict=True)],
            lambda shared: [*shared, *left, *right],
        )
    ]


@register_rule("conv_general_dilated")
def _convolution(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    params, (x, kernel) = eqn.params, inputs
    if params["batch_group_count"] != 1:
        return run.opaque(eqn, inputs)
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    lhs, rhs, out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    for i in rhs[2:]:
        run.pinned_axis(kernel.axes[i], f"kernel position: {run.why}")
    spatial = [
        run.pinned_axis(x.axes[i], f"spatial position: {run.why}") for i in lhs[2:]
    ]
    channels_in, channels_out = x.axes[lhs[1]], kernel.axes[rhs[0]]
    shared: list[tuple[Axis, Axis]] = []
    if groups > 1:
        in_size = eqn.invars[0].aval.shape[lhs[1]]
        out_size = eqn.invars[1].aval.shape[rhs[0]]
        first = _group_axis(run, channels_in, groups, in_size // groups)
        second = _group_axis(run, channels_out, groups, out_size // groups)
        if first is None or second is None:
            return run.opaque(eqn, inputs)
        shared = [(first[0], second[0])]
        channels_in, channels_out = first[1], second[1]
    shape = eqn.outvars[0].aval.shape

    def arrange(joined: list[Axis]) -> list[Axis]:
        axes: list[Axis] = [[] for _ in shape]
        axes[out[0]] = x.axes[lhs[0]]
        for i in out[2:]:
            axes[i] = run.fresh(shape[i], f"spatial position: {run.why}")
        axes[out[1]] = channels_out
        if joined:
            inner = run.indices.normal(channels_out)
            axes[out[1]] = [run.indices.normal(joined[0])[0] + inner[0]]
        run.record([*axes, *spatial])
        return axes

    attributes = (
        ("dilation", tuple(params["rhs_dilation"])),
        ("stride", tuple(params["window_strides"])),
        ("upsample", tuple(params["lhs_dilation"])),
    )
    contracted = [(channels_in, kernel.axes[rhs[1]])]
    kind = "conv" if x.leaves or kernel.leaves else "pairing"
    return [_bilinear(run, kind, (x, kernel), contracted, shared, arrange, attributes)]


def _group_axis(
    run: Interpreter, axis: Axis, groups: int, width: int
) -> tuple[Axis, Axis] | None:
    """A channel axis as (groups, channels within a group)."""
    segments = run.indices.normal(axis)
    if len(segments) != 1:
        return None
    sizes = [n for n in (groups, width) if n != 1]
    factors = run.indices.factor_segment(segments[0], sizes, run.why)
    if factors is None:
        return None
    return [factors[0]], ([factors[1]] if width != 1 else [[]])


def _grid(run: Interpreter, x: Value, other: Value) -> Value:
    """A constant that meets a parameter, as an input."""
    assert run.activations is not None
    plain = x.constant and x.scalar is None and other.leaves and not other.activations
    return run.activations.add_constant(run, x) if plain else x


def _bilinear(
    run: Interpreter,
    kind: str,
    operands: tuple[Value, Value],
    contracted: list[tuple[Axis, Axis]],
    shared: list[tuple[Axis, Axis]],
    arrange: Callable[[list[Axis]], list[Axis]],
    attributes: Attributes = (),
) -> Value:
    """A product summed over contracted axes, elementwise over shared ones."""
    x, y = operands
    run.end_shift(x, y)
    if run.activations is not None and run.closed_over:
        # A network without inputs: what it reads is a constant.
        x, y = operands = (_grid(run, x, y), _grid(run, y, x))

    def pair(a: Occurrence, b: Occurrence, contract: bool) -> Occurrence:
        kept = b if run.indices.is_uniform(a.axis_index) else a
        real, sign = add_forms(a.real, b.real), add_forms(a.sign, b.sign)
        if contract:
            run.require("real", real)
            run.require("sign", sign)
        return kept._replace(tags=a.tags | b.tags, real=real, sign=sign)

    def join(a: Axis, b: Axis, contract: bool) -> Axis:
        aligned = run.indices.align(a, b, run.why)
        if aligned is None:
            return run.indices.normal(a)
        return [
            [pair(o, p, contract) for o, p in zip(s, t, strict=True)]
            for s, t in zip(*aligned, strict=True)
        ]

    inner = [join(a, b, True) for a, b in contracted]
    axes = arrange([join(a, b, False) for a, b in shared])
    run.record([*axes, *inner])
    activations = dict(x.activations)
    for activation, chain in y.activations.items():
        activations[activation] = activations.get(activation, ()) + chain
    leaves = x.leaves | y.leaves
    value = Value(
        axes, activations, leaves, x.constant and y.constant, x.zero or y.zero,
        distinct=x.distinct and y.distinct,
    )  # fmt: skip
    if (
        run.activations is None
        or not activations
        or not (leaves or (x.activations and y.activations))
    ):
        return value
    run.activations.note_reads(run, operands)
    made = run.activations.connect(run, kind, value, inner, leaves, attributes)
    return replace(made, distinct=value.distinct)
