"""Rules of primitives that reduce, look up or order indices: those axes are pinned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from metanet.symmetry.indices import Axis
from metanet.symmetry.interpreter import Interpreter, register_rule
from metanet.symmetry.values import Value, map_occurrences


@register_rule("pad")
def _pad(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Zeros before and behind units are a concatenation; other axes are pinned."""
    x, filler = inputs
    config, shape = eqn.params["padding_config"], eqn.outvars[0].aval.shape
    run.end_shift(x)
    if not filler.zero:
        x = run.mapped(x, run.without_exponents)
    touched, beside = [], {}
    for i, (low, high, inner) in enumerate(config):
        if low == high == inner == 0:
            continue
        if filler.zero and inner == 0 and min(low, high) >= 0 and _free(run, x.axes[i]):
            beside[i] = (low, high)
        else:
            touched.append(i)
    axes = run.replaced_axes(x, touched, shape)
    for i, sizes in beside.items():
        before, behind = ([] if n == 0 else run.fresh(n, uniform=True) for n in sizes)
        axes[i] = [*before, *run.indices.normal(axes[i]), *behind]
    value = replace(x, axes=axes, shift={}, scalar=None, index_of=None, distinct=False)
    # Zeros around an image are no nonlinearity: a convolution may add them itself.
    return [run.chain(value, "pad") if touched and not filler.zero else value]


def _free(run: Interpreter, axis: Axis) -> bool:
    """Whether some index of an axis is not pinned (yet)."""
    places = [o.axis_index for s in run.indices.normal(axis) for o in s]
    return any(
        a not in run.indices.pins and not run.indices.is_uniform(a) for a in places
    )


@register_rule("rev", "cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def _ordered(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Only the axis whose order matters is pinned."""
    name, params = eqn.primitive.name, eqn.params
    x = inputs[0]
    run.end_shift(x)
    touched = set(params["dimensions"]) if name == "rev" else {params["axis"]}
    if name not in ("rev", "cumsum"):
        x = run.mapped(x, run.without_exponents)
    axes = run.replaced_axes(x, touched, eqn.outvars[0].aval.shape)
    value = replace(x, axes=axes, shift={}, scalar=None, index_of=None)
    return [run.chain(value, name)]


@register_rule("sort", "top_k")
def _ranked(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Ranks do not depend on the order of what is ranked; indices move along with it."""
    name, params = eqn.primitive.name, eqn.params
    along = params["dimension"] if name == "sort" else len(inputs[0].axes) - 1
    ranked = inputs[0].axes[along]
    counters = [x.constant and x.index_of == x.axes[along] for x in inputs]
    if not inputs[0].distinct or params.get("num_keys", 1) != 1:
        ranked = None
    if len(inputs) > 1 and not all(counters[1:]):
        ranked = None
    outputs = []
    for place, variable in enumerate(eqn.outvars):
        x = inputs[0] if place == 0 or name == "top_k" else inputs[place]
        shape = variable.aval.shape
        run.end_shift(x)
        x = run.mapped(x, run.without_exponents)
        if ranked is None:
            axes = run.replaced_axes(x, {along}, shape)
            index_of = None
        else:
            x = x if place == 0 else run.mapped(inputs[0], run.without_exponents)
            axes = [*x.axes[:along], run.fresh(shape[along], run.why)]
            axes += x.axes[along + 1 :]
            run.record([*axes, ranked])
            index_of = ranked if place else None
        outputs.append(run.chain(replace(x, axes=axes, index_of=index_of), name))
    return outputs


@register_rule("iota")
def _iota(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    along, shape = eqn.params["dimension"], eqn.outvars[0].aval.shape
    axes = [
        run.fresh(n, run.why if i == along else None, uniform=i != along)
        for i, n in enumerate(shape)
    ]
    return [Value(axes, constant=True, index_of=axes[along])]


@register_rule("gather")
def _gather(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Look-up of whole rows: the looked-up axis is pinned (an embedding's vocabulary),
    unless the indices belong to an axis of which it is another (experts by rank)."""
    x, index = inputs
    run.end_shift(x, index)
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, out_shape = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    for axis in index.axes:
        run.pinned_axis(axis, run.why)
    gone = set(numbers.collapsed_slice_dims) | set(
        getattr(numbers, "operand_batching_dims", ())
    )
    axes = [run.fresh(n, run.why) for n in out_shape]
    kept = [i for i in range(len(shape)) if i not in gone]
    ended = [x.axes[i] for i in sorted(gone)]
    looked_up = list(ended)
    for d, i in zip(numbers.offset_dims, kept, strict=True):
        if sizes[i] == shape[i]:
            axes[d] = x.axes[i]
        else:
            ended.append(x.axes[i])
    mine = index.index_of if not (index.constant or index.wrapped) else None
    single = len(numbers.start_index_map) == 1 == len(ended) == len(gone)
    if mine is not None and single and sizes[numbers.start_index_map[0]] == 1:
        run.used_as_index()
        aligned = run.indices.align(ended[0], mine, run.why)
        for axis in aligned or ():
            map_occurrences(run.indices, [axis], run.without_exponents)
    else:
        for axis in ended:
            run.pinned_axis(axis, run.why)
    run.record([*axes, *ended])
    value = Value(axes, {**index.activations, **x.activations}, x.leaves | index.leaves)
    if run.activations is None or not x.leaves:
        return [value]
    return [run.activations.connect(run, "embedding", value, looked_up, value.leaves)]


@register_rule("scatter-add", "scatter", "scatter-min", "scatter-max")
def _scatter(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Sums of whole rows by index (messages of a graph): only those axes are pinned."""
    x, index, updates = inputs
    name, numbers = eqn.primitive.name, eqn.params["dimension_numbers"]
    run.end_shift(*inputs)
    for axis in index.axes:
        run.pinned_axis(axis, run.why)
    gone = {
        *numbers.inserted_window_dims,
        *getattr(numbers, "operand_batching_dims", ()),
    }
    kept = [i for i in range(len(x.axes)) if i not in gone]
    windows = dict(zip(kept, numbers.update_window_dims, strict=True))
    shape, rows = eqn.invars[0].aval.shape, eqn.invars[2].aval.shape
    whole = {i: d for i, d in windows.items() if shape[i] == rows[d]}
    if name in ("scatter-min", "scatter-max"):
        x, updates = (run.mapped(v, run.without_sign) for v in (x, updates))
    for d in set(range(len(rows))) - set(whole.values()):
        run.pinned_axis(updates.axes[d], run.why)
    axes = run.replaced_axes(x, [i for i in range(len(shape)) if i not in whole], shape)
    for i, d in whole.items():
        aligned = run.indices.align(axes[i], updates.axes[d], run.why)
        if aligned is not None:
            axes[i] = run.beside(aligned, not x.zero, not updates.zero)
    run.record([*axes, *updates.axes])
    activations = {**x.activations, **updates.activations}
    return [run.chain(Value(axes, activations, x.leaves | updates.leaves), name)]


@register_rule("dynamic_slice")
def _dynamic_slice(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    """A slice at an index that the program computes: cut axes are pinned."""
    x, *starts = inputs
    run.end_shift(x)
    for start in starts:
        run.mapped(start, run.without_exponents)
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    touched = [i for i, n in enumerate(before) if n != after[i]]
    axes = run.replaced_axes(x, touched, after)
    activations = (
        x.activations
        if run.activations is None
        else run.activations.remaining(run, x, axes)
    )
    return [replace(x, axes=axes, activations=activations, shift={})]


@register_rule(
    "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or",
    "argmax", "argmin",
)  # fmt: skip
def _reduce(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    name, gone = eqn.primitive.name, eqn.params["axes"]
    (x,) = inputs
    run.end_shift(x)
    if name in ("reduce_max", "reduce_min"):
        x = run.mapped(x, run.without_sign)
    elif name != "reduce_sum":
        x = run.mapped(x, run.without_exponents)
    tagged = False
    for i in gone:
        axis = map_occurrences(run.indices, [x.axes[i]], run.without_exponents)[0]
        tagged = tagged or any(o.tags for s in axis for o in s)
        if name.startswith("arg") and not x.distinct:
            run.indices.pin(axis, run.why)
    axes = [a for i, a in enumerate(x.axes) if i not in gone]
    index_of = x.axes[gone[0]] if name.startswith("arg") and x.distinct else None
    out = replace(x, axes=axes, shift={}, scalar=None, index_of=index_of)
    return [run.chain(out, name.removeprefix("reduce_")) if tagged else out]


@register_rule(
    "reduce_window_max", "reduce_window_sum", "reduce_window_min",
)  # fmt: skip
def _pool(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    (x,) = inputs
    name = eqn.primitive.name.removeprefix("reduce_window_")
    run.end_shift(x)
    params, shape = eqn.params, eqn.outvars[0].aval.shape
    plain = zip(
        params["window_dimensions"],
        params["window_strides"],
        params["base_dilation"],
        (sum(p) + 1 for p in params["padding"]),
        strict=True,
    )
    touched = [i for i, sizes in enumerate(plain) if set(sizes) != {1}]
    axes = run.replaced_axes(x, touched, shape)
    value = replace(x, axes=axes, shift={}, scalar=None, index_of=None)
    if name != "sum":
        value = run.mapped(value, run.without_sign)
    return [run.chain(value, f"{name}_pool")]
