"""ONNX operators that are layers: products, convolution, pooling, norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from metanet.importers.onnx.operators import Call, Unsupported, operator


@operator("MatMul")
def _matmul(call: Call) -> jax.Array:
    return jnp.matmul(*call.inputs)


@operator("Gemm", weights={0: "weight", 1: "weight", 2: "bias"})
def _gemm(call: Call) -> jax.Array:
    a, b = call.inputs[:2]
    a = jnp.transpose(a) if call.get("transA", 0) else a
    b = jnp.transpose(b) if call.get("transB", 0) else b
    product = _scaled(jnp.matmul(a, b), call.get("alpha", 1.0))
    c = call.input(2)
    return product if c is None else product + _scaled(c, call.get("beta", 1.0))


def _scaled(x: jax.Array, factor: float) -> jax.Array:
    return x if factor == 1 else factor * x


@operator("Einsum")
def _einsum(call: Call) -> jax.Array:
    return jnp.einsum(call.attributes["equation"], *call.inputs)


# Sliding windows.


def _padding(
    call: Call,
    sizes: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[tuple[int, int]]:
    """Returns the padding per spatial axis, by ``pads`` or ``auto_pad``."""
    auto, rank = call.get("auto_pad", "NOTSET"), len(window)
    if auto in ("NOTSET", "VALID"):
        pads = (auto == "NOTSET" and call.get("pads")) or [0] * (2 * rank)
        out = list(zip(pads[:rank], pads[rank:], strict=True))
        for n, k, d, pad in zip(sizes, window, dilations, out, strict=True):
            if n + sum(pad) < (k - 1) * d + 1:
                raise ValueError(f"a window of {k} is larger than its input of {n}")
        return out
    out = []
    for n, k, s, d in zip(sizes, window, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        small, large = total // 2, total - total // 2
        out.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return out


@operator("Conv", weights={1: "weight", 2: "bias"})
def _conv(call: Call) -> jax.Array:
    x, kernel = call.inputs[:2]
    window = kernel.shape[2:]
    strides = call.get("strides") or [1] * len(window)
    dilations = call.get("dilations") or [1] * len(window)
    out = lax.conv_general_dilated(
        x,
        kernel,
        strides,
        _padding(call, x.shape[2:], window, strides, dilations),
        rhs_dilation=dilations,
        feature_group_count=call.get("group", 1),
    )
    return _add_bias(out, call.input(2))


def _per_channel(x: jax.Array, rank: int) -> jax.Array:
    """Reshapes ``[channels]`` so that it broadcasts against ``[batch, channels, ...]``."""
    return jnp.reshape(x, (-1, *[1] * (rank - 2)))


def _add_bias(x: jax.Array, bias: jax.Array | None) -> jax.Array:
    return x if bias is None else x + _per_channel(bias, x.ndim)


@operator("ConvTranspose", weights={1: "weight", 2: "bias"})
def _conv_transpose(call: Call) -> jax.Array:
    x, kernel = call.inputs[:2]
    groups, window = call.get("group", 1), kernel.shape[2:]
    rank = len(window)
    strides = call.get("strides") or [1] * rank
    dilations = call.get("dilations") or [1] * rank
    extra = call.get("output_padding") or [0] * rank
    dilated = [(k - 1) * d + 1 for k, d in zip(window, dilations, strict=True)]
    output_shape = call.get("output_shape")
    if output_shape is None and call.get("auto_pad", "NOTSET").startswith("SAME"):
        output_shape = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    if output_shape is None:
        explicit = call.get("pads") or [0] * (2 * rank)
        pads = list(zip(explicit[:rank], explicit[rank:], strict=True))
    else:
        pads = []
        sizes = zip(
            x.shape[2:], strides, dilated, extra, output_shape[-rank:], strict=True
        )
        for n, s, k, e, size in sizes:
            total = s * (n - 1) + e + k - size
            upper = call.get("auto_pad", "NOTSET") != "SAME_UPPER"
            low = total - total // 2 if upper else total // 2
            # Where the result is too small, zeros follow at the end.
            low = max(low, 0)
            pads.append((low, total - low))
    # From [in, out / groups, ...] to [out, in / groups, ...], flipped.
    inner, outer = kernel.shape[0] // groups, kernel.shape[1]
    kernel = jnp.reshape(kernel, (groups, inner, outer, *window)).swapaxes(1, 2)
    kernel = jnp.reshape(kernel, (groups * outer, inner, *window))
    kernel = jnp.flip(kernel, tuple(range(2, 2 + rank)))
    out = lax.conv_general_dilated(
        x,
        kernel,
        [1] * rank,
        [
            (k - 1 - low, k - 1 - high + e)
            for k, (low, high), e in zip(dilated, pads, extra, strict=True)
        ],
        lhs_dilation=strides,
        rhs_dilation=dilations,
        feature_group_count=groups,
    )
    return _add_bias(out, call.input(2))


def _pool(
    call: Call,
    x: jax.Array,
    start: float,
    function: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    pad_value: float | None = None,
) -> jax.Array:
    """Reduces sliding windows.

    Args:
        call: Attributes of the pooling.
        x: ``[batch, channels, *spatial]``.
        start: Neutral element of the reduction.
        function: The reduction.
        pad_value: Value of the explicit padding; None for the neutral element.
    """
    window = call.attributes["kernel_shape"]
    rank = len(window)
    strides = call.get("strides") or [1] * rank
    dilations = call.get("dilations") or [1] * rank
    pads = _padding(call, x.shape[2:], window, strides, dilations)
    excess = [0] * rank
    if call.get("ceil_mode", 0):
        for i, (n, k, s, d) in enumerate(
            zip(x.shape[2:], window, strides, dilations, strict=True)
        ):
            room = n + sum(pads[i]) - (k - 1) * d - 1
            steps = -(-room // s)
            if steps * s >= n + pads[i][0]:
                # A window that would start in the padding on the right is left out.
                steps -= 1
            excess[i] = max(steps * s - room, 0)
    if pad_value is not None:
        x = jnp.pad(x, [(0, 0), (0, 0), *pads], constant_values=pad_value)
        pads = [(0, 0)] * rank
    # Positions beyond the padding (ceil_mode) never count.
    pads = [(low, high + e) for (low, high), e in zip(pads, excess, strict=True)]
    return lax.reduce_window(
        x,
        np.asarray(start, x.dtype),
        function,
        (1, 1, *window),
        (1, 1, *strides),
        [(0, 0), (0, 0), *pads],
        window_dilation=(1, 1, *dilations),
    )


@operator("MaxPool")
def _max_pool(call: Call) -> jax.Array:
    if call.outputs > 1:
        raise Unsupported("indices of maxima")
    return _pool(call, call.inputs[0], -math.inf, lax.max)


@operator("AveragePool")
def _average_pool(call: Call) -> jax.Array:
    x = call.inputs[0]
    total = _pool(call, x, 0.0, lax.add)
    ones = jnp.ones((1, 1, *x.shape[2:]), x.dtype)
    pad_value = 1.0 if call.get("count_include_pad", 0) else None
    counts = _pool(call, ones, 0.0, lax.add, pad_value=pad_value)
    return total / counts


@operator("LpPool")
def _lp_pool(call: Call) -> jax.Array:
    power = call.get("p", 2)
    return _pool(call, jnp.abs(call.inputs[0]) ** power, 0.0, lax.add) ** (1 / power)


def _spatial_axes(x: jax.Array) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


@operator("GlobalAveragePool")
def _global_average(call: Call) -> jax.Array:
    x = call.inputs[0]
    return jnp.mean(x, _spatial_axes(x), keepdims=True)


@operator("GlobalMaxPool")
def _global_max(call: Call) -> jax.Array:
    x = call.inputs[0]
    return jnp.max(x, _spatial_axes(x), keepdims=True)


# Normalisation.


def _standardize(
    x: jax.Array, axes: tuple[int, ...], epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the standardised array, its mean and its inverse deviation."""
    mean = jnp.mean(x, axes, keepdims=True)
    centred = x - mean
    scale = lax.rsqrt(jnp.mean(centred * centred, axes, keepdims=True) + epsilon)
    return centred * scale, mean, scale


@operator(
    "BatchNormalization", weights={1: "scale", 2: "bias", 3: "mean", 4: "variance"}
)
def _batch_norm(call: Call) -> list[jax.Array]:
    x, scale, bias, mean, variance = call.inputs
    epsilon, rank = call.get("epsilon", 1e-5), x.ndim
    gain, offset = _per_channel(scale, rank), _per_channel(bias, rank)
    if not call.get("training_mode", 0):
        deviation = jnp.sqrt(_per_channel(variance, rank) + epsilon)
        centred = (x - _per_channel(mean, rank)) / deviation
        return [centred * gain + offset]
    axes = (0, *_spatial_axes(x))
    normal, _, _ = _standardize(x, axes, epsilon)
    momentum = call.get("momentum", 0.9)
    new_mean = mean * momentum + jnp.mean(x, axes) * (1 - momentum)
    new_variance = variance * momentum + jnp.var(x, axes) * (1 - momentum)
    return [normal * gain + offset, new_mean, new_variance]


@operator("InstanceNormalization", weights={1: "scale", 2: "bias"})
def _instance_norm(call: Call) -> jax.Array:
    x, scale, bias = call.inputs
    normal, _, _ = _standardize(x, _spatial_axes(x), call.get("epsilon", 1e-5))
    return normal * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim)


@operator("GroupNormalization", weights={1: "scale", 2: "bias"})
def _group_norm(call: Call) -> jax.Array:
    x, scale, bias = call.inputs
    groups, shape = call.attributes["num_groups"], x.shape
    split = jnp.reshape(x, (shape[0], groups, shape[1] // groups, *shape[2:]))
    axes = tuple(range(2, split.ndim))
    normal, _, _ = _standardize(split, axes, call.get("epsilon", 1e-5))
    if call.version < 21:  # one scale per group
        gain, offset = _per_channel(scale, split.ndim), _per_channel(bias, split.ndim)
        return jnp.reshape(normal * gain + offset, shape)
    normal = jnp.reshape(normal, shape)
    return normal * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim)


@operator("LayerNormalization", weights={1: "scale", 2: "bias"})
def _layer_norm(call: Call) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale = call.inputs[:2]
    axis = call.get("axis", -1) % x.ndim
    axes = tuple(range(axis, x.ndim))
    normal, mean, inverse = _standardize(x, axes, call.get("epsilon", 1e-5))
    bias = call.input(2)
    out = normal * scale
    return (out if bias is None else out + bias, mean, inverse)


@operator("RMSNormalization", weights={1: "scale"})
def _rms_norm(call: Call) -> jax.Array:
    x, scale = call.inputs
    axes = tuple(range(call.get("axis", -1) % x.ndim, x.ndim))
    size = jnp.mean(x * x, axes, keepdims=True) + call.get("epsilon", 1e-5)
    return x * lax.rsqrt(size) * scale


@operator("LRN")
def _local_response(call: Call) -> jax.Array:
    x, size = call.inputs[0], call.attributes["size"]
    window = (1, size, *[1] * (x.ndim - 2))
    pads = [(0, 0), ((size - 1) // 2, size // 2), *[(0, 0)] * (x.ndim - 2)]
    total = lax.reduce_window(
        x * x, np.asarray(0, x.dtype), lax.add, window, (1,) * x.ndim, pads
    )
    base = call.get("bias", 1.0) + call.get("alpha", 1e-4) / size * total
    return x / base ** call.get("beta", 0.75)


@operator("LpNormalization")
def _lp_norm(call: Call) -> jax.Array:
    x = call.inputs[0]
    order, axis = call.get("p", 2), call.get("axis", -1)
    return x / jnp.linalg.norm(x, ord=order, axis=axis, keepdims=True)


@operator("Softmax")
def _softmax(call: Call) -> jax.Array:
    return _along_axes(call, jax.nn.softmax)


@operator("LogSoftmax")
def _log_softmax(call: Call) -> jax.Array:
    return _along_axes(call, jax.nn.log_softmax)


def _along_axes(call: Call, function: Callable[..., jax.Array]) -> jax.Array:
    x = call.inputs[0]
    if call.version >= 13:
        return function(x, axis=call.get("axis", -1))
    # Before version 13 the normalisation runs over all axes from the given one on.
    axis = call.get("axis", 1) % max(x.ndim, 1)
    return function(x, axis=tuple(range(axis, x.ndim)))
