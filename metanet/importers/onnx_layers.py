"""ONNX operators that are layers: products, convolution, pooling, norms, recurrence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from metanet.importers.onnx_call import Call, Unsupported, operator


@operator("MatMul")
def _matmul(call: Call) -> Any:
    return jnp.matmul(*call.inputs)


@operator("Gemm")
def _gemm(call: Call) -> Any:
    a, b = call.inputs[:2]
    a = jnp.transpose(a) if call.get("transA", 0) else a
    b = jnp.transpose(b) if call.get("transB", 0) else b
    product = _times(jnp.matmul(a, b), call.get("alpha", 1.0))
    c = call.input(2)
    return product if c is None else product + _times(c, call.get("beta", 1.0))


def _times(x: Any, factor: float) -> Any:
    return x if factor == 1 else factor * x


@operator("Einsum")
def _einsum(call: Call) -> Any:
    return jnp.einsum(call.attributes["equation"], *call.inputs)


# Windows.


def _padding(
    call: Call, sizes: Sequence[int], window: Sequence[int], strides: Sequence[int],
    dilations: Sequence[int],
) -> list[tuple[int, int]]:  # fmt: skip
    """Padding per spatial axis, by ``pads`` or ``auto_pad``."""
    auto, rank = call.get("auto_pad", "NOTSET"), len(window)
    if auto == "NOTSET":
        pads = call.get("pads") or [0] * (2 * rank)
        return list(zip(pads[:rank], pads[rank:], strict=True))
    if auto == "VALID":
        return [(0, 0)] * rank
    out = []
    for n, k, s, d in zip(sizes, window, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        small, large = total // 2, total - total // 2
        out.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return out


@operator("Conv")
def _conv(call: Call) -> Any:
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
    return (
        out + _per_channel(call.inputs[2], x.ndim) if call.input(2) is not None else out
    )


def _per_channel(x: Any, rank: int) -> Any:
    return jnp.reshape(x, (-1, *[1] * (rank - 2)))


@operator("ConvTranspose")
def _conv_transpose(call: Call) -> Any:
    x, kernel = call.inputs[:2]
    groups, window = call.get("group", 1), kernel.shape[2:]
    rank = len(window)
    strides = call.get("strides") or [1] * rank
    dilations = call.get("dilations") or [1] * rank
    extra = call.get("output_padding") or [0] * rank
    wide = [(k - 1) * d + 1 for k, d in zip(window, dilations, strict=True)]
    wanted = call.get("output_shape")
    if wanted is None and call.get("auto_pad", "NOTSET").startswith("SAME"):
        wanted = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    if wanted is None:
        pads = _padding(call, x.shape[2:], window, strides, dilations)
    else:
        pads = []
        sizes = zip(x.shape[2:], strides, wide, extra, wanted[-rank:], strict=True)
        for n, s, k, e, out in sizes:
            total = max(s * (n - 1) + e + k - out, 0)
            upper = call.get("auto_pad", "NOTSET") != "SAME_UPPER"
            low = total - total // 2 if upper else total // 2
            pads.append((low, total - low))
    # [in, out / groups, ...] to [out, in / groups, ...], read backwards.
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
            for k, (low, high), e in zip(wide, pads, extra, strict=True)
        ],
        lhs_dilation=strides,
        rhs_dilation=dilations,
        feature_group_count=groups,
    )
    return (
        out + _per_channel(call.inputs[2], x.ndim) if call.input(2) is not None else out
    )


def _pool(call: Call, x: Any, start: float, function: Any, ones: bool = False) -> Any:
    window = call.attributes["kernel_shape"]
    rank = len(window)
    strides = call.get("strides") or [1] * rank
    dilations = call.get("dilations") or [1] * rank
    pads = _padding(call, x.shape[2:], window, strides, dilations)
    over = [0] * rank
    if call.get("ceil_mode", 0):
        for i, (n, k, s, d) in enumerate(
            zip(x.shape[2:], window, strides, dilations, strict=True)
        ):
            room = n + sum(pads[i]) - (k - 1) * d - 1
            steps = -(-room // s)
            # A window that would start in the padding on the right is left out.
            steps -= steps * s >= n + pads[i][0]
            over[i] = max(steps * s - room, 0)
    if ones:
        # What lies beyond the padding does not count, padding does.
        x = jnp.pad(x, [(0, 0), (0, 0), *pads], constant_values=1)
        pads = [(0, 0)] * rank
    pads = [(low, high + e) for (low, high), e in zip(pads, over, strict=True)]
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
def _max_pool(call: Call) -> Any:
    if call.outputs > 1:
        raise Unsupported("indices of maxima")
    return _pool(call, call.inputs[0], -math.inf, lax.max)


@operator("AveragePool")
def _average_pool(call: Call) -> Any:
    x = call.inputs[0]
    total = _pool(call, x, 0.0, lax.add)
    ones = jnp.ones((1, 1, *x.shape[2:]), x.dtype)
    counts = _pool(call, ones, 0.0, lax.add, bool(call.get("count_include_pad", 0)))
    return total / counts


@operator("LpPool")
def _lp_pool(call: Call) -> Any:
    power = call.get("p", 2)
    return _pool(call, jnp.abs(call.inputs[0]) ** power, 0.0, lax.add) ** (1 / power)


def _spatial(x: Any) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


@operator("GlobalAveragePool")
def _global_average(call: Call) -> Any:
    x = call.inputs[0]
    return jnp.mean(x, _spatial(x), keepdims=True)


@operator("GlobalMaxPool")
def _global_max(call: Call) -> Any:
    x = call.inputs[0]
    return jnp.max(x, _spatial(x), keepdims=True)


# Norms.


def _standardised(x: Any, axes: tuple[int, ...], epsilon: float) -> tuple[Any, ...]:
    mean = jnp.mean(x, axes, keepdims=True)
    centred = x - mean
    scale = lax.rsqrt(jnp.mean(centred * centred, axes, keepdims=True) + epsilon)
    return centred * scale, mean, scale


@operator("BatchNormalization")
def _batch_norm(call: Call) -> Any:
    x, scale, bias, mean, variance = call.inputs
    epsilon = call.get("epsilon", 1e-5)
    wide = lambda v: _per_channel(v, x.ndim)
    if not call.get("training_mode", 0):
        centred = (x - wide(mean)) / jnp.sqrt(wide(variance) + epsilon)
        return centred * wide(scale) + wide(bias)
    axes = (0, *_spatial(x))
    normal, _, _ = _standardised(x, axes, epsilon)
    keep = call.get("momentum", 0.9)
    moved = [
        old * keep + new * (1 - keep)
        for old, new in ((mean, jnp.mean(x, axes)), (variance, jnp.var(x, axes)))
    ]
    return (normal * wide(scale) + wide(bias), *moved)


@operator("InstanceNormalization")
def _instance_norm(call: Call) -> Any:
    x, scale, bias = call.inputs
    normal, _, _ = _standardised(x, _spatial(x), call.get("epsilon", 1e-5))
    return normal * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim)


@operator("GroupNormalization")
def _group_norm(call: Call) -> Any:
    x, scale, bias = call.inputs
    groups, shape = call.attributes["num_groups"], x.shape
    split = jnp.reshape(x, (shape[0], groups, shape[1] // groups, *shape[2:]))
    axes = tuple(range(2, split.ndim))
    normal, _, _ = _standardised(split, axes, call.get("epsilon", 1e-5))
    if call.version < 21:  # one scale per group
        wide = lambda v: jnp.reshape(v, (-1, *[1] * (split.ndim - 2)))
        return jnp.reshape(normal * wide(scale) + wide(bias), shape)
    normal = jnp.reshape(normal, shape)
    return normal * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim)


@operator("LayerNormalization")
def _layer_norm(call: Call) -> Any:
    x, scale = call.inputs[:2]
    axis = call.get("axis", -1) % x.ndim
    axes = tuple(range(axis, x.ndim))
    normal, mean, inverse = _standardised(x, axes, call.get("epsilon", 1e-5))
    bias = call.input(2)
    out = normal * scale
    return (out if bias is None else out + bias, mean, inverse)


@operator("RMSNormalization")
def _rms_norm(call: Call) -> Any:
    x, scale = call.inputs
    axes = tuple(range(call.get("axis", -1) % x.ndim, x.ndim))
    size = jnp.mean(x * x, axes, keepdims=True) + call.get("epsilon", 1e-5)
    return x * lax.rsqrt(size) * scale


@operator("LRN")
def _local_response(call: Call) -> Any:
    x, size = call.inputs[0], call.attributes["size"]
    window = (1, size, *[1] * (x.ndim - 2))
    pads = [(0, 0), ((size - 1) // 2, size // 2), *[(0, 0)] * (x.ndim - 2)]
    total = lax.reduce_window(
        x * x, np.asarray(0, x.dtype), lax.add, window, (1,) * x.ndim, pads
    )
    base = call.get("bias", 1.0) + call.get("alpha", 1e-4) / size * total
    return x / base ** call.get("beta", 0.75)


@operator("LpNormalization")
def _lp_norm(call: Call) -> Any:
    x = call.inputs[0]
    order, axis = call.get("p", 2), call.get("axis", -1)
    return x / jnp.linalg.norm(x, ord=order, axis=axis, keepdims=True)


@operator("Softmax")
def _softmax(call: Call) -> Any:
    return _softmaxed(call, jax.nn.softmax)


@operator("LogSoftmax")
def _log_softmax(call: Call) -> Any:
    return _softmaxed(call, jax.nn.log_softmax)


def _softmaxed(call: Call, function: Any) -> Any:
    x = call.inputs[0]
    if call.version >= 13:
        return function(x, axis=call.get("axis", -1))
    # Once, all axes from the given one on were taken together.
    axis = call.get("axis", 1) % max(x.ndim, 1)
    return function(x, axis=tuple(range(axis, x.ndim)))


# Resizing.


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


# Recurrence.

_ACTIVATIONS = {"Sigmoid": jax.nn.sigmoid, "Tanh": jnp.tanh, "Relu": jax.nn.relu}


def _cell(kind: str, call: Call, functions: Sequence[Any]) -> Any:
    """One step ``(state, gates of the input) -> state``; gates as ONNX orders them."""
    f, *rest = functions

    def rnn(h: Any, x: Any, r: Any, rb: Any) -> Any:
        return (f(x + h[0] @ r.T + rb),)

    def lstm(state: Any, x: Any, r: Any, rb: Any) -> Any:
        h, c = state
        i, o, g, n = jnp.split(x + h @ r.T + rb, 4, -1)
        c = f(g) * c + f(i) * rest[0](n)
        return f(o) * rest[1](c), c

    def gru(state: Any, x: Any, r: Any, rb: Any) -> Any:
        (h,) = state
        xz, xr, xn = jnp.split(x, 3, -1)
        if call.get("linear_before_reset", 0):
            hz, hr, hn = jnp.split(h @ r.T + rb, 3, -1)
            n = rest[0](xn + f(xr + hr) * hn)
        else:
            (rz, rr, rn), (bz, br, bn) = jnp.split(r, 3), jnp.split(rb, 3)
            hz, hr = h @ rz.T + bz, h @ rr.T + br
            n = rest[0](xn + (f(xr + hr) * h) @ rn.T + bn)
        z = f(xz + hz)
        return ((1 - z) * n + z * h,)

    return {"RNN": rnn, "LSTM": lstm, "GRU": gru}[kind]


def _recurrent(call: Call, kind: str, gates: int, defaults: Sequence[str]) -> Any:
    x, w, r = call.inputs[:3]
    if call.get("clip") or call.get("input_forget"):
        raise Unsupported("clip or input_forget")
    batch_first = bool(call.get("layout", 0))
    x = jnp.swapaxes(x, 0, 1) if batch_first else x
    lengths = call.input(4)
    if lengths is not None and not (
        isinstance(lengths, np.ndarray) and (lengths == x.shape[0]).all()
    ):
        raise Unsupported("sequences of different lengths")
    if kind == "LSTM" and call.input(7) is not None:
        raise Unsupported("peepholes")
    directions, size = w.shape[0], call.attributes["hidden_size"]
    names = call.get("activations") or [*defaults] * directions
    if not set(names) <= set(_ACTIVATIONS):
        raise Unsupported(f"activations {', '.join(names)}")
    first = call.get("direction", "forward") == "reverse"
    states, rows = [], []
    for d in range(directions):
        own = names[d * len(defaults) : (d + 1) * len(defaults)]
        cell = _cell(kind, call, [_ACTIVATIONS[n] for n in own])
        bias = jnp.zeros(2 * gates * size, w.dtype)
        if call.input(3) is not None:
            bias = lax.index_in_dim(call.inputs[3], d, keepdims=False)
        input_bias, state_bias = jnp.split(bias, 2)
        weight = lax.index_in_dim(w, d, keepdims=False)
        recurrent = lax.index_in_dim(r, d, keepdims=False)
        gates_in = x @ weight.T + input_bias
        start = []
        for place in (5, 6) if kind == "LSTM" else (5,):
            given = call.input(place)
            if given is None:
                given = np.zeros((directions, x.shape[1], size))
            elif batch_first:
                given = jnp.swapaxes(given, 0, 1)
            given = jnp.asarray(given, gates_in.dtype)
            start.append(lax.index_in_dim(given, d, keepdims=False))

        def step(state: Any, row: Any, cell: Any = cell, r: Any = recurrent,
                 b: Any = state_bias) -> Any:  # fmt: skip
            state = cell(state, row, r, b)
            return state, state[0]

        last, out = lax.scan(step, tuple(start), gates_in, reverse=first != (d == 1))
        states.append(last)
        rows.append(out)
    results = [jnp.stack(rows, 1)]
    results += [jnp.stack(part) for part in zip(*states, strict=True)]
    if not batch_first:
        return results
    return [jnp.transpose(results[0], (2, 0, 1, 3)),
            *(jnp.swapaxes(r, 0, 1) for r in results[1:])]  # fmt: skip


@operator("RNN")
def _rnn(call: Call) -> Any:
    return _recurrent(call, "RNN", 1, ("Tanh",))


@operator("GRU")
def _gru(call: Call) -> Any:
    return _recurrent(call, "GRU", 3, ("Sigmoid", "Tanh"))


@operator("LSTM")
def _lstm(call: Call) -> Any:
    return _recurrent(call, "LSTM", 4, ("Sigmoid", "Tanh", "Tanh"))
