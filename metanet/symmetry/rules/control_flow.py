"""Rules of loops and branches.

A loop's body is read once. Its state has the same indices before, during and after the
loop, so that what holds for one iteration holds for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var

from metanet.programs import readers_of, scan_counts
from metanet.symmetry.distinctness import dependencies
from metanet.symmetry.indices import ZERO, Axis, Occurrence, StateVar
from metanet.symmetry.recorder import Trace, register_rule, zip_occurrences
from metanet.symmetry.values import Value


@register_rule("scan")
def _scan(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    params = eqn.params
    first, count = scan_counts(eqn)
    second = first + count
    consts, init, stacked = inputs[:first], inputs[first:second], inputs[second:]
    # The order of turns that do not depend on each other, or are added up, is arbitrary.
    is_ordered = not all(_is_sum(params["jaxpr"].jaxpr, first, i) for i in range(count))
    why = f"index of a loop: {trace.why}" if is_ordered else None
    index = trace.fresh(params["length"], why)
    for x in stacked:
        trace.forbid_phase(x)
        aligned = trace.indices.align(index, x.axes[0], trace.why)
        if aligned is None:
            return trace.pin_all(eqn, inputs)
        trace.forbid_exponents(Value([x.axes[0]]))
        index = zip_occurrences(aligned, _with_tags)
    slices = [replace(x, axes=x.axes[1:], shift={}) for x in stacked]
    state = _initial_state(trace, init, inputs)
    with trace.inside_loop(index):
        outputs = _run_body(trace, params["jaxpr"], [*consts, *state, *slices], 0)
    last = _tie_loop_state(trace, state, outputs[:count])
    rows = [replace(y, axes=[index, *y.axes], shift={}) for y in outputs[count:]]
    trace.forbid_phase(*outputs)
    return [*last, *rows]


def _is_sum(body: Jaxpr, first: int, number: int) -> bool:
    """Returns True if a loop only adds to a state, or does not change it.

    Args:
        body: The loop's body.
        first: Number of its constants, which precede the states.
        number: Number of the state.
    """
    before, after = body.invars[first + number], body.outvars[number]
    readers = readers_of(body).get(before, [])
    if after is before:
        return True
    if not isinstance(after, Var):
        return False
    is_added = [
        eqn is not None
        and eqn.primitive.name in ("add", "add_any")
        and eqn.outvars[0] is after
        and eqn.invars[0] is not eqn.invars[1]
        for eqn in readers
    ]
    return is_added == [True] and readers_of(body).get(after) == [None]


def _with_tags(a: Occurrence, b: Occurrence) -> Occurrence:
    return a._replace(tags=a.tags | b.tags)


@register_rule("while")
def _while(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    params = eqn.params
    first = params["cond_nconsts"]
    second = first + params["body_nconsts"]
    state = _initial_state(trace, inputs[second:], inputs)
    operands = [*inputs[:first], *state]
    for proceed in _run_body(trace, params["cond_jaxpr"], operands, 1):
        trace.forbid_exponents(proceed)
    operands = [*inputs[first:second], *state]
    outputs = _run_body(trace, params["body_jaxpr"], operands, 0)
    trace.forbid_phase(*outputs)
    return _tie_loop_state(trace, state, outputs)


@register_rule("cond")
def _cond(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    choice, *operands = inputs
    trace.forbid_exponents(choice)
    with trace.not_capturable():
        branches = [
            _run_body(trace, branch, operands, i)
            for i, branch in enumerate(eqn.params["branches"])
        ]
    merged = branches[0]
    for branch in branches[1:]:
        merged = [
            _merge_branches(trace, a, b) for a, b in zip(merged, branch, strict=True)
        ]
    return merged


def _run_body(
    trace: Trace, closed: ClosedJaxpr, inputs: Sequence[Value], branch: int
) -> list[Value]:
    trace.depth += 1
    constants = [trace.constant(c) for c in closed.consts]
    outputs = trace.run(closed.jaxpr, constants, inputs, branch)
    trace.depth -= 1
    return outputs


def _initial_state(
    trace: Trace, init: Sequence[Value], operands: Sequence[Value]
) -> list[Value]:
    """Returns the state of a loop, over the indices of its initial value.

    Args:
        trace: The pass.
        init: The initial values.
        operands: All operands of the loop, on which its later states depend.
    """
    depends = frozenset().union(*(dependencies(x) for x in operands))
    state = []
    for number, x in enumerate(init):
        trace.forbid_phase(x)
        axes = trace.state_axes(number, [trace.indices.axis_size(a) for a in x.axes])
        for a, b in zip(axes, x.axes, strict=True):
            trace.indices.align(a, b, trace.why)
        axes = [_state_exponents(trace, number, i, a) for i, a in enumerate(axes)]
        new = Value(axes, leaves=x.leaves)
        if not x.zero:
            _require_equal_axes(trace, new, x)
        if x.leaves and not x.activations:
            x = trace.dataflow.connect(trace, "token", x, [], x.leaves)
        new = trace.dataflow.add_state(trace, new, x, number)
        trace.record(new.axes)
        state.append(replace(new, depends=depends))
    return state


def _state_exponents(trace: Trace, number: int, axis: int, content: Axis) -> Axis:
    """Gives every index of a state a variable for its exponent."""
    segments = []
    for s, segment in enumerate(trace.indices.normal(content)):
        row: list[Occurrence] = []
        for k, o in enumerate(segment):
            if trace.indices.is_unstructured(o.axis_index):
                row.append(o._replace(real=ZERO, sign=ZERO))
                continue
            variable = StateVar(trace.location, number, axis, s, k)
            form = ((variable, Fraction(1)),)
            row.append(o._replace(real=form, sign=form))
        segments.append(row)
    return segments


def _require_equal_axes(trace: Trace, a: Value, b: Value) -> None:
    """Requires two values to scale alike along every axis."""
    for left, right in zip(a.axes, b.axes, strict=True):
        aligned = trace.indices.align(left, right, trace.why)
        if aligned is None:
            trace.forbid_exponents(a, b)
            continue
        for s, t in zip(*aligned, strict=True):
            for o, p in zip(s, t, strict=True):
                trace.require_equal(o, p)


def _tie_loop_state(
    trace: Trace, state: Sequence[Value], outputs: Sequence[Value]
) -> list[Value]:
    """Ties the state after an iteration to the state before it."""
    for before, after in zip(state, outputs, strict=True):
        trace.record(after.axes)
        _require_equal_axes(trace, before, after)
        trace.dataflow.add_recurrence(before, after)
    return [
        replace(y, shift={}, zero=False, constant=False, scalar=None) for y in outputs
    ]


def _merge_branches(trace: Trace, a: Value, b: Value) -> Value:
    """Returns a value that is either of two."""
    trace.forbid_phase(a, b)

    def merge(o: Occurrence, p: Occurrence) -> Occurrence:
        if not (a.zero or b.zero):
            trace.require_equal(o, p)
        source = p if trace.indices.is_uniform(o.axis_index) else o
        live = p if a.zero else o
        return source._replace(tags=o.tags | p.tags, real=live.real, sign=live.sign)

    axes: list[Axis] = []
    for left, right in zip(a.axes, b.axes, strict=True):
        aligned = trace.indices.align(left, right, trace.why)
        if aligned is None:
            trace.forbid_exponents(a, b)
            axes.append(left)
        else:
            axes.append(zip_occurrences(aligned, merge))
    activations = {**b.activations, **a.activations}
    return Value(axes, activations, a.leaves | b.leaves, zero=a.zero and b.zero)
