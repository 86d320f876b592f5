"""Rules of primitives that move axes, and factor or multiply them (reshape)."""

from __future__ import annotations

from jax.extend.core import JaxprEqn

from metanet.programs import shape_of
from metanet.symmetry.indices import Axis
from metanet.symmetry.recorder import Trace, register_rule
from metanet.symmetry.rules.slicing import join_along
from metanet.symmetry.split_values import seam_reshape, unstack_reshape
from metanet.symmetry.values import Value


@register_rule("transpose")
def _transpose(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    (x,) = inputs
    return [x.with_axes([x.axes[i] for i in eqn.params["permutation"]])]


@register_rule("squeeze")
def _squeeze(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    (x,) = inputs
    removed = eqn.params["dimensions"]
    return [x.with_axes([a for i, a in enumerate(x.axes) if i not in removed])]


@register_rule("broadcast_in_dim")
def _broadcast(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    x, before, after = inputs[0], shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    axes = [trace.fresh(n, uniform=True) for n in after]
    for i, d in enumerate(eqn.params["broadcast_dimensions"]):
        if before[i] == after[d]:
            axes[d] = x.axes[i]
    return [x.with_axes(axes)]


@register_rule("reshape")
def _reshape(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    x = inputs[0]
    if x.split is not None:  # merges the axis with the next: a concatenation
        at = x.split.axis
        rows = [v.with_axes(_merge_with_next(trace, v, at)) for v in x.split.parts]
        return join_along(trace, eqn, rows, at)
    if eqn.params.get("dimensions") is not None:
        return trace.pin_all(eqn, inputs)
    before, after = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    if 0 in before:
        return trace.pin_all(eqn, inputs)
    for in_parts in (unstack_reshape, seam_reshape):
        value = in_parts(trace, eqn, x)
        if value is not None:
            return [value]
    axes: list[Axis] = []
    for old, new in _groups(before, after):
        axes += _regroup(trace, [x.axes[i] for i in old], [after[j] for j in new])
    return [x.with_axes(axes)]


def _merge_with_next(trace: Trace, x: Value, at: int) -> list[Axis]:
    """Returns the axes of a value, two neighbours merged."""
    merged = trace.indices.product(x.axes[at : at + 2])
    return [*x.axes[:at], merged, *x.axes[at + 2 :]]


def _groups(
    before: tuple[int, ...], after: tuple[int, ...]
) -> list[tuple[list[int], list[int]]]:
    """Returns the shortest runs of dimensions with equal products on both sides."""
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
        # Dimensions of size 1 belong to the run that is open when they are met.
        groups.append((old, new))
    return groups


def _regroup(trace: Trace, old: list[Axis], sizes: list[int]) -> list[Axis]:
    """Returns axes of other sizes with the content of the product of ``old``."""
    flat = trace.indices.product(old)
    wide = [n for n in sizes if n != 1]
    if not wide:
        return [trace.fresh(1) for _ in sizes]
    if len(wide) == 1:
        return [flat if n != 1 else trace.fresh(1) for n in sizes]
    factors = trace.factored_axis(flat, sizes)
    if factors is None:
        why = f"axes that do not factor alike: {trace.why}"
        return _forget(trace, [flat], sizes, why)
    return factors


def _forget(trace: Trace, old: list[Axis], sizes: list[int], why: str) -> list[Axis]:
    """Returns new axes instead of old ones, all pinned and without structure."""
    new = [trace.fresh(n, why) for n in sizes]
    for axis in old:
        trace.pinned_axis(axis, why)
    for axis in (*old, *new):
        trace.indices.lose_structure(axis)
    return new
