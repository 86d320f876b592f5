"""Rules of decompositions and solvers: matrices are pinned, stacks of matrices are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jax.extend.core import JaxprEqn

from metanet.programs import shape_of
from metanet.symmetry.indices import Axis
from metanet.symmetry.recorder import Trace, register_rule
from metanet.symmetry.values import Value

# Number of last axes of the first operand that are a matrix or a vector.
_RANKS = {"lu_pivots_to_permutation": 1, "tridiagonal_solve": 1}


@register_rule("cholesky", "cholesky_update", "eig", "eigh", "hessenberg", "lu", "qr")
@register_rule("geqrf", "geqp3", "householder_product", "ormqr", "schur", "svd")
@register_rule("tridiagonal", "symmetric_product")
@register_rule(*_RANKS)
def _decomposition(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Preserves the axes before those of the matrices, which all operands have."""
    count = len(inputs[0].axes) - _RANKS.get(eqn.primitive.name, 2)
    return _batched(trace, eqn, inputs, count)


def _batched(
    trace: Trace, eqn: JaxprEqn, inputs: Sequence[Value], count: int
) -> list[Value]:
    """Returns results whose first axes are those of the operands; the others are new.

    Args:
        trace: The pass.
        eqn: The equation.
        inputs: Its operands.
        count: Number of the first axes.
    """
    trace.forbid_phase(*inputs)
    batch = trace.common_axes([x.axes[:count] for x in inputs])
    ended = [trace.pinned_axis(a, trace.why) for x in inputs for a in x.axes[count:]]
    results = []
    for variable in eqn.outvars:
        made = [trace.fresh(n, trace.why) for n in shape_of(variable)[count:]]
        trace.record([*batch, *made, *ended])
        value = trace.function_of(inputs, [*batch, *made])
        results.append(trace.chain(value, eqn.primitive.name))
    return results


def _solved_axes(
    trace: Trace, eqn: JaxprEqn, operands: Sequence[Value]
) -> Iterable[Axis]:
    """Returns all axes but the one along which a solver is linear."""
    matrix, right = operands
    yield from matrix.axes
    yield from right.axes[:-2]
    yield right.axes[-2 if eqn.params["left_side"] else -1]


@register_rule("triangular_solve", entrywise=_solved_axes)
def _triangular_solve(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Preserves the axis along which the second operand is solved for entry by entry."""
    matrix, right = inputs
    trace.forbid_phase(matrix, right)
    count = len(right.axes) - 2
    batch = trace.common_axes([x.axes[:count] for x in inputs])
    columns = eqn.params["left_side"]
    free, solved = right.axes[-1 if columns else -2], right.axes[-2 if columns else -1]
    made = trace.fresh(trace.indices.axis_size(solved), trace.why)
    axes = [*batch, made, free] if columns else [*batch, free, made]
    ended = [trace.pinned_axis(a, trace.why) for a in (*matrix.axes[count:], solved)]
    trace.record([*axes, *ended])
    value = trace.function_of(inputs, axes)
    return [trace.chain(value, eqn.primitive.name)]


@register_rule("custom_linear_solve")
def _linear_solve(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Reads the function that solves; those of the derivatives are not evaluated."""
    counts, solve = eqn.params["const_lengths"], eqn.params["jaxprs"].solve
    first = counts.matvec + counts.vecmat
    constants = inputs[first : first + counts.solve]
    right = inputs[first + counts.solve + counts.transpose_solve :]
    with trace.not_capturable():
        closed_over = [trace.constant(c) for c in solve.consts]
        return trace.run(solve.jaxpr, closed_over, [*constants, *right], 0)
