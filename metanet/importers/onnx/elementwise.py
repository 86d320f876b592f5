"""ONNX operators on elements, and reductions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from metanet.importers.onnx.operators import Call, Unsupported, operator


def _reciprocal(x: jax.Array) -> jax.Array:
    return 1.0 / x


def _identity(x: jax.Array) -> jax.Array:
    return x


def _hard_swish(x: jax.Array) -> jax.Array:
    return x * jnp.clip(x / 6.0 + 0.5, 0.0, 1.0)


def _mish(x: jax.Array) -> jax.Array:
    return x * jnp.tanh(jax.nn.softplus(x))


_UNARY: dict[str, Callable[[jax.Array], jax.Array]] = {
    "Abs": jnp.abs,
    "Acos": jnp.arccos,
    "Acosh": jnp.arccosh,
    "Asin": jnp.arcsin,
    "Asinh": jnp.arcsinh,
    "Atan": jnp.arctan,
    "Atanh": jnp.arctanh,
    "Ceil": jnp.ceil,
    "Cos": jnp.cos,
    "Cosh": jnp.cosh,
    "Erf": lax.erf,
    "Exp": jnp.exp,
    "Floor": jnp.floor,
    "HardSwish": _hard_swish,
    "Identity": _identity,
    "IsInf": jnp.isinf,
    "IsNaN": jnp.isnan,
    "Log": jnp.log,
    "Mish": _mish,
    "Neg": jnp.negative,
    "Not": jnp.logical_not,
    "Reciprocal": _reciprocal,
    "Relu": jax.nn.relu,
    "Round": jnp.round,
    "Sigmoid": jax.nn.sigmoid,
    "Sign": jnp.sign,
    "Sin": jnp.sin,
    "Sinh": jnp.sinh,
    "Softplus": jax.nn.softplus,
    "Softsign": jax.nn.soft_sign,
    "Sqrt": jnp.sqrt,
    "Tan": jnp.tan,
    "Tanh": jnp.tanh,
}
_BINARY: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "Add": jnp.add,
    "And": jnp.logical_and,
    "BitwiseAnd": jnp.bitwise_and,
    "BitwiseOr": jnp.bitwise_or,
    "Equal": jnp.equal,
    "Greater": jnp.greater,
    "GreaterOrEqual": jnp.greater_equal,
    "Less": jnp.less,
    "LessOrEqual": jnp.less_equal,
    "Mul": jnp.multiply,
    "Or": jnp.logical_or,
    "Sub": jnp.subtract,
    "Xor": jnp.logical_xor,
}


def _register_unary(name: str, function: Callable[[jax.Array], jax.Array]) -> None:
    @operator(name)
    def evaluate(call: Call) -> jax.Array:
        return function(call.inputs[0])


def _register_binary(
    name: str, function: Callable[[jax.Array, jax.Array], jax.Array]
) -> None:
    @operator(name)
    def evaluate(call: Call) -> jax.Array:
        return function(call.inputs[0], call.inputs[1])


for _name, _unary in _UNARY.items():
    _register_unary(_name, _unary)
for _name, _binary in _BINARY.items():
    _register_binary(_name, _binary)


@operator("Max")
def _max(call: Call) -> jax.Array:
    return functools.reduce(jnp.maximum, call.inputs)


@operator("Min")
def _min(call: Call) -> jax.Array:
    return functools.reduce(jnp.minimum, call.inputs)


@operator("Sum")
def _sum(call: Call) -> jax.Array:
    return functools.reduce(jnp.add, call.inputs)


@operator("Mean")
def _mean(call: Call) -> jax.Array:
    return functools.reduce(jnp.add, call.inputs) / len(call.inputs)


class _Reduction(Protocol):
    def __call__(
        self, x: jax.Array, /, *, axis: tuple[int, ...] | None, keepdims: bool
    ) -> jax.Array: ...


def _l1_norm(
    x: jax.Array, *, axis: tuple[int, ...] | None, keepdims: bool
) -> jax.Array:
    return jnp.sum(jnp.abs(x), axis=axis, keepdims=keepdims)


def _square_sum(
    x: jax.Array, *, axis: tuple[int, ...] | None, keepdims: bool
) -> jax.Array:
    return jnp.sum(x * x, axis=axis, keepdims=keepdims)


def _l2_norm(
    x: jax.Array, *, axis: tuple[int, ...] | None, keepdims: bool
) -> jax.Array:
    return jnp.sqrt(_square_sum(x, axis=axis, keepdims=keepdims))


def _log_sum(
    x: jax.Array, *, axis: tuple[int, ...] | None, keepdims: bool
) -> jax.Array:
    return jnp.log(jnp.sum(x, axis=axis, keepdims=keepdims))


def _log_sum_exp(
    x: jax.Array, *, axis: tuple[int, ...] | None, keepdims: bool
) -> jax.Array:
    return jax.nn.logsumexp(x, axis=axis, keepdims=keepdims)


_REDUCTIONS: dict[str, _Reduction] = {
    "ReduceL1": _l1_norm,
    "ReduceL2": _l2_norm,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": jnp.max,
    "ReduceMean": jnp.mean,
    "ReduceMin": jnp.min,
    "ReduceProd": jnp.prod,
    "ReduceSum": jnp.sum,
    "ReduceSumSquare": _square_sum,
}


def _register_reduction(name: str, function: _Reduction) -> None:
    @operator(name)
    def evaluate(call: Call) -> jax.Array:
        x = call.inputs[0]
        axes = call.static(1, "axes")
        if not axes and call.get("noop_with_empty_axes", 0):
            return x
        keep = bool(call.get("keepdims", 1))
        return function(x, axis=tuple(axes) if axes else None, keepdims=keep)


for _name, _reduction in _REDUCTIONS.items():
    _register_reduction(_name, _reduction)


@operator("Div")
def _divide(call: Call) -> jax.Array:
    x, y = call.inputs
    if not jnp.issubdtype(x.dtype, jnp.integer):
        return jnp.divide(x, y)
    return lax.div(*jnp.broadcast_arrays(x, jnp.asarray(y, x.dtype)))


@operator("Mod")
def _mod(call: Call) -> jax.Array:
    x, y = call.inputs
    return jnp.fmod(x, y) if call.get("fmod", 0) else jnp.mod(x, y)


@operator("Pow")
def _pow(call: Call) -> jax.Array:
    """Replaces constant powers by functions whose scale symmetry is known."""
    x, power = call.inputs
    if isinstance(power, np.ndarray) and power.size == 1:
        value = float(power.ravel()[0])
        x = jnp.reshape(x, jnp.broadcast_shapes(np.shape(x), power.shape))
        if value == 0.5:
            return jnp.sqrt(x)
        if value.is_integer() and abs(value) < 32:
            return lax.integer_pow(x, int(value))
    return jnp.power(x, power).astype(jax.dtypes.canonicalize_dtype(x.dtype))


@operator("Clip", settings=(1, 2))
def _clip(call: Call) -> jax.Array:
    x = call.inputs[0]
    low = call.get("min") if call.version < 11 else call.input(1)
    high = call.get("max") if call.version < 11 else call.input(2)
    x = x if low is None else jnp.maximum(x, jnp.asarray(low, x.dtype))
    return x if high is None else jnp.minimum(x, jnp.asarray(high, x.dtype))


@operator("Elu")
def _elu(call: Call) -> jax.Array:
    return jax.nn.elu(call.inputs[0], call.get("alpha", 1.0))


@operator("Celu")
def _celu(call: Call) -> jax.Array:
    return jax.nn.celu(call.inputs[0], call.get("alpha", 1.0))


@operator("Selu")
def _selu(call: Call) -> jax.Array:
    alpha, gamma = call.get("alpha", 1.6732632), call.get("gamma", 1.050701)
    return gamma * jax.nn.elu(call.inputs[0], alpha)


@operator("LeakyRelu")
def _leaky_relu(call: Call) -> jax.Array:
    return jax.nn.leaky_relu(call.inputs[0], call.get("alpha", 0.01))


@operator("PRelu", weights={1: "slope"})
def _prelu(call: Call) -> jax.Array:
    x, slope = call.inputs
    return jnp.where(x > 0, x, slope * x)


@operator("ThresholdedRelu")
def _thresholded_relu(call: Call) -> jax.Array:
    x = call.inputs[0]
    return jnp.where(x > call.get("alpha", 1.0), x, 0.0)


@operator("HardSigmoid")
def _hard_sigmoid(call: Call) -> jax.Array:
    return jnp.clip(
        call.get("alpha", 0.2) * call.inputs[0] + call.get("beta", 0.5), 0.0, 1.0
    )


@operator("Gelu")
def _gelu(call: Call) -> jax.Array:
    return jax.nn.gelu(call.inputs[0], call.get("approximate", "none") == "tanh")


@operator("Where")
def _where(call: Call) -> jax.Array:
    return jnp.where(*call.inputs)


@operator("Dropout")
def _dropout(call: Call) -> tuple[jax.Array, jax.Array]:
    x = call.inputs[0]
    return x, jnp.ones(x.shape, bool)


@operator("Cast", "CastLike")
def _cast(call: Call) -> jax.Array:
    from onnx import helper

    if "to" in call.attributes:
        dtype = helper.tensor_dtype_to_np_dtype(call.get("to"))
    else:
        dtype = call.inputs[1].dtype
    if np.dtype(dtype).kind in "OUS":
        raise Unsupported("text")
    if call.precision is not None and jnp.issubdtype(dtype, jnp.floating):
        dtype = call.precision
    return call.inputs[0].astype(jax.dtypes.canonicalize_dtype(dtype))


# The domain ai.onnx.ml: operators that exports of scikit-learn put around MLPs.


@operator("ArrayFeatureExtractor")
def _array_feature_extractor(call: Call) -> jax.Array:
    x, index = call.inputs
    return jnp.take(x, jnp.ravel(index), axis=-1)


@operator("Scaler")
def _scaler(call: Call) -> jax.Array:
    x = call.inputs[0]
    offset = jnp.asarray(call.get("offset", [0.0]), x.dtype)
    scale = jnp.asarray(call.get("scale", [1.0]), x.dtype)
    return (x - offset) * scale


@operator("Normalizer")
def _normalizer(call: Call) -> jax.Array:
    x = call.inputs[0]
    norms: dict[str, _Reduction] = {"MAX": jnp.max, "L1": _l1_norm, "L2": _l2_norm}
    size = norms[call.get("norm", "MAX")](x, axis=(-1,), keepdims=True)
    return x / jnp.where(size == 0, 1.0, size)
