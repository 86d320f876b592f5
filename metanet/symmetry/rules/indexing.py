"""Rules of primitives that look up, scatter and rank entries by index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from jax.extend.core import JaxprEqn

from metanet.programs import shape_of
from metanet.symmetry.distinctness import is_distinct
from metanet.symmetry.indices import Axis, Occurrence
from metanet.symmetry.recorder import Trace, register_rule, zip_occurrences
from metanet.symmetry.rules.slicing import rearranged_axis
from metanet.symmetry.values import Lookup, Value, map_occurrences


@register_rule("iota")
def _iota(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    along, shape = eqn.params["dimension"], shape_of(eqn.outvars[0])
    axes = [
        trace.fresh(n, trace.why if i == along else None, uniform=i != along)
        for i, n in enumerate(shape)
    ]
    return [Value(axes, constant=True, index_of=axes[along])]


@register_rule("sort")
def _sort(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Sorts keys, and counters along with them: these become indices."""
    along = eqn.params["dimension"]
    keys, *others = inputs
    are_counters = all(x.constant and x.index_of == x.axes[along] for x in others)
    by_rank = eqn.params["num_keys"] == 1 and are_counters
    if by_rank and _ranks_are_unique(trace, eqn, keys, along):
        return _ranked(trace, eqn, keys, along)
    return [
        _reordered(trace, x, along, shape_of(variable), "sort")
        for x, variable in zip(inputs, eqn.outvars, strict=True)
    ]


@register_rule("top_k")
def _top_k(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    (x,) = inputs
    along = len(x.axes) - 1
    if _ranks_are_unique(trace, eqn, x, along):
        return _ranked(trace, eqn, x, along)
    return [
        _reordered(trace, x, along, shape_of(variable), "top_k")
        for variable in eqn.outvars
    ]


def _ranks_are_unique(trace: Trace, eqn: JaxprEqn, keys: Value, along: int) -> bool:
    """Returns True if no two keys are equal, or nothing reads the order of equal ones."""
    reads_indices = any(trace.readers.get(v) for v in eqn.outvars[1:])
    return not reads_indices or is_distinct(trace.indices, keys, along)


@register_rule("approx_top_k")
def _approximate_top_k(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Pins the axis: an approximation may depend on the order of its entries."""
    (x,) = inputs
    along = eqn.params["reduction_dimension"] % len(x.axes)
    return [
        _reordered(trace, x, along, shape_of(variable), "top_k")
        for variable in eqn.outvars
    ]


def _ranked(trace: Trace, eqn: JaxprEqn, keys: Value, along: int) -> list[Value]:
    """Returns keys by rank, then their indices.

    Ranks do not depend on the order of what is ranked; indices move along with it.
    """
    ranked, outputs = keys.axes[along], []
    for number, variable in enumerate(eqn.outvars):
        trace.forbid_phase(keys)
        x = trace.map_indices(keys, trace.without_exponents)
        rank = trace.fresh(shape_of(variable)[along], trace.why)
        axes = [*x.axes[:along], rank, *x.axes[along + 1 :]]
        trace.record([*axes, ranked])
        x = replace(x, axes=axes, index_of=ranked if number else None)
        outputs.append(trace.chain(x, eqn.primitive.name))
    return outputs


def _reordered(
    trace: Trace, x: Value, along: int, shape: Sequence[int], name: str
) -> Value:
    """Returns a value in another order along an axis, which is pinned."""
    x = trace.map_indices(x, trace.without_exponents)
    axes = trace.replaced_axes(x, {along}, shape)
    return trace.chain(replace(x, axes=axes, index_of=None), name)


def _sliced_axes(
    trace: Trace, eqn: JaxprEqn, operands: Sequence[Value]
) -> Iterable[Axis]:
    """Returns the axes of which a gather does not read the whole."""
    for axis, size in zip(operands[0].axes, eqn.params["slice_sizes"], strict=True):
        if trace.indices.axis_size(axis) != size:
            yield axis


def _constant_selection(
    trace: Trace, eqn: JaxprEqn, x: Value, index: Value
) -> Value | None:
    """Returns units of an array in another order, if a gather with constants reads so."""
    numbers, entries = eqn.params["dimension_numbers"], index.entries
    before = shape_of(eqn.invars[0])
    looked_up = numbers.collapsed_slice_dims
    if entries is None or entries.ndim != 2 or entries.shape[1] != 1 or not x.axes:
        return None
    if len(looked_up) != 1 or numbers.start_index_map != looked_up:
        return None
    (axis,) = looked_up
    whole = (*before[:axis], 1, *before[axis + 1 :])
    in_bounds = ((entries >= 0) & (entries < before[axis])).all()
    if tuple(eqn.params["slice_sizes"]) != whole or not in_bounds:
        return None
    moved = rearranged_axis(trace, x.axes[axis], [int(n) for n in entries[:, 0]])
    if moved is None:
        return None
    rest = [a for i, a in enumerate(x.axes) if i != axis]
    (position,) = set(range(len(x.axes))).difference(numbers.offset_dims)
    axes = [*rest[:position], moved, *rest[position:]]
    activations = trace.dataflow.remaining(x, axes)
    return replace(x, axes=axes, activations=activations, shift={}, index_of=None)


@register_rule("gather", entrywise=_sliced_axes)
def _gather(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Looks up whole rows, along the axes of the indices.

    The axis looked up is pinned (an embedding's vocabulary), unless the indices index an
    axis that is the same (experts by rank).
    """
    x, index = inputs
    trace.forbid_phase(x, index)
    selected = _constant_selection(trace, eqn, x, index)
    if selected is not None:
        return [selected]
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    before, after = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
    batches = dict(
        zip(
            numbers.operand_batching_dims,
            numbers.start_indices_batching_dims,
            strict=True,
        )
    )
    *of_index, vector = index.axes
    trace.pinned_axis(vector, trace.why)
    of_index = map_occurrences(trace.indices, of_index, trace.without_exponents)
    removed = set(numbers.collapsed_slice_dims)
    axes = [trace.fresh(n, trace.why) for n in after]
    outer = [d for d in range(len(after)) if d not in numbers.offset_dims]
    for d, axis in zip(outer, of_index, strict=True):
        axes[d] = axis
    for i, k in batches.items():
        axes[outer[k]] = _batch_axis(trace, x.axes[i], of_index[k])
    windows = [i for i in range(len(before)) if i not in removed and i not in batches]
    looked_up = [x.axes[i] for i in sorted(removed)]
    ended = list(looked_up)
    for d, i in zip(numbers.offset_dims, windows, strict=True):
        if sizes[i] == before[i]:
            axes[d] = x.axes[i]
        else:
            ended.append(x.axes[i])
    start_axes = numbers.start_index_map
    indexed = None if index.constant or index.from_end else index.index_of
    single = len(start_axes) == 1 and len(ended) == 1 and len(removed) == 1
    if indexed is not None and single and sizes[start_axes[0]] == 1:
        trace.mark_index_use()
        aligned = trace.indices.align(ended[0], indexed, trace.why)
        if aligned is not None:
            trace.forbid_exponents(Value([*aligned]))
    else:
        for axis in ended:
            trace.pinned_axis(axis, trace.why)
    lookups: tuple[Lookup, ...] = ()
    if indexed is not None and single and index.number is not None:
        lookups = (Lookup(index.number, ended[0], tuple(of_index)),)
    trace.record([*axes, *ended, vector])
    activations = {**index.activations, **x.activations}
    value = Value(axes, activations, x.leaves | index.leaves, lookups=lookups)
    if not x.leaves:
        return [value]
    value = trace.dataflow.connect(trace, "embedding", value, looked_up, value.leaves)
    return [replace(value, lookups=lookups)]


def _batch_axis(trace: Trace, axis: Axis, of_index: Axis) -> Axis:
    """Returns an axis whose entries are looked up each by indices of its own."""
    trace.forbid_exponents(Value([of_index]))
    aligned = trace.indices.align(axis, of_index, trace.why)
    if aligned is None:
        return axis

    def exponents_of_operand(a: Occurrence, b: Occurrence) -> Occurrence:
        source = b if trace.indices.is_uniform(a.axis_index) else a
        # Rows that are not equal may have equal entries at different positions.
        source = source._replace(sources=frozenset(), distinct=False)
        return source._replace(tags=a.tags | b.tags, real=a.real, sign=a.sign)

    return zip_occurrences(aligned, exponents_of_operand)


@register_rule("scatter-add", "scatter-sub", "scatter-mul")
@register_rule("scatter", "scatter-min", "scatter-max")
def _scatter(trace: Trace, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    """Adds whole rows by index (messages of a graph): only indexed axes are pinned."""
    x, index, updates = inputs
    name, numbers = eqn.primitive.name, eqn.params["dimension_numbers"]
    trace.forbid_phase(*inputs)
    if name == "scatter" and eqn.params["update_jaxpr"] is not None:
        # A function is applied to some rows, which makes their exponents differ.
        x = trace.map_indices(x, trace.without_exponents)
    if name == "scatter-mul":
        # Rows that no update reaches do not scale with it.
        updates = trace.map_indices(updates, trace.without_exponents)
    batches = dict(
        zip(
            numbers.operand_batching_dims,
            numbers.scatter_indices_batching_dims,
            strict=True,
        )
    )
    for i, axis in enumerate(index.axes):
        if i not in batches.values():
            trace.pinned_axis(axis, trace.why)
    removed = {*numbers.inserted_window_dims, *batches}
    window_axes = [i for i in range(len(x.axes)) if i not in removed]
    windows = dict(zip(window_axes, numbers.update_window_dims, strict=True))
    shape, rows = shape_of(eqn.invars[0]), shape_of(eqn.invars[2])
    whole = {i: d for i, d in windows.items() if shape[i] == rows[d]}
    outer = [d for d in range(len(rows)) if d not in numbers.update_window_dims]
    whole |= {i: outer[k] for i, k in batches.items()}
    if name in ("scatter-min", "scatter-max"):
        x = trace.map_indices(x, trace.without_sign)
        updates = trace.map_indices(updates, trace.without_sign)
    for d in set(range(len(rows))) - set(whole.values()):
        trace.pinned_axis(updates.axes[d], trace.why)
    touched = [i for i in range(len(shape)) if i not in whole]
    axes = trace.replaced_axes(x, touched, shape)
    for i, k in batches.items():
        axes[i] = _batch_axis(trace, axes[i], index.axes[k])
    for i, d in whole.items():
        aligned = trace.indices.align(axes[i], updates.axes[d], trace.why)
        if aligned is not None:
            adds = name != "scatter-mul" and not updates.zero
            axes[i] = trace.joined_axis(aligned, not x.zero, adds)
    ended = [a for d, a in enumerate(updates.axes) if d not in whole.values()]
    trace.record([*axes, *ended])
    activations = {**x.activations, **updates.activations}
    value = Value(axes, activations, x.leaves | updates.leaves)
    return [trace.chain(value, name)]
