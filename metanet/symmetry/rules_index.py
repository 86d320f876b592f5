"""Rules of primitives that reduce, look up or order indices: those axes are pinned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from metanet.symmetry.interpreter import Interpreter, register_rule
from metanet.symmetry.values import Value, map_occurrences


@register_rule("pad")
def _pad(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    x, filler = inputs
    config, shape = eqn.params["padding_config"], eqn.outvars[0].aval.shape
    run.end_shift(x)
    if not filler.zero:
        x = run.mapped(x, run.without_exponents)
    touched = [i for i, padding in enumerate(config) if set(padding) != {0}]
    axes = run.replaced_axes(x, touched, shape)
    return [run.chain(replace(x, axes=axes, shift={}, scalar=None), "pad")]


@register_rule(
    "rev", "cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort", "top_k"
)
def _ordered(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Only the axis whose order matters is pinned."""
    name, params = eqn.primitive.name, eqn.params
    if name == "sort" and len(inputs) > 1:
        return run.opaque(eqn, inputs)
    x = inputs[0]
    run.end_shift(x)
    if name == "rev":
        touched = set(params["dimensions"])
    elif name in ("sort", "top_k"):
        touched = {params["dimension"] if name == "sort" else len(x.axes) - 1}
    else:
        touched = {params["axis"]}
    if name not in ("rev", "cumsum"):
        x = run.mapped(x, run.without_exponents)
    outputs = []
    for variable in eqn.outvars:
        axes = run.replaced_axes(x, touched, variable.aval.shape)
        value = replace(x, axes=axes, shift={}, scalar=None)
        outputs.append(run.chain(value, name))
    return outputs


@register_rule("iota")
def _iota(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    along, shape = eqn.params["dimension"], eqn.outvars[0].aval.shape
    axes = [
        run.fresh(n, run.why if i == along else None, uniform=i != along)
        for i, n in enumerate(shape)
    ]
    return [Value(axes, constant=True)]


@register_rule("gather")
def _gather(run: Interpreter, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Look-up of whole rows (an embedding): the looked-up axis is pinned."""
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
    for axis in ended:
        run.pinned_axis(axis, run.why)
    run.record([*axes, *ended])
    value = Value(axes, {**index.sites, **x.sites}, x.leaves | index.leaves)
    if run.sites is None or not x.leaves:
        return [value]
    return [run.sites.connect(run, "embedding", value, looked_up, value.leaves)]


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
    sites = x.sites if run.sites is None else run.sites.remaining(run, x, axes)
    return [replace(x, axes=axes, sites=sites, shift={})]


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
        axis = map_occurrences(run.atoms, [x.axes[i]], run.without_exponents)[0]
        tagged = tagged or any(o.tags for s in axis for o in s)
        if name.startswith("arg"):
            run.atoms.pin(axis, run.why)
    axes = [a for i, a in enumerate(x.axes) if i not in gone]
    out = replace(x, axes=axes, shift={}, scalar=None)
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
    value = replace(x, axes=axes, shift={}, scalar=None)
    if name != "sum":
        value = run.mapped(value, run.without_sign)
    return [run.chain(value, f"{name}_pool")]
