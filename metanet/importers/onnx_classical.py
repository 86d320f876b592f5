"""ONNX operators of the domain ai.onnx.ml that exports of scikit-learn put around MLPs."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from metanet.importers.onnx_call import Call, operator


@operator("ArrayFeatureExtractor")
def _extract(call: Call) -> Any:
    x, index = call.inputs
    return jnp.take(x, jnp.ravel(index), axis=-1)


@operator("Scaler")
def _scale(call: Call) -> Any:
    x = call.inputs[0]
    offset, scale = (
        jnp.asarray(call.get(name, [default]), x.dtype)
        for name, default in (("offset", 0.0), ("scale", 1.0))
    )
    return (x - offset) * scale


@operator("Normalizer")
def _normalize(call: Call) -> Any:
    x, norm = call.inputs[0], call.get("norm", "MAX")
    sizes = {"MAX": jnp.max, "L1": lambda x, **k: jnp.sum(jnp.abs(x), **k)}
    sizes["L2"] = lambda x, **k: jnp.sqrt(jnp.sum(x * x, **k))
    size = sizes[norm](x, axis=-1, keepdims=True)
    return x / jnp.where(size == 0, 1.0, size)
