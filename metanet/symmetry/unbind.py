"""Arrays that are cut into the indices of a new major axis: fused queries, keys, values.

``reshape(..., 3, heads, width)`` whose result is only read one index of the new axis at
a time is a concatenation of three arrays, not a product: refined as a product it would
tie the three together. Whether that is so is seen by looking ahead.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from metanet.symmetry.atoms import Axis
from metanet.symmetry.interpreter import Interpreter
from metanet.symmetry.values import Value


def unbound(run: Interpreter, eqn: Any, x: Value) -> Value | None:
    """The result of a reshape as separate parts, or None where it is not so read."""
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    added = len(after) - len(before)
    for i, size in enumerate(before):
        factors = after[i : i + added + 1]
        if (
            added < 1
            or before[:i] != after[:i]
            or before[i + 1 :] != after[i + added + 1 :]
            or factors[0] in (1, size)
            or not _read_by_index(run, eqn.outvars[0], i)
        ):
            continue
        parts = _parts(run, x, i, factors)
        if parts is None:
            return None
        run.end_shift(x)
        return Value([run.fresh(n) for n in after], parts=(i, parts))
    return None


def _read_by_index(run: Interpreter, variable: Any, axis: int) -> bool:
    readers = run.readers(variable)
    return bool(readers) and all(_reads_index(run, r, axis) for r in readers)


def _reads_index(run: Interpreter, eqn: Any, axis: int) -> bool:
    """Whether an equation reads single indices of an axis, and all of the others."""
    if eqn is None:
        return False
    name, params = eqn.primitive.name, eqn.params
    if name == "transpose":
        moved = tuple(params["permutation"]).index(axis)
        return _read_by_index(run, eqn.outvars[0], moved)
    if name == "unstack":
        return params["axis"] == axis
    if name == "split":
        return params["axis"] == axis and set(params["sizes"]) == {1}
    if name != "slice":
        return False
    bounds = zip(params["start_indices"], params["limit_indices"], strict=True)
    return all(
        stop - start == (1 if i == axis else n)
        for i, ((start, stop), n) in enumerate(
            zip(bounds, eqn.invars[0].aval.shape, strict=True)
        )
    )


def _parts(
    run: Interpreter, x: Value, i: int, factors: tuple[int, ...]
) -> tuple[Value, ...] | None:
    count, inner = factors[0], factors[1:]
    pieces = run.atoms.split_axis(x.axes[i], [math.prod(inner)] * count, run.why)
    if pieces is None or any(len(p) > 1 for p in pieces):
        return None
    values = []
    for piece in pieces:
        sizes = [n for n in inner if n != 1]
        split = run.atoms.factor_segment(piece[0], sizes, run.why)
        if split is None:
            return None
        rest = iter(split)
        new: list[Axis] = [[next(rest)] if n != 1 else run.fresh(1) for n in inner]
        axes = [*x.axes[:i], *new, *x.axes[i + 1 :]]
        sites = x.sites if run.sites is None else run.sites.remaining(run, x, axes)
        values.append(replace(x, axes=axes, sites=sites, shift={}, parts=None))
    return tuple(values)


def transposed(x: Value, permutation: tuple[int, ...]) -> Value:
    """An unbound value with its axes in another order."""
    assert x.parts is not None
    at, parts = x.parts
    inner = [i - (i > at) for i in permutation if i != at]
    moved = tuple(p.with_axes([p.axes[i] for i in inner]) for p in parts)
    axes = [x.axes[i] for i in permutation]
    return Value(axes, parts=(tuple(permutation).index(at), moved))


def taken(run: Interpreter, x: Value, index: int) -> Value:
    """One part of an unbound value, with its axis of size 1."""
    assert x.parts is not None
    at, parts = x.parts
    axes = list(parts[index].axes)
    axes.insert(at, run.fresh(1))
    return parts[index].with_axes(axes)
