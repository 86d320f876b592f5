"""ONNX operators that change shapes, and operators that read or write by index."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from metanet.importers.onnx.operators import Call, Unsupported, operator


@operator("Shape")
def _shape(call: Call) -> np.ndarray:
    shape = np.array(np.shape(call.inputs[0]), np.int64)
    return shape[call.get("start", 0) : call.get("end")]


@operator("Size")
def _size(call: Call) -> np.ndarray:
    return np.array(np.size(call.inputs[0]), np.int64)


@operator("Reshape")
def _reshape(call: Call) -> jax.Array:
    x, shape = call.inputs[0], call.static(1, "shape") or []
    if not call.get("allowzero", 0):
        shape = [n or x.shape[i] for i, n in enumerate(shape)]
    return jnp.reshape(x, shape)


@operator("Flatten")
def _flatten(call: Call) -> jax.Array:
    x, axis = call.inputs[0], call.get("axis", 1)
    axis += x.ndim if axis < 0 else 0
    return jnp.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@operator("Transpose")
def _transpose(call: Call) -> jax.Array:
    return jnp.transpose(call.inputs[0], call.get("perm"))


@operator("Squeeze")
def _squeeze(call: Call) -> jax.Array:
    axes = call.static(1, "axes")
    return jnp.squeeze(call.inputs[0], None if axes is None else tuple(axes))


@operator("Unsqueeze")
def _unsqueeze(call: Call) -> jax.Array:
    return jnp.expand_dims(call.inputs[0], tuple(call.static(1, "axes") or ()))


@operator("Expand")
def _expand(call: Call) -> jax.Array:
    x, shape = call.inputs[0], call.static(1, "shape") or []
    return jnp.broadcast_to(x, jnp.broadcast_shapes(x.shape, tuple(shape)))


@operator("Tile")
def _tile(call: Call) -> jax.Array:
    return jnp.tile(call.inputs[0], call.static(1, "repeats") or [])


@operator("Concat")
def _concat(call: Call) -> jax.Array:
    return jnp.concatenate(call.inputs, call.get("axis", 1))


@operator("Split")
def _split(call: Call) -> Sequence[jax.Array]:
    x, axis = call.inputs[0], call.get("axis", 0)
    sizes = call.static(1, "split")
    if sizes is None:
        size = -(-x.shape[axis] // call.outputs)
        sizes = [size] * (x.shape[axis] // size)
        sizes += [x.shape[axis] - sum(sizes)] * (call.outputs - len(sizes))
    return lax.split(x, sizes, axis % x.ndim)


@operator("Slice")
def _slice(call: Call) -> jax.Array:
    x = call.inputs[0]
    starts, ends = call.static(1, "starts") or [], call.static(2, "ends") or []
    axes = call.static(3, "axes") or range(len(starts))
    steps = call.static(4, "steps") or [1] * len(starts)
    cut = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # Going backwards, an end before the first entry is no negative index.
        stop = None if step < 0 and end < -x.shape[axis] else end
        cut[axis] = slice(start, stop, step)
    return x[tuple(cut)]


@operator("Pad", settings=(2,))
def _pad(call: Call) -> jax.Array:
    x, mode = call.inputs[0], call.get("mode", "constant")
    pads = call.static(1, "pads") or []
    axes = call.static(3, "axes") or range(x.ndim)
    config = [(0, 0)] * x.ndim
    for i, axis in enumerate(axes):
        config[axis] = (pads[i], pads[i + len(pads) // 2])
    if mode != "constant":
        if mode not in ("reflect", "edge", "wrap"):
            raise Unsupported(f"mode {mode}")
        # Negative numbers cut entries off.
        cut = tuple(
            slice(max(-low, 0), n - max(-high, 0))
            for n, (low, high) in zip(x.shape, config, strict=True)
        )
        config = [(max(low, 0), max(high, 0)) for low, high in config]
        return jnp.pad(x[cut], config, mode)
    value = call.input(2) if call.version >= 11 else call.get("value", 0.0)
    filler = jnp.asarray(0 if value is None else value, x.dtype).reshape(())
    return lax.pad(x, filler, [(low, high, 0) for low, high in config])


@operator("ConstantOfShape", "EyeLike", "NonZero")
@operator("Range", settings=(0, 1, 2))
def _data_dependent_shape(call: Call) -> jax.Array:
    # Constant inputs are evaluated at trace time and never come here.
    raise Unsupported("the shape of the result depends on weights or inputs")


@operator("Trilu")
def _trilu(call: Call) -> jax.Array:
    offset = (call.static(1, "k") or [0])[0]
    function = jnp.triu if call.get("upper", 1) else jnp.tril
    return function(call.inputs[0], int(offset))


@operator("DepthToSpace")
def _depth_to_space(call: Call) -> jax.Array:
    x, size = call.inputs[0], call.attributes["blocksize"]
    n, c, h, w = x.shape
    if call.get("mode", "DCR") == "DCR":
        x = x.reshape(n, size, size, c // size**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, c // size**2, size, size, h, w).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // size**2, h * size, w * size)


@operator("SpaceToDepth")
def _space_to_depth(call: Call) -> jax.Array:
    x, size = call.inputs[0], call.attributes["blocksize"]
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // size, size, w // size, size).transpose(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * size**2, h // size, w // size)


@operator("Gather")
def _gather(call: Call) -> jax.Array:
    x, index = call.inputs
    axis = call.get("axis", 0) % x.ndim
    if isinstance(index, np.ndarray):
        if index.ndim == 0:
            return lax.index_in_dim(x, int(index), axis, keepdims=False)
        if np.array_equal(index.ravel(), np.arange(x.shape[axis])):
            return jnp.reshape(x, (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))
    return jnp.take(x, _int32(index), axis)


@operator("GatherElements")
def _gather_elements(call: Call) -> jax.Array:
    x, index = call.inputs
    return jnp.take_along_axis(x, _int32(index), axis=call.get("axis", 0))


def _int32(index: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """Casts constant indices to the integer type that JAX has in every mode."""
    return index.astype(np.int32) if isinstance(index, np.ndarray) else index


@operator("GatherND")
def _gather_nd(call: Call) -> jax.Array:
    x, index = call.inputs

    def gather(x: jax.Array, index: jax.Array) -> jax.Array:
        return x[tuple(jnp.moveaxis(index, -1, 0))]

    for _ in range(call.get("batch_dims", 0)):
        gather = jax.vmap(gather)
    return gather(x, jnp.asarray(_int32(index)))


_SCATTER = {"none": "set", "add": "add", "mul": "multiply", "max": "max", "min": "min"}


@operator("ScatterND")
def _scatter_nd(call: Call) -> jax.Array:
    x, index, updates = call.inputs
    x, index, updates = jnp.asarray(x), jnp.asarray(_int32(index)), jnp.asarray(updates)
    at = x.at[tuple(jnp.moveaxis(index, -1, 0))]
    return getattr(at, _SCATTER[call.get("reduction", "none")])(updates)


@operator("ScatterElements")
def _scatter_elements(call: Call) -> jax.Array:
    x, index, updates = call.inputs
    x, index, updates = jnp.asarray(x), jnp.asarray(_int32(index)), jnp.asarray(updates)
    axis = call.get("axis", 0) % x.ndim
    position = list(jnp.indices(index.shape, sparse=True))
    position[axis] = jnp.where(index < 0, index + x.shape[axis], index)
    return getattr(x.at[tuple(position)], _SCATTER[call.get("reduction", "none")])(
        updates
    )


@operator("OneHot", settings=(2,))
def _one_hot(call: Call) -> jax.Array:
    index, values = call.inputs[0], call.inputs[2]
    depth, axis = int((call.static(1, "depth") or [0])[0]), call.get("axis", -1)
    hot = jax.nn.one_hot(index % depth, depth, axis=axis, dtype=values.dtype)
    return values[0] + hot * (values[1] - values[0])


@operator("TopK")
def _top_k(call: Call) -> tuple[jax.Array, jax.Array]:
    x, axis = call.inputs[0], call.get("axis", -1)
    count = int((call.static(1, "k") or [0])[0])
    sign = 1 if call.get("largest", 1) else -1
    values, index = lax.top_k(sign * jnp.moveaxis(x, axis, -1), count)
    return jnp.moveaxis(sign * values, -1, axis), jnp.moveaxis(index, -1, axis)


@operator("ArgMax")
def _arg_max(call: Call) -> jax.Array:
    return _arg(call, jnp.argmax)


@operator("ArgMin")
def _arg_min(call: Call) -> jax.Array:
    return _arg(call, jnp.argmin)


def _arg(call: Call, function: Callable[..., jax.Array]) -> jax.Array:
    if call.get("select_last_index", 0):
        raise Unsupported("select_last_index")
    keep = bool(call.get("keepdims", 1))
    return function(call.inputs[0], axis=call.get("axis", 0), keepdims=keep)


@operator("CumSum")
def _cumsum(call: Call) -> jax.Array:
    x = call.inputs[0]
    axis = int((call.static(1, "axis") or [0])[0]) % x.ndim
    backwards = bool(call.get("reverse", 0))
    total = lax.cumsum(x, axis, backwards)
    return total - x if call.get("exclusive", 0) else total
