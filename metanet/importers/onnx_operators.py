"""ONNX operators on elements and shapes, and reductions."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from metanet.importers.onnx_call import OPERATORS, Call, Unsupported, operator

_UNARY = {
    "Abs": jnp.abs, "Acos": jnp.arccos, "Acosh": jnp.arccosh, "Asin": jnp.arcsin,
    "Asinh": jnp.arcsinh, "Atan": jnp.arctan, "Atanh": jnp.arctanh, "Ceil": jnp.ceil,
    "Cos": jnp.cos, "Cosh": jnp.cosh, "Erf": lax.erf, "Exp": jnp.exp,
    "Floor": jnp.floor, "Identity": lambda x: x, "IsNaN": jnp.isnan, "Log": jnp.log,
    "Neg": jnp.negative, "Not": jnp.logical_not, "Reciprocal": lambda x: 1.0 / x,
    "Relu": jax.nn.relu, "Round": jnp.round, "Sigmoid": jax.nn.sigmoid,
    "Sign": jnp.sign, "Sin": jnp.sin, "Sinh": jnp.sinh, "Softplus": jax.nn.softplus,
    "Softsign": jax.nn.soft_sign, "Sqrt": jnp.sqrt, "Tan": jnp.tan, "Tanh": jnp.tanh,
    "HardSwish": lambda x: x * jnp.clip(x / 6.0 + 0.5, 0.0, 1.0),
    "Mish": lambda x: x * jnp.tanh(jax.nn.softplus(x)),
}  # fmt: skip
_BINARY = {
    "Add": jnp.add, "Sub": jnp.subtract, "Mul": jnp.multiply,
    "And": jnp.logical_and, "Or": jnp.logical_or, "Xor": jnp.logical_xor,
    "BitwiseAnd": jnp.bitwise_and, "BitwiseOr": jnp.bitwise_or,
    "Equal": jnp.equal, "Greater": jnp.greater, "GreaterOrEqual": jnp.greater_equal,
    "Less": jnp.less, "LessOrEqual": jnp.less_equal,
}  # fmt: skip
_FOLDS = {"Max": jnp.maximum, "Min": jnp.minimum, "Sum": jnp.add, "Mean": jnp.add}
_REDUCTIONS = {
    "ReduceSum": jnp.sum, "ReduceMean": jnp.mean, "ReduceMax": jnp.max,
    "ReduceMin": jnp.min, "ReduceProd": jnp.prod,
    "ReduceL1": lambda x, **k: jnp.sum(jnp.abs(x), **k),
    "ReduceL2": lambda x, **k: jnp.sqrt(jnp.sum(x * x, **k)),
    "ReduceSumSquare": lambda x, **k: jnp.sum(x * x, **k),
    "ReduceLogSum": lambda x, **k: jnp.log(jnp.sum(x, **k)),
    "ReduceLogSumExp": lambda x, **k: jax.nn.logsumexp(x, **k),
}  # fmt: skip


def _enter_tables() -> None:
    for name, unary in _UNARY.items():
        OPERATORS[name] = lambda call, f=unary: f(call.inputs[0])
    for name, binary in _BINARY.items():
        OPERATORS[name] = lambda call, f=binary: f(call.inputs[0], call.inputs[1])
    for name, fold in _FOLDS.items():
        OPERATORS[name] = lambda call, f=fold, n=name: _fold(call, f, n)
    for name, reduction in _REDUCTIONS.items():
        OPERATORS[name] = lambda call, f=reduction: _reduce(call, f)


def _fold(call: Call, function: Any, name: str) -> Any:
    total = call.inputs[0]
    for value in call.inputs[1:]:
        total = function(total, value)
    return total / len(call.inputs) if name == "Mean" else total


def _reduce(call: Call, function: Any) -> Any:
    x = call.inputs[0]
    axes = call.static(1, "axes")
    if not axes and call.get("noop_with_empty_axes", 0):
        return x
    keep = bool(call.get("keepdims", 1))
    return function(x, axis=tuple(axes) if axes else None, keepdims=keep)


_enter_tables()


def _is_integer(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.integer))


@operator("Div")
def _divide(call: Call) -> Any:
    x, y = call.inputs
    if not _is_integer(x):
        return jnp.divide(x, y)
    return lax.div(*jnp.broadcast_arrays(x, jnp.asarray(y, x.dtype)))


@operator("Mod")
def _mod(call: Call) -> Any:
    x, y = call.inputs
    return jnp.fmod(x, y) if call.get("fmod", 0) else jnp.mod(x, y)


@operator("Pow")
def _pow(call: Call) -> Any:
    """Constant powers become the functions whose scale symmetry is known."""
    x, power = call.inputs
    if isinstance(power, np.ndarray) and power.size == 1:
        value = float(power.ravel()[0])
        x = jnp.reshape(x, jnp.broadcast_shapes(np.shape(x), power.shape))
        if value == 0.5:
            return jnp.sqrt(x)
        if value.is_integer() and abs(value) < 32:
            return lax.integer_pow(x, int(value))
    return jnp.power(x, power).astype(jax.dtypes.canonicalize_dtype(x.dtype))


@operator("Clip")
def _clip(call: Call) -> Any:
    x = call.inputs[0]
    low = call.get("min") if call.version < 11 else call.input(1)
    high = call.get("max") if call.version < 11 else call.input(2)
    x = x if low is None else jnp.maximum(x, jnp.asarray(low, x.dtype))
    return x if high is None else jnp.minimum(x, jnp.asarray(high, x.dtype))


@operator("Elu")
def _elu(call: Call) -> Any:
    return jax.nn.elu(call.inputs[0], call.get("alpha", 1.0))


@operator("Celu")
def _celu(call: Call) -> Any:
    return jax.nn.celu(call.inputs[0], call.get("alpha", 1.0))


@operator("Selu")
def _selu(call: Call) -> Any:
    alpha, gamma = call.get("alpha", 1.6732632), call.get("gamma", 1.050701)
    return gamma * jax.nn.elu(call.inputs[0], alpha)


@operator("LeakyRelu")
def _leaky_relu(call: Call) -> Any:
    return jax.nn.leaky_relu(call.inputs[0], call.get("alpha", 0.01))


@operator("PRelu")
def _prelu(call: Call) -> Any:
    x, slope = call.inputs
    return jnp.where(x > 0, x, slope * x)


@operator("ThresholdedRelu")
def _thresholded_relu(call: Call) -> Any:
    x = call.inputs[0]
    return jnp.where(x > call.get("alpha", 1.0), x, 0.0)


@operator("HardSigmoid")
def _hard_sigmoid(call: Call) -> Any:
    return jnp.clip(
        call.get("alpha", 0.2) * call.inputs[0] + call.get("beta", 0.5), 0.0, 1.0
    )


@operator("Gelu")
def _gelu(call: Call) -> Any:
    return jax.nn.gelu(call.inputs[0], call.get("approximate", "none") == "tanh")


@operator("IsInf")
def _is_inf(call: Call) -> Any:
    return jnp.isinf(call.inputs[0])


@operator("Where")
def _where(call: Call) -> Any:
    return jnp.where(*call.inputs)


@operator("Dropout")
def _dropout(call: Call) -> Any:
    x = call.inputs[0]
    return (x, jnp.ones(x.shape, bool))


@operator("Cast", "CastLike")
def _cast(call: Call) -> Any:
    from onnx import helper

    if "to" in call.attributes:
        dtype = helper.tensor_dtype_to_np_dtype(call.get("to"))
    else:
        dtype = call.inputs[1].dtype
    if np.dtype(dtype).kind in "OUS":
        raise Unsupported("text")
    return call.inputs[0].astype(jax.dtypes.canonicalize_dtype(dtype))


# Shapes.


@operator("Shape")
def _shape(call: Call) -> Any:
    shape = np.array(np.shape(call.inputs[0]), np.int64)
    return shape[call.get("start", 0) : call.get("end")]


@operator("Size")
def _size(call: Call) -> Any:
    return np.array(np.size(call.inputs[0]), np.int64)


@operator("Reshape")
def _reshape(call: Call) -> Any:
    x, shape = call.inputs[0], call.static(1, "shape") or []
    if not call.get("allowzero", 0):
        shape = [n or x.shape[i] for i, n in enumerate(shape)]
    return jnp.reshape(x, shape)


@operator("Flatten")
def _flatten(call: Call) -> Any:
    x, axis = call.inputs[0], call.get("axis", 1)
    axis += x.ndim if axis < 0 else 0
    return jnp.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@operator("Transpose")
def _transpose(call: Call) -> Any:
    return jnp.transpose(call.inputs[0], call.get("perm"))


@operator("Squeeze")
def _squeeze(call: Call) -> Any:
    axes = call.static(1, "axes")
    return jnp.squeeze(call.inputs[0], None if axes is None else tuple(axes))


@operator("Unsqueeze")
def _unsqueeze(call: Call) -> Any:
    return jnp.expand_dims(call.inputs[0], tuple(call.static(1, "axes") or ()))


@operator("Expand")
def _expand(call: Call) -> Any:
    x, shape = call.inputs[0], call.static(1, "shape") or []
    return jnp.broadcast_to(x, jnp.broadcast_shapes(x.shape, tuple(shape)))


@operator("Tile")
def _tile(call: Call) -> Any:
    return jnp.tile(call.inputs[0], call.static(1, "repeats") or [])


@operator("Concat")
def _concat(call: Call) -> Any:
    return jnp.concatenate(call.inputs, call.get("axis", 1))


@operator("Split")
def _split(call: Call) -> Any:
    x, axis = call.inputs[0], call.get("axis", 0)
    sizes = call.static(1, "split")
    if sizes is None:
        size = -(-x.shape[axis] // call.outputs)
        sizes = [size] * (x.shape[axis] // size)
        sizes += [x.shape[axis] - sum(sizes)] * (call.outputs - len(sizes))
    return lax.split(x, sizes, axis % x.ndim)


@operator("Slice")
def _slice(call: Call) -> Any:
    x = call.inputs[0]
    starts, ends = call.static(1, "starts") or [], call.static(2, "ends") or []
    axes = call.static(3, "axes") or range(len(starts))
    steps = call.static(4, "steps") or [1] * len(starts)
    cut = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # An end before the first entry, going backwards, is no negative index.
        stop = None if step < 0 and end < -x.shape[axis] else end
        cut[axis] = slice(start, stop, step)
    return x[tuple(cut)]


@operator("Pad")
def _pad(call: Call) -> Any:
    x, mode = call.inputs[0], call.get("mode", "constant")
    pads = call.static(1, "pads") or []
    axes = call.static(3, "axes") or range(x.ndim)
    config = [(0, 0)] * x.ndim
    for place, axis in enumerate(axes):
        config[axis] = (pads[place], pads[place + len(pads) // 2])
    if mode != "constant":
        kind = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}[mode]
        return jnp.pad(x, config, kind)
    value = call.input(2) if call.version >= 11 else call.get("value", 0.0)
    filler = jnp.asarray(0 if value is None else value, x.dtype).reshape(())
    return lax.pad(x, filler, [(low, high, 0) for low, high in config])


@operator("ConstantOfShape", "EyeLike", "NonZero", "Range")
def _shaped_by_values(call: Call) -> Any:
    """Reached only where the inputs are not constant."""
    raise Unsupported("the shape of the result depends on weights or inputs")


@operator("Trilu")
def _trilu(call: Call) -> Any:
    offset = (call.static(1, "k") or [0])[0]
    function = jnp.triu if call.get("upper", 1) else jnp.tril
    return function(call.inputs[0], int(offset))


@operator("DepthToSpace")
def _depth_to_space(call: Call) -> Any:
    x, size = call.inputs[0], call.attributes["blocksize"]
    n, c, h, w = x.shape
    if call.get("mode", "DCR") == "DCR":
        x = x.reshape(n, size, size, c // size**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, c // size**2, size, size, h, w).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // size**2, h * size, w * size)


@operator("SpaceToDepth")
def _space_to_depth(call: Call) -> Any:
    x, size = call.inputs[0], call.attributes["blocksize"]
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // size, size, w // size, size).transpose(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * size**2, h // size, w // size)
