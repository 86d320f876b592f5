"""Arrays that are only read in pieces: fused projections, stacked layers.

``reshape(..., 3, heads, width)`` whose result is only read one index of the new axis at
a time is a concatenation of three arrays, not a product: refined as a product it would
tie the three together. Likewise a parameter of which every layer reads a slice of its
own is several parameters. Whether an array is so read is seen by looking ahead; its
value is then a tuple of values, which meet only where the program joins them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from metanet.programs import call_jaxpr, readers_of, traits_of
from metanet.symmetry.indices import Axis
from metanet.symmetry.values import Pieces, Value

if TYPE_CHECKING:
    from metanet.symmetry.interpreter import Interpreter

Readers = Mapping[Any, Sequence[Any]]


def cut_points(
    readers: Readers, variable: Any, axis: int, merged: bool = False
) -> set[tuple[int, int]] | None:
    """The stretches of an axis that are read; None where something reads the whole.

    Args:
        readers: Of every variable of the jaxpr, see `programs.readers_of`.
        variable: The array.
        axis: Its axis.
        merged: A reshape that lays the indices of the axis one behind the other, as a
            concatenation does, reads them one by one.
    """
    found: set[tuple[int, int]] = set()
    for eqn in readers.get(variable, ()):
        more = None
        if eqn is not None:
            more = _stretches(readers, eqn, variable, axis, merged)
        if more is None:
            return None
        found |= more
    return found


def _stretches(
    readers: Readers, eqn: Any, variable: Any, axis: int, merged: bool
) -> set[tuple[int, int]] | None:
    shape, params, name = variable.aval.shape, eqn.params, eqn.primitive.name
    inner = call_jaxpr(eqn)
    if inner is not None:
        found: set[tuple[int, int]] = set()
        for outside, inside in zip(eqn.invars, inner[0].invars, strict=True):
            if outside is variable:
                more = cut_points(readers_of(inner[0]), inside, axis, merged)
                if more is None:
                    return None
                found |= more
        return found
    if name == "slice":
        bounds = [*zip(params["start_indices"], params["limit_indices"], strict=True)]
        others = [b == (0, n) for b, n in zip(bounds, shape, strict=True)]
        del others[axis]
        strided = any(s != 1 for s in params["strides"] or ())
        return {bounds[axis]} if all(others) and not strided else None
    if name == "split" and params["axis"] == axis:
        ends = [*itertools.accumulate(params["sizes"], initial=0)]
        return {*itertools.pairwise(ends)}
    if (name == "unstack" and params["axis"] == axis) or (
        merged and name == "reshape" and is_merged(eqn, axis)
    ):
        return {(i, i + 1) for i in range(shape[axis])}
    after = _axis_after(eqn, variable, axis)
    if after is None:
        return None
    return cut_points(readers, eqn.outvars[0], after, merged)


def is_merged(eqn: Any, axis: int) -> bool:
    """Whether a reshape does nothing but merge an axis with the next."""
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    pair = before[axis : axis + 2]
    return after == (*before[:axis], math.prod(pair), *before[axis + 2 :])


def _axis_after(eqn: Any, variable: Any, axis: int) -> int | None:
    """Where an axis stands after an equation that leaves it as it is."""
    name, params = eqn.primitive.name, eqn.params
    if name == "transpose":
        return tuple(params["permutation"]).index(axis)
    if name == "squeeze":
        return axis - sum(d < axis for d in params["dimensions"])
    if name == "broadcast_in_dim":
        at = params["broadcast_dimensions"][axis]
        kept = eqn.outvars[0].aval.shape[at] == variable.aval.shape[axis]
        return at if kept and len(eqn.invars) == 1 else None
    before, after = variable.aval.shape, eqn.outvars[0].aval.shape
    kept = len(before) == len(after) and before[axis] == after[axis]
    return axis if traits_of(name).elementwise and kept else None


def partition(
    stretches: set[tuple[int, int]] | None, size: int
) -> tuple[int, ...] | None:
    """Starts and end of the pieces, where stretches cover an axis without overlap."""
    ordered = sorted(stretches or ())
    ends = [0, *(stop for _, stop in ordered)]
    if len(ordered) < 2 or [start for start, _ in ordered] != ends[:-1]:
        return None
    return tuple(ends) if ends[-1] == size else None


def unbound(run: Interpreter, eqn: Any, x: Value) -> Value | None:
    """The result of a reshape as pieces, or None where it is not so read."""
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    added = len(after) - len(before)
    for i, size in enumerate(before):
        factors = after[i : i + added + 1]
        if (
            added < 1
            or size == 1
            or before[:i] != after[:i]
            or before[i + 1 :] != after[i + added + 1 :]
        ):
            continue
        # Axes of size 1 may stand before the one that is read index by index.
        lead = next(k for k, n in enumerate(factors) if n != 1)
        count = factors[lead]
        at = i + lead
        starts = partition(cut_points(run.readers, eqn.outvars[0], at), count)
        if count == size or starts is None or len(starts) != count + 1:
            continue
        values = _factored(run, x, i, lead, factors[lead:])
        if values is None:
            return None
        run.end_shift(x)
        return in_pieces(run, after, Pieces(at, starts, values))
    return None


def in_pieces(run: Interpreter, shape: Sequence[int], pieces: Pieces) -> Value:
    """A value of which only the pieces are known."""
    return Value([run.fresh(n, uniform=True) for n in shape], pieces=pieces)


def _factored(
    run: Interpreter, x: Value, i: int, lead: int, factors: tuple[int, ...]
) -> tuple[Value, ...] | None:
    count, inner = factors[0], factors[1:]
    parts = run.indices.split_axis(x.axes[i], [math.prod(inner)] * count, run.why)
    if parts is None or any(len(p) > 1 for p in parts):
        return None
    values = []
    for part in parts:
        sizes = [n for n in inner if n != 1]
        split = run.indices.factor_segment(part[0], sizes, run.why)
        if split is None:
            return None
        rest = iter(split)
        new: list[Axis] = [[next(rest)] if n != 1 else run.fresh(1) for n in inner]
        ones = [run.fresh(1) for _ in range(lead + 1)]
        axes = [*x.axes[:i], *ones, *new, *x.axes[i + 1 :]]
        activations = (
            x.activations
            if run.activations is None
            else run.activations.remaining(run, x, axes)
        )
        values.append(replace(x, axes=axes, activations=activations, shift={}))
    return tuple(values)


def read_pieces(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    """The results of an equation that reads values in pieces, see `cut_points`."""
    name, params = eqn.primitive.name, eqn.params
    place = next(i for i, x in enumerate(inputs) if x.pieces is not None)
    held = inputs[place].pieces
    assert held is not None
    if name == "slice":
        start = params["start_indices"][held.axis]
        return [held.values[held.starts.index(start)]]
    if name == "split":
        ends = itertools.accumulate(params["sizes"], initial=0)
        return [held.values[held.starts.index(e)] for e in ends if e < held.starts[-1]]
    if name == "unstack":
        gone = held.axis
        return [v.with_axes([*v.axes[:gone], *v.axes[gone + 1 :]]) for v in held.values]
    if name == "reshape":
        return run.apply_rule(eqn, inputs)
    after = _axis_after(eqn, eqn.invars[place], held.axis)
    assert after is not None
    parts = [_parts(run, x, held) for x in inputs]
    # A piece does not know where it stands in the whole, which is what is captured.
    before, run.capturable = run.capturable, False
    values = []
    for k, (start, stop) in enumerate(itertools.pairwise(held.starts)):
        own = [p[k] for p in parts]
        shapes = [
            _resized(v.aval.shape, held.axis, stop - start) if len(set(map(id, p))) > 1
            else v.aval.shape
            for v, p in zip(eqn.invars, parts, strict=True)
        ]  # fmt: skip
        out = _resized(eqn.outvars[0].aval.shape, after, stop - start)
        smaller = SimpleNamespace(
            primitive=eqn.primitive,
            params=params,
            invars=[_variable(v, s) for v, s in zip(eqn.invars, shapes, strict=True)],
            outvars=[_variable(eqn.outvars[0], out)],
        )
        (value,) = run.apply_rule(smaller, own)
        run.record(value.axes)
        values.append(value)
    run.capturable = before
    shape = eqn.outvars[0].aval.shape
    return [in_pieces(run, shape, Pieces(after, held.starts, tuple(values)))]


def _parts(run: Interpreter, x: Value, held: Pieces) -> list[Value]:
    """An operand, piece by piece; the same for all where it is no longer than 1."""
    sizes = [b - a for a, b in itertools.pairwise(held.starts)]
    if x.pieces is not None:
        # Both are read by the same later equations, hence cut alike.
        assert x.pieces.starts == held.starts and x.pieces.axis == held.axis
        return list(x.pieces.values)
    if len(x.axes) <= held.axis or run.indices.axis_size(x.axes[held.axis]) == 1:
        return [x] * len(sizes)
    run.end_shift(x)
    cut = run.indices.split_axis(x.axes[held.axis], sizes, run.why)
    if cut is None:
        return [x] * len(sizes)
    rows = []
    for part in cut:
        axes = [*x.axes[: held.axis], part, *x.axes[held.axis + 1 :]]
        activations = (
            x.activations
            if run.activations is None
            else run.activations.remaining(run, x, axes)
        )
        rows.append(replace(x, axes=axes, activations=activations, shift={}))
    return rows


def _resized(shape: Sequence[int], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


def _variable(variable: Any, shape: Sequence[int]) -> Any:
    dtype = variable.aval.dtype
    return SimpleNamespace(aval=SimpleNamespace(shape=tuple(shape), dtype=dtype))
