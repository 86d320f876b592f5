"""Rules of loops and branches.

A loop's body is read once. Its state keeps one set of atoms from the start through every
turn to the end, so what holds for one turn holds for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from metanet.programs import scan_counts
from metanet.symmetry.indices import ZERO, Axis, Occurrence
from metanet.symmetry.interpreter import Interpreter, register_rule
from metanet.symmetry.values import Value, map_occurrences


@register_rule("scan")
def _scan(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    params = eqn.params
    first, count = scan_counts(eqn)
    second = first + count
    consts, init, stacked = inputs[:first], inputs[first:second], inputs[second:]
    index = run.fresh(params["length"], f"index of a loop: {run.why}")
    for x in stacked:
        run.end_shift(x)
        aligned = run.indices.align(index, x.axes[0], run.why)
        if aligned is None:
            return run.opaque(eqn, inputs)
        map_occurrences(run.indices, [x.axes[0]], run.without_exponents)
        index = [
            [a._replace(tags=a.tags | b.tags) for a, b in zip(s, t, strict=True)]
            for s, t in zip(*aligned, strict=True)
        ]
    slices = [replace(x, axes=x.axes[1:], shift={}) for x in stacked]
    state = _state(run, init)
    run.context.append(index)
    outputs = _body(run, params["jaxpr"], [*consts, *state, *slices], 0)
    run.context.pop()
    last = _closed(run, state, outputs[: second - first])
    rows = [
        replace(y, axes=[index, *y.axes], shift={}) for y in outputs[second - first :]
    ]
    run.end_shift(*outputs)
    return [*last, *rows]


@register_rule("while")
def _while(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    params = eqn.params
    first = params["cond_nconsts"]
    second = first + params["body_nconsts"]
    state = _state(run, inputs[second:])
    for stop in _body(run, params["cond_jaxpr"], [*inputs[:first], *state], 1):
        run.mapped(stop, run.without_exponents)
    outputs = _body(run, params["body_jaxpr"], [*inputs[first:second], *state], 0)
    run.end_shift(*outputs)
    return _closed(run, state, outputs)


@register_rule("cond")
def _cond(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    choice, *operands = inputs
    run.mapped(choice, run.without_exponents)
    before, run.capturable = run.capturable, False
    branches = [
        _body(run, b, operands, i) for i, b in enumerate(eqn.params["branches"])
    ]
    run.capturable = before
    joined = branches[0]
    for branch in branches[1:]:
        joined = [_either(run, a, b) for a, b in zip(joined, branch, strict=True)]
    return joined


def _body(
    run: Interpreter, closed: Any, inputs: Sequence[Value], branch: int
) -> list[Value]:
    run.depth += 1
    constants = [run.constant(c) for c in closed.consts]
    outputs = run.run(closed.jaxpr, constants, inputs, branch)
    run.depth -= 1
    return outputs


def _state(run: Interpreter, init: Sequence[Value]) -> list[Value]:
    """The state of a loop, over the atoms that it starts from."""
    state = []
    for place, x in enumerate(init):
        run.end_shift(x)
        axes = run.carried(place, [run.indices.axis_size(a) for a in x.axes])
        for a, b in zip(axes, x.axes, strict=True):
            run.indices.align(a, b, run.why)
        new = Value([_carry_exponents(run, place, i, a) for i, a in enumerate(axes)],
                    leaves=x.leaves)  # fmt: skip
        if not x.zero:
            _equal_exponents(run, new, x)
        if run.activations is not None:
            if x.leaves and not x.activations:
                x = run.activations.connect(run, "token", x, [], x.leaves)
            new = run.activations.add_state(run, new, x, place)
        run.record(new.axes)
        state.append(new)
    return state


def _carry_exponents(run: Interpreter, place: int, axis: int, content: Axis) -> Axis:
    """Gives every index of a state a variable for its exponent."""
    named = []
    for s, segment in enumerate(run.indices.normal(content)):
        row: list[Occurrence] = []
        for k, o in enumerate(segment):
            if run.indices.is_opaque(o.axis_index):
                row.append(o._replace(real=ZERO, sign=ZERO))
                continue
            variable = ("carry", run.location, (place, axis, s, k))
            form = ((variable, Fraction(1)),)
            row.append(o._replace(real=form, sign=form))
        named.append(row)
    return named


def _equal_exponents(run: Interpreter, a: Value, b: Value) -> None:
    for left, right in zip(a.axes, b.axes, strict=True):
        aligned = run.indices.align(left, right, run.why)
        if aligned is None:
            run.mapped(a, run.without_exponents)
            run.mapped(b, run.without_exponents)
            continue
        for s, t in zip(*aligned, strict=True):
            for o, p in zip(s, t, strict=True):
                run.require_equal(o, p)


def _closed(
    run: Interpreter, state: Sequence[Value], outputs: Sequence[Value]
) -> list[Value]:
    """Ties what a turn leaves to what the next one finds."""
    for before, after in zip(state, outputs, strict=True):
        run.record(after.axes)
        _equal_exponents(run, before, after)
        if run.activations is not None:
            run.activations.recur(before, after)
    return [
        replace(y, shift={}, zero=False, constant=False, scalar=None) for y in outputs
    ]


def _either(run: Interpreter, a: Value, b: Value) -> Value:
    """A value that is one or the other."""
    run.end_shift(a, b)
    axes: list[Axis] = []
    for left, right in zip(a.axes, b.axes, strict=True):
        aligned = run.indices.align(left, right, run.why)
        if aligned is None:
            run.mapped(a, run.without_exponents)
            run.mapped(b, run.without_exponents)
            axes.append(left)
            continue
        axes.append([
            [_both(run, o, p, a.zero, b.zero) for o, p in zip(s, t, strict=True)]
            for s, t in zip(*aligned, strict=True)
        ])  # fmt: skip
    chains = {s: c for v in (b, a) for s, c in v.activations.items()}
    return Value(axes, chains, a.leaves | b.leaves, zero=a.zero and b.zero)


def _both(
    run: Interpreter, o: Occurrence, p: Occurrence, no_o: bool, no_p: bool
) -> Occurrence:
    if not (no_o or no_p):
        run.require_equal(o, p)
    kept = p if run.indices.is_uniform(o.axis_index) else o
    live = p if no_o else o
    return kept._replace(tags=o.tags | p.tags, real=live.real, sign=live.sign)
