"""Layers that the models share: products, norms, linear maps, MLPs, dropout.

Two facts, both measured, shape this file. The gain of a norm is folded into the weight
that follows it and rows are scaled after the product (the same function, fewer passes
over the edges). The gradient of a weight that many rows share is XLA's slowest product
on CPU; contracting flattened rows in short runs and adding the parts is faster.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.compiler import on_cpu
from metanet.graphs import total
from metanet.tuning import GRADIENT_ROWS


def _row_split(rows: int) -> int:
    """Returns the number of equal parts of about `GRADIENT_ROWS` rows; 1 if none fits."""
    if rows < 2 * GRADIENT_ROWS:
        return 1
    for size in range(GRADIENT_ROWS, 2 * GRADIENT_ROWS):
        if rows % size == 0:
            return rows // size
    for size in range(GRADIENT_ROWS - 1, 63, -1):
        if rows % size == 0:
            return rows // size
    return 1


_LOW: ContextVar[bool] = ContextVar("bf16_products", default=False)


@contextmanager
def bf16_products(on: bool = True) -> Iterator[None]:
    """Rounds the factors of products to bfloat16 in programs traced inside.

    Sums and all other operations stay in float32. Wide products on machines with bfloat16
    units become faster.
    """
    token = _LOW.set(on)
    try:
        yield
    finally:
        _LOW.reset(token)


def product(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns ``x @ weight`` for rows ``[..., a]`` and a weight ``[a, b]``.

    The derivative with respect to the weight contracts flattened rows (see the module
    docstring); values and gradients equal those of the plain product.
    """
    return _product(_LOW.get(), x, weight)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(low: bool, x: jax.Array, weight: jax.Array) -> jax.Array:
    return _dot("...a,ab->...b", x, weight, low)


def _dot(how: str, x: jax.Array, y: jax.Array, low: bool) -> jax.Array:
    if not low:
        return jnp.einsum(how, x, y)
    x, y = x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)
    return jnp.einsum(how, x, y, preferred_element_type=jnp.float32)


def _product_forward(low: bool, x: jax.Array, weight: jax.Array):
    return _product(low, x, weight), (x, weight)


def _product_backward(low: bool, saved, g):
    x, weight = saved
    return _dot("...b,ab->...a", g, weight, low), _weight_gradient(x, g, low)


def _weight_gradient(x: jax.Array, g: jax.Array, low: bool) -> jax.Array:
    """Returns ``x.T @ g`` of flattened rows ``[..., a]`` and ``[..., b]``."""
    a, b = x.shape[-1], g.shape[-1]
    x, g = x.reshape(-1, a), g.reshape(-1, b)
    parts = _row_split(x.shape[0]) if on_cpu() else 1
    if low or parts == 1:
        return _dot("ra,rb->ab", x, g, low)
    xs, gs = x.reshape(parts, -1, a), g.reshape(parts, -1, b)
    return jnp.einsum("nra,nrb->nab", xs, gs).sum(0)


_product.defvjp(_product_forward, _product_backward)


def norm_products(x: jax.Array, weights: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """Returns ``(x / rms(x)) @ w`` per weight, for rows ``[..., a]``, weights ``[a, b]``.

    The derivative needs no sum over the outputs of a row, only over its a inputs.
    """
    if x.ndim == 2 or len(weights) == 1:
        return _norm_products(_LOW.get(), x, tuple(weights))
    # One wide product is faster, except for rows of packed edges: there, XLA would gather
    # nodes entry by entry to concatenate the gradients.
    y = norm_products(x, [jnp.concatenate(weights, axis=1)])[0]
    widths = [w.shape[1] for w in weights]
    return tuple(jax.lax.split(y, widths, axis=y.ndim - 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _norm_products(
    low: bool, x: jax.Array, weights: tuple[jax.Array, ...]
) -> tuple[jax.Array, ...]:
    r = inverse_rms(x)
    return tuple(_dot("...a,ab->...b", x, w, low) * r for w in weights)


def _norm_products_forward(low: bool, x: jax.Array, weights: tuple[jax.Array, ...]):
    return _norm_products(low, x, weights), (x, weights)


def _norm_products_backward(low: bool, saved, gradients):
    x, weights = saved
    r = inverse_rms(x)
    parts = [
        _dot("...b,ab->...a", g, w, low)
        for g, w in zip(gradients, weights, strict=True)
    ]
    normed = x * r
    on_weights = tuple(_weight_gradient(normed, g, low) for g in gradients)
    return _norm_gradient(x, r, functools.reduce(jnp.add, parts)), on_weights


def _norm_gradient(x: jax.Array, r: jax.Array, g: jax.Array) -> jax.Array:
    """Returns the gradient with respect to x, given that with respect to ``x * r``."""
    along = total(x * g, -1, keepdims=True) / x.shape[-1]
    return r * g - x * (r**3 * along)


_norm_products.defvjp(_norm_products_forward, _norm_products_backward)


def log_variance(variance: jax.Array) -> jax.Array:
    """Returns the logarithm of a variance, offset to bound its gradient near 0."""
    return jnp.log(variance + 1e-4)


def affine(x: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Returns ``x @ weight + bias`` for rows ``[..., a]`` and a weight ``[a, b]``."""
    if weight.shape[0] == 1:
        # One input: a product of broadcasts, which XLA fuses into its reader.
        y = x * weight.reshape((1,) * (x.ndim - 1) + (-1,))
    elif weight.shape[1] == 1:
        # One output: XLA would make it the sum of a product; see `total`.
        y = total(x * weight.reshape((1,) * (x.ndim - 1) + (-1,)), -1, keepdims=True)
    else:
        y = product(x, weight)
    return y if bias is None else add_vector(y, bias)


class Linear(nnx.Module):
    """Affine map of the last axis, ``[..., inputs] -> [..., outputs]``.

    Args:
        inputs, outputs: Widths.
        bias: True to add a learned vector.
        scale: Factor of the initial weight (LeCun normal); 0 starts at zero.
        rngs: Random streams of the initialisation.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = True,
        scale: float = 1.0,
        rngs: nnx.Rngs,
    ):
        init = jax.random.normal(rngs.params(), (inputs, outputs))
        self.kernel = nnx.Param(init * (scale / math.sqrt(inputs)))
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        bias = None if self.bias is None else self.bias[...]
        return affine(x, self.kernel[...], bias)


class NormLinear(nnx.Module):
    """RMS norm followed by a linear map, with the gain folded into the weight.

    ``(x / rms(x) * gain) @ W == (x @ (gain[:, None] * W)) / rms(x)``.
    """

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        init = jax.random.normal(rngs.params(), (inputs, outputs))
        self.kernel = nnx.Param(init / math.sqrt(inputs))
        self.gain = nnx.Param(jnp.ones(inputs))

    def __call__(self, x: jax.Array) -> jax.Array:
        weight = self.gain[...][:, None] * self.kernel[...]
        return norm_products(x, [weight])[0]


class NormLinears(nnx.Module):
    """RMS norm followed by several linear maps, one array per map."""

    def __init__(self, inputs: int, outputs: Sequence[int], *, rngs: nnx.Rngs):
        self.outputs = tuple(outputs)
        draw = jax.random.normal(rngs.params(), (inputs, sum(outputs)))
        self.kernel = nnx.Param(draw / math.sqrt(inputs))
        self.gain = nnx.Param(jnp.ones(inputs))

    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        weight = self.gain[...][:, None] * self.kernel[...]
        return norm_products(x, jax.lax.split(weight, self.outputs, axis=1))


def inverse_rms(x: jax.Array, epsilon: float = 1e-6) -> jax.Array:
    """Returns ``1 / sqrt(mean(x^2) + epsilon)`` over the last axis, ``[..., 1]``."""
    return jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon)


@jax.custom_vjp
def rms_norm(x: jax.Array) -> jax.Array:
    """Returns ``x / rms(x)`` over the last axis."""
    return x * inverse_rms(x)


def _rms_norm_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return rms_norm(x), x


def _rms_norm_backward(x: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    return (_norm_gradient(x, inverse_rms(x), g),)


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


def add_vector(x: jax.Array, vector: jax.Array) -> jax.Array:
    """Adds ``[d]`` to every row of ``[..., d]``."""
    return x + vector.reshape((1,) * (x.ndim - 1) + (-1,))


class MLP(nnx.Module):
    """Two linear maps with SiLU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int, *, rngs: nnx.Rngs):
        self.first = Linear(inputs, hidden, rngs=rngs)
        self.second = Linear(hidden, outputs, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(jax.nn.silu(self.first(x)))


def dropout(
    x: jax.Array, rate: float, key: jax.Array | None, deterministic: bool
) -> jax.Array:
    """Zeroes entries with probability ``rate`` and divides the others by ``1 - rate``.

    Raises:
        ValueError: without a key, unless ``deterministic`` or the rate is 0.
    """
    if deterministic or rate == 0.0:
        return x
    if key is None:
        raise ValueError("dropout needs a key when it is not deterministic")
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0)
