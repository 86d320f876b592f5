"""ONNX operators that resample images."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from metanet.importers.onnx.limits import MAX_ELEMENTS, TooLarge
from metanet.importers.onnx.operators import Call, Unsupported, operator


@operator("Resize", "Upsample", settings=(1, 2))
def _resize(call: Call) -> jax.Array:
    x = call.inputs[0]
    policy = call.get("keep_aspect_ratio_policy", "stretch")
    if call.get("antialias", 0) or policy != "stretch":
        raise Unsupported("antialias or aspect-ratio policies")
    scales = call.static(1 if len(call.inputs) < 3 else 2, "scales")
    sizes = call.static(3, "sizes")
    axes = call.get("axes") or range(x.ndim)
    for i, axis in enumerate(axes):
        n = x.shape[axis]
        if sizes:
            out, scale = sizes[i], sizes[i] / n
        elif scales:
            scale = scales[i]
            out = math.floor(n * scale)
        else:
            raise Unsupported("neither scales nor sizes")
        if out == n and scale == 1:
            continue
        if out * n > MAX_ELEMENTS:
            raise TooLarge(f"an axis of {n} resized to {out:,}")
        matrix = _resize_matrix(call, n, out, scale)
        x = jnp.moveaxis(
            jnp.tensordot(x, jnp.asarray(matrix, x.dtype), (axis, 1)), -1, axis
        )
    return x


def _resize_matrix(call: Call, n: int, out: int, scale: float) -> np.ndarray:
    """Returns the weights ``[out, n]`` that resample an axis (ONNX operator Resize)."""
    source = _source_positions(call, n, out, scale)
    mode, matrix = call.get("mode", "nearest"), np.zeros((out, n))
    rows = np.arange(out)
    if mode == "nearest":
        default = "round_prefer_floor" if call.version >= 11 else "floor"
        rounded = {
            "round_prefer_floor": np.ceil(source - 0.5),
            "round_prefer_ceil": np.floor(source + 0.5),
            "floor": np.floor(source),
            "ceil": np.ceil(source),
        }[call.get("nearest_mode", default)]
        matrix[rows, np.clip(rounded, 0, n - 1).astype(int)] = 1
        return matrix
    start = np.floor(source)
    if mode == "cubic":
        a = call.get("cubic_coeff_a", -0.75)
        taps = {k: _cubic(np.abs(source - start - k), a) for k in (-1, 0, 1, 2)}
    else:
        taps = {0: 1 - (source - start), 1: source - start}
    exclude_outside = call.get("exclude_outside", 0)
    for step, weight in taps.items():
        index = start + step
        if exclude_outside:
            weight = np.where((index < 0) | (index >= n), 0.0, weight)
        np.add.at(matrix, (rows, np.clip(index, 0, n - 1).astype(int)), weight)
    if exclude_outside:
        matrix /= matrix.sum(1, keepdims=True)
    return matrix


def _source_positions(call: Call, n: int, out: int, scale: float) -> np.ndarray:
    """Returns the position in the input of every output, ``[out]``."""
    mode = call.get("coordinate_transformation_mode", "half_pixel")
    if call.version < 11:
        mode = "asymmetric"
    index = np.arange(out, dtype=np.float64)
    if mode == "align_corners":
        return index * (n - 1) / (out - 1) if out > 1 else index * 0
    if mode == "asymmetric":
        return index / scale
    if mode == "pytorch_half_pixel" and out == 1:
        return index * 0
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (index + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        return n / 2 * (1 - out / (scale * n)) + (index + 0.5) / scale - 0.5
    raise Unsupported(f"coordinates {mode}")


def _cubic(d: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
