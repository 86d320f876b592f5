"""ONNX operators that are Fourier transforms, as products with matrices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from metanet.importers.onnx.limits import MAX_ELEMENTS, TooLarge
from metanet.importers.onnx.operators import Call, operator


def _transform(
    x: jax.Array, size: int, *, inverse: bool = False, onesided: bool = False
) -> jax.Array:
    """Transforms the second-last axis.

    Args:
        x: ``[..., time, 1]`` if real, ``[..., time, 2]`` if complex.
        size: Length to which the time is cut or filled with zeros.
        inverse: The inverse transform.
        onesided: Leaves out the frequencies above the half.

    Returns:
        ``[..., frequency, 2]``, real and imaginary parts.
    """
    length = min(x.shape[-2], size)
    count = size // 2 + 1 if onesided else size
    if length * count > MAX_ELEMENTS:
        raise TooLarge(f"a Fourier transform of {length:,} values")
    angles = np.outer(np.arange(length), np.arange(count)) % size * (2 * np.pi / size)
    scale, sign = (1 / size, 1) if inverse else (1, -1)
    cos = jnp.asarray(scale * np.cos(angles), x.dtype)
    sin = jnp.asarray(scale * sign * np.sin(angles), x.dtype)
    real = x[..., :length, 0]
    if x.shape[-1] == 1:
        return jnp.stack([real @ cos, real @ sin], -1)
    imaginary = x[..., :length, 1]
    parts = [real @ cos - imaginary @ sin, real @ sin + imaginary @ cos]
    return jnp.stack(parts, -1)


@operator("STFT", settings=(1, 2, 3))
def _stft(call: Call) -> jax.Array:
    signal, window = call.inputs[0], call.input(2)
    (step,) = call.static(1, "frame_step") or [1]
    length = call.static(3, "frame_length")
    size = int(length[0]) if length is not None else window.shape[0]
    signal = signal if signal.ndim == 3 else signal[..., None]
    starts = np.arange(0, signal.shape[1] - size + 1, step)
    if not len(starts):
        raise ValueError(f"a frame of {size} is longer than the signal")
    frames = signal[:, starts[:, None] + np.arange(size)]
    if window is not None:
        frames = frames * jnp.asarray(window, frames.dtype)[:, None]
    return _transform(frames, size, onesided=bool(call.get("onesided", 1)))


@operator("DFT", settings=(1, 2))
def _dft(call: Call) -> jax.Array:
    x, default = call.inputs[0], 1 if call.version < 20 else -2
    axis = (call.static(2, "axis") or [default])[0] % x.ndim
    length = call.static(1, "dft_length")
    size = int(length[0]) if length is not None else x.shape[axis]
    result = _transform(
        jnp.moveaxis(x, axis, -2),
        size,
        inverse=bool(call.get("inverse", 0)),
        onesided=bool(call.get("onesided", 0)),
    )
    return jnp.moveaxis(result, -2, axis)
