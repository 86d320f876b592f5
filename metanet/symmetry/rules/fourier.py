"""Rules of the parts of complex numbers and of Fourier transforms.

Factors of a symmetry are real, so that both parts of a number scale alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from jax.extend.core import JaxprEqn

from metanet.programs import shape_of
from metanet.symmetry.indices import Axis
from metanet.symmetry.recorder import Trace, register_rule
from metanet.symmetry.values import Value


@register_rule("real", "imag", "conj")
def _part(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    (x,) = inputs
    trace.forbid_phase(x)
    # The imaginary part of a real array is constant, so that entries may be equal.
    value = replace(x, shift={}, scalar=None, index_of=None)
    return [trace.chain(value, eqn.primitive.name)]


def _transformed_axes(
    trace: Trace, eqn: JaxprEqn, operands: Sequence[Value]
) -> Iterable[Axis]:
    """Returns the axes that are transformed; along the others a transform is linear."""
    return operands[0].axes[-len(eqn.params["fft_lengths"]) :]


@register_rule("fft", entrywise=_transformed_axes)
def _fft(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Pins positions and frequencies."""
    (x,) = inputs
    trace.forbid_phase(x)
    shape = shape_of(eqn.outvars[0])
    touched = range(len(shape) - len(eqn.params["fft_lengths"]), len(shape))
    axes = trace.replaced_axes(x, touched, shape)
    value = replace(x, axes=axes, shift={}, scalar=None, index_of=None)
    return [trace.chain(value, eqn.primitive.name)]
