"""Which indices enter a program through linear algebra alone.

Where no equation acts on the single entries along an index (no nonlinearity, no constant
or parameter multiplied or added entry by entry), the permutations and scalings of the
index are part of a continuous group: any invertible matrix can be inserted on one side,
and its inverse on the other (the rank of a low-rank adapter, the channels in which
queries meet keys). Source: Kunin et al. 2021 for the invariances; here they are named,
not acted with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from metanet.programs import traits_of
from metanet.symmetry.indices import Axis
from metanet.symmetry.values import Value

if TYPE_CHECKING:
    from metanet.symmetry.interpreter import Interpreter


def entrywise(run: Interpreter, eqn: Any, inputs: Sequence[Value]) -> set[int]:
    """Atoms along which an equation acts on single entries."""
    return {
        o.axis_index
        for axis in _axes(run, eqn, inputs)
        for segment in run.indices.normal(axis)
        for o in segment
    }


def _axes(run: Interpreter, eqn: Any, inputs: Sequence[Value]) -> Iterator[Axis]:
    name, params = eqn.primitive.name, eqn.params
    if traits_of(name).linear or any(x.pieces is not None for x in inputs):
        return
    if name == "dot_general":
        _, batch = params["dimension_numbers"]
        for x, axes in zip(inputs, batch, strict=True):
            yield from (x.axes[i] for i in axes)
    elif name == "conv_general_dilated" and params["feature_group_count"] == 1:
        return
    elif name in ("add", "sub", "add_any"):
        for x, other in (inputs, inputs[::-1]):
            if not other.zero:
                yield from _where(run, x, other, uniform=True)
    elif name == "mul":
        for x, other in (inputs, inputs[::-1]):
            yield from _where(run, x, other, uniform=False)
    elif name == "div":
        yield from inputs[1].axes
        yield from _where(run, inputs[0], inputs[1], uniform=False)
    elif name in ("reduce_sum", "cumsum"):
        axes = params.get("axes", (params.get("axis"),))
        yield from (inputs[0].axes[i] for i in axes)
    elif name == "gather":
        sizes = params["slice_sizes"]
        for axis, size in zip(inputs[0].axes, sizes, strict=True):
            if run.indices.axis_size(axis) != size:
                yield axis
    elif name == "pad" and inputs[1].zero:
        return
    else:
        yield from (axis for x in inputs for axis in x.axes)


def _where(run: Interpreter, x: Value, other: Value, uniform: bool) -> Iterator[Axis]:
    """Axes of an operand along which the other one is, or is not, constant."""
    for i, axis in enumerate(x.axes):
        constant = len(other.axes) != len(x.axes) or all(
            run.indices.is_uniform(o.axis_index)
            for segment in run.indices.normal(other.axes[i])
            for o in segment
        )
        if constant == uniform:
            yield axis
