"""Rules of random numbers.

Keys are arrays like any other: bits vary along the axes of their keys, and along the axes
that are drawn, which are pinned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jax.extend.core import JaxprEqn

from metanet.programs import shape_of
from metanet.symmetry.indices import Axis
from metanet.symmetry.recorder import Trace, register_rule
from metanet.symmetry.values import Value


@register_rule("random_bits", "random_split", "random_unwrap")
def _drawn(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Adds the axes that are drawn after those of the keys."""
    (keys,) = inputs
    axes = trace.common_axes([keys.axes])
    drawn = shape_of(eqn.outvars[0])[len(axes) :]
    axes += [trace.fresh(n, trace.why) for n in drawn]
    return [_made_of(trace, eqn, inputs, axes)]


@register_rule("random_wrap")
def _wrap(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Removes the axes of the numbers that make one key."""
    (numbers,) = inputs
    count = len(shape_of(eqn.outvars[0]))
    axes = trace.common_axes([numbers.axes[:count]])
    ended = [trace.pinned_axis(a, trace.why) for a in numbers.axes[count:]]
    trace.record([*axes, *ended])
    return [_made_of(trace, eqn, inputs, axes)]


@register_rule("random_seed", "random_clone", "random_fold_in")
@register_rule("threefry2x32", "threefry4x32", "philox2x32", "philox4x32")
def _per_entry(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Aligns the last axes of all operands, as NumPy broadcasts them."""
    shape = shape_of(eqn.outvars[0])
    operands = []
    for x, variable in zip(inputs, eqn.invars, strict=True):
        missing = len(shape) - len(x.axes)
        sizes = (*shape[:missing], *shape_of(variable))
        operands.append(
            [
                x.axes[i - missing]
                if i >= missing and sizes[i] == n
                else trace.fresh(n, uniform=True)
                for i, n in enumerate(shape)
            ]
        )
    trace.forbid_phase(*inputs)
    axes = trace.common_axes(operands)
    return [_made_of(trace, eqn, inputs, axes) for _ in eqn.outvars]


@register_rule("random_gamma")
def _gamma(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Draws a number per shape parameter: keys have the first axes of the parameters."""
    keys, alphas = inputs
    trace.forbid_phase(alphas)
    count = len(keys.axes)
    axes = trace.common_axes([keys.axes, alphas.axes[:count]])
    axes += [trace.pinned_axis(a, trace.why) for a in alphas.axes[count:]]
    drawn = shape_of(eqn.outvars[0])[count:]
    ended, axes[count:] = axes[count:], [trace.fresh(n, trace.why) for n in drawn]
    trace.record([*axes, *ended])
    return [_made_of(trace, eqn, inputs, axes)]


@register_rule("rng_bit_generator", "rng_uniform", "iota_2x32_shape")
def _generator(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Pins all axes of what is drawn, and of the generator's state."""
    return trace.pin_all(eqn, inputs)


@register_rule("bitcast_convert_type")
def _bitcast(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Reads numbers as others; the last axis may be the parts of one number."""
    x = trace.nonlinear(inputs[0], eqn.primitive.name)
    before, after = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    count = min(len(before), len(after))
    ended = [trace.pinned_axis(a, trace.why) for a in x.axes[count:]]
    made = [trace.fresh(n, trace.why) for n in after[count:]]
    trace.record([*x.axes[:count], *made, *ended])
    return [replace(x, axes=[*x.axes[:count], *made])]


def _made_of(
    trace: Trace, eqn: JaxprEqn, inputs: Sequence[Value], axes: list[Axis]
) -> Value:
    return trace.chain(trace.function_of(inputs, axes), eqn.primitive.name)
