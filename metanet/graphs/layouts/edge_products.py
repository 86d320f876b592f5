"""Products of node values over lists of edges, with derivatives of the same two forms.

`edge_message_sum` sums weighted values at the edges' ends, `edge_inner_products` multiplies
the values at both ends. The derivative of each consists of calls of the other. Without
these rules, automatic differentiation gives sums of fused products and of padded slices,
which are several times slower on CPU.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp


def _gather(x: jax.Array, ends: jax.Array) -> jax.Array:
    return jnp.take(x, ends, axis=0, mode="fill", fill_value=0)


@jax.custom_vjp
def edge_message_sum(
    e: jax.Array, x: jax.Array, start: jax.Array, end: jax.Array
) -> jax.Array:
    """Computes ``out[n] = sum over edges with end n of e * x[start]``.

    Args:
        e: ``[E, h]`` edge features; head i acts on the i-th run of ``d / h`` values.
        x: ``[N, d]`` values of nodes.
        start: ``[E]`` numbers of the nodes that are read; N on padding, which reads 0.
        end: ``[E]`` numbers of the nodes that receive the products; N drops them.

    Returns:
        ``[N, d]``.
    """
    values = _gather(x, start).reshape(*e.shape, -1)
    products = (e[:, :, None] * values).reshape(len(e), -1)
    return jax.ops.segment_sum(products, end, len(x))


def _message_sum_forward(e: jax.Array, x: jax.Array, start: jax.Array, end: jax.Array):
    return edge_message_sum(e, x, start, end), (e, x, start, end)


def _message_sum_backward(saved: Any, g: jax.Array):
    e, x, start, end = saved
    de = edge_inner_products(x, g, start, end, e.shape[1])
    return de, edge_message_sum(e, g, end, start), None, None


edge_message_sum.defvjp(_message_sum_forward, _message_sum_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def edge_inner_products(
    x: jax.Array, y: jax.Array, start: jax.Array, end: jax.Array, heads: int
) -> jax.Array:
    """Computes ``out[e, i] = <x[start], y[end]>`` over run i.

    Args:
        x: ``[N, d]`` values of nodes at the start of edges.
        y: ``[N, d]`` at their end.
        start, end: ``[E]`` numbers of nodes; N on padding, which gives 0.
        heads: Number of runs h.

    Returns:
        ``[E, h]``.
    """
    # With heads last, a sum over runs is a sum of slices instead of a reduction.
    products = _gather(_heads_last(x, heads), start) * _gather(
        _heads_last(y, heads), end
    )
    return sum(
        (products[:, i : i + heads] for i in range(heads, products.shape[1], heads)),
        start=products[:, :heads],
    )


def _heads_last(x: jax.Array, heads: int) -> jax.Array:
    return x.reshape(len(x), heads, -1).swapaxes(1, 2).reshape(x.shape)


def _inner_products_forward(
    x: jax.Array, y: jax.Array, start: Any, end: Any, heads: int
):
    return edge_inner_products(x, y, start, end, heads), (x, y, start, end)


def _inner_products_backward(heads: int, saved: Any, g: jax.Array):
    x, y, start, end = saved
    return (
        edge_message_sum(g, y, end, start),
        edge_message_sum(g, x, start, end),
        None,
        None,
    )


edge_inner_products.defvjp(_inner_products_forward, _inner_products_backward)
