"""Evaluation of a program in double precision, whatever precision it computes in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex_core
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var

from metanet.programs.jaxprs import call_jaxpr, dtype_of, live_equations, scan_counts

# Bits of the mantissa after a step of `DoublePrecision`: few, so that values meet.
_STEP_BITS = 3

_ORDERING = frozenset({"argmax", "argmin", "top_k", "approx_top_k"})

# The results have the entries of the operands, unchanged but for their type.
_MOVING = frozenset(
    {
        *("reshape", "squeeze", "broadcast_in_dim", "transpose", "slice", "split"),
        *("dynamic_slice", "concatenate", "gather", "convert_element_type", "copy"),
    }
)


def double_dtype(dtype: Any) -> Any:
    """Returns float64 or complex128 for types of real or complex numbers, else the type."""
    if jnp.issubdtype(dtype, jnp.floating):
        return np.dtype(np.float64)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return np.dtype(np.complex128)
    return dtype


class DoublePrecision:
    """Interpreter that evaluates a program in double precision.

    All real and complex values have 64 bits per number, and conversions between such types
    do nothing: what is evaluated is the function that the program computes but for
    rounding. Integers keep their types. A primitive that is tied to a type (bits of a
    number, a kernel, a callback) is evaluated in that type. To be used with 64-bit types
    enabled.

    Args:
        steps: Keep a conversion of a computed value to fewer bits as the step function
            that it is, with very wide steps. Values that are stored (parameters, inputs,
            constants) are not rounded, nor are the results of arithmetic.

    Attributes:
        unit: Relative rounding error of the coarsest arithmetic so far.
        orders: A primitive has compared real numbers to pick some by position
            (argmax, top-k, a sort of several operands).
        narrows: A computed value has been converted to fewer bits.
    """

    def __init__(self, steps: bool = False):
        self.steps = steps
        self.unit = float(np.finfo(np.float64).eps)
        self.orders = self.narrows = False

    def evaluate(
        self, jaxpr: Jaxpr, constants: Sequence[Any], arguments: Sequence[Any]
    ) -> list[Any]:
        """Returns the outputs.

        Args:
            jaxpr: The program.
            constants: Its constants, of the types of `double_dtype`.
            arguments: Its arguments, of the types of `double_dtype`.
        """
        stored = [True] * len(arguments)
        return self._run(jaxpr, constants, arguments, stored)[0]

    def _run(
        self,
        jaxpr: Jaxpr,
        constants: Sequence[Any],
        arguments: Sequence[Any],
        stored: Sequence[bool],
    ) -> tuple[list[Any], list[bool]]:
        """Returns the outputs, and for each whether it is a stored value."""
        env: dict[Var, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
        env.update(zip(jaxpr.invars, arguments, strict=True))
        is_stored = dict.fromkeys(jaxpr.constvars, True)
        is_stored.update(zip(jaxpr.invars, stored, strict=True))

        def read(variable: Any) -> Any:
            if isinstance(variable, jex_core.Literal):
                return np.asarray(variable.val, double_dtype(dtype_of(variable)))
            return env[variable]

        def known(variable: Any) -> bool:
            return isinstance(variable, jex_core.Literal) or is_stored[variable]

        for _, eqn in live_equations(jaxpr):
            operands = [read(v) for v in eqn.invars]
            flags = [known(v) for v in eqn.invars]
            results, flags = self._apply(eqn, operands, flags)
            env.update(zip(eqn.outvars, results, strict=True))
            is_stored.update(zip(eqn.outvars, flags, strict=True))
        outputs = jaxpr.outvars
        return [read(v) for v in outputs], [known(v) for v in outputs]

    def _apply(
        self, eqn: JaxprEqn, operands: list[Any], stored: list[bool]
    ) -> tuple[list[Any], list[bool]]:
        name = eqn.primitive.name
        called = call_jaxpr(eqn)
        if called is not None:
            jaxpr, constants = called
            constants = [as_double(c) for c in constants]
            return self._run(jaxpr, constants, operands, stored)
        computed = [False] * len(eqn.outvars)
        if name == "scan":
            return self._scan(eqn, operands, stored), computed
        if name == "while":
            return self._while(eqn, operands), computed
        if name == "cond":
            branches = [self._function(b, stored[1:]) for b in eqn.params["branches"]]
            return list(lax.switch(operands[0], branches, *operands[1:])), computed
        if name in ("convert_element_type", "reduce_precision"):
            return [self._convert(eqn, operands[0], stored[0])], stored
        several = name == "sort" and len(operands) > 1
        if (name in _ORDERING or several) and _is_real(eqn.invars[0]):
            self.orders = True
        if name in _MOVING:
            computed = [all(stored)] * len(eqn.outvars)
        return self._bind(eqn, operands), computed

    def _function(self, closed: ClosedJaxpr, stored: Sequence[bool]) -> Any:
        constants = [as_double(c) for c in closed.consts]
        return lambda *x: self._run(closed.jaxpr, constants, x, stored)[0]

    def _scan(
        self, eqn: JaxprEqn, operands: list[Any], stored: list[bool]
    ) -> list[Any]:
        params = eqn.params
        first, count = scan_counts(eqn)
        flags = [*stored[:first], *[False] * count, *stored[first + count :]]
        body = self._function(params["jaxpr"], flags)

        def step(state: list[Any], rows: list[Any]) -> tuple[list[Any], list[Any]]:
            outputs = body(*operands[:first], *state, *rows)
            return outputs[:count], outputs[count:]

        last, rows = lax.scan(
            step,
            operands[first : first + count],
            operands[first + count :],
            length=params["length"],
            reverse=params["reverse"],
            unroll=params["unroll"],
        )
        return [*last, *rows]

    def _while(self, eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
        params = eqn.params
        first = params["cond_nconsts"]
        second = first + params["body_nconsts"]
        proceed, body = (
            self._function(params[key], [False] * len(params[key].jaxpr.invars))
            for key in ("cond_jaxpr", "body_jaxpr")
        )
        return lax.while_loop(
            lambda state: proceed(*operands[:first], *state)[0],
            lambda state: body(*operands[first:second], *state),
            operands[second:],
        )

    def _convert(self, eqn: JaxprEqn, operand: Any, stored: bool) -> Any:
        """Converts to another type or precision."""
        result = lax.convert_element_type(
            operand, double_dtype(dtype_of(eqn.outvars[0]))
        )
        if not (_is_real(eqn.invars[0]) and _is_real(eqn.outvars[0])):
            return result
        bits = jnp.finfo(dtype_of(eqn.outvars[0])).nmant
        if eqn.primitive.name == "reduce_precision":
            bits = eqn.params["mantissa_bits"]
        if stored or bits >= jnp.finfo(dtype_of(eqn.invars[0])).nmant:
            return result
        self.narrows = True
        return lax.reduce_precision(result, 11, _STEP_BITS) if self.steps else result

    def _bind(self, eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
        """Applies a primitive in double precision if it can be, else in its own types."""
        real = any(_has_precision(v) for v in (*eqn.invars, *eqn.outvars))
        if not real:
            return _results(eqn, operands, eqn.params)
        params = _double_params(eqn)
        if params is not None:
            results = _results(eqn, operands, params)
            expected = [double_dtype(dtype_of(v)) for v in eqn.outvars]
            if [r.dtype for r in results] == expected:
                return results
        types = [dtype_of(v) for v in (*eqn.invars, *eqn.outvars)]
        units = [float(jnp.finfo(t).eps) for t in types if double_dtype(t) != t]
        self.unit = max(self.unit, *units)
        narrow = [
            lax.convert_element_type(x, dtype_of(v)) if _has_precision(v) else x
            for x, v in zip(operands, eqn.invars, strict=True)
        ]
        return [as_double(r) for r in _results(eqn, narrow, eqn.params)]


def as_double(x: Any) -> Any:
    """Returns an array in double precision; integers, booleans and keys as they are."""
    dtype = double_dtype(x.dtype)
    if dtype == x.dtype:
        return x
    return x.astype(dtype)


def _has_precision(variable: Any) -> bool:
    return jnp.issubdtype(dtype_of(variable), jnp.inexact)


def _is_real(variable: Any) -> bool:
    return jnp.issubdtype(dtype_of(variable), jnp.floating)


def _results(eqn: JaxprEqn, operands: list[Any], params: dict[str, Any]) -> list[Any]:
    params = eqn.primitive.get_bind_params(params)
    results = eqn.primitive.bind(*operands, **params)
    return list(results) if eqn.primitive.multiple_results else [results]


def _double_params(eqn: JaxprEqn) -> dict[str, Any] | None:
    """Returns a primitive's parameters in double precision; None if it is tied to a type."""
    if eqn.primitive.name == "bitcast_convert_type" or "call" in eqn.primitive.name:
        return None
    params = {}
    for key, value in eqn.params.items():
        if key == "update_jaxpr" and isinstance(value, Jaxpr):  # of a scatter
            value = _double_jaxpr(value)
        elif isinstance(value, (Jaxpr, ClosedJaxpr)) or key == "jaxprs":
            return None
        elif key == "precision":  # an algorithm for operands of few bits
            value = None
        elif isinstance(value, (np.dtype, type)):
            value = double_dtype(value)
        params[key] = value
    return params


def _double_jaxpr(jaxpr: Jaxpr) -> Jaxpr:
    """Returns the program of a function of numbers, in double precision."""
    numbers = [
        jax.ShapeDtypeStruct((), double_dtype(dtype_of(v))) for v in jaxpr.invars
    ]
    double = DoublePrecision()
    function = lambda *x: double.evaluate(jaxpr, (), x)
    return jax.make_jaxpr(function)(*numbers).jaxpr
