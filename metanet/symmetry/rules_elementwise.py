"""Rules of elementwise primitives: what they join, and what becomes of exponents.

Degrees: a product adds exponents, a sum needs them equal, an odd function keeps signs,
a function such as relu keeps positive scales. Sources: Godfrey et al. 2022 (intertwiner
groups); Kalogeropoulos et al. 2024, section 3.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from metanet.symmetry.indices import (
    ZERO,
    Axis,
    Occurrence,
    add_forms,
    scale_form,
)
from metanet.symmetry.interpreter import Interpreter, register_rule
from metanet.symmetry.values import Value, map_occurrences


@register_rule("convert_element_type")
def _convert(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    to, origin = eqn.outvars[0].aval.dtype.kind, eqn.invars[0].aval.dtype.kind
    if origin == "f" and to not in "fV":
        return [run.nonlinear(inputs[0], eqn.primitive.name)]
    # A narrower type rounds a constant: what it is exactly is no longer known.
    x = replace(inputs[0], scalar=None) if to != origin else inputs[0]
    return [replace(x, index_of=None) if origin == "b" else x]


@register_rule(
    "stop_gradient", "copy", "copy_p", "reduce_precision", "optimization_barrier",
    "sharding_constraint",
)  # fmt: skip
def _same(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    return list(inputs)


@register_rule("neg")
def _negate(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    (x,) = inputs
    shift = {leaf: -c for leaf, c in x.shift.items()}
    scalar = None if x.scalar is None else -x.scalar
    return [replace(x, scalar=scalar, shift=shift, index_of=None)]


@register_rule("tanh", "asinh", "sinh", "atan", "erf", "tan", "cbrt", "sign")
def _odd(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    name = eqn.primitive.name
    x = run.chain(run.mapped(inputs[0], run.without_scale), name)
    return [replace(x, distinct=x.distinct and name != "sign")]


@register_rule("sin", "cos")
def _sine(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    (x,) = inputs
    name = eqn.primitive.name
    phase = _phase(run, x)
    kept = x if phase is None else replace(x, shift={})

    def function(o: Occurrence) -> Occurrence:
        o = run.without_scale(o)
        if name == "cos":
            o = o._replace(sign=ZERO)
        if phase is not None and o.axis_index == phase[1]:
            variable = (("phase", phase[0]), Fraction(1))
            o = o._replace(sign=add_forms(o.sign, (variable,)))
        return o

    return [run.chain(run.mapped(kept, function), name)]


def _phase(run: Interpreter, x: Value) -> tuple[int, int] | None:
    """Leaf and atom of a bias that can shift the argument by half a turn, if any.

    sin(c (h + b + pi / c)) = -sin(c (h + b)): an additive bias with one free axis, used
    nowhere else, moves each of its units by multiples of pi / c.
    """
    if run.activations is None or len(x.shift) != 1:
        return None
    ((leaf, factor),) = x.shift.items()
    axis_index = run.activations.unit_of_vector(leaf)
    places = [o.axis_index for ax in x.axes for s in run.indices.normal(ax) for o in s]
    if axis_index is None or places.count(axis_index) != 1 or not factor:
        return None
    if run.phases.setdefault(leaf, abs(factor)) != abs(factor):
        run.phases[leaf] = 0.0
    return leaf, axis_index


@register_rule("square")
def _square(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    return [_power(run, inputs[0], Fraction(2), "square")]


@register_rule("integer_pow")
def _integer_pow(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    return [_power(run, inputs[0], Fraction(eqn.params["y"]), "integer_pow")]


def _power(run: Interpreter, x: Value, exponent: Fraction, name: str) -> Value:
    def function(o: Occurrence) -> Occurrence:
        sign = o.sign if exponent % 2 else ZERO
        return o._replace(real=scale_form(o.real, exponent), sign=sign)

    return run.chain(run.mapped(x, function), name)


@register_rule("sqrt", "rsqrt")
def _root(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    half = Fraction(1, 2) if eqn.primitive.name == "sqrt" else Fraction(-1, 2)

    def function(o: Occurrence) -> Occurrence:
        return run.without_sign(o)._replace(real=scale_form(o.real, half))

    return [run.chain(run.mapped(inputs[0], function), eqn.primitive.name)]


@register_rule("abs")
def _abs(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    x = run.mapped(inputs[0], lambda o: o._replace(sign=ZERO))
    return [run.chain(x, "abs")]


@register_rule(
    "exp", "exp2", "log", "log1p", "expm1", "logistic", "floor", "ceil", "round",
    "erfc", "erf_inv", "acos", "asin", "acosh", "atanh", "cosh", "lgamma", "digamma",
    "is_finite", "not",
)  # fmt: skip
def _general(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    name = eqn.primitive.name
    x = run.nonlinear(inputs[0], name)
    rounded = name in ("floor", "ceil", "round", "is_finite", "not")
    return [replace(x, distinct=x.distinct and not rounded)]


@register_rule("lt", "le", "gt", "ge", "eq", "ne")
def _compare(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    chosen = _one_hot(run, inputs) if eqn.primitive.name == "eq" else None
    if chosen is not None:
        return [chosen]
    # A comparison with 0 does not see positive factors.
    with_zero = any(x.zero for x in inputs)

    def function(o: Occurrence) -> Occurrence:
        run.require("sign", o.sign)
        if not with_zero:
            run.require("real", o.real)
        return o._replace(real=ZERO, sign=ZERO)

    mapped = [x if x.constant else run.mapped(x, function) for x in inputs]
    out = _combine(run, eqn, mapped, "compare")
    # No index is negative; that it is asked for is remembered for `select_n`.
    negative = eqn.primitive.name == "lt" and inputs[1].zero
    return [replace(out, index_of=inputs[0].index_of if negative else None)]


def _one_hot(run: Interpreter, inputs: list[Value]) -> Value | None:
    """Indices compared with a counter: an axis like the one that they index."""
    for x, counter in (inputs, inputs[::-1]):
        if (
            x.index_of is None
            or x.wrapped
            or counter.index_of is None
            or not counter.constant
        ):
            continue
        sizes = [run.indices.axis_size(a) for a in counter.axes]
        along = [i for i, a in enumerate(counter.axes) if a == counter.index_of]
        if len(along) != 1 or len(x.axes) != len(sizes):
            continue
        (i,) = along
        counted = run.indices.axis_size(x.index_of) == sizes[i]
        if not counted or not _thin(run, x.axes[i], sizes[i]):
            continue
        run.record([*x.axes, x.index_of])
        run.used_as_index()
        bare = map_occurrences(
            run.indices, [x.index_of], lambda o: o._replace(real=ZERO, sign=ZERO)
        )
        axes = [*x.axes[:i], *bare, *x.axes[i + 1 :]]
        return replace(x, axes=axes, index_of=None, distinct=False)
    return None


@register_rule("and", "or", "xor", "pow", "atan2", "nextafter", "rem")
def _general_binary(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    mapped = [run.nonlinear(x, eqn.primitive.name) for x in inputs]
    return [_combine(run, eqn, mapped, "compare")]


@register_rule("max", "min")
def _extremum(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    rectifier = any(x.zero for x in inputs)
    mapped = []
    for x in inputs:
        if not x.zero:
            x = run.mapped(x, run.without_sign)
            x = run.chain(x, "relu") if rectifier else x
        mapped.append(x)
    out = _combine(run, eqn, mapped, "add")
    return [replace(out, distinct=False)]


@register_rule("select_n")
def _select(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    which = run.mapped(inputs[0], run.without_exponents)
    # The condition constrains indices, but is no summand.
    which = replace(which, zero=True, index_of=inputs[0].index_of)
    run.end_shift(*inputs)
    cases = [replace(x, shift={}) for x in inputs[1:]]
    out = _combine(run, eqn, [which, *cases], "add")
    # Of an index, and that index counted from the end where it is negative: itself.
    never = which.index_of is not None and which.index_of == cases[0].index_of
    index_of = which.index_of if never else None
    return [replace(out, index_of=index_of, distinct=False)]


@register_rule("clamp")
def _clamp(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    mapped = [run.nonlinear(x, "clamp") for x in inputs]
    return [replace(_combine(run, eqn, mapped, "add"), distinct=False)]


@register_rule("add", "sub", "add_any")
def _add(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    sign = -1.0 if eqn.primitive.name == "sub" else 1.0
    shift = dict(inputs[0].shift)
    for leaf, factor in inputs[1].shift.items():
        shift[leaf] = shift.get(leaf, 0.0) + sign * factor
    plain = [replace(x, shift={}) for x in inputs]
    out = replace(_combine(run, eqn, plain, "add"), shift=shift)
    x, y = inputs
    if x.index_of is not None and y.scalar == run.indices.axis_size(x.index_of):
        out = replace(out, index_of=x.index_of, wrapped=True)
    return [out]


@register_rule("mul", "div")
def _multiply(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    x, y = inputs
    shift: dict[int, float] = {}
    division = eqn.primitive.name == "div"
    if y.scalar and not x.constant:
        factor = 1 / y.scalar if division else y.scalar
        shift = {leaf: c * factor for leaf, c in x.shift.items()}
    elif x.scalar and not division and not y.constant:
        shift = {leaf: c * x.scalar for leaf, c in y.shift.items()}
    else:
        run.end_shift(x, y)
    plain = [replace(v, shift={}) for v in inputs]
    return [replace(_combine(run, eqn, plain, "mul"), shift=shift)]


def _combine(run: Interpreter, eqn: Any, inputs: list[Value], mode: str) -> Value:
    """Joins the axes of operands; ``mode`` is "add", "mul" or "compare"."""
    shape = eqn.outvars[0].aval.shape
    inverse = eqn.primitive.name == "div"
    summands = [x for x in inputs if not (mode == "add" and x.zero)]
    run.end_shift(*inputs)
    axes = []
    for i, size in enumerate(shape):
        held: tuple[Axis, bool] | None = None
        for k, x in enumerate(inputs):
            if len(x.axes) != len(shape) or _thin(run, x.axes[i], size, width=True):
                continue
            axis = x.axes[i]
            if mode == "mul" and inverse and k == 1:
                axis = map_occurrences(run.indices, [axis], _reciprocal)[0]
            live = not (mode == "add" and x.zero)
            if held is None:
                held = (axis, live)
                continue
            aligned = run.indices.align(held[0], axis, run.why)
            if aligned is None:
                continue
            held = (_mixed(run, aligned, (held[1], live), mode), held[1] or live)
        axis = run.fresh(size, uniform=True) if held is None else held[0]
        if mode == "add" and any(
            len(x.axes) != len(shape) or _thin(run, x.axes[i], size) for x in summands
        ):
            # A summand is constant along this axis: nothing may scale along it.
            axis = map_occurrences(run.indices, [axis], run.without_exponents)[0]
        axes.append(axis)
    return _with_sites(run, inputs, axes, mode, _distinct(eqn, inputs, mode))


def _reciprocal(o: Occurrence) -> Occurrence:
    return o._replace(real=scale_form(o.real, -1))


def _mixed(
    run: Interpreter, aligned: tuple[Axis, Axis], live: tuple[bool, bool], mode: str
) -> Axis:
    def mix(a: Occurrence, b: Occurrence) -> Occurrence:
        kept = b if run.indices.is_uniform(a.axis_index) else a
        kept = kept._replace(tags=a.tags | b.tags)
        if mode == "mul":
            return kept._replace(
                real=add_forms(a.real, b.real), sign=add_forms(a.sign, b.sign)
            )
        if mode == "compare":
            return kept._replace(real=ZERO, sign=ZERO)
        if not live[0]:
            return kept._replace(real=b.real, sign=b.sign)
        if not live[1]:
            return kept._replace(real=a.real, sign=a.sign)
        run.require_equal(a, b)
        return kept

    left, right = aligned
    return [
        [mix(a, b) for a, b in zip(s, t, strict=True)]
        for s, t in zip(left, right, strict=True)
    ]


def _thin(run: Interpreter, axis: Axis, size: int, width: bool = False) -> bool:
    """Whether a value is constant along an axis of the result.

    With ``width`` only true size-1 axes count (a broadcast still joins nothing).
    """
    if size == 1:
        return False
    segments = run.indices.normal(axis)
    if sum(run.indices.segment_size(s) for s in segments) == 1:
        return True
    return not width and all(
        run.indices.is_uniform(o.axis_index) for s in segments for o in s
    )


def _distinct(eqn: Any, inputs: list[Value], mode: str) -> bool:
    """Whether entries of a sum or product differ from each other in general."""
    if len(set(map(id, eqn.invars))) < len(eqn.invars):
        return False  # h - h
    if mode == "add":
        return any(x.distinct for x in inputs)
    return all(x.distinct or x.scalar for x in inputs)


def _with_sites(
    run: Interpreter, inputs: list[Value], axes: list[Axis], mode: str, distinct: bool
) -> Value:
    activations: dict[int, tuple[str, ...]] = {}
    leaves: frozenset[int] = frozenset()
    for x in inputs:
        for activation, chain in x.activations.items():
            known = activations.get(activation, ())
            activations[activation] = known + tuple(c for c in chain if c not in known)
        leaves |= x.leaves
    zero = any(x.zero for x in inputs) if mode == "mul" else all(x.zero for x in inputs)
    constant = all(x.constant for x in inputs)
    value = Value(
        axes, activations, leaves, constant, zero and mode != "compare",
        distinct=distinct and mode != "compare",
    )  # fmt: skip
    acting = [x for x in inputs if x.activations]
    if run.activations is None or not acting or mode == "compare":
        return value
    if not leaves:
        if len({frozenset(x.activations) for x in acting}) == 1:
            return value
        if any(set(x.activations) >= set(activations) for x in acting):
            return value  # a site and something made of it, such as x - mean(x)
    run.activations.note_reads(run, inputs)
    kinds = {"add": ("residual", "bias"), "mul": ("gate", "scale")}
    made = run.activations.connect(run, kinds[mode][bool(leaves)], value, [], leaves)
    return replace(made, distinct=value.distinct)
