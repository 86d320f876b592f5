"""Small networks whose symmetry group is known on paper, by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from math import factorial as fac
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metanet.networks import functionalize

relu, tanh = jax.nn.relu, jnp.tanh
NHWC = ("NHWC", "HWIO", "NHWC")


class Case(NamedTuple):
    """Network, order of its permutation group, number of scaling groups by kind."""

    apply_fn: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]
    order: int
    scaling_groups: dict[str, int] | None


def array(*shape: int, seed: int = 0) -> jax.Array:
    """Returns random numbers, no two of them equal."""
    rng = np.random.default_rng((seed, *shape))
    return jnp.asarray(rng.normal(size=shape), jnp.float32) * 0.5


def case(function, order: int, scaling_groups: dict[str, int], inputs=(5, 3), **shapes):
    """Returns a network of a function and the shapes of its parameters."""
    params = {
        name: jax.tree.map(
            lambda s, i=i: array(*s, seed=i + 1), shape, is_leaf=_is_shape
        )
        for i, (name, shape) in enumerate(shapes.items())
    }
    return Case(function, params, (array(*inputs),), order, scaling_groups)


def _is_shape(x: Any) -> bool:
    return isinstance(x, tuple)


def module(
    network_module: nnx.Module, order: int, scaling_groups: dict[str, int], *inputs
):
    network = functionalize(network_module, *inputs)

    def noise(x):
        return x + 0.3 * jnp.abs(array(*x.shape, seed=x.size))

    params = jax.tree.map(noise, network.params)
    return Case(network.apply_fn, params, inputs, order, scaling_groups)


def attention(q, k, v):
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / 1.5)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


def by_head(x, count: int):
    return x.reshape(*x.shape[:2], count, -1)


def flat(x):
    return x.reshape(*x.shape[:2], -1)


def mlp(p, x):
    for i in "12":
        x = jax.nn.relu(x @ p["w" + i] + p["b" + i][None])
    return x @ p["o"]


def fused_split(p, x):
    parts = jnp.split(x @ p["qkv"] + p["b"].reshape(1, 1, -1), 3, -1)
    return flat(attention(*(by_head(t, 2) for t in parts))) @ p["o"]


def fused_reshape(p, x):
    t = (x @ p["qkv"]).reshape(*x.shape[:2], 3, 2, 3).transpose(2, 0, 1, 3, 4)
    return flat(attention(t[0], t[1], t[2])) @ p["o"]


def fused_unstacked(p, x):
    t = (x @ p["qkv"]).reshape(*x.shape[:2], 3, 2, 3)
    return flat(attention(*jnp.unstack(t, axis=2))) @ p["o"]


def stacked_gates(p, x):
    """A soft tree of one split per unit, whose two leaves are not interchangeable."""
    gate = jax.nn.sigmoid(x @ p["w"] + p["b"][None])
    leaves_of_split = jnp.stack([gate, gate * gate], -1)
    return jnp.einsum("but,uto->bo", leaves_of_split, p["leaf"])


def query_key_norm(p, x):
    def norm(t, gain):
        size = jnp.sqrt((t * t).mean(-1, keepdims=True) + 1e-5)
        return t / size * gain.reshape(1, 1, 1, -1)

    q, k, v = (by_head(x @ p[n], 2) for n in "qkv")
    return flat(attention(norm(q, p["gq"]), norm(k, p["gk"]), v)) @ p["o"]


def grouped_query(p, x):
    q = (x @ p["q"]).reshape(*x.shape[:2], 2, 2, 3)
    k, v = (by_head(x @ p[n], 2) for n in "kv")
    a = jax.nn.softmax(jnp.einsum("bqghd,bkgd->bghqk", q, k))
    return flat(jnp.einsum("bghqk,bkgd->bqghd", a, v)) @ p["o"]


def rotary(p, x):
    q, k, v = (by_head(x @ p[n], 2) for n in "qkv")
    angle = jnp.arange(5.0)[:, None] * jnp.array([[1.0, 0.3]])
    cos, sin = jnp.cos(angle)[None, :, None], jnp.sin(angle)[None, :, None]

    def turned(t):
        a, b = jnp.split(t, 2, -1)
        return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)

    return flat(attention(turned(q), turned(k), v)) @ p["o"]


def lstm(p, xs):
    def cell(state, x):
        c, h = state
        gates = x @ p["wi"] + h @ p["wh"] + p["b"][None]
        i, f, g, o = (gates[:, 4 * n : 4 * n + 4] for n in range(4))
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * tanh(g)
        h = jax.nn.sigmoid(o) * tanh(c)
        return (c, h), h

    zero = jnp.zeros((xs.shape[1], 4))
    return jax.lax.scan(cell, (zero, zero), xs)[0][1] @ p["out"]


def tanh_rnn(p, xs):
    def cell(h, x):
        return tanh(x @ p["wi"] + h @ p["wh"] + p["b"][None]), None

    start = jnp.broadcast_to(p["start"][None], (xs.shape[1], 4))
    return jax.lax.scan(cell, start, xs)[0] @ p["o"]


def sine_rnn(p, xs):
    def cell(h, x):
        return jnp.sin(2.0 * (x @ p["wi"] + h @ p["wh"] + p["b"][None])), None

    return jax.lax.scan(cell, jnp.zeros((xs.shape[1], 4)), xs)[0] @ p["o"]


def stacked_layers(p, x):
    def layer(h, q):
        return h + relu(h @ q["w"] + q["b"][None]) @ q["v"], None

    return jax.lax.scan(layer, x @ p["i"], p["layers"])[0] @ p["o"]


def repeated(p, x):
    def turn(i, h):
        return tanh(h @ p["u"])

    return jax.lax.fori_loop(0, jnp.int32(x.shape[0]), turn, x @ p["w"]) @ p["o"]


def branched(p, x):
    h = x @ p["w"]
    return jax.lax.cond(x.sum() > 0, relu, lambda h: 2.0 * relu(h), h) @ p["o"]


def deep_sets(p, x):
    for i in "12":
        pooled = x.mean(1, keepdims=True) @ p["c" + i]
        x = relu(x @ p["a" + i] + pooled + p["b" + i].reshape(1, 1, -1))
    return x.sum(1) @ p["o"]


def experts(p, x):
    def expert(w, b, v):
        return relu(x @ w + b[None]) @ v

    y = jax.vmap(expert, out_axes=1)(p["w"], p["b"], p["v"])
    return jnp.einsum("be,bed->bd", jax.nn.softmax(x @ p["r"]), y)


def ensemble(p, x):
    return jax.vmap(lambda q: tanh(x @ q["w"] + q["b"][None]) @ q["v"])(p)


def mixer(p, x):
    x = x @ p["e"]
    mixed = relu(jnp.einsum("btd,ts->bsd", x, p["t1"]))
    x = x + jnp.einsum("bsd,su->bud", mixed, p["t2"])
    return (x + relu(x @ p["c1"]) @ p["c2"]).mean(1) @ p["o"]


def train_norm(p, x):
    h = x @ p["w"] + p["b"][None]
    h = (h - h.mean(0)[None]) / jnp.sqrt(h.var(0) + 1e-5)[None]
    return relu(h * p["g"][None] + p["c"][None]) @ p["o"]


def weight_norm(p, x):
    w = p["v"] / jnp.linalg.norm(p["v"], axis=0)[None] * p["g"][None]
    return relu(x @ w + p["b"][None]) @ p["o"]


def u_net(p, x):
    def conv(x, w, stride=1):
        return jax.lax.conv_general_dilated(
            x, w, (stride, stride), "SAME", dimension_numbers=NHWC
        )

    a = relu(conv(x, p["a"]))
    b = relu(conv(a, p["b"], 2))
    up = jax.lax.conv_transpose(b, p["u"], (2, 2), "SAME", dimension_numbers=NHWC)
    return conv(jnp.concatenate([a, up], -1), p["o"])


def vision_transformer(p, x):
    x = jax.lax.conv_general_dilated(
        x, p["e"], (2, 2), "VALID", dimension_numbers=NHWC
    ).reshape(x.shape[0], -1, 4)
    token = jnp.broadcast_to(p["cls"], (x.shape[0], 1, 4))
    x = jnp.concatenate([token, x], 1) + p["pos"][None]
    q, k, v = (by_head(x @ p[n], 2) for n in "qkv")
    return (x + flat(attention(q, k, v)) @ p["o"])[:, 0] @ p["h"]


def fourier_features(p, x):
    b = x @ (array(3, 4, seed=50) * 4.0)
    h = jnp.concatenate([jnp.sin(b), jnp.cos(b)], -1)
    return relu(h @ p["w"] + p["b"][None]) @ p["o"]


class GroupNormResidual(nnx.Module):
    def __init__(self):
        r = nnx.Rngs(0)

        def norm():
            return nnx.GroupNorm(4, num_groups=2, rngs=r)

        self.c0, self.n0 = nnx.Conv(2, 4, (3, 3), rngs=r), norm()
        self.c1, self.n1 = nnx.Conv(4, 4, (3, 3), rngs=r), norm()
        self.c2, self.n2 = nnx.Conv(4, 4, (3, 3), rngs=r), norm()
        self.d = nnx.Linear(4, 3, rngs=r)

    def __call__(self, x):
        x = nnx.relu(self.n0(self.c0(x)))
        h = nnx.relu(self.n1(self.c1(x)))
        return self.d(nnx.relu(x + self.n2(self.c2(h))).mean((1, 2)))


class Transformer(nnx.Module):
    def __init__(self):
        r = nnx.Rngs(0)

        def norm():
            return nnx.LayerNorm(8, rngs=r)

        self.e, self.o = nnx.Linear(3, 8, rngs=r), nnx.Linear(8, 2, rngs=r)
        self.pos = nnx.Param(array(5, 8))
        self.a = nnx.MultiHeadAttention(4, 8, 8, decode=False, rngs=r)
        self.n1, self.n2, self.n3 = norm(), norm(), norm()
        self.f1, self.f2 = nnx.Linear(8, 6, rngs=r), nnx.Linear(6, 8, rngs=r)

    def __call__(self, x):
        x = self.e(x) + self.pos[...][None]
        x = x + self.a(self.n1(x))
        x = x + self.f2(nnx.gelu(self.f1(self.n2(x))))
        return self.o(self.n3(x).mean(1))


class Recurrent(nnx.Module):
    def __init__(self):
        r = nnx.Rngs(0)
        self.r = nnx.RNN(nnx.OptimizedLSTMCell(3, 4, rngs=r))
        self.o = nnx.Linear(4, 2, rngs=r)

    def __call__(self, x):
        return self.o(self.r(x)[:, -1])


class DenseNet(nnx.Module):
    def __init__(self):
        r = nnx.Rngs(0)

        def norm(n):
            return nnx.BatchNorm(n, use_running_average=True, rngs=r)

        self.c0, self.b1 = nnx.Conv(2, 3, (3, 3), rngs=r), norm(3)
        self.c1, self.b2 = nnx.Conv(3, 2, (3, 3), rngs=r), norm(5)
        self.c2, self.d = nnx.Conv(5, 2, (3, 3), rngs=r), nnx.Linear(7, 2, rngs=r)

    def __call__(self, x):
        x = self.c0(x)
        x = jnp.concatenate([x, self.c1(nnx.relu(self.b1(x)))], -1)
        x = jnp.concatenate([x, self.c2(nnx.relu(self.b2(x)))], -1)
        return self.d(x.mean((1, 2)))


class TiedEmbedding(nnx.Module):
    def __init__(self):
        r = nnx.Rngs(0)
        self.e = nnx.Embed(7, 4, rngs=r)
        self.f, self.g = nnx.Linear(4, 4, rngs=r), nnx.Linear(4, 4, rngs=r)

    def __call__(self, i):
        x = self.e(i)
        return self.e.attend(x + self.g(jnp.tanh(self.f(x))))


QKV = {n: (4, 6) for n in "qkv"}
TOKENS = (2, 5, 4)


def deep_mlp() -> Case:
    """Three hidden layers of different widths."""
    sizes = (2, 4, 5, 4, 2)
    params = {
        f"{k}{i}": array(*(shape), seed=i)
        for i, (a, b) in enumerate(itertools.pairwise(sizes))
        for k, shape in (("w", (a, b)), ("b", (b,)))
    }

    def run(p, x):
        for i in range(4):
            x = x @ p[f"w{i}"] + p[f"b{i}"][None]
            x = tanh(x) if i < 3 else x
        return x

    return Case(run, params, (array(5, 2),), 0, {})


NETWORKS: dict[str, Callable[[], Case]] = {
    "mlp": lambda: case(
        mlp, 24**2, {"positive": 2}, w1=(3, 4), b1=(4,), w2=(4, 4), b2=(4,), o=(4, 2)
    ),
    "fourier": lambda: case(
        fourier_features, 24, {"positive": 1}, w=(8, 4), b=(4,), o=(4, 2)
    ),
    "fused, split": lambda: case(
        fused_split,
        2 * 36**2,
        {"positive": 2, "sign": 2},
        TOKENS,
        qkv=(4, 18),
        b=(18,),
        o=(6, 2),
    ),
    "fused, reshape": lambda: case(
        fused_reshape,
        2 * 36**2,
        {"positive": 2, "sign": 2},
        TOKENS,
        qkv=(4, 18),
        o=(6, 2),
    ),
    "fused, unstacked": lambda: case(
        fused_unstacked,
        2 * 36**2,
        {"positive": 2, "sign": 2},
        TOKENS,
        qkv=(4, 18),
        o=(6, 2),
    ),
    "stacked gates": lambda: case(
        stacked_gates, 24, {}, w=(3, 4), b=(4,), leaf=(4, 2, 2)
    ),
    "query-key norm": lambda: case(
        query_key_norm,
        2 * 6 * 36,
        {"positive": 2, "sign": 5},
        TOKENS,
        **QKV,
        o=(6, 2),
        gq=(3,),
        gk=(3,),
    ),
    "grouped query": lambda: case(
        grouped_query,
        2 * 4 * 36 * 36,
        {"positive": 2, "sign": 2},
        TOKENS,
        q=(4, 12),
        k=(4, 6),
        v=(4, 6),
        o=(12, 2),
    ),
    "rotary": lambda: case(
        rotary,
        2 * 24**2,
        {"positive": 2, "sign": 2},
        TOKENS,
        q=(4, 8),
        k=(4, 8),
        v=(4, 8),
        o=(8, 2),
    ),
    "lstm": lambda: case(
        lstm, 24, {"sign": 1}, (6, 2, 3), wi=(3, 16), wh=(4, 16), b=(16,), out=(4, 2)
    ),
    "rnn": lambda: case(
        tanh_rnn,
        24,
        {"sign": 1},
        (6, 2, 3),
        wi=(3, 4),
        wh=(4, 4),
        b=(4,),
        o=(4, 2),
        start=(4,),
    ),
    "sine rnn": lambda: case(
        sine_rnn,
        24,
        {"sign": 1, "phase": 1},
        (6, 2, 3),
        wi=(3, 4),
        wh=(4, 4),
        b=(4,),
        o=(4, 2),
    ),
    "stacked layers": lambda: case(
        stacked_layers,
        24 * 6**2,
        {"positive": 2, "sign": 1},
        i=(3, 4),
        layers={"w": (2, 4, 3), "b": (2, 3), "v": (2, 3, 4)},
        o=(4, 2),
    ),
    "loop": lambda: case(repeated, 24, {"sign": 1}, w=(3, 4), u=(4, 4), o=(4, 2)),
    "branches": lambda: case(branched, 24, {"positive": 1}, w=(3, 4), o=(4, 2)),
    "deep sets": lambda: case(
        deep_sets,
        24 * 120,
        {"positive": 2},
        (2, 6, 3),
        a1=(3, 4),
        c1=(3, 4),
        b1=(4,),
        a2=(4, 5),
        c2=(4, 5),
        b2=(5,),
        o=(5, 2),
    ),
    "experts": lambda: case(
        experts,
        2 * 24**2,
        {"positive": 1},
        r=(3, 2),
        w=(2, 3, 4),
        b=(2, 4),
        v=(2, 4, 2),
    ),
    "ensemble": lambda: case(
        ensemble, 24**2, {"sign": 1}, w=(2, 3, 4), b=(2, 4), v=(2, 4, 2)
    ),
    "mixer": lambda: case(
        mixer,
        6 * 6 * 24,
        {"positive": 3},
        (2, 4, 2),
        e=(2, 3),
        t1=(4, 3),
        t2=(3, 4),
        c1=(3, 4),
        c2=(4, 3),
        o=(3, 2),
    ),
    "batch statistics": lambda: case(
        train_norm,
        24,
        {"positive": 1, "sign": 1},
        (7, 3),
        w=(3, 4),
        b=(4,),
        g=(4,),
        c=(4,),
        o=(4, 2),
    ),
    "weight norm": lambda: case(
        weight_norm, 24, {"positive": 2, "sign": 1}, v=(3, 4), g=(4,), b=(4,), o=(4, 2)
    ),
    "u-net": lambda: case(
        u_net,
        6 * 24 * 6,
        {"positive": 3, "sign": 1},
        (2, 6, 6, 2),
        a=(3, 3, 2, 3),
        b=(3, 3, 3, 4),
        u=(2, 2, 4, 3),
        o=(1, 1, 6, 2),
    ),
    "vision transformer": lambda: case(
        vision_transformer,
        24 * 2 * 36**2,
        {"positive": 3, "sign": 3},
        (2, 4, 4, 2),
        e=(2, 2, 2, 4),
        cls=(1, 1, 4),
        pos=(5, 4),
        **QKV,
        o=(6, 4),
        h=(4, 2),
    ),
    "group norm": lambda: module(
        GroupNormResidual(), 8**2, {"positive": 2, "sign": 3}, array(2, 5, 5, 2)
    ),
    "transformer": lambda: module(
        Transformer(),
        fac(8) * 24 * 2**8 * fac(6),
        {"positive": 5, "sign": 5},
        array(2, 5, 3),
    ),
    "nnx lstm": lambda: module(Recurrent(), 24, {"sign": 1}, array(2, 6, 3)),
    "densenet": lambda: module(
        DenseNet(), 6 * 2 * 2, {"positive": 6, "sign": 3}, array(2, 4, 4, 2)
    ),
    "tied embedding": lambda: module(
        TiedEmbedding(), 24 * 24, {"sign": 2}, jnp.array([[0, 3, 2], [1, 5, 6]])
    ),
}
