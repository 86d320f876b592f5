"""ONNX operators that look up, scatter or order by indices."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from metanet.importers.onnx_call import Call, Unsupported, operator


@operator("Gather")
def _gather(call: Call) -> Any:
    x, index = call.inputs
    axis = call.get("axis", 0) % x.ndim
    if isinstance(index, np.ndarray):
        if index.ndim == 0:
            return lax.index_in_dim(x, int(index), axis, keepdims=False)
        if np.array_equal(index.ravel(), np.arange(x.shape[axis])):
            return jnp.reshape(x, (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))
    return jnp.take(x, _narrow(index), axis)


@operator("GatherElements")
def _gather_elements(call: Call) -> Any:
    x, index = call.inputs
    return jnp.take_along_axis(x, _narrow(index), axis=call.get("axis", 0))


def _narrow(index: Any) -> Any:
    """Indices that are known, in the type that JAX has in every mode."""
    return index.astype(np.int32) if isinstance(index, np.ndarray) else index


@operator("GatherND")
def _gather_nd(call: Call) -> Any:
    x, index = call.inputs
    function = lambda x, i: x[tuple(jnp.moveaxis(i, -1, 0))]
    for _ in range(call.get("batch_dims", 0)):
        function = jax.vmap(function)
    return function(x, jnp.asarray(_narrow(index)))


_SCATTER = {"none": "set", "add": "add", "mul": "multiply", "max": "max", "min": "min"}


@operator("ScatterND")
def _scatter_nd(call: Call) -> Any:
    x, index, updates = (jnp.asarray(_narrow(v) if i == 1 else v)
                         for i, v in enumerate(call.inputs))  # fmt: skip
    at = x.at[tuple(jnp.moveaxis(index, -1, 0))]
    return getattr(at, _SCATTER[call.get("reduction", "none")])(updates)


@operator("ScatterElements")
def _scatter_elements(call: Call) -> Any:
    x, index, updates = (jnp.asarray(_narrow(v) if i == 1 else v)
                         for i, v in enumerate(call.inputs))  # fmt: skip
    axis = call.get("axis", 0) % x.ndim
    places: list[Any] = list(jnp.indices(index.shape, sparse=True))
    places[axis] = jnp.where(index < 0, index + x.shape[axis], index)
    return getattr(x.at[tuple(places)], _SCATTER[call.get("reduction", "none")])(
        updates
    )


@operator("OneHot")
def _one_hot(call: Call) -> Any:
    index, values = call.inputs[0], call.inputs[2]
    depth, axis = int((call.static(1, "depth") or [0])[0]), call.get("axis", -1)
    hot = jax.nn.one_hot(index % depth, depth, axis=axis, dtype=values.dtype)
    return values[0] + hot * (values[1] - values[0])


@operator("TopK")
def _top_k(call: Call) -> Any:
    x, axis = call.inputs[0], call.get("axis", -1)
    count = int((call.static(1, "k") or [0])[0])
    sign = 1 if call.get("largest", 1) else -1
    values, index = lax.top_k(sign * jnp.moveaxis(x, axis, -1), count)
    return jnp.moveaxis(sign * values, -1, axis), jnp.moveaxis(index, -1, axis)


@operator("ArgMax")
def _arg_max(call: Call) -> Any:
    return _arg(call, jnp.argmax)


@operator("ArgMin")
def _arg_min(call: Call) -> Any:
    return _arg(call, jnp.argmin)


def _arg(call: Call, function: Any) -> Any:
    if call.get("select_last_index", 0):
        raise Unsupported("select_last_index")
    keep = bool(call.get("keepdims", 1))
    return function(call.inputs[0], axis=call.get("axis", 0), keepdims=keep)


@operator("CumSum")
def _cumulative(call: Call) -> Any:
    x = call.inputs[0]
    axis = int((call.static(1, "axis") or [0])[0]) % x.ndim
    backwards = bool(call.get("reverse", 0))
    total = lax.cumsum(x, axis, backwards)
    return total - x if call.get("exclusive", 0) else total
