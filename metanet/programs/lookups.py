"""Sizes of the axes that a program's integer inputs look up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var

from metanet.programs.jaxprs import call_jaxpr, dtype_of, live_equations, shape_of

# Results hold entries of all operands; of the operands in the first position alone.
_PASSING = frozenset({"concatenate", "min", "max", "copy", "rev", "transpose"})
_PASSING_FIRST = frozenset(
    {
        *("reshape", "squeeze", "broadcast_in_dim", "slice", "dynamic_slice", "split"),
        *("convert_element_type", "gather", "pad", "sort", "expand_dims"),
    }
)


def lookup_sizes(closed: ClosedJaxpr) -> list[int | None]:
    """Returns for each input the number of values that may be looked up with it.

    An input that indexes an axis (an embedding by token ids, the nodes of edges) or is
    compared with a range (one-hot encoding) looks up as many values as the axis or the
    range has. Of several, the smallest counts.

    Args:
        closed: The program.

    Returns:
        Per input the number; None for inputs that look nothing up.
    """
    ranges = {
        variable: int(np.max(constant)) + 1
        for variable, constant in zip(
            closed.jaxpr.constvars, closed.consts, strict=True
        )
        if jnp.issubdtype(dtype_of(variable), jnp.integer) and np.size(constant)
    }
    sizes = _sizes(closed.jaxpr, ranges, [None] * len(closed.jaxpr.outvars))
    return [sizes.get(v) for v in closed.jaxpr.invars]


def _sizes(
    jaxpr: Jaxpr, ranges: dict[Var, int], results: Sequence[int | None]
) -> dict[Var, int]:
    """Returns the number of values that each variable looks up.

    Args:
        jaxpr: The program.
        ranges: Variables that count upwards, and the number of values they take.
        results: The numbers of what the program returns.
    """
    equations = [eqn for _, eqn in live_equations(jaxpr)]
    for eqn in equations:
        if eqn.primitive.name == "iota":
            ranges[eqn.outvars[0]] = eqn.params["shape"][eqn.params["dimension"]]
        elif eqn.primitive.name in _PASSING_FIRST:
            size = _range_of(eqn.invars[0], ranges)
            if size is not None:
                ranges[eqn.outvars[0]] = size
    sizes: dict[Var, int] = {}

    def note(variable: Any, size: int | None) -> None:
        if size is not None and not isinstance(variable, jex_core.Literal):
            sizes[variable] = min(size, sizes.get(variable, size))

    for variable, size in zip(jaxpr.outvars, results, strict=True):
        note(variable, size)
    for eqn in reversed(equations):
        outputs = [sizes.get(v) for v in eqn.outvars]
        for variable, size in zip(
            eqn.invars, _of_operands(eqn, ranges, outputs), strict=True
        ):
            note(variable, size)
    return sizes


def _of_operands(
    eqn: JaxprEqn, ranges: dict[Var, int], outputs: list[int | None]
) -> list[int | None]:
    """Returns the number of values that each operand of an equation looks up."""
    name, operands, params = eqn.primitive.name, eqn.invars, eqn.params
    nothing: list[int | None] = [None] * len(operands)
    called = call_jaxpr(eqn)
    if called is not None:
        return _of_body(called[0], operands, ranges, outputs)
    if name == "scan":
        # A state keeps its meaning in all iterations; what it looks up is not followed.
        return _of_body(params["jaxpr"].jaxpr, operands, ranges, outputs)
    if name == "while":
        first = params["cond_nconsts"]
        body = params["body_jaxpr"].jaxpr
        return nothing[:first] + _of_body(body, operands[first:], ranges, outputs)
    if name == "cond":
        branches = [
            _of_body(b.jaxpr, operands[1:], ranges, outputs) for b in params["branches"]
        ]
        least = [
            min((n for n in sizes if n is not None), default=None)
            for sizes in zip(*branches, strict=True)
        ]
        return [len(branches), *least]
    if name == "eq":
        a, b = operands
        return [_range_of(b, ranges), _range_of(a, ranges)]
    if name == "select_n":
        return [None, *outputs * (len(operands) - 1)]
    if name == "clamp":
        return [None, outputs[0], None]
    if name in _PASSING:
        return outputs * len(operands)
    sizes = nothing
    if name in _PASSING_FIRST:
        sizes = [outputs[0], *nothing[1:]]
    if name == "gather":
        sizes[1] = _gathered(eqn)
    elif name.startswith("scatter"):
        sizes[1] = _scattered(eqn)
    elif name == "dynamic_slice":
        whole, cut = shape_of(operands[0]), params["slice_sizes"]
        sizes[1:] = [n - m + 1 for n, m in zip(whole, cut, strict=True)]
    return sizes


def _of_body(
    jaxpr: Jaxpr,
    operands: Sequence[Any],
    ranges: dict[Var, int],
    outputs: Sequence[int | None],
) -> list[int | None]:
    inner = {
        v: size
        for v, operand in zip(jaxpr.invars, operands, strict=True)
        if (size := _range_of(operand, ranges)) is not None
    }
    sizes = _sizes(jaxpr, inner, outputs)
    return [sizes.get(v) for v in jaxpr.invars]


def _range_of(variable: Any, ranges: dict[Var, int]) -> int | None:
    return None if isinstance(variable, jex_core.Literal) else ranges.get(variable)


def _gathered(eqn: JaxprEqn) -> int | None:
    shape, cut = shape_of(eqn.invars[0]), eqn.params["slice_sizes"]
    axes = eqn.params["dimension_numbers"].start_index_map
    # An axis that is taken whole has only one index.
    return min((shape[a] - cut[a] + 1 for a in axes if cut[a] < shape[a]), default=None)


def _scattered(eqn: JaxprEqn) -> int | None:
    numbers = eqn.params["dimension_numbers"]
    shape = shape_of(eqn.invars[0])
    axes = [
        a
        for a in numbers.scatter_dims_to_operand_dims
        if a in numbers.inserted_window_dims
    ]
    return min((shape[a] for a in axes), default=None)
