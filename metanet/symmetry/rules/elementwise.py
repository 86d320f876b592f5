"""Rules of elementwise primitives: the axes they join, and their effect on exponents.

A product adds exponents, a sum requires equal ones, an odd function preserves signs, a
function such as relu preserves positive scales. Sources: Godfrey et al. 2022 (intertwiner
groups); Kalogeropoulos et al. 2024, section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Literal

from jax.extend.core import JaxprEqn

from metanet.programs import dtype_of, shape_of
from metanet.symmetry.indices import (
    ZERO,
    Axis,
    Occurrence,
    PhaseVar,
    add_forms,
    scale_form,
)
from metanet.symmetry.recorder import Trace, register_rule, zip_occurrences
from metanet.symmetry.values import Chain, Value, map_occurrences

Mode = Literal["add", "mul", "compare"]

# Functions of one array.


@register_rule("convert_element_type")
def _convert(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    (x,) = inputs
    before, after = dtype_of(eqn.invars[0]).kind, dtype_of(eqn.outvars[0]).kind
    if before in "fcV" and after not in "fcV":
        return [trace.nonlinear(x, eqn.primitive.name)]
    if after != before:
        # A narrower type rounds a constant, so that its exact value is unknown.
        x = replace(x, scalar=None)
    return [replace(x, index_of=None) if before == "b" else x]


@register_rule("stop_gradient", "copy", "copy_p", "reduce_precision", "name")
@register_rule("optimization_barrier", "sharding_constraint", "device_put")
@register_rule("layout_constraint", "reshard", "with_memory_space_constraint")
@register_rule("pvary", "preduced")
def _same(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    return list(inputs)


@register_rule("neg")
def _negate(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    (x,) = inputs
    shift = {leaf: -c for leaf, c in x.shift.items()}
    scalar = None if x.scalar is None else -x.scalar
    return [replace(x, scalar=scalar, shift=shift, index_of=None)]


@register_rule("tanh", "asinh", "sinh", "atan", "erf", "tan", "cbrt", "sign")
@register_rule("asin", "atanh", "erf_inv", "bessel_i1e")
def _odd(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    x = trace.map_indices(inputs[0], trace.without_scale)
    return [trace.chain(x, eqn.primitive.name)]


@register_rule("sin", "cos")
def _sine(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    (x,) = inputs
    name = eqn.primitive.name
    phase = _phase(trace, x)
    if phase is not None:
        x = replace(x, shift={})

    def function(o: Occurrence) -> Occurrence:
        o = trace.without_scale(o)
        if name == "cos":
            o = o._replace(sign=ZERO)
        if phase is not None and o.axis_index == phase[1]:
            half_turn = ((PhaseVar(phase[0]), Fraction(1)),)
            o = o._replace(sign=add_forms(o.sign, half_turn))
        return o

    return [trace.chain(trace.map_indices(x, function), name)]


def _phase(trace: Trace, x: Value) -> tuple[int, int] | None:
    """Returns leaf and index of a bias that can shift the argument by half a turn.

    sin(c (h + b + pi / c)) = -sin(c (h + b)): an additive bias with one free axis, used
    nowhere else, moves each of its units by multiples of pi / c.
    """
    if len(x.shift) != 1:
        return None
    ((leaf, factor),) = x.shift.items()
    unit = trace.dataflow.unit_of_vector(leaf)
    members = [
        o.axis_index
        for axis in x.axes
        for segment in trace.indices.normal(axis)
        for o in segment
    ]
    if unit is None or members.count(unit) != 1 or not factor:
        return None
    if trace.phases.setdefault(leaf, abs(factor)) != abs(factor):
        trace.phases[leaf] = 0.0
    return leaf, unit


@register_rule("square")
def _square(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    return [_power(trace, inputs[0], Fraction(2), "square")]


@register_rule("integer_pow")
def _integer_pow(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    return [_power(trace, inputs[0], Fraction(eqn.params["y"]), "integer_pow")]


def _power(trace: Trace, x: Value, exponent: Fraction, name: str) -> Value:
    def function(o: Occurrence) -> Occurrence:
        sign = o.sign if exponent % 2 else ZERO
        return o._replace(real=scale_form(o.real, exponent), sign=sign)

    return trace.chain(trace.map_indices(x, function), name)


@register_rule("sqrt", "rsqrt")
def _root(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    half = Fraction(1, 2) if eqn.primitive.name == "sqrt" else Fraction(-1, 2)

    def function(o: Occurrence) -> Occurrence:
        return trace.without_sign(o)._replace(real=scale_form(o.real, half))

    return [trace.chain(trace.map_indices(inputs[0], function), eqn.primitive.name)]


@register_rule("abs")
def _abs(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    def function(o: Occurrence) -> Occurrence:
        return o._replace(sign=ZERO)

    return [trace.chain(trace.map_indices(inputs[0], function), "abs")]


@register_rule("cosh", "bessel_i0e")
def _even(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    def function(o: Occurrence) -> Occurrence:
        return trace.without_scale(o)._replace(sign=ZERO)

    return [trace.chain(trace.map_indices(inputs[0], function), eqn.primitive.name)]


@register_rule("exp", "exp2", "log", "log1p", "expm1", "logistic", "erfc")
@register_rule("acos", "acosh", "lgamma", "digamma")
@register_rule("floor", "ceil", "round", "is_finite", "not", "population_count", "clz")
def _general(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    return [trace.nonlinear(inputs[0], eqn.primitive.name)]


# Functions of several arrays.


@register_rule("lt", "le", "gt", "ge", "eq", "ne", "lt_to", "le_to", "eq_to")
def _compare(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    one_hot = _one_hot(trace, inputs) if eqn.primitive.name == "eq" else None
    if one_hot is not None:
        return [one_hot]
    # Positive factors do not change the result of a comparison with 0.
    with_zero = any(x.zero for x in inputs)

    def function(o: Occurrence) -> Occurrence:
        trace.require("sign", o.sign)
        if not with_zero:
            trace.require("real", o.real)
        return o._replace(real=ZERO, sign=ZERO)

    mapped = [x if x.constant else trace.map_indices(x, function) for x in inputs]
    result = _combine(trace, eqn, mapped, "compare")
    # No index is negative; `select_n` needs to know that this is asked.
    is_negative = eqn.primitive.name == "lt" and inputs[1].zero
    index_of = inputs[0].index_of if is_negative else None
    return [replace(result, index_of=index_of)]


def _one_hot(trace: Trace, inputs: list[Value]) -> Value | None:
    """Returns indices compared with a counter: an axis like the one they index."""
    for x, counter in (inputs, inputs[::-1]):
        if x.index_of is None or x.from_end:
            continue
        if counter.index_of is None or not counter.constant:
            continue
        sizes = [trace.indices.axis_size(a) for a in counter.axes]
        along = [i for i, a in enumerate(counter.axes) if a == counter.index_of]
        if len(along) != 1 or len(x.axes) != len(sizes):
            continue
        (i,) = along
        counts_all = trace.indices.axis_size(x.index_of) == sizes[i]
        if not counts_all or not _is_broadcast(trace, x.axes[i], sizes[i]):
            continue
        trace.record([*x.axes, x.index_of])
        trace.mark_index_use()
        (bare,) = map_occurrences(trace.indices, [x.index_of], _unscaled)
        axes = [*x.axes[:i], bare, *x.axes[i + 1 :]]
        return replace(x, axes=axes, index_of=None)
    return None


def _unscaled(o: Occurrence) -> Occurrence:
    return o._replace(real=ZERO, sign=ZERO)


@register_rule("and", "or", "xor", "pow", "atan2", "nextafter", "rem", "mulhi")
@register_rule("shift_left", "shift_right_logical", "shift_right_arithmetic")
@register_rule("igamma", "igammac", "igamma_grad_a", "polygamma", "zeta")
@register_rule("regularized_incomplete_beta")
def _general_binary(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    mapped = [trace.nonlinear(x, eqn.primitive.name) for x in inputs]
    return [_combine(trace, eqn, mapped, "compare")]


@register_rule("max", "min")
def _extremum(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    rectifier = any(x.zero for x in inputs)
    mapped = []
    for x in inputs:
        if not x.zero:
            x = trace.map_indices(x, trace.without_sign)
            x = trace.chain(x, "relu") if rectifier else x
        mapped.append(x)
    return [_combine(trace, eqn, mapped, "add")]


@register_rule("select_n")
def _select(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    condition = trace.map_indices(inputs[0], trace.without_exponents)
    trace.forbid_phase(*inputs)
    cases = [replace(x, shift={}) for x in inputs[1:]]
    result = _combine(trace, eqn, cases, "add", condition=condition)
    # Of an index, and the same index counted from the end if negative: the index.
    negative = inputs[0].index_of
    normalizes = negative is not None and negative == cases[0].index_of
    index_of = negative if normalizes else None
    return [replace(result, index_of=index_of)]


@register_rule("clamp")
def _clamp(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    mapped = [trace.nonlinear(x, "clamp") for x in inputs]
    return [_combine(trace, eqn, mapped, "add")]


def _entrywise_in_sum(
    trace: Trace, eqn: JaxprEqn, operands: Sequence[Value]
) -> Iterable[Axis]:
    """Returns the axes of each summand along which the other one is constant."""
    for x, other in (operands, operands[::-1]):
        if not other.zero:
            yield from _axes_where(trace, x, other, uniform=True)


@register_rule("complex", entrywise=_entrywise_in_sum)
def _complex(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Real and imaginary parts scale alike, as the summands of a sum do."""
    trace.forbid_phase(*inputs)
    parts = [replace(x, shift={}) for x in inputs]
    return [_combine(trace, eqn, parts, "add")]


@register_rule("add", "sub", "add_any", entrywise=_entrywise_in_sum)
def _add(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    sign = -1.0 if eqn.primitive.name == "sub" else 1.0
    shift = dict(inputs[0].shift)
    for leaf, factor in inputs[1].shift.items():
        shift[leaf] = shift.get(leaf, 0.0) + sign * factor
    plain = [replace(x, shift={}) for x in inputs]
    result = replace(_combine(trace, eqn, plain, "add"), shift=shift)
    x, y = inputs
    if x.index_of is not None and y.scalar == trace.indices.axis_size(x.index_of):
        result = replace(result, index_of=x.index_of, from_end=True)
    return [result]


def _entrywise_in_product(
    trace: Trace, eqn: JaxprEqn, operands: Sequence[Value]
) -> Iterable[Axis]:
    """Returns the axes of each factor along which the other one varies."""
    for x, other in (operands, operands[::-1]):
        yield from _axes_where(trace, x, other, uniform=False)


def _entrywise_in_quotient(
    trace: Trace, eqn: JaxprEqn, operands: Sequence[Value]
) -> Iterable[Axis]:
    """Returns the divisor's axes, and the dividend's along which the divisor varies."""
    dividend, divisor = operands
    yield from divisor.axes
    yield from _axes_where(trace, dividend, divisor, uniform=False)


@register_rule("mul", entrywise=_entrywise_in_product)
def _multiply(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    x, y = inputs
    shift: dict[int, float] = {}
    if y.scalar and not x.constant:
        shift = {leaf: c * y.scalar for leaf, c in x.shift.items()}
    elif x.scalar and not y.constant:
        shift = {leaf: c * x.scalar for leaf, c in y.shift.items()}
    else:
        trace.forbid_phase(x, y)
    plain = [replace(v, shift={}) for v in inputs]
    return [replace(_combine(trace, eqn, plain, "mul"), shift=shift)]


@register_rule("div", entrywise=_entrywise_in_quotient)
def _divide(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    x, y = inputs
    shift: dict[int, float] = {}
    if y.scalar and not x.constant:
        factor = 1 / y.scalar
        shift = {leaf: c * factor for leaf, c in x.shift.items()}
    else:
        trace.forbid_phase(x, y)
    reciprocal = map_occurrences(trace.indices, y.axes, _reciprocal)
    plain = [replace(x, shift={}), replace(y, axes=reciprocal, shift={})]
    return [replace(_combine(trace, eqn, plain, "mul"), shift=shift)]


def _reciprocal(o: Occurrence) -> Occurrence:
    return o._replace(real=scale_form(o.real, -1))


def _axes_where(trace: Trace, x: Value, other: Value, uniform: bool) -> Iterator[Axis]:
    """Yields axes of an operand along which the other is uniform, or is not."""
    for i, axis in enumerate(x.axes):
        constant = len(other.axes) != len(x.axes) or all(
            trace.indices.is_uniform(o.axis_index)
            for segment in trace.indices.normal(other.axes[i])
            for o in segment
        )
        if constant == uniform:
            yield axis


def _combine(
    trace: Trace,
    eqn: JaxprEqn,
    inputs: list[Value],
    mode: Mode,
    condition: Value | None = None,
) -> Value:
    """Joins the axes of operands.

    Args:
        trace: The pass.
        eqn: The equation.
        inputs: Its operands.
        mode: "add" (they must scale alike), "mul" (exponents add) or "compare" (the
            result does not scale).
        condition: An operand that shares the indices, but is no summand.
    """
    shape = shape_of(eqn.outvars[0])
    operands = inputs if condition is None else [condition, *inputs]
    live = [x is not condition and not (mode == "add" and x.zero) for x in operands]
    summands = [x for x, is_live in zip(operands, live, strict=True) if is_live]
    trace.forbid_phase(*operands)
    axes = []
    for i, size in enumerate(shape):
        axis, axis_live = None, False
        for x, is_live in zip(operands, live, strict=True):
            if len(x.axes) != len(shape) or _has_size_one(trace, x.axes[i], size):
                continue
            if axis is None:
                axis, axis_live = x.axes[i], is_live
                continue
            aligned = trace.indices.align(axis, x.axes[i], trace.why)
            if aligned is None:
                continue
            axis = _merge_axis(trace, aligned, (axis_live, is_live), mode)
            axis_live = axis_live or is_live
        if axis is None:
            axis = trace.fresh(size, uniform=True)
        if mode == "add" and any(
            len(x.axes) != len(shape) or _is_broadcast(trace, x.axes[i], size)
            for x in summands
        ):
            # A summand is constant along this axis: nothing may scale along it.
            (axis,) = map_occurrences(trace.indices, [axis], trace.without_exponents)
        axes.append(axis)
    return _with_activations(trace, eqn, operands, condition, axes, mode)


def _merge_axis(
    trace: Trace, aligned: tuple[Axis, Axis], live: tuple[bool, bool], mode: Mode
) -> Axis:
    """Returns the axis of a result from that of two operands.

    Args:
        trace: The pass.
        aligned: The axis in both operands.
        live: False for an operand that does not contribute to a sum.
        mode: See `_combine`.
    """

    def merge(a: Occurrence, b: Occurrence) -> Occurrence:
        source = b if trace.indices.is_uniform(a.axis_index) else a
        merged = source._replace(tags=a.tags | b.tags)
        if mode == "mul":
            real, sign = add_forms(a.real, b.real), add_forms(a.sign, b.sign)
            return merged._replace(real=real, sign=sign)
        if mode == "compare":
            return _unscaled(merged)
        if not live[0]:
            return merged._replace(real=b.real, sign=b.sign)
        if not live[1]:
            return merged._replace(real=a.real, sign=a.sign)
        trace.require_equal(a, b)
        return merged

    return zip_occurrences(aligned, merge)


def _has_size_one(trace: Trace, axis: Axis, size: int) -> bool:
    """Returns True for an axis of size 1 that the result does not have."""
    return size != 1 and trace.indices.axis_size(trace.indices.normal(axis)) == 1


def _is_broadcast(trace: Trace, axis: Axis, size: int) -> bool:
    """Returns True if a value is constant along an axis of the result."""
    if size == 1:
        return False
    segments = trace.indices.normal(axis)
    return trace.indices.axis_size(segments) == 1 or all(
        trace.indices.is_uniform(o.axis_index) for s in segments for o in s
    )


def _with_activations(
    trace: Trace,
    eqn: JaxprEqn,
    operands: list[Value],
    condition: Value | None,
    axes: list[Axis],
    mode: Mode,
) -> Value:
    """Returns the result of an equation, as an activation of its own if it is one."""
    activations: dict[int, Chain] = {}
    leaves: frozenset[int] = frozenset()
    for x in operands:
        for activation, chain in x.activations.items():
            known = activations.get(activation, ())
            activations[activation] = known + tuple(c for c in chain if c not in known)
        leaves |= x.leaves
    zeros = [x.zero or x is condition for x in operands]
    if mode == "compare":
        zero = False
    else:
        zero = any(zeros) if mode == "mul" else all(zeros)
    value = Value(
        axes,
        activations,
        leaves,
        constant=all(x.constant for x in operands),
        zero=zero,
    )
    acting = [x for x in operands if x.activations]
    if not acting or mode == "compare":
        return value
    if not leaves:
        if len({frozenset(x.activations) for x in acting}) == 1:
            return value
        if any(set(x.activations) >= set(activations) for x in acting):
            return value  # an activation and a function of it, such as x - mean(x)
    if mode == "add":
        kind = "bias" if leaves else "residual"
    else:
        kind = "scale" if leaves else "gate"
    trace.dataflow.note_reads(trace, operands)
    return trace.dataflow.connect(trace, kind, value, [], leaves)
