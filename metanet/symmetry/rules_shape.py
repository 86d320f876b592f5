"""Rules of primitives that move, cut and join indices."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from metanet.symmetry.indices import Axis
from metanet.symmetry.interpreter import Interpreter, register_rule
from metanet.symmetry.pieces import cut_points, in_pieces, partition, unbound
from metanet.symmetry.values import Pieces, Value


@register_rule("transpose")
def _transpose(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    (x,) = inputs
    return [x.with_axes([x.axes[i] for i in eqn.params["permutation"]])]


@register_rule("squeeze")
def _squeeze(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    (x,) = inputs
    gone = eqn.params["dimensions"]
    return [x.with_axes([a for i, a in enumerate(x.axes) if i not in gone])]


@register_rule("broadcast_in_dim")
def _broadcast(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    x, shape = inputs[0], eqn.outvars[0].aval.shape
    axes = [run.fresh(n, uniform=True) for n in shape]
    for i, d in enumerate(eqn.params["broadcast_dimensions"]):
        if eqn.invars[0].aval.shape[i] == shape[d]:
            axes[d] = x.axes[i]
    return [x.with_axes(axes)]


@register_rule("reshape")
def _reshape(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    x = inputs[0]
    if x.pieces is not None:  # joined one behind the other
        at = x.pieces.axis
        rows = [v.with_axes([*v.axes[:at], *v.axes[at + 1 :]]) for v in x.pieces.values]
        return _join(run, eqn, rows, at)
    if eqn.params.get("dimensions") is not None:
        return run.opaque(eqn, inputs)
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    if 0 in before:
        return run.opaque(eqn, inputs)
    pieces = unbound(run, eqn, x)
    if pieces is not None:
        return [pieces]
    axes: list[Axis] = []
    for old, new in _groups(before, after):
        axes += _regroup(run, [x.axes[i] for i in old], [after[j] for j in new])
    return [x.with_axes(axes)]


def _groups(
    before: tuple[int, ...], after: tuple[int, ...]
) -> list[tuple[list[int], list[int]]]:
    """Least runs of dimensions with equal products on both sides."""
    groups, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        old, new, p, q = [], [], 1, 1
        while not (old or new) or p != q:
            if (p <= q and i < len(before)) or j >= len(after):
                old.append(i)
                p, i = p * before[i], i + 1
            else:
                new.append(j)
                q, j = q * after[j], j + 1
        # Size-1 dimensions join whatever run they stand in.
        groups.append((old, new))
    return groups


def _regroup(run: Interpreter, old: list[Axis], sizes: list[int]) -> list[Axis]:
    """Axes of given sizes with the content of the product of ``old``."""
    indices = run.indices
    segments = [indices.normal(axis) for axis in old]
    segments[1:] = [_counted(run, s) for s in segments[1:]]
    if any(len(s) > 1 for s in segments[1:]):
        why = f"a concatenation in a minor axis: {run.why}"
        return _lost(run, segments, sizes, why)
    if not segments:
        return [run.fresh(n) for n in sizes]
    tail = [o for s in segments[1:] for o in s[0]]
    flat = [s + tail for s in segments[0]]
    wide = [n for n in sizes if n != 1]
    if len(wide) <= 1:
        return [flat if n != 1 else run.fresh(1) for n in sizes]
    factors = indices.factor_segment(flat[0], wide, run.why) if len(flat) == 1 else None
    if factors is None:
        why = f"axes that do not factor alike: {run.why}"
        return _lost(run, [flat], sizes, why)
    parts = iter(factors)
    return [[next(parts)] if n != 1 else run.fresh(1) for n in sizes]


def _counted(run: Interpreter, segments: Axis) -> Axis:
    """A concatenation of single entries (a stack) as one index, which stays in order."""
    if len(segments) == 1 or any(segments):
        return segments
    return run.fresh(len(segments), f"the index of a stack: {run.why}")


def _lost(run: Interpreter, old: list[Axis], sizes: list[int], why: str) -> list[Axis]:
    """New axes in place of old ones, of which nothing more is known."""
    new = [run.fresh(n, why) for n in sizes]
    for axis in old:
        run.pinned_axis(axis, why)
    for axis in (*old, *new):
        run.indices.obscure(axis)
    return new


@register_rule("split")
def _split(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    (x,) = inputs
    return _cut(run, eqn, x, {eqn.params["axis"]: eqn.params["sizes"]}, None)


@register_rule("unstack")
def _unstack(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    (x,), at, count = inputs, eqn.params["axis"], len(eqn.outvars)
    parts = _cut(run, eqn, x, {at: (1,) * count}, None)
    return [p.with_axes([*p.axes[:at], *p.axes[at + 1 :]]) for p in parts]


@register_rule("slice")
def _slice(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    params, shape = eqn.params, eqn.invars[0].aval.shape
    (x,) = inputs
    strides = params["strides"] or (1,) * len(shape)
    strided = [i for i, s in enumerate(strides) if s != 1]
    if strided:
        run.end_shift(x)
        axes = run.replaced_axes(x, strided, eqn.outvars[0].aval.shape)
        x = replace(x, axes=axes, shift={})
    bounds = zip(params["start_indices"], params["limit_indices"], shape, strict=True)
    cuts = {
        i: (a, b - a, n - b)
        for i, (a, b, n) in enumerate(bounds)
        if b - a != n and i not in strided
    }
    return _cut(run, eqn, x, cuts, 1)


def _cut(
    run: Interpreter,
    eqn: Any,
    x: Value,
    cuts: dict[int, tuple[int, ...]],
    chosen: int | None,
) -> list[Value]:
    """Cuts axes; all parts of the one axis are results, or the chosen part of each."""
    # A part of a bias can be used as the whole is not.
    run.end_shift(x)
    outputs = [list(x.axes) for _ in eqn.outvars]
    for i, sizes in cuts.items():
        parts = run.indices.split_axis(x.axes[i], [n for n in sizes if n], run.why)
        if parts is None:  # cut across its factors: pinned, other axes are as before
            x = replace(x, axes=[*x.axes[:i], run.pinned_axis(x.axes[i], run.why),
                                 *x.axes[i + 1 :]])  # fmt: skip
            results = sizes if chosen is None else sizes[chosen : chosen + 1]
            for axes, size in zip(outputs, results, strict=True):
                axes[i] = run.fresh(size, run.why)
                run.record([*axes, x.axes[i]])
            continue
        rest = iter(parts)
        full = [next(rest) if n else [] for n in sizes]
        if chosen is None:
            for axes, part in zip(outputs, full, strict=True):
                axes[i] = part
        else:
            outputs[0][i] = full[chosen]
    values = []
    for axes in outputs:
        activations = (
            x.activations
            if run.activations is None
            else run.activations.remaining(run, x, axes)
        )
        values.append(replace(x, axes=axes, activations=activations, shift={}))
    return values


@register_rule("concatenate")
def _concatenate(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    return _join(run, eqn, inputs, eqn.params["dimension"])


@register_rule("stack")
def _stack(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    at = eqn.params["axis"]
    wide = lambda x: x.with_axes([*x.axes[:at], run.fresh(1), *x.axes[at:]])
    return _join(run, eqn, [wide(x) for x in inputs], at)


def _join(run: Interpreter, eqn: Any, inputs: list[Value], at: int) -> list[Value]:
    """The inputs one after the other along an axis."""
    run.end_shift(*inputs)
    if run.activations is not None and any(x.activations for x in inputs):
        # A parameter joined to activations (a class token) is a site of its own.
        inputs = [
            run.activations.connect(run, "token", x, [], x.leaves)
            if x.leaves and not x.activations
            else x
            for x in inputs
        ]
    sizes = [run.indices.axis_size(x.axes[at]) for x in inputs]
    starts = tuple(itertools.accumulate(sizes, initial=0))
    read = cut_points(run.readers, eqn.outvars[0], at, merged=True)
    if eqn.primitive.name != "reshape" and partition(read, starts[-1]) == starts:
        shape = eqn.outvars[0].aval.shape
        return [in_pieces(run, shape, Pieces(at, starts, tuple(inputs)))]
    axes = [run.indices.normal(a) for a in inputs[0].axes]
    live = not inputs[0].zero
    for x in inputs[1:]:
        for i in range(len(axes)):
            if i == at:
                axes[i] = axes[i] + run.indices.normal(x.axes[i])
                continue
            aligned = run.indices.align(axes[i], x.axes[i], run.why)
            if aligned is None:
                old = [axes[i], x.axes[i]]
                axes[i] = run.fresh(eqn.outvars[0].aval.shape[i], run.why)
                run.record([*axes, *old])
                continue
            axes[i] = run.beside(aligned, live, not x.zero)
        live = live or not x.zero
    activations = {s: c for x in inputs for s, c in x.activations.items()}
    leaves = frozenset().union(*(x.leaves for x in inputs))
    constant, zero = all(x.constant for x in inputs), all(x.zero for x in inputs)
    distinct = all(x.distinct for x in inputs)
    return [Value(axes, activations, leaves, constant, zero, distinct=distinct)]
