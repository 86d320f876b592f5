"""Sums, broadcasts and extrema whose derivatives are finite and fast.

On CPU, XLA's library for reductions (YNNPACK, jaxlib 0.10) sums the values of a fused
product five to ten times slower than any others. Gradients of broadcasts are such sums,
so both directions go through `total`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp


def total(x: jax.Array, axes: int | Sequence[int], keepdims: bool = False) -> jax.Array:
    """Returns the sum over axes."""
    if jnp.issubdtype(x.dtype, jnp.floating):
        # Rounding to the same precision is the identity, and prevents XLA from fusing
        # the producer of x into the reduction.
        precision = jnp.finfo(x.dtype)
        x = jax.lax.reduce_precision(x, precision.nexp, precision.nmant)
    return x.sum(axes, keepdims=keepdims)


def broadcast(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns ``x`` broadcast to ``shape``, which has as many axes."""
    return jnp.asarray(_broadcast(x, shape))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _broadcast(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.broadcast_to(x, shape)


def _broadcast_forward(x: jax.Array, shape: tuple[int, ...]):
    return _broadcast(x, shape), x.shape


def _broadcast_backward(shape: tuple[int, ...], before: tuple[int, ...], g: jax.Array):
    axes = [i for i, (a, b) in enumerate(zip(before, shape, strict=True)) if a != b]
    return (total(g, axes, keepdims=True) if axes else g,)


_broadcast.defvjp(_broadcast_forward, _broadcast_backward)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def extreme(x: jax.Array, axes: tuple[int, ...], how: str) -> jax.Array:
    """Returns the maximum ("max") or minimum over axes; its derivative is always finite.

    The derivative of `jnp.max` divides by the number of entries equal to the maximum,
    which is 0 if the compiler recomputes the entries with another rounding.
    """
    return x.max(axes) if how == "max" else x.min(axes)


@extreme.defjvp
def _extreme_jvp(axes: tuple[int, ...], how: str, primals, tangents):
    (x,), (tangent,) = primals, tangents
    value = extreme(x, axes, how)
    wide = jnp.expand_dims(value, axes)
    attained = (x >= wide if how == "max" else x <= wide).astype(x.dtype)
    count = jnp.maximum(attained.sum(axes), 1.0)
    return value, (attained * tangent).sum(axes) / count
