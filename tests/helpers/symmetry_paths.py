"""Networks that read a unit or a parameter on several paths, or share it, by name.

Rotary embeddings read both halves of a head's channels; an outer product reads its units
along two axes; a layer that is the same for all channels shares its parameters among them.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial as fac

import jax
import jax.numpy as jnp

from helpers.symmetry_networks import Case, case, tanh

TOKENS = (2, 5, 3)


def half(h):
    """Turns the two halves of the channels by a right angle."""
    return jnp.concatenate([-h[..., 2:], h[..., :2]], -1)


def halves_with_gain(p, x):
    h = (x @ p["w"]).reshape(5, 2, 4)
    return (h * half(h * p["g"])).reshape(5, 8) @ p["o"]


def decoder(p, x):
    """Attention of a current decoder: one key head, norms with gains, stored tables."""

    def norm(t, gain):
        size = jnp.sqrt((t * t).mean(-1, keepdims=True) + 1e-5)
        return t / size * gain.reshape(1, 1, 1, -1)

    def turned(t):
        cos, sin = (p[name][None, :, None] for name in ("cos", "sin"))
        return t * cos + half(t) * sin

    q, k, v = ((x @ p[name]).reshape(2, 5, -1, 4) for name in "qkv")
    q, k = turned(norm(q, p["gq"])), turned(norm(k, p["gk"]))
    scores = jnp.einsum("bqhd,bkd->bhqk", q, k[:, :, 0])
    mixed = jnp.einsum("bhqk,bkd->bqhd", jax.nn.softmax(scores / 2), v[:, :, 0])
    return mixed.reshape(2, 5, 8) @ p["o"]


def scanned_halves(p, x):
    def step(h, t):
        turned = half(h) * p["g"]
        return tanh(turned + (t @ p["w"]).reshape(2, 4)), None

    last, _ = jax.lax.scan(step, jnp.zeros((2, 4), x.dtype), x)
    return jnp.einsum("hd,hdo->o", last, p["o"])


def plus_transpose(p, x):
    h = tanh(x @ p["w"])
    return (h @ (p["m"] + p["m"].T)) @ p["o"]


def products_of_units(p, x):
    h = tanh(x @ p["w"])
    return jnp.einsum("bij,ijo->bo", h[:, :, None] * h[:, None], p["o"])


def gram_matrix(p, x):
    gram = jnp.einsum("bti,btj->bij", x @ p["w"], x @ p["v"]) + p["m"][None]
    gram = gram + gram.transpose(0, 2, 1) + p["m"][None]
    return jnp.einsum("bij,ij->b", gram, p["r"])


def outer_weight(p, x):
    h = tanh(x @ p["w"])
    return (h @ (p["u"][:, None] * p["u"][None])) @ p["o"]


def same_kernel(p, x):
    """The same convolution over time of every channel."""
    h = tanh(x @ p["w"]).transpose(0, 2, 1).reshape(2 * 3, 5, 1)
    layout = ("NWC", "WIO", "NWC")
    h = jax.lax.conv_general_dilated(h, p["k"], (1,), "SAME", dimension_numbers=layout)
    return jnp.einsum("bcf,cfo->bo", tanh(h).reshape(2, 3, 5, 4).mean(2), p["o"])


def unread_square(p, x):
    return tanh(x @ p["w"]) @ p["o"] + 0 * jnp.vdot(p["m"] @ p["m"], p["m"])


def parameters_alone(p, x):
    return p["a"] @ p["b"]


def unequal_slices(p, x):
    h = (x @ p["w"]).reshape(5, 2, 4)
    first = jnp.einsum("bhd,do->bo", h[..., :1], p["a"])
    return first + jnp.einsum("bhd,do->bo", h[..., 1:], p["b"])


PATHS: dict[str, Callable[[], Case]] = {
    # Pairs of channels, and in each pair the heads.
    "halves with gain": lambda: case(
        halves_with_gain,
        2 * 2**2,
        {"positive": 4, "sign": 4},
        w=(3, 8),
        g=(1, 1, 4),
        o=(8, 2),
    ),
    # Heads, pairs of channels of queries and keys, channels of values.
    "rotary decoder": lambda: case(
        decoder,
        2 * 2 * fac(4),
        {"positive": 4, "sign": 9},
        TOKENS,
        q=(3, 8),
        k=(3, 4),
        v=(3, 4),
        gq=(4,),
        gk=(4,),
        cos=(5, 4),
        sin=(5, 4),
        o=(8, 2),
    ),
    "scanned halves": lambda: case(
        scanned_halves, 2 * 2**2, {"sign": 2}, w=(3, 8), g=(1, 4), o=(2, 4, 2)
    ),
    "plus transpose": lambda: case(
        plus_transpose, fac(4), {"sign": 1}, w=(3, 4), m=(4, 4), o=(4, 2)
    ),
    "products of units": lambda: case(
        products_of_units, fac(4), {"sign": 1}, w=(3, 4), o=(4, 4, 2)
    ),
    "gram matrix": lambda: case(
        gram_matrix,
        fac(4),
        {"positive": 1, "sign": 1},
        TOKENS,
        w=(3, 4),
        v=(3, 4),
        m=(4, 4),
        r=(4, 4),
    ),
    "outer weight": lambda: case(
        outer_weight, fac(4), {"sign": 1}, w=(3, 4), u=(4,), o=(4, 2)
    ),
    "same kernel": lambda: case(
        same_kernel,
        fac(3) * fac(4),
        {"sign": 2},
        TOKENS,
        w=(3, 3),
        k=(3, 1, 4),
        o=(3, 4, 2),
    ),
    "unread square": lambda: case(
        unread_square, fac(4) ** 2, {"sign": 2}, w=(3, 4), m=(4, 4), o=(4, 2)
    ),
    "parameters alone": lambda: case(
        parameters_alone, fac(4), {"positive": 1, "sign": 1}, a=(3, 4), b=(4, 2)
    ),
    "unequal slices": lambda: case(
        unequal_slices,
        2 * fac(3),
        {"positive": 1, "sign": 1},
        w=(3, 8),
        a=(1, 2),
        b=(3, 2),
    ),
}
