"""Evaluation of a program in double precision, whatever precision it computes in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex_core
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var

from metanet.programs.jaxprs import (
    call_jaxpr,
    dtype_of,
    live_equations,
    scan_counts,
    shape_of,
)

# Bits of the mantissa after a step of `DoublePrecision`: few, so that values meet.
_STEP_BITS = 1

# Types of fewer bits of the mantissa than float32 are coarse.
_BITS = 23

# Slope added to functions that approach a bound: they stay injective where they would round
# to it. Being odd, it keeps their symmetries.
_SLOPE = 2.0**-40

_BOUNDED = frozenset({"tanh", "logistic", "erf"})

_ORDERING = frozenset({"argmax", "argmin", "top_k", "approx_top_k"})


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
        steps: Round what is computed in 16 bits or fewer, and very coarsely: conversions
            and arithmetic of such types are the step functions that they are.

    Attributes:
        unit: Relative rounding error of the coarsest arithmetic so far.
        orders: A primitive has compared real numbers to pick some by position
            (argmax, top-k, a sort of several operands).
        coarse: A real number has been computed in 16 bits or fewer.
    """

    def __init__(self, steps: bool = False):
        self.steps = steps
        self.unit = float(np.finfo(np.float64).eps)
        self.orders = self.coarse = False

    def evaluate(
        self, jaxpr: Jaxpr, constants: Sequence[Any], arguments: Sequence[Any]
    ) -> list[Any]:
        """Returns the outputs.

        Args:
            jaxpr: The program.
            constants: Its constants, of the types of `double_dtype`.
            arguments: Its arguments, of the types of `double_dtype`.
        """
        env: dict[Var, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
        env.update(zip(jaxpr.invars, arguments, strict=True))

        def read(variable: Any) -> Any:
            if isinstance(variable, jex_core.Literal):
                return np.asarray(variable.val, double_dtype(dtype_of(variable)))
            if variable not in env and 0 in shape_of(variable):
                # No equation is live whose results have no entries.
                return np.zeros(shape_of(variable), double_dtype(dtype_of(variable)))
            return env[variable]

        for _, eqn in live_equations(jaxpr):
            results = self._apply(eqn, [read(v) for v in eqn.invars])
            for variable, result in zip(eqn.outvars, results, strict=True):
                env[variable] = self._rounded(eqn, variable, result)
        return [read(v) for v in jaxpr.outvars]

    def _rounded(self, eqn: JaxprEqn, variable: Var, result: Any) -> Any:
        if not _is_real(variable):
            return result
        bits = jnp.finfo(dtype_of(variable)).nmant
        if eqn.primitive.name == "reduce_precision":
            bits = eqn.params["mantissa_bits"]
        if bits >= _BITS:
            return result
        self.coarse = True
        return lax.reduce_precision(result, 11, _STEP_BITS) if self.steps else result

    def _apply(self, eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
        name, params = eqn.primitive.name, eqn.params
        called = call_jaxpr(eqn)
        if called is not None:
            jaxpr, constants = called
            constants = [as_double(c) for c in constants]
            return self.evaluate(jaxpr, constants, operands)
        if name == "scan":
            return self._scan(eqn, operands)
        if name == "while":
            return self._while(eqn, operands)
        if name == "cond":
            branches = [self._function(b) for b in params["branches"]]
            return lax.switch(operands[0], branches, *operands[1:])
        if name == "convert_element_type":
            dtype = double_dtype(params["new_dtype"])
            return [lax.convert_element_type(operands[0], dtype)]
        if name == "reduce_precision":
            return operands
        several = name == "sort" and len(operands) > 1
        if (name in _ORDERING or several) and _is_real(eqn.invars[0]):
            self.orders = True
        return self._bind(eqn, operands)

    def _function(self, closed: ClosedJaxpr) -> Callable[..., list[Any]]:
        constants = [as_double(c) for c in closed.consts]
        return lambda *arguments: self.evaluate(closed.jaxpr, constants, arguments)

    def _scan(self, eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
        params = eqn.params
        first, count = scan_counts(eqn)
        body = self._function(params["jaxpr"])

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
        proceed = self._function(params["cond_jaxpr"])
        body = self._function(params["body_jaxpr"])
        return lax.while_loop(
            lambda state: proceed(*operands[:first], *state)[0],
            lambda state: body(*operands[first:second], *state),
            operands[second:],
        )

    def _bind(self, eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
        """Applies a primitive in double precision if it can be, else in its own types."""
        if not any(_has_precision(v) for v in (*eqn.invars, *eqn.outvars)):
            return _results(eqn, operands, eqn.params)
        params = _double_params(eqn)
        if params is not None:
            results = _results(eqn, operands, params)
            expected = [double_dtype(dtype_of(v)) for v in eqn.outvars]
            if [r.dtype for r in results] == expected:
                if eqn.primitive.name in _BOUNDED:
                    return [results[0] + _SLOPE * operands[0]]
                return results
        types = [dtype_of(v) for v in eqn.invars if _has_precision(v)]
        units = [float(jnp.finfo(t).eps) for t in types]
        self.unit = max([self.unit, *units])
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
