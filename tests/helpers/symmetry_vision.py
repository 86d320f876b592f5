"""Image networks, and fields of coordinates, whose permutation group is known on paper.

Scaling groups are not derived here: the permutations are what the table compares.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial as fac
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from helpers.symmetry_networks import (
    NHWC,
    Case,
    array,
    attention,
    by_head,
    case,
    flat,
    relu,
    tanh,
)

gelu, sigmoid, silu = jax.nn.gelu, jax.nn.sigmoid, jax.nn.silu


def network(
    function: Callable[..., Any], order: int, *inputs: jax.Array, **shapes: Any
) -> Case:
    """Returns a network of a function, the order on paper, inputs, and shapes of leaves."""
    params = case(function, order, None, (1,), **shapes).params
    return Case(function, params, inputs, order, None)


def convolve(x, w, stride: int = 1, groups: int = 1, dilation: int = 1):
    return jax.lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        "SAME",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=NHWC,
        feature_group_count=groups,
    )


def layer_norm(x, gain=1.0, bias=0.0):
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * gain
        + bias
    )


def rms_norm(x, gain=1.0):
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6) * gain


def group_norm(x, groups: int, gain, bias):
    t = x.reshape(*x.shape[:-1], groups, -1)
    axes = (1, 2, 4)
    t = (t - t.mean(axes, keepdims=True)) / jnp.sqrt(t.var(axes, keepdims=True) + 1e-5)
    return t.reshape(x.shape) * gain + bias


def convnext(p, x):
    h = layer_norm(convolve(x, p["stem"], 2), p["g0"], p["b0"])
    y = layer_norm(convolve(h, p["depthwise"], groups=4), p["g1"], p["b1"])
    h = h + p["scale"] * (gelu(y @ p["up"] + p["c"]) @ p["down"])
    return layer_norm(h.mean((1, 2)), p["g2"], p["b2"]) @ p["head"]


def inverted_residual(p, x):
    """A block of EfficientNet: expansion, depthwise, squeeze and excite, projection."""
    x = silu(convolve(x, p["stem"]))
    h = silu(x @ p["expand"] + p["b"])
    h = silu(convolve(h, p["depthwise"], groups=6))
    gate = sigmoid(silu(h.mean((1, 2)) @ p["s1"] + p["t1"]) @ p["s2"] + p["t2"])
    x = x + (h * gate[:, None, None]) @ p["project"]
    return x.mean((1, 2)) @ p["head"]


def shuffled_groups(p, x):
    """Grouped convolutions with a shuffle of channels between them (ShuffleNet)."""
    h = relu(convolve(x, p["a"]))
    h = relu(convolve(h, p["b"], groups=2))
    h = h.reshape(*h.shape[:3], 2, 3).swapaxes(-1, -2).reshape(h.shape)
    h = relu(convolve(h, p["c"], groups=3))
    return h.mean((1, 2)) @ p["head"]


def shifted_windows(p, x):
    """Attention in shifted windows with a learned bias per head and offset (Swin)."""
    x = x @ p["embed"]
    h = jnp.roll(layer_norm(x, p["g"], p["h"]), (-1, -1), (1, 2))
    h = h.reshape(1, 2, 2, 2, 2, 4).transpose(0, 1, 3, 2, 4, 5).reshape(4, 4, 4)
    q, k, v = (by_head(h @ p[n], 2) for n in "qkv")
    place = np.stack(np.meshgrid([0, 1], [0, 1], indexing="ij"), -1).reshape(4, 2)
    offset = (place[:, None] - place[None]) + 1
    bias = p["table"][offset[..., 0] * 3 + offset[..., 1]].transpose(2, 0, 1)
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias)
    h = flat(jnp.einsum("bhqk,bkhd->bqhd", weights, v)) @ p["o"]
    h = h.reshape(1, 2, 2, 2, 2, 4).transpose(0, 1, 3, 2, 4, 5).reshape(1, 4, 4, 4)
    x = x + jnp.roll(h, (1, 1), (1, 2))
    return (x + gelu(layer_norm(x) @ p["up"]) @ p["down"]).mean((1, 2)) @ p["head"]


def patch_merging(p, x):
    """Four neighbours side by side, a norm over all of them, and a projection (Swin)."""
    x = gelu(x @ p["embed"])
    parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
    x = layer_norm(jnp.concatenate(parts, -1), p["g"], p["b"]) @ p["reduce"]
    return gelu(x).mean((1, 2)) @ p["head"]


def spatial_gating(p, x):
    """The gMLP block: half of the channels gates the other half, mixed over tokens."""
    x = x @ p["embed"]
    u, v = jnp.split(gelu(layer_norm(x) @ p["up"]), 2, -1)
    v = jnp.einsum("btc,ts->bsc", layer_norm(v, p["g"], p["b"]), p["mix"])
    return (x + (u * (v + p["c"][:, None])) @ p["down"]).mean(1) @ p["head"]


def diffusion_u_net(p, x, t):
    """A U-Net with group norms and an embedding of time added to every channel."""
    angle = t[:, None] * jnp.array([1.0, 0.1])
    e = jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)
    e = silu(e @ p["t1"] + p["c1"]) @ p["t2"]

    def block(x, n, out):
        h = convolve(silu(x), p["a" + n]) + (silu(e) @ p["e" + n])[:, None, None]
        h = group_norm(h, 2, p["g" + n], p["h" + n])
        return convolve(silu(h), p["b" + n]) + x @ p["s" + n]

    first = block(convolve(x, p["in"]), "1", 4)
    low = block(convolve(first, p["down"], 2), "2", 4)
    up = convolve(jnp.repeat(jnp.repeat(low, 2, 1), 2, 2), p["up"])
    last = block(jnp.concatenate([up, first], -1), "3", 4)
    return convolve(silu(last), p["out"])


def _residual_block(n: str, inputs: int, outputs: int) -> dict[str, Any]:
    """Shapes of a block: its four inner channels are in two groups."""
    return {
        "a" + n: (3, 3, inputs, 4),
        "e" + n: (5, 4),
        "g" + n: (4,),
        "h" + n: (4,),
        "b" + n: (3, 3, 4, outputs),
        "s" + n: (inputs, outputs),
    }


def capsules(p, x):
    """Capsules that agree: primary capsules vote, and votes are routed twice."""

    def squash(v):
        size = (v * v).sum(-1, keepdims=True)
        return v * jnp.sqrt(size + 1e-7) / (1 + size)

    h = convolve(x, p["conv"], 2) + p["b"]
    u = squash(h.reshape(h.shape[0], 4, 2, 3))  # position, kind, entry
    votes = jnp.einsum("bpkd,pkode->bpkoe", u, p["votes"])
    logits = jnp.zeros(votes.shape[:-1])
    v = 0.0
    for _ in range(2):
        c = jax.nn.softmax(logits, -1)
        v = squash(jnp.einsum("bpko,bpkoe->boe", c, votes))
        logits = logits + jnp.einsum("bpkoe,boe->bpko", votes, v)
    return jnp.sqrt((v * v).sum(-1) + 1e-7)


def feature_pyramid(p, x):
    a = relu(convolve(x, p["a"]))
    b = relu(convolve(a, p["b"], 2))
    c = relu(convolve(b, p["c"], 2))

    def doubled(t):
        return jax.image.resize(
            t, (t.shape[0], 2 * t.shape[1], 2 * t.shape[2], 3), "nearest"
        )

    top = c @ p["lc"]
    middle = b @ p["lb"] + doubled(top)
    low = a @ p["la"] + doubled(middle)
    return [relu(convolve(t, p["shared"])) @ p["head"] for t in (low, middle, top)]


def dilated_pyramid(p, x):
    h = relu(convolve(x, p["stem"]))
    parts = [relu(convolve(h, p["d" + n], dilation=int(n))) for n in "123"]
    pooled = relu(h.mean((1, 2), keepdims=True) @ p["pool"])
    parts.append(jnp.broadcast_to(pooled, (*h.shape[:3], 2)))
    return relu(jnp.concatenate(parts, -1) @ p["project"]) @ p["head"]


def inception(p, x):
    x = relu(convolve(x, p["stem"]))
    pooled = jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"
    )
    parts = (
        relu(x @ p["one"]),
        relu(convolve(relu(x @ p["r3"]), p["three"])),
        relu(convolve(convolve(relu(x @ p["r5"]), p["wide"]), p["tall"])),
        relu(pooled @ p["pool"]),
    )
    return jnp.concatenate(parts, -1).mean((1, 2)) @ p["head"]


def parallel_branches(p, x):
    """RepVGG: a block is the sum of a wide and a pointwise convolution and itself."""
    x = relu(convolve(x, p["stem"]))
    for i in "12":
        x = relu(convolve(x, p["a" + i]) + x @ p["b" + i] + x * p["g" + i])
    return x.mean((1, 2)) @ p["head"]


def block_attention(p, x):
    """Attention over channels and over positions one after the other (CBAM)."""
    x = relu(convolve(x, p["a"]))

    def shared(v):
        return relu(v @ p["s1"]) @ p["s2"]

    x = x * sigmoid(shared(x.mean((1, 2))) + shared(x.max((1, 2))))[:, None, None]
    maps = jnp.stack([x.mean(-1), x.max(-1)], -1)
    return (x * sigmoid(convolve(maps, p["map"]))).mean((1, 2)) @ p["head"]


def non_local(p, x):
    x = relu(convolve(x, p["a"]))
    t = x.reshape(x.shape[0], -1, 4)
    q, k, v = t @ p["q"], t @ p["k"], t @ p["v"]
    t = t + jax.nn.softmax(q @ k.swapaxes(1, 2)) @ v @ p["o"]
    return relu(t @ p["b"]).mean(1) @ p["head"]


def flattened(p, x):
    h = relu(convolve(x, p["a"]))
    h = jax.lax.reduce_window(
        h, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    )
    h = relu(convolve(h, p["b"]))
    return relu(h.reshape(h.shape[0], -1) @ p["c"] + p["d"]) @ p["head"]


def channels_first(p, x):
    """Channels before positions, as PyTorch has them, flattened before a product."""
    dims = ("NCHW", "OIHW", "NCHW")
    h = jax.lax.conv_general_dilated(x, p["a"], (1, 1), "SAME", dimension_numbers=dims)
    h = relu(h + p["b"][:, None, None])
    h = jax.lax.conv_general_dilated(h, p["c"], (2, 2), "SAME", dimension_numbers=dims)
    return tanh(h).reshape(h.shape[0], -1) @ p["head"]


def cellular_automaton(p, x):
    """A growing automaton: fixed filters per channel, an update shared by all cells."""
    sobel = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    identity = np.zeros((3, 3))
    identity[1, 1] = 1.0
    filters = jnp.asarray(np.stack([identity, sobel, sobel.T], -1), jnp.float32)
    kernel = jnp.tile(filters[:, :, None], (1, 1, 1, 5))
    state = jnp.concatenate([x, jnp.zeros((*x.shape[:3], 3))], -1)

    def step(state, _):
        h = relu(convolve(state, kernel, groups=5) @ p["up"] + p["b"])
        return state + h @ p["down"], None

    return jax.lax.scan(step, state, None, length=3)[0][..., :2]


def latent_queries(p, x):
    """A Perceiver: learned latents read the inputs, then each other."""

    def attend(q, memory, n):
        k, v = (by_head(memory @ p[s + n], 2) for s in "kv")
        return flat(attention(by_head(q @ p["q" + n], 2), k, v)) @ p["o" + n]

    z = jnp.broadcast_to(p["latents"], (x.shape[0], 3, 4))
    z = z + attend(z, x, "1")
    z = z + attend(z, z, "2")
    return (z + gelu(z @ p["up"]) @ p["down"]).mean(1) @ p["head"]


def slots(p, x):
    """Slots that compete for inputs and are updated by a gated recurrent cell."""
    x = layer_norm(x @ p["embed"], p["g"], p["h"])
    k, v = x @ p["k"], x @ p["v"]
    s = jnp.broadcast_to(p["slots"], (x.shape[0], 3, 4))
    for _ in range(2):
        weights = jax.nn.softmax(jnp.einsum("bsd,bnd->bns", s @ p["q"], k), -1) + 1e-8
        weights = weights / weights.sum(1, keepdims=True)
        u = jnp.einsum("bns,bnd->bsd", weights, v)
        a, b = u @ p["wi"], s @ p["wh"]
        r, z = sigmoid(a[..., :4] + b[..., :4]), sigmoid(a[..., 4:8] + b[..., 4:8])
        s = (1 - z) * tanh(a[..., 8:] + r * b[..., 8:]) + z * s
    return relu(s @ p["up"]).sum(1) @ p["head"]


def radiance_field(p, x, view):
    """NeRF: encoded coordinates, a skip, a density, and a colour that sees the view."""

    def encoded(x):
        turns = x[..., None] * (2.0 ** np.arange(2))
        turns = turns.reshape(*x.shape[:-1], -1)
        return jnp.concatenate([x, jnp.sin(turns), jnp.cos(turns)], -1)

    e = encoded(x)
    h = relu(e @ p["w1"] + p["b1"])
    h = relu(jnp.concatenate([e, h], -1) @ p["w2"] + p["b2"])
    density = jax.nn.softplus(h @ p["density"])
    h = jnp.concatenate([h @ p["feature"], encoded(view)], -1)
    colour = sigmoid(relu(h @ p["w3"] + p["b3"]) @ p["colour"])
    return density, colour


def hash_grid(p, x):
    """Features of hashed corners at two resolutions, then a small MLP (instant-ngp)."""
    features = []
    for level, size in enumerate((4, 9)):
        scaled = (x + 1) * size
        low = jnp.floor(scaled)
        share = scaled - low
        total = 0.0
        for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
            cell = low.astype(jnp.uint32) + np.array(corner, np.uint32)
            key = (cell[:, 0] ^ (cell[:, 1] * np.uint32(2654435761))) % np.uint32(7)
            weight = jnp.prod(jnp.where(np.array(corner) == 1, share, 1 - share), -1)
            total = total + p["tables"][level][key] * weight[:, None]
        features.append(total)
    h = relu(jnp.concatenate(features, -1) @ p["w1"])
    return relu(h @ p["w2"]) @ p["o"]


def modulated_sines(p, x, z):
    """Sines whose amplitudes a second network makes of a latent code."""
    m = relu(z @ p["m1"] + p["n1"])
    h = jnp.sin(5.0 * (x @ p["w1"] + p["b1"])) * m
    m = relu(jnp.concatenate([m, z], -1) @ p["m2"] + p["n2"])
    h = jnp.sin(5.0 * (h @ p["w2"] + p["b2"])) * m
    return h @ p["o"]


def wavelets(p, x):
    for n in "12":
        a, b = x @ p["w" + n] + p["b" + n], x @ p["v" + n] + p["c" + n]
        x = jnp.cos(5.0 * a) * jnp.exp(-((2.0 * b) ** 2))
    return x @ p["o"]


def multiplicative_filters(p, x):
    h = jnp.sin(x @ p["f0"] + p["s0"])
    for n in "12":
        h = (h @ p["w" + n] + p["b" + n]) * jnp.sin(x @ p["f" + n] + p["s" + n])
    return h @ p["o"]


def tensor_factors(p, x):
    """Products of interpolated lines and planes, summed over ranks (TensoRF)."""
    total = []
    for a, (b, c) in ((0, (1, 2)), (1, (0, 2)), (2, (0, 1))):
        cell = jnp.clip(((x + 1) * 1.5).astype(int), 0, 2)
        share = (x[:, a : a + 1] + 1) * 1.5 - cell[:, a : a + 1]
        line = (
            p["lines"][a][cell[:, a]] * (1 - share)
            + p["lines"][a][cell[:, a] + 1] * share
        )
        total.append(line * p["planes"][a][cell[:, b], cell[:, c]])
    h = jnp.concatenate(total, -1) @ p["basis"]
    return relu(h @ p["w"]) @ p["o"]


IMAGE = (1, 4, 4, 2)
VISION: dict[str, Callable[[], Case]] = {
    "convnext": lambda: network(
        convnext,
        fac(4) * fac(5),
        array(*IMAGE),
        stem=(2, 2, 2, 4),
        **{n: (4,) for n in ("g0", "b0", "g1", "b1", "g2", "b2", "scale")},
        depthwise=(3, 3, 1, 4),
        up=(4, 5),
        c=(5,),
        down=(5, 4),
        head=(4, 2),
    ),
    "inverted residual": lambda: network(
        inverted_residual,
        fac(4) * fac(6) * fac(3),
        array(*IMAGE),
        stem=(3, 3, 2, 4),
        expand=(4, 6),
        b=(6,),
        depthwise=(3, 3, 1, 6),
        s1=(6, 3),
        t1=(3,),
        s2=(3, 6),
        t2=(6,),
        project=(6, 4),
        head=(4, 2),
    ),
    # Two groups of three channels, read as three groups of two: both may be permuted,
    # and in each the two inputs (of a first group) or outputs (of a second one).
    "shuffled groups": lambda: network(
        shuffled_groups,
        fac(2) * fac(3) * fac(2) ** 2 * fac(2) ** 3,
        array(*IMAGE),
        a=(3, 3, 2, 4),
        b=(3, 3, 2, 6),
        c=(1, 1, 2, 6),
        head=(6, 2),
    ),
    "shifted windows": lambda: network(
        shifted_windows,
        fac(4) * fac(2) * fac(3) ** 2 * fac(3) ** 2 * fac(5),
        array(*IMAGE),
        embed=(2, 4),
        g=(4,),
        h=(4,),
        **{n: (4, 6) for n in "qkv"},
        table=(9, 2),
        o=(6, 4),
        up=(4, 5),
        down=(5, 4),
        head=(4, 2),
    ),
    "patch merging": lambda: network(
        patch_merging,
        fac(3) * fac(4),
        array(*IMAGE),
        embed=(2, 3),
        g=(12,),
        b=(12,),
        reduce=(12, 4),
        head=(4, 2),
    ),
    "spatial gating": lambda: network(
        spatial_gating,
        fac(3) * fac(4),
        array(2, 5, 2),
        embed=(2, 3),
        up=(3, 8),
        g=(4,),
        b=(4,),
        mix=(5, 5),
        c=(5,),
        down=(4, 3),
        head=(3, 2),
    ),
    # Per block two groups of two channels; four streams; both layers of the time.
    "diffusion u-net": lambda: network(
        diffusion_u_net,
        (fac(2) * fac(2) ** 2) ** 3 * fac(3) ** 4 * fac(4) ** 2 * fac(5) * fac(6),
        array(2, 4, 4, 2),
        array(2),
        t1=(4, 6),
        c1=(6,),
        t2=(6, 5),
        **{"in": (3, 3, 2, 3)},
        **_residual_block("1", 3, 3),
        down=(3, 3, 3, 4),
        **_residual_block("2", 4, 4),
        up=(3, 3, 4, 3),
        **_residual_block("3", 6, 3),
        out=(1, 1, 3, 2),
    ),
    # Kinds of primary capsules; entries of each kind; entries of each output's capsule.
    "capsules": lambda: network(
        capsules,
        fac(2) * fac(3) ** 2 * fac(4) ** 2,
        array(*IMAGE),
        conv=(3, 3, 2, 6),
        b=(6,),
        votes=(4, 2, 2, 3, 4),
    ),
    "feature pyramid": lambda: network(
        feature_pyramid,
        fac(4) * fac(5) * fac(4) * fac(3) * fac(2),
        array(*IMAGE),
        a=(3, 3, 2, 4),
        b=(3, 3, 4, 5),
        c=(3, 3, 5, 4),
        la=(4, 3),
        lb=(5, 3),
        lc=(4, 3),
        shared=(3, 3, 3, 2),
        head=(2, 1),
    ),
    "dilated pyramid": lambda: network(
        dilated_pyramid,
        fac(4) * fac(3) ** 3 * fac(2) * fac(5),
        array(*IMAGE),
        stem=(3, 3, 2, 4),
        d1=(3, 3, 4, 3),
        d2=(3, 3, 4, 3),
        d3=(3, 3, 4, 3),
        pool=(4, 2),
        project=(11, 5),
        head=(5, 2),
    ),
    # Stem; reductions; the channels between two one-dimensional kernels; four branches.
    "inception": lambda: network(
        inception,
        fac(4) * fac(3) * fac(2) * fac(3) * fac(2) * fac(4) * fac(3) * fac(2),
        array(*IMAGE),
        stem=(3, 3, 2, 4),
        one=(4, 2),
        r3=(4, 3),
        three=(3, 3, 3, 4),
        r5=(4, 2),
        wide=(1, 3, 2, 3),
        tall=(3, 1, 3, 3),
        pool=(4, 2),
        head=(11, 2),
    ),
    "parallel branches": lambda: network(
        parallel_branches,
        fac(4),
        array(*IMAGE),
        stem=(3, 3, 2, 4),
        a1=(3, 3, 4, 4),
        b1=(4, 4),
        g1=(4,),
        a2=(3, 3, 4, 4),
        b2=(4, 4),
        g2=(4,),
        head=(4, 2),
    ),
    # The two maps of mean and maximum are told apart.
    "block attention": lambda: network(
        block_attention,
        fac(4) * fac(3),
        array(*IMAGE),
        a=(3, 3, 2, 4),
        s1=(4, 3),
        s2=(3, 4),
        map=(3, 3, 2, 1),
        head=(4, 2),
    ),
    "non-local": lambda: network(
        non_local,
        fac(4) * fac(3) ** 2 * fac(5),
        array(*IMAGE),
        a=(3, 3, 2, 4),
        q=(4, 3),
        k=(4, 3),
        v=(4, 3),
        o=(3, 4),
        b=(4, 5),
        head=(5, 2),
    ),
    "flattened": lambda: network(
        flattened,
        fac(4) * fac(3) * fac(5),
        array(*IMAGE),
        a=(3, 3, 2, 4),
        b=(3, 3, 4, 3),
        c=(12, 5),
        d=(5,),
        head=(5, 2),
    ),
    "channels first": lambda: network(
        channels_first,
        fac(4) * fac(3),
        array(1, 2, 4, 4),
        a=(4, 2, 3, 3),
        b=(4,),
        c=(3, 4, 3, 3),
        head=(12, 2),
    ),
    # Three channels are hidden; two are inputs and outputs.
    "cellular automaton": lambda: network(
        cellular_automaton,
        fac(3) * fac(6),
        array(*IMAGE),
        up=(15, 6),
        b=(6,),
        down=(6, 5),
    ),
    # Latents, their entries; heads, and the two kinds of channels within each.
    "latent queries": lambda: network(
        latent_queries,
        fac(3) * fac(4) * (fac(2) * fac(3) ** 4) ** 2 * fac(5),
        array(2, 5, 2),
        latents=(3, 4),
        q1=(4, 6),
        k1=(2, 6),
        v1=(2, 6),
        o1=(6, 4),
        **{n: (4, 6) for n in ("q2", "k2", "v2")},
        o2=(6, 4),
        up=(4, 5),
        down=(5, 4),
        head=(4, 2),
    ),
    # Slots, their entries; channels of inputs, of keys and of values; hidden units.
    "slots": lambda: network(
        slots,
        fac(3) * fac(4) * fac(5) * fac(3) * fac(2) * fac(6),
        array(2, 5, 2),
        embed=(2, 5),
        g=(5,),
        h=(5,),
        k=(5, 3),
        v=(5, 2),
        q=(4, 3),
        slots=(3, 4),
        wi=(2, 12),
        wh=(4, 12),
        up=(4, 6),
        head=(6, 2),
    ),
    "radiance field": lambda: network(
        radiance_field,
        fac(4) * fac(5) * fac(3) * fac(4),
        array(5, 3),
        array(5, 3, seed=1),
        w1=(15, 4),
        b1=(4,),
        w2=(19, 5),
        b2=(5,),
        density=(5, 1),
        feature=(5, 3),
        w3=(18, 4),
        b3=(4,),
        colour=(4, 3),
    ),
    # Features of each level of the grid.
    "hash grid": lambda: network(
        hash_grid,
        fac(3) ** 2 * fac(4) * fac(5),
        array(5, 2),
        tables=(2, 7, 3),
        w1=(6, 4),
        w2=(4, 5),
        o=(5, 2),
    ),
    "modulated sines": lambda: network(
        modulated_sines,
        fac(4) * fac(5),
        array(5, 2),
        array(5, 3, seed=1),
        m1=(3, 4),
        n1=(4,),
        w1=(2, 4),
        b1=(4,),
        m2=(7, 5),
        n2=(5,),
        w2=(4, 5),
        b2=(5,),
        o=(5, 1),
    ),
    "wavelets": lambda: network(
        wavelets,
        fac(4) * fac(5),
        array(5, 2),
        w1=(2, 4),
        b1=(4,),
        v1=(2, 4),
        c1=(4,),
        w2=(4, 5),
        b2=(5,),
        v2=(4, 5),
        c2=(5,),
        o=(5, 1),
    ),
    "multiplicative filters": lambda: network(
        multiplicative_filters,
        fac(4) * fac(5) * fac(3),
        array(5, 2),
        f0=(2, 4),
        s0=(4,),
        w1=(4, 5),
        b1=(5,),
        f1=(2, 5),
        s1=(5,),
        w2=(5, 3),
        b2=(3,),
        f2=(2, 3),
        s2=(3,),
        o=(3, 1),
    ),
    # Ranks of each of the three axes; features of the basis; hidden units.
    "tensor factors": lambda: network(
        tensor_factors,
        fac(4) ** 3 * fac(3) * fac(5),
        array(5, 3),
        lines=(3, 4, 4),
        planes=(3, 3, 3, 4),
        basis=(12, 3),
        w=(3, 5),
        o=(5, 2),
    ),
}
