"""Further networks whose symmetry group is known on paper, by name."""

from __future__ import annotations

from collections.abc import Callable
from math import factorial as fac

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from helpers.symmetry_networks import (
    NHWC,
    QKV,
    TOKENS,
    Case,
    array,
    attention,
    by_head,
    case,
    flat,
    relu,
    tanh,
)


def conv(x, w, groups: int = 1):
    return jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=groups
    )


def squeeze_excite(p, x):
    h = relu(conv(x, p["a"]))
    s = jax.nn.sigmoid(relu(h.mean((1, 2)) @ p["s1"]) @ p["s2"])
    return (h * s[:, None, None]).mean((1, 2)) @ p["o"]


def pixel_shuffle(p, x):
    h = conv(relu(conv(x, p["a"])), p["b"])
    n, height, width, _ = h.shape
    h = h.reshape(n, height, width, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    return conv(tanh(h.reshape(n, 2 * height, 2 * width, 3)), p["o"])


def resize(p, x):
    h = relu(conv(x, p["a"]))
    return conv(jax.image.resize(h, (h.shape[0], 8, 8, 4), "bilinear"), p["o"])


def rotations(p, x):
    """A p4 convolution: every kernel in four orientations, in a minor axis."""
    turned = jnp.stack([jnp.rot90(p["a"], k) for k in range(4)], -1)
    h = relu(conv(x, turned.reshape(3, 3, 2, -1)))
    return h.reshape(*h.shape[:3], 4, 4).mean((1, 2, 4)) @ p["o"]


def message_passing(p, x):
    senders, receivers = np.array([0, 1, 2, 3, 4, 1]), np.array([1, 2, 3, 4, 0, 0])
    for i in "12":
        messages = relu(x @ p["m" + i])[senders]
        total = jax.ops.segment_sum(messages, receivers, 5)
        x = relu(x @ p["s" + i] + total @ p["u" + i])
    return x.mean(0) @ p["o"]


def linear_attention(p, x):
    q, k, v = (by_head(x @ p[n], 2) for n in "qkv")
    q, k = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
    state = jnp.einsum("bthd,bthe->bhde", k, v)
    norm = jnp.einsum("bthd,bhd->bth", q, k.sum(1))
    return flat(jnp.einsum("bthd,bhde->bthe", q, state) / norm[..., None]) @ p["o"]


def alibi(p, x):
    q, k, v = (by_head(x @ p[n], 2) for n in "qkv")
    place = jnp.arange(5.0)
    distance = -jnp.abs(place[:, None] - place[None])
    slope = jnp.array([0.5, 0.25]).reshape(1, 2, 1, 1)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) + distance[None, None] * slope
    return flat(jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)) @ p["o"]


def gru(p, xs):
    def cell(h, x):
        a, b = x @ p["wi"], h @ p["wh"]
        r = jax.nn.sigmoid(a[:, :4] + b[:, :4])
        z = jax.nn.sigmoid(a[:, 4:8] + b[:, 4:8])
        return (1 - z) * tanh(a[:, 8:] + r * b[:, 8:]) + z * h, None

    return jax.lax.scan(cell, jnp.zeros((xs.shape[1], 4)), xs)[0] @ p["o"]


def bidirectional(p, xs):
    """A recurrence in both directions, whose weights are one array."""
    rows = []
    for d in range(2):

        def cell(h, x, w=p["wh"][d]):
            h = tanh(x + h @ w)
            return h, h

        start = jnp.zeros((xs.shape[1], 4))
        rows.append(jax.lax.scan(cell, start, xs @ p["wi"][d], reverse=d == 1)[1])
    both = jnp.stack(rows, 1).transpose(0, 2, 1, 3)
    return both.reshape(*xs.shape[:2], 8)[-1] @ p["o"]


def state_space(p, x):
    decay = jnp.broadcast_to(jax.nn.sigmoid(p["a"])[None], (x.shape[0], 4))

    def merge(l, r):
        return l[0] * r[0], l[1] * r[0] + r[1]

    return jax.lax.associative_scan(merge, (decay, x @ p["b"]))[1] @ p["c"]


def hypernetwork(p, x):
    w = (relu(p["z"] @ p["h1"]) @ p["h2"]).reshape(3, 4)
    return tanh(x @ w) @ p["o"]


def soft_trees(p, x):
    gate = jax.nn.sigmoid(jnp.einsum("bi,ti->bt", x, p["w"]) + p["b"][None])
    leaves = jnp.stack([gate, 1 - gate], -1)
    return jnp.einsum("btl,tlo->bo", leaves, p["leaf"])


def maxout(p, x):
    return jnp.einsum("bi,ikj->bkj", x, p["w"]).max(1) @ p["o"]


def triplane(p, x):
    total = 0.0
    for name, (i, j) in zip("abc", ((0, 1), (0, 2), (1, 2)), strict=True):
        u, v = (jnp.clip((x[:, k] + 1) * 1.5, 0, 2.99) for k in (i, j))
        row, column = u.astype(int), v.astype(int)
        share = (u - row)[:, None]
        below = p[name][jnp.minimum(row + 1, 3), column]
        total = total + p[name][row, column] * (1 - share) + below * share
    return relu(total @ p["w"]) @ p["o"]


def routed_experts(p, x):
    value, index = jax.lax.top_k(x @ p["r"], 2)
    gates = (jax.nn.one_hot(index, 3) * jax.nn.softmax(value)[..., None]).sum(1)
    h = relu(jnp.einsum("bi,eij->bej", x, p["w"]))
    return jnp.einsum("bej,ejo,be->bo", h, p["v"], gates)


def cross_attention(p, x):
    memory = p["mem"][None]
    q, k, v = by_head(x @ p["q"], 2), by_head(memory @ p["k"], 2), memory @ p["v"]

    def wide(t):
        return jnp.broadcast_to(t, (x.shape[0], *t.shape[1:]))

    return flat(attention(q, wide(k), wide(by_head(v, 2)))) @ p["o"]


def multi_query(p, x):
    q, k, v = by_head(x @ p["q"], 2), x @ p["k"], x @ p["v"]
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkd->bhqk", q, k))
    return flat(jnp.einsum("bhqk,bkd->bqhd", weights, v)) @ p["o"]


def windows(p, x):
    h = jnp.roll(x @ p["e"], 1, 1).reshape(2, 3, 2, 4)
    q, k, v = (h @ p[n] for n in "qkv")
    weights = jax.nn.softmax(jnp.einsum("bwqd,bwkd->bwqk", q, k))
    return jnp.einsum("bwqk,bwkd->bwqd", weights, v).reshape(2, 6, 3) @ p["o"]


def biased_after_reshape(p, x):
    """A fused projection with an elementwise operation before it is split."""
    t = (x @ p["qkv"]).reshape(*x.shape[:2], 3, 2, 3)
    t = 1.5 * (t + p["b"].reshape(1, 1, 3, 2, 3)).transpose(2, 0, 1, 3, 4)
    return flat(attention(t[0], t[1], t[2])) @ p["o"]


def indexed_layers(p, x):
    """Layers stacked in one array, read one by one."""
    h = x @ p["i"]
    for n in range(2):
        h = h + relu(h @ p["w"][n] + p["b"][n][None]) @ p["v"][n]
    return h @ p["o"]


def implicit_function(p):
    """Reads a grid of coordinates that is a constant of the program."""
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 3), np.linspace(-1, 1, 3)), -1)
    h = jnp.asarray(grid.reshape(9, 2), p["w"].dtype)
    h = jnp.sin(3.0 * (h @ p["w"] + p["b"][None]))
    return jnp.sin(3.0 * (h @ p["u"] + p["c"][None])) @ p["o"]


def downsampled(p, x):
    """Keeps every second pixel; channels are not touched."""
    return relu(conv(relu(conv(x, p["a"]))[:, ::2, ::2], p["b"])).mean((1, 2)) @ p["o"]


def padded_shortcut(p, x):
    """A residual block whose shortcut is padded by channels of zeros (option A)."""
    h = relu(conv(x, p["a"]))
    short = jnp.pad(h[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (1, 2)))
    branch = conv(relu(conv(h[:, ::2, ::2], p["b"])), p["c"])
    return relu(short + branch).mean((1, 2)) @ p["o"]


def linear_network(p, x):
    return x @ p["a"] @ p["b"] @ p["c"]


class TrainedNorm(nn.Module):
    """In training mode: the next running statistics are outputs."""

    @nn.compact
    def __call__(self, x):
        norm = nn.BatchNorm(use_running_average=False)
        return nn.Dense(2)(nn.relu(norm(nn.Dense(4)(x))))


def trained_norm() -> Case:
    x, network = array(7, 3), TrainedNorm()
    variables = network.init(jax.random.key(0), x)

    def apply_fn(v, x):
        return network.apply(v, x, mutable=["batch_stats"])

    return Case(apply_fn, variables, (x,), 24, {"positive": 1, "sign": 1})


IMAGE = (2, 4, 4, 2)
FAMILIES: dict[str, Callable[[], Case]] = {
    "squeeze and excite": lambda: case(
        squeeze_excite,
        6 * 24,
        {"positive": 2},
        IMAGE,
        a=(3, 3, 2, 4),
        s1=(4, 3),
        s2=(3, 4),
        o=(4, 2),
    ),
    "pixel shuffle": lambda: case(
        pixel_shuffle,
        24 * 6,
        {"positive": 1, "sign": 1},
        IMAGE,
        a=(3, 3, 2, 4),
        b=(1, 1, 4, 12),
        o=(1, 1, 3, 2),
    ),
    "resize": lambda: case(
        resize, 24, {"positive": 1}, IMAGE, a=(3, 3, 2, 4), o=(1, 1, 4, 2)
    ),
    "p4 convolution": lambda: case(
        rotations, 24, {"positive": 1}, IMAGE, a=(3, 3, 2, 4), o=(4, 2)
    ),
    "message passing": lambda: case(
        message_passing,
        24 * 24 * 6 * 6,
        {"positive": 4},
        (5, 3),
        m1=(3, 3),
        s1=(3, 4),
        u1=(3, 4),
        m2=(4, 3),
        s2=(4, 4),
        u2=(3, 4),
        o=(4, 2),
    ),
    "linear attention": lambda: case(
        linear_attention, 2 * 36**2, {"positive": 1, "sign": 1}, TOKENS, **QKV, o=(6, 2)
    ),
    "alibi": lambda: case(
        alibi, 36**2, {"positive": 2, "sign": 2}, TOKENS, **QKV, o=(6, 2)
    ),
    "gru": lambda: case(
        gru, 24, {"sign": 1}, (6, 2, 3), wi=(3, 12), wh=(4, 12), o=(4, 2)
    ),
    "bidirectional": lambda: case(
        bidirectional,
        24**2,
        {"sign": 2},
        (6, 2, 3),
        wi=(2, 3, 4),
        wh=(2, 4, 4),
        o=(8, 2),
    ),
    "state space": lambda: case(
        state_space, 24, {"positive": 1, "sign": 1}, (6, 3), a=(4,), b=(3, 4), c=(4, 2)
    ),
    "hypernetwork": lambda: case(
        hypernetwork,
        2 * fac(5) * 24,
        {"positive": 2, "sign": 2},
        (5, 3),
        z=(2,),
        h1=(2, 5),
        h2=(5, 12),
        o=(4, 2),
    ),
    "soft trees": lambda: case(
        soft_trees, 6, {}, (5, 3), w=(3, 3), b=(3,), leaf=(3, 2, 2)
    ),
    "maxout": lambda: case(
        maxout, 24 * 2**4, {"positive": 1}, (5, 3), w=(3, 2, 4), o=(4, 2)
    ),
    "triplane": lambda: case(
        triplane,
        6 * 24,
        {"positive": 2, "sign": 1},
        (5, 3),
        a=(4, 4, 3),
        b=(4, 4, 3),
        c=(4, 4, 3),
        w=(3, 4),
        o=(4, 2),
    ),
    "routed experts": lambda: case(
        routed_experts,
        6 * 24**3,
        {"positive": 1},
        (5, 3),
        r=(3, 3),
        w=(3, 3, 4),
        v=(3, 4, 2),
    ),
    "cross attention": lambda: case(
        cross_attention,
        2 * 36**2 * fac(5) * 24,
        {"positive": 3, "sign": 3},
        TOKENS,
        mem=(5, 4),
        **QKV,
        o=(6, 2),
    ),
    "multi-query": lambda: case(
        multi_query,
        2 * 6 * 6,
        {"positive": 2, "sign": 2},
        TOKENS,
        q=(4, 6),
        k=(4, 3),
        v=(4, 3),
        o=(6, 2),
    ),
    "windows": lambda: case(
        windows,
        24 * 6 * 6,
        {"positive": 3, "sign": 3},
        (2, 6, 3),
        e=(3, 4),
        q=(4, 3),
        k=(4, 3),
        v=(4, 3),
        o=(3, 2),
    ),
    "biased after reshape": lambda: case(
        biased_after_reshape,
        2 * 36**2,
        {"positive": 2, "sign": 2},
        TOKENS,
        qkv=(4, 18),
        b=(18,),
        o=(6, 2),
    ),
    "indexed layers": lambda: case(
        indexed_layers,
        24 * 6**2,
        {"positive": 3, "sign": 1},
        (5, 3),
        i=(3, 4),
        w=(2, 4, 3),
        b=(2, 3),
        v=(2, 3, 4),
        o=(4, 2),
    ),
    "implicit function": lambda: Case(
        *case(
            implicit_function,
            24 * 24,
            {"phase": 2, "sign": 2},
            (1,),
            w=(2, 4),
            b=(4,),
            u=(4, 4),
            c=(4,),
            o=(4, 1),
        )[:2],
        (),
        24 * 24,
        {"phase": 2, "sign": 2},
    ),
    "downsampled": lambda: case(
        downsampled,
        24 * 6,
        {"positive": 2},
        IMAGE,
        a=(3, 3, 2, 4),
        b=(3, 3, 4, 3),
        o=(3, 2),
    ),
    "padded shortcut": lambda: case(
        padded_shortcut,
        6 * 24 * 2,
        {"positive": 2},
        IMAGE,
        a=(3, 3, 2, 3),
        b=(3, 3, 3, 4),
        c=(3, 3, 4, 6),
        o=(6, 2),
    ),
    "linear network": lambda: case(
        linear_network,
        24 * 6,
        {"positive": 2, "sign": 2},
        (5, 3),
        a=(3, 4),
        b=(4, 3),
        c=(3, 2),
    ),
    "trained norm": trained_norm,
}
