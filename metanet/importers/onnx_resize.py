"""ONNX operators that resample images."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from metanet.importers.onnx_call import Call, Unsupported, operator


@operator("Resize", "Upsample")
def _resize(call: Call) -> Any:
    x = call.inputs[0]
    if call.get("antialias", 0) or call.get("keep_aspect_ratio_policy", "stretch") != (
        "stretch"
    ):
        raise Unsupported("antialias or aspect-ratio policies")
    places = (1, 3) if len(call.inputs) < 3 else (2, 3)
    scales, sizes = call.static(places[0], "scales"), call.static(places[1], "sizes")
    axes = call.get("axes") or range(x.ndim)
    for place, axis in enumerate(axes):
        n = x.shape[axis]
        if sizes:
            out, scale = sizes[place], sizes[place] / n
        elif scales:
            scale = scales[place]
            out = math.floor(n * scale)
        else:
            raise Unsupported("neither scales nor sizes")
        if out == n and scale == 1:
            continue
        matrix = _resize_matrix(call, n, out, scale)
        x = jnp.moveaxis(
            jnp.tensordot(x, jnp.asarray(matrix, x.dtype), (axis, 1)), -1, axis
        )
    return x


def _resize_matrix(call: Call, n: int, out: int, scale: float) -> np.ndarray:
    """Weights ``[out, n]`` with which an axis is resampled (ONNX operator Resize)."""
    how = call.get("coordinate_transformation_mode", "half_pixel")
    if call.version < 11:
        how = "asymmetric"
    place = np.arange(out, dtype=np.float64)
    if how == "align_corners":
        at = place * (n - 1) / (out - 1) if out > 1 else place * 0
    elif how == "asymmetric":
        at = place / scale
    elif how == "pytorch_half_pixel" and out == 1:
        at = place * 0
    elif how in ("half_pixel", "pytorch_half_pixel"):
        at = (place + 0.5) / scale - 0.5
    elif how == "half_pixel_symmetric":
        at = n / 2 * (1 - out / (scale * n)) + (place + 0.5) / scale - 0.5
    else:
        raise Unsupported(f"coordinates {how}")
    mode, matrix = call.get("mode", "nearest"), np.zeros((out, n))
    rows = np.arange(out)
    if mode == "nearest":
        default = "round_prefer_floor" if call.version >= 11 else "floor"
        rounded = {
            "round_prefer_floor": np.ceil(at - 0.5),
            "round_prefer_ceil": np.floor(at + 0.5),
            "floor": np.floor(at),
            "ceil": np.ceil(at),
        }[call.get("nearest_mode", default)]
        matrix[rows, np.clip(rounded, 0, n - 1).astype(int)] = 1
        return matrix
    start = np.floor(at)
    if mode == "cubic":
        a = call.get("cubic_coeff_a", -0.75)
        taps = {k: _cubic(np.abs(at - start - k), a) for k in (-1, 0, 1, 2)}
    else:
        taps = {0: 1 - (at - start), 1: at - start}
    for step, weight in taps.items():
        index = start + step
        if call.get("exclude_outside", 0):
            weight = np.where((index < 0) | (index >= n), 0.0, weight)
        np.add.at(matrix, (rows, np.clip(index, 0, n - 1).astype(int)), weight)
    if call.get("exclude_outside", 0):
        matrix /= matrix.sum(1, keepdims=True)
    return matrix


def _cubic(d: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
