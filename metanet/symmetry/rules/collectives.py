"""Rules of operations over named axes of devices, and of programs that every device runs.

An axis that is cut into one part per device is pinned, so that any operation between
devices preserves all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from jax.extend.core import JaxprEqn

from metanet.programs import shape_of
from metanet.symmetry.indices import Axis
from metanet.symmetry.recorder import Trace, register_rule
from metanet.symmetry.values import Value


def _axes_of_arrays(eqn: JaxprEqn) -> list[int]:
    """Returns the axes that are reduced within an array (of a `vmap`), without names."""
    return [a for a in eqn.params["axes"] if isinstance(a, int)]


def _summed_axes(
    trace: Trace, eqn: JaxprEqn, operands: Sequence[Value]
) -> Iterable[Axis]:
    for x in operands:
        yield from (x.axes[i] for i in _axes_of_arrays(eqn))


@register_rule("psum", "psum_invariant", entrywise=_summed_axes)
@register_rule("pmax", "pmin")
def _reduce(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Reduces axes, and values of all devices."""
    if eqn.params.get("axis_index_groups") is not None:
        return trace.pin_all(eqn, inputs)
    reduced = _axes_of_arrays(eqn)
    results = []
    for x in inputs:
        trace.forbid_phase(x)
        if eqn.primitive.name in ("pmax", "pmin"):
            x = trace.map_indices(x, trace.without_sign)
        trace.forbid_exponents(Value([x.axes[i] for i in reduced]))
        axes = [a for i, a in enumerate(x.axes) if i not in reduced]
        value = replace(x, axes=axes, shift={}, scalar=None, index_of=None)
        results.append(trace.chain(value, eqn.primitive.name))
    return results


@register_rule("ppermute", linear=True)
def _exchange(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Returns the values of other devices, or zeros."""
    results = []
    for x in inputs:
        trace.forbid_phase(x)
        results.append(replace(x, shift={}, scalar=None, index_of=None))
    return results


@register_rule("axis_index", "platform_index")
def _device(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Returns a number that differs between devices, and along no axis of an array."""
    return [Value([], constant=True)]


@register_rule("all_gather", "all_gather_invariant", "reduce_scatter")
def _gather(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Makes or removes an axis of devices, which is pinned."""
    tiled, gathers = eqn.params["tiled"], eqn.primitive.name != "reduce_scatter"
    at = eqn.params["all_gather_dimension" if gathers else "scatter_dimension"]
    results = []
    for x, variable in zip(inputs, eqn.outvars, strict=True):
        trace.forbid_phase(x)
        axes, shape = list(x.axes), shape_of(variable)
        if gathers and not tiled:
            axes.insert(at, trace.fresh(shape[at], trace.why))
        else:
            ended = trace.pinned_axis(axes[at], trace.why)
            axes[at : at + 1] = [trace.fresh(shape[at], trace.why)] if tiled else []
            trace.record([*axes, ended])
        value = replace(x, axes=axes, shift={}, scalar=None, index_of=None)
        results.append(trace.chain(value, eqn.primitive.name))
    return results


@register_rule("shard_map", linear=True)
def _shard_map(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Reads the program of a device; axes that are cut between devices are pinned."""
    body = eqn.params["jaxpr"]
    local = [
        _resized(trace, x, shape_of(variable))
        for x, variable in zip(inputs, body.invars, strict=True)
    ]
    with trace.not_capturable():
        outputs = trace.run(body, [], local, 0)
    return [
        _resized(trace, y, shape_of(variable))
        for y, variable in zip(outputs, eqn.outvars, strict=True)
    ]


def _resized(trace: Trace, x: Value, shape: Sequence[int]) -> Value:
    """Returns a value with pinned axes wherever the size is another."""
    sizes = [trace.indices.axis_size(a) for a in x.axes]
    cut = [i for i, n in enumerate(shape) if n != sizes[i]]
    if not cut:
        return x
    trace.forbid_phase(x)
    axes = trace.replaced_axes(x, cut, shape)
    return replace(x, axes=axes, shift={}, scalar=None, index_of=None)
