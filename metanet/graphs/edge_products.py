"""Products of node values over lists of edges, with derivatives of the same two forms.

`carried` sums weighted values at the edges' ends, `matched` compares the values at both
ends. Each is what the other's derivative consists of; derived by the compiler instead,
they are sums of fused products and padded slices, several times slower on CPU.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp


def _send(x: jax.Array, ends: jax.Array) -> jax.Array:
    return jnp.take(x, ends, axis=0, mode="fill", fill_value=0)


@jax.custom_vjp
def carried(e: jax.Array, x: jax.Array, start: jax.Array, end: jax.Array) -> jax.Array:
    """What nodes receive: ``out[n] = sum over edges with end n of e * x[start]``.

    Args:
        e: ``[E, h]`` edge features; head i acts on the i-th run of ``d / h`` values.
        x: ``[N, d]`` values of nodes.
        start: ``[E]`` numbers of the nodes that send; N on padding, which sends zeros.
        end: ``[E]`` of those that receive; N drops what is sent.

    Returns:
        ``[N, d]``.
    """
    sent = _send(x, start).reshape(*e.shape, -1)
    products = (e[:, :, None] * sent).reshape(len(e), -1)
    return jax.ops.segment_sum(products, end, len(x))


def _carried_forward(e: jax.Array, x: jax.Array, start: jax.Array, end: jax.Array):
    return carried(e, x, start, end), (e, x, start, end)


def _carried_backward(saved: Any, g: jax.Array):
    e, x, start, end = saved
    de = matched(x, g, start, end, e.shape[1])
    return de, carried(e, g, end, start), None, None


carried.defvjp(_carried_forward, _carried_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def matched(
    x: jax.Array, y: jax.Array, start: jax.Array, end: jax.Array, heads: int
) -> jax.Array:
    """How nodes match along edges: ``out[e, i] = <x[start], y[end]>`` over run i.

    Args:
        x: ``[N, d]`` values of nodes at the start of edges.
        y: ``[N, d]`` at their end.
        start, end: ``[E]`` numbers of nodes; N on padding, which gives 0.
        heads: Number of runs h.

    Returns:
        ``[E, h]``.
    """
    # Heads side by side: a sum over runs is one over slices, without a reduction.
    turn = lambda v: v.reshape(len(v), heads, -1).swapaxes(1, 2).reshape(v.shape)
    both = _send(turn(x), start) * _send(turn(y), end)
    return sum(
        (both[:, i : i + heads] for i in range(heads, both.shape[1], heads)),
        start=both[:, :heads],
    )


def _matched_forward(x: jax.Array, y: jax.Array, start: Any, end: Any, heads: int):
    return matched(x, y, start, end, heads), (x, y, start, end)


def _matched_backward(heads: int, saved: Any, g: jax.Array):
    x, y, start, end = saved
    return carried(g, y, end, start), carried(g, x, start, end), None, None


matched.defvjp(_matched_forward, _matched_backward)
