"""Traits of JAX primitives: the one table that every analysis of a program reads.

A primitive that is missing here has no trait, which is always safe: less is derived from
the programs that use it, nothing false. `declare_traits` adds primitives; a rule of
`metanet.symmetry` declares those of its primitives with `register_rule`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple


class Pooling(NamedTuple):
    """Reduction over sliding windows.

    Attributes:
        operation: Name in words ("a maximum").
        neutral: Value that padding has so that it does not count.
    """

    operation: str
    neutral: float


@dataclass(frozen=True)
class Traits:
    """Static facts about a primitive.

    Attributes:
        calls: Only evaluates a jaxpr of its parameters, once (``jit``, ``remat``).
        elementwise: An entry of the result depends on the entries of the operands at the
            same position alone.
        returns_operands: Each result is the operand at the same place.
        copies: The result has the entries of the operand in the same order, up to
            rounding.
        rearranges: The result has the entries of the operand, repeated or in another
            shape.
        linear: Acts on whole axes, never on single entries along one: it commutes with
            every matrix that multiplies its operand along an axis. Loops and branches
            have the trait because the equations of their bodies are looked at on their
            own; cuts have it because an axis is only ever cut between independent parts.
        injective: Maps different entries to different ones, each on its own; also moves
            and copies of entries, selected by further operands if there are any.
        analytic: A function of each entry that takes every value at single points alone, so that
            continuously distributed entries remain so.
        never_zero: No entry of the result is 0.
        pooling: The reduction, for primitives that pool over sliding windows.
    """

    calls: bool = False
    elementwise: bool = False
    returns_operands: bool = False
    copies: bool = False
    rearranges: bool = False
    linear: bool = False
    injective: bool = False
    analytic: bool = False
    never_zero: bool = False
    pooling: Pooling | None = None


PRIMITIVES: dict[str, Traits] = {}


def declare_traits(
    *primitives: str,
    calls: bool = False,
    elementwise: bool = False,
    returns_operands: bool = False,
    copies: bool = False,
    rearranges: bool = False,
    linear: bool = False,
    injective: bool = False,
    analytic: bool = False,
    never_zero: bool = False,
    pooling: Pooling | None = None,
) -> None:
    """Adds traits to primitives; those declared before stay.

    Args:
        *primitives: Names of primitives, as `jax.make_jaxpr` prints them.
        calls, elementwise, returns_operands, copies, rearranges: See `Traits`.
        linear, injective, analytic, never_zero, pooling: See `Traits`.
    """
    for name in primitives:
        known = traits_of(name)
        PRIMITIVES[name] = replace(
            known,
            calls=calls or known.calls,
            elementwise=elementwise or known.elementwise,
            returns_operands=returns_operands or known.returns_operands,
            copies=copies or known.copies,
            rearranges=rearranges or known.rearranges,
            linear=linear or known.linear,
            injective=injective or known.injective,
            analytic=analytic or known.analytic,
            never_zero=never_zero or known.never_zero,
            pooling=pooling or known.pooling,
        )


def traits_of(primitive: str) -> Traits:
    """Returns the traits of a primitive; none for one that was never declared."""
    return PRIMITIVES.get(primitive, _NONE)


_NONE = Traits()

# Functions that libraries wrap in a named call, which counts as one nonlinearity.
NAMED_ACTIVATIONS = frozenset(
    {
        *("celu", "elu", "gelu", "hard_tanh", "leaky_relu", "log_softmax", "mish"),
        *("relu", "relu6", "selu", "sigmoid", "silu", "softmax", "softplus", "swish"),
    }
)

# Those that take every value at single points alone.
CONTINUOUS_ACTIVATIONS = frozenset(
    {
        *("celu", "elu", "gelu", "leaky_relu", "mish", "selu", "sigmoid", "silu"),
        *("softplus", "swish"),
    }
)

# Calls.
declare_traits("jit", "pjit", "closed_call", "core_call", "composite", calls=True)
declare_traits("remat", "remat2", "checkpoint", calls=True)
declare_traits("custom_jvp_call", "custom_lin", calls=True)
declare_traits(
    "custom_vjp_call", "custom_vjp_call_jaxpr", "custom_vmap_call", calls=True
)

# Copies and changes of the type.
declare_traits("convert_element_type", "copy", elementwise=True, linear=True)
declare_traits("stop_gradient", "name", elementwise=True, linear=True)
declare_traits("optimization_barrier", "device_put", returns_operands=True, linear=True)
declare_traits("pvary", linear=True)
declare_traits(
    *("convert_element_type", "copy", "copy_p", "reduce_precision"),
    copies=True,
    rearranges=True,
)

# Elementwise arithmetic.
declare_traits("neg", elementwise=True, linear=True)
declare_traits("add", "add_any", "sub", "mul", "div", "max", "min", elementwise=True)
declare_traits(
    "integer_pow", "pow", "square", "sqrt", "rsqrt", "cbrt", elementwise=True
)
declare_traits("abs", "sign", "exp", "exp2", "expm1", "log", "log1p", elementwise=True)
declare_traits("sin", "cos", "tan", "asin", "acos", "atan", elementwise=True)
declare_traits("sinh", "cosh", "tanh", "asinh", "acosh", "atanh", elementwise=True)
declare_traits("erf", "erfc", "erf_inv", "logistic", elementwise=True)
declare_traits("lgamma", "digamma", "bessel_i0e", "bessel_i1e", elementwise=True)

# Complex numbers; `complex` is linear as a sum of its operands is.
declare_traits("real", "imag", "conj", elementwise=True, linear=True)
declare_traits("complex", elementwise=True)

# Axes moved, cut and joined.
declare_traits("reshape", "squeeze", "broadcast_in_dim", rearranges=True, linear=True)
declare_traits("tile", rearranges=True, linear=True)
declare_traits("transpose", "concatenate", "stack", linear=True)
declare_traits("split", "unstack", "slice", "dynamic_slice", linear=True)
declare_traits("dynamic_update_slice", linear=True)

# Entries that stay different from each other.
declare_traits(
    "convert_element_type", "copy", "copy_p", "stop_gradient", injective=True
)
declare_traits("name", "sharding_constraint", injective=True)
declare_traits("reshape", "squeeze", "broadcast_in_dim", "transpose", injective=True)
declare_traits("split", "unstack", "slice", "dynamic_slice", "gather", injective=True)
declare_traits("neg", "tanh", "asinh", "sinh", "atan", "erf", "cbrt", injective=True)
declare_traits("exp", "exp2", "expm1", "log", "log1p", "sqrt", injective=True)
declare_traits("logistic", "erfc", "rsqrt", "integer_pow", injective=True)
declare_traits("abs", "square", "sin", "cos", "tan", "cosh", analytic=True)
declare_traits("exp", "exp2", "logistic", "erfc", "rsqrt", "cosh", never_zero=True)

# Loops and branches.
declare_traits("scan", "while", "cond", linear=True)

# Pooling.
declare_traits("reduce_window_sum", pooling=Pooling("a sum", 0.0))
declare_traits("reduce_window_max", pooling=Pooling("a maximum", -math.inf))
declare_traits("reduce_window_min", pooling=Pooling("a minimum", math.inf))
