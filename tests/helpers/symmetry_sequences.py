"""Decoders, recurrences and state spaces whose permutation group is known on paper."""

from __future__ import annotations

from collections.abc import Callable
from math import factorial as fac

import jax
import jax.numpy as jnp
import numpy as np

from helpers.symmetry_networks import (
    Case,
    array,
    attention,
    by_head,
    flat,
    relu,
    tanh,
)
from helpers.symmetry_vision import gelu, layer_norm, network, rms_norm, sigmoid, silu

IDS = jnp.array([[0, 3, 2, 6, 1], [1, 5, 4, 0, 2]])
CAUSAL = np.tril(np.ones((5, 5), bool))


def rotated(t, share: float = 1.0):
    """Rotary positions of the first share of channels; the halves are rotated."""
    width = int(t.shape[-1] * share)
    turned, rest = t[..., :width], t[..., width:]
    rate = 10.0 ** -np.arange(0, 1, 2 / width)
    angle = np.arange(t.shape[1])[:, None] * np.concatenate([rate, rate])
    cos, sin = (jnp.asarray(f(angle), jnp.float32)[:, None] for f in (np.cos, np.sin))
    half = jnp.concatenate([-turned[..., width // 2 :], turned[..., : width // 2]], -1)
    return jnp.concatenate([turned * cos + half * sin, rest], -1)


def rotated_pairs(t):
    """Rotary positions of neighbouring channels, as complex numbers."""
    pairs = t.reshape(*t.shape[:-1], -1, 2)
    rate = 10.0 ** -np.arange(0, 1, 1 / pairs.shape[-2])
    angle = np.arange(t.shape[1])[:, None] * rate
    cos, sin = (jnp.asarray(f(angle), jnp.float32)[:, None] for f in (np.cos, np.sin))
    a, b = pairs[..., 0], pairs[..., 1]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(t.shape)


def causal_attention(q, k, v, bias=0.0):
    """Attention of query heads to as many or fewer key heads, each shared by several."""
    q = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[-1])
    scores = jnp.einsum("bqghd,bkgd->bghqk", q, k) / np.sqrt(q.shape[-1]) + bias
    weights = jax.nn.softmax(jnp.where(CAUSAL, scores, -1e9))
    return flat(jnp.einsum("bghqk,bkgd->bqghd", weights, v))


def swiglu(p, x):
    return (silu(x @ p["gate"]) * (x @ p["up"])) @ p["down"]


def llama(p, i):
    """Two layers, stacked and scanned, with queries that share a key."""
    x = p["embed"][i]

    def layer(x, q):
        h = rms_norm(x, q["n1"])
        k, v = (by_head(h @ q[n], 2) for n in "kv")
        x = (
            x
            + causal_attention(rotated(by_head(h @ q["q"], 4)), rotated(k), v) @ q["o"]
        )
        return x + swiglu(q, rms_norm(x, q["n2"])), None

    return rms_norm(jax.lax.scan(layer, x, p["layers"])[0], p["n"]) @ p["head"]


def query_key_norm_decoder(p, i):
    """Norms of queries and keys with gains before their rotation (Qwen3)."""
    x = p["embed"][i]
    h = rms_norm(x, p["n1"])
    q, k, v = (by_head(h @ p[n], 2) for n in "qkv")
    q, k = rms_norm(q, p["gq"]), rms_norm(k, p["gk"])
    x = x + causal_attention(rotated(q), rotated(k), v) @ p["o"]
    return rms_norm(x + swiglu(p, x), p["n"]) @ p["embed"].T


def one_key_head(p, i):
    """Queries, one key and one value fused, beside a feed-forward block (Falcon)."""
    x = p["embed"][i]
    h = layer_norm(x, p["g"], p["b"])
    t = by_head(h @ p["qkv"], 4)
    q, k, v = t[:, :, :2], t[:, :, 2:3], t[:, :, 3:]
    a = causal_attention(rotated(q), rotated(k), v) @ p["o"]
    return (x + a + gelu(h @ p["up"]) @ p["down"]) @ p["head"]


def fused_per_head(p, i):
    """Queries, keys and values side by side in every head (GPT-NeoX)."""
    x = p["embed"][i]
    t = by_head(layer_norm(x, p["g"], p["b"]) @ p["qkv"], 2)
    q, k, v = jnp.split(t, 3, -1)
    a = causal_attention(rotated(q, 0.5), rotated(k, 0.5), v) @ p["o"]
    return layer_norm(x + a) @ p["head"]


def partial_rotation(p, i):
    """Half of the channels of queries and keys rotate; the others are free."""
    x = p["embed"][i]
    q, k, v = (by_head(x @ p[n], 2) for n in "qkv")
    a = causal_attention(rotated(q, 0.5), rotated(k, 0.5), v) @ p["o"]
    return layer_norm(x + a) @ p["head"]


def paired_rotation(p, i):
    x = p["embed"][i]
    q, k, v = (by_head(x @ p[n], 2) for n in "qkv")
    a = causal_attention(rotated_pairs(q), rotated_pairs(k), v) @ p["o"]
    return layer_norm(x + a) @ p["head"]


def latent_attention(p, i):
    """Keys and values of a common latent vector, beside rotated keys (DeepSeek)."""
    x = p["embed"][i]
    h = rms_norm(x, p["n1"])
    latent, shared = jnp.split(h @ p["down_kv"], [3], -1)
    latent = rms_norm(latent, p["n2"])
    k, v = (by_head(latent @ p[n], 2) for n in "kv")
    q, turned = by_head(h @ p["q"], 2), by_head(h @ p["qr"], 2)
    shared = jnp.broadcast_to(rotated(shared[:, :, None]), turned.shape)
    q = jnp.concatenate([q, rotated(turned)], -1)
    x = x + causal_attention(q, jnp.concatenate([k, shared], -1), v) @ p["o"]
    return rms_norm(x, p["n"]) @ p["head"]


def capped_scores(p, i):
    """Scores and outputs are capped by tanh; the embedding is scaled and tied (Gemma)."""
    x = p["embed"][i] * 2.0
    h = rms_norm(x, 1 + p["n1"])
    q, k, v = (by_head(h @ p[n], 2) for n in "qkv")
    scores = 5 * tanh(jnp.einsum("bqhd,bkhd->bhqk", rotated(q), rotated(k)) / 5)
    weights = jax.nn.softmax(jnp.where(CAUSAL, scores, -1e9))
    a = flat(jnp.einsum("bhqk,bkhd->bqhd", weights, v)) @ p["o"]
    x = x + rms_norm(a, 1 + p["n2"])
    x = x + rms_norm(swiglu(p, rms_norm(x, 1 + p["n3"])), 1 + p["n4"])
    return 30 * tanh(x @ p["embed"].T / 30)


def relative_buckets(p, i):
    """A bias per head and logarithmic bucket of distance, no scaling (T5)."""
    distance = np.arange(5)[None] - np.arange(5)[:, None]
    bucket = (distance > 0) * 4 + np.minimum(np.abs(distance), 3)
    bias = p["bias"][bucket].transpose(2, 0, 1)
    x = p["embed"][i]
    h = rms_norm(x, p["n1"])
    q, k, v = (by_head(h @ p[n], 2) for n in "qkv")
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias)
    x = x + flat(jnp.einsum("bhqk,bkhd->bqhd", weights, v)) @ p["o"]
    h = rms_norm(x, p["n2"])
    x = x + (gelu(h @ p["gate"]) * (h @ p["up"])) @ p["down"]
    return x @ p["embed"].T


def encoder_decoder(p, i):
    """A decoder that reads an encoder; the three embeddings are one."""

    def attend(x, memory, n, mask=True):
        q, k, v = x @ p["q" + n], memory @ p["k" + n], memory @ p["v" + n]
        scores = by_head(q, 2), by_head(k, 2), by_head(v, 2)
        return (causal_attention if mask else attention)(*scores).reshape(
            *x.shape[:2], -1
        ) @ p["o" + n]

    memory = p["embed"][i] + p["places"]
    memory = layer_norm(memory + attend(memory, memory, "1", mask=False))
    x = p["embed"][i[:, ::-1]] + p["places"]
    x = layer_norm(x + attend(x, x, "2"))
    x = layer_norm(x + attend(x, memory, "3", mask=False))
    x = layer_norm(x + relu(x @ p["up"] + p["b"]) @ p["down"])
    return x @ p["embed"].T


def bert(p, i):
    kinds = (i > 2).astype(int)
    x = p["words"][i] + p["places"] + p["kinds"][kinds]
    x = layer_norm(x, p["g0"], p["h0"])
    q, k, v = (by_head(x @ p[n] + p["b" + n], 2) for n in "qkv")
    x = layer_norm(x + flat(attention(q, k, v)) @ p["o"] + p["bo"], p["g1"], p["h1"])
    y = gelu(x @ p["up"] + p["bu"]) @ p["down"]
    x = layer_norm(x + y, p["g2"], p["h2"])
    pooled = tanh(x[:, 0] @ p["pool"] + p["bp"])
    words = layer_norm(gelu(x @ p["t"]), p["g3"], p["h3"]) @ p["words"].T
    return pooled @ p["next"], words


def fast_decoding(p, x, cache_k, cache_v):
    """One step of a decoder: the caches of keys and values are inputs and outputs."""
    q, k, v = (by_head(x @ p[n], 2) for n in "qkv")
    k = jax.lax.dynamic_update_slice(cache_k, k, (0, 2, 0, 0))
    v = jax.lax.dynamic_update_slice(cache_v, v, (0, 2, 0, 0))
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
    x = x + flat(jnp.einsum("bhqk,bkhd->bqhd", weights, v)) @ p["o"]
    return (x + gelu(x @ p["up"]) @ p["down"]) @ p["head"], k, v


def masked_experts(p, x):
    """Each token goes to the best expert, in as many places as that has (Switch)."""
    x = x @ p["embed"]
    t = x.reshape(-1, 4)
    probability = jax.nn.softmax(t @ p["router"])
    chosen = jax.nn.one_hot(jnp.argmax(probability, -1), 3)
    place = jnp.cumsum(chosen, 0) * chosen
    dispatch = jax.nn.one_hot(place.astype(int) - 1, 6) * chosen[..., None]
    expert_inputs = jnp.einsum("tec,td->ecd", dispatch, t)
    h = relu(jnp.einsum("ecd,edh->ech", expert_inputs, p["up"]))
    y = jnp.einsum("ech,ehd->ecd", h, p["down"])
    combine = dispatch * probability[..., None]
    return (t + jnp.einsum("tec,ecd->td", combine, y)) @ p["head"]


def gathered_experts(p, x):
    """The weights of the two best experts are gathered for every token (Mixtral)."""
    x = x @ p["embed"]
    value, index = jax.lax.top_k(x @ p["router"], 2)
    share = jax.nn.softmax(value)
    up, gate, down = (p[n][index] for n in ("up", "gate", "down"))
    h = silu(jnp.einsum("btd,btkdh->btkh", x, gate))
    h = h * jnp.einsum("btd,btkdh->btkh", x, up)
    return (x + jnp.einsum("btkh,btkhd,btk->btd", h, down, share)) @ p["head"]


def shared_experts(p, x):
    """Experts that are always on beside ones that a sigmoid with a bias selects."""
    x = x @ p["embed"]
    score = sigmoid(x @ p["router"])
    value = jax.lax.top_k(score + p["balance"], 2)[0][..., -1:]
    share = jnp.where(score + p["balance"] >= value, score, 0.0)
    share = share / share.sum(-1, keepdims=True)

    def expert(q):
        return swiglu(q, x)

    y = jnp.einsum("etcd,tce->tcd", jax.vmap(expert)(p["experts"]), share)
    return (x + y + swiglu(p["shared"], x)) @ p["head"]


def receptance(p, x):
    """Time mixing and channel mixing of RWKV, with its numerically safe recurrence."""
    x = x @ p["embed"]

    def shifted(x):
        return jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]

    def mixed(x, m):
        return x * m + shifted(x) * (1 - m)

    h = layer_norm(x, p["g"], p["h"])
    r, k, v = (mixed(h, p["m" + n]) @ p[n] for n in "rkv")

    def cell(state, kv):
        k, v = kv
        top, bottom, high = state
        new = jnp.maximum(high, p["u"] + k)
        a, b = jnp.exp(high - new), jnp.exp(p["u"] + k - new)
        out = (a * top + b * v) / (a * bottom + b)
        new = jnp.maximum(high - jnp.exp(p["w"]), k)
        a, b = jnp.exp(high - jnp.exp(p["w"]) - new), jnp.exp(k - new)
        return (a * top + b * v, a * bottom + b, new), out

    zero = jnp.zeros((x.shape[0], 5))
    _, y = jax.lax.scan(
        cell, (zero, zero, zero - 1e9), (k.swapaxes(0, 1), v.swapaxes(0, 1))
    )
    x = x + (sigmoid(r) * y.swapaxes(0, 1)) @ p["o"]
    h = layer_norm(x)
    k = jnp.square(relu(mixed(h, p["mk2"]) @ p["k2"]))
    x = x + sigmoid(mixed(h, p["mr2"]) @ p["r2"]) * (k @ p["v2"])
    return x @ p["head"]


def selective_state_space(p, x):
    """A block of Mamba: a short convolution, then a scan whose rates depend on inputs."""
    x = x @ p["embed"]
    u, z = jnp.split(rms_norm(x, p["n"]) @ p["in"], 2, -1)
    padded = jnp.pad(u, ((0, 0), (2, 0), (0, 0)))
    u = silu(sum(padded[:, k : k + 5] * p["conv"][k] for k in range(3)) + p["cb"])
    rate, b, c = jnp.split(u @ p["select"], [2, 5], -1)
    step = jax.nn.softplus(rate @ p["step"] + p["sb"])
    decay = jnp.exp(-step[..., None] * jnp.exp(p["a"]))
    drive = (step * u)[..., None] * b[:, :, None]

    def cell(h, inputs):
        decay, drive, c = inputs
        h = h * decay + drive
        return h, jnp.einsum("bds,bs->bd", h, c)

    time_major = [t.swapaxes(0, 1) for t in (decay, drive, c)]
    _, y = jax.lax.scan(cell, jnp.zeros((x.shape[0], 4, 3)), tuple(time_major))
    y = (y.swapaxes(0, 1) + u * p["d"]) * silu(z)
    return (x + y @ p["out"]) @ p["head"]


def complex_diagonal(p, x):
    """A linear recurrent unit: complex rates, a parallel scan, a gated output."""
    rate = jnp.exp(-jnp.exp(p["nu"]) + 1j * jnp.exp(p["theta"]))
    scale = jnp.exp(p["gamma"])
    h = x @ p["embed"]
    u = (h @ (p["br"] + 1j * p["bi"])) * scale
    rates = jnp.broadcast_to(rate, u.shape)

    def merge(l, r):
        return l[0] * r[0], l[1] * r[0] + r[1]

    _, s = jax.lax.associative_scan(merge, (rates, u), axis=1)
    y = (s @ (p["cr"] + 1j * p["ci"])).real + h * p["d"]
    return (h + gelu(y) * sigmoid(y @ p["gate"])).mean(1) @ p["head"]


def convolved_kernel(p, x):
    """A diagonal state space as a long convolution by Fourier transforms (S4D)."""
    h = x @ p["embed"]
    step = jnp.exp(p["step"])[:, None]
    rate = -jnp.exp(p["re"]) + 1j * p["im"]
    weight = (p["cr"] + 1j * p["ci"]) * (jnp.exp(rate * step) - 1) / rate
    powers = jnp.exp((rate * step)[..., None] * jnp.arange(5))
    kernel = jnp.einsum("cn,cnt->ct", weight, powers).real
    size = 10
    f = jnp.fft.rfft(h, size, axis=1) * jnp.fft.rfft(kernel.T, size, axis=0)[None]
    y = gelu(jnp.fft.irfft(f, size, axis=1)[:, :5] + h * p["d"])
    return (h + y @ p["mix"]) @ p["head"]


def implicit_filters(p, x):
    """Hyena: gated long convolutions with filters that a small network makes."""
    x = x @ p["embed"]
    v, a, b = jnp.split(x @ p["in"], 3, -1)
    time = jnp.linspace(0, 1, 5)[:, None]
    filters = jnp.sin(time * p["f1"] + p["fb"]) @ p["f2"] * jnp.exp(-time * p["decay"])
    size = 10
    f = jnp.fft.rfft(v * a, size, axis=1) * jnp.fft.rfft(filters, size, axis=0)
    y = jnp.fft.irfft(f, size, axis=1)[:, :5] * b
    return (x + y @ p["out"]) @ p["head"]


def retention(p, x):
    """Attention without softmax that decays by head, with a norm per head (RetNet)."""
    q, k, v = (by_head(x @ p[n], 2) for n in "qkv")
    gap = np.arange(5)[:, None] - np.arange(5)[None]
    decay = jnp.asarray(
        np.array([0.9, 0.8])[:, None, None] ** np.maximum(gap, 0) * CAUSAL
    )
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * decay.astype(jnp.float32)
    y = jnp.einsum("bhqk,bkhd->bqhd", scores, v)
    return (flat(layer_norm(y)) * silu(x @ p["gate"])) @ p["o"]


def delta_rule(p, x):
    """Fast weights that are overwritten at a learned rate, with normed keys."""
    q, k, v = (by_head(x @ p[n], 2) for n in "qkv")
    k = silu(k)
    k = k / jnp.sqrt((k * k).sum(-1, keepdims=True) + 1e-6)
    rate = sigmoid(x @ p["rate"])

    def cell(s, inputs):
        q, k, v, rate = inputs
        error = v - jnp.einsum("bhde,bhd->bhe", s, k)
        s = s + jnp.einsum("bhd,bhe->bhde", k, error * rate[..., None])
        return s, jnp.einsum("bhde,bhd->bhe", s, q)

    inputs = tuple(t.swapaxes(0, 1) for t in (q, k, v, rate))
    _, y = jax.lax.scan(cell, jnp.zeros((x.shape[0], 2, 3, 3)), inputs)
    return flat(rms_norm(y).swapaxes(0, 1)) @ p["o"]


def exponential_gates(p, xs):
    """The scalar cell of xLSTM: exponential gates with a running maximum."""

    def cell(state, x):
        c, n, h, m = state
        z, i, f, o = jnp.split(x @ p["wi"] + h @ p["wh"] + p["b"], 4, -1)
        new = jnp.maximum(f + m, i)
        keep, write = jnp.exp(f + m - new), jnp.exp(i - new)
        c, n = keep * c + write * tanh(z), keep * n + write
        h = sigmoid(o) * c / n
        return (c, n, h, new), h

    zero = jnp.zeros((xs.shape[1], 4))
    _, h = jax.lax.scan(cell, (zero, zero, zero, zero), xs)
    return h @ p["out"]


def matrix_memory(p, xs):
    """The matrix cell of xLSTM: outer products of values and keys per head."""
    q, k, v = (by_head(xs @ p[n], 2) for n in "qkv")
    i, f = xs @ p["i"] + p["bi"], xs @ p["f"] + p["bf"]

    def cell(state, inputs):
        c, n, m = state
        q, k, v, i, f = inputs
        new = jnp.maximum(f + m, i)
        keep, write = jnp.exp(f + m - new), jnp.exp(i - new)
        c = keep[..., None, None] * c + write[..., None, None] * jnp.einsum(
            "bhd,bhe->bhde", k, v
        )
        n = keep[..., None] * n + write[..., None] * k
        size = jnp.maximum(jnp.abs(jnp.einsum("bhd,bhd->bh", n, q)), 1.0)
        return (c, n, new), jnp.einsum("bhde,bhd->bhe", c, q) / size[..., None]

    zero = jnp.zeros((xs.shape[1], 2))
    start = jnp.zeros((xs.shape[1], 2, 3, 3)), jnp.zeros((xs.shape[1], 2, 3)), zero
    _, y = jax.lax.scan(cell, start, (q, k, v, i, f))
    return (flat(y) * sigmoid(xs @ p["gate"])) @ p["o"]


def translator(p, xs):
    """A recurrent encoder and a recurrent decoder with additive attention to it."""

    def cell(h, x, wi, wh):
        a, b = x @ wi, h @ wh
        r, z = sigmoid(a[:, :4] + b[:, :4]), sigmoid(a[:, 4:8] + b[:, 4:8])
        return (1 - z) * tanh(a[:, 8:] + r * b[:, 8:]) + z * h

    def encode(h, x):
        h = cell(h, x, p["ei"], p["eh"])
        return h, h

    last, memory = jax.lax.scan(encode, jnp.zeros((xs.shape[1], 4)), xs)
    keys = memory @ p["keys"]

    def decode(h, x):
        score = tanh(keys + h @ p["query"]) @ p["score"]
        context = (jax.nn.softmax(score, 0)[..., None] * memory).sum(0)
        h = cell(h, jnp.concatenate([x, context], -1), p["di"], p["dh"])
        return h, h @ p["out"]

    return jax.lax.scan(decode, tanh(last @ p["bridge"]), xs)[1]


def causal_convolutions(p, x):
    """Gated dilated convolutions over time, with a sum of skips (WaveNet)."""
    x, total = x @ p["embed"], 0.0
    for n in (1, 2):
        past = jnp.pad(x, ((0, 0), (n, 0), (0, 0)))[:, : x.shape[1]]

        def both(name, x=x, past=past):
            return x @ p[name][1] + past @ p[name][0]

        h = tanh(both(f"filter{n}")) * sigmoid(both(f"gate{n}"))
        total = total + h @ p[f"skip{n}"]
        x = x + h @ p[f"out{n}"]
    return relu(relu(total) @ p["post"]) @ p["head"] + x @ p["tail"]


def convolutional_lstm(p, xs):
    def convolve(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def cell(state, x):
        c, h = state
        gates = convolve(x, p["wi"]) + convolve(h, p["wh"]) + p["b"]
        i, f, g, o = jnp.split(gates, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return (c, sigmoid(o) * tanh(c)), None

    zero = jnp.zeros((*xs.shape[1:-1], 3))
    return convolve(jax.lax.scan(cell, (zero, zero), xs)[0][1], p["out"])


def highway(p, xs):
    """A highway layer, then a simple recurrent unit, whose gates see inputs alone."""
    h = tanh(xs @ p["in"])
    gate = sigmoid(h @ p["t"] + p["bt"])
    h = gate * relu(h @ p["w"]) + (1 - gate) * h
    forget, reset, value = jnp.split(h @ p["sru"] + p["bs"], 3, -1)
    forget, reset = sigmoid(forget), sigmoid(reset)

    def cell(c, inputs):
        f, v = inputs
        c = f * c + (1 - f) * v
        return c, c

    _, c = jax.lax.scan(cell, jnp.zeros((xs.shape[1], 4)), (forget, value))
    return (reset * tanh(c) + (1 - reset) * h) @ p["out"]


STREAM = fac(4)
HEADS = fac(2)
SEQUENCE = (2, 5, 3)
Q, O = (4, 6), (6, 4)
WORDS = {"embed": (7, 4), "head": (4, 7)}
GATED = {"gate": (4, 5), "up": (4, 5), "down": (5, 4)}
SEQUENCES: dict[str, Callable[[], Case]] = {
    # Per layer: key heads, queries of each, values of each key; hidden units.
    "llama, scanned": lambda: network(
        llama,
        STREAM * (fac(2) * fac(2) ** 2 * fac(4) ** 2 * fac(5)) ** 2,
        IDS,
        **WORDS,
        layers={
            "q": (2, 4, 16),
            "k": (2, 4, 8),
            "v": (2, 4, 8),
            "o": (2, 16, 4),
            "gate": (2, 4, 5),
            "up": (2, 4, 5),
            "down": (2, 5, 4),
            "n1": (2, 4),
            "n2": (2, 4),
        },
        n=(4,),
    ),
    "query-key norm, rotary": lambda: network(
        query_key_norm_decoder,
        STREAM * HEADS * fac(4) ** 2 * fac(5),
        IDS,
        embed=(7, 4),
        q=(4, 8),
        k=(4, 8),
        v=(4, 8),
        o=(8, 4),
        gq=(4,),
        gk=(4,),
        n1=(4,),
        n=(4,),
        **GATED,
    ),
    # Two query heads, which share values; channels of queries and keys are rotated.
    "one key head, fused": lambda: network(
        one_key_head,
        STREAM * fac(2) * fac(4) * fac(5),
        IDS,
        **WORDS,
        g=(4,),
        b=(4,),
        qkv=(4, 16),
        o=(8, 4),
        up=(4, 5),
        down=(5, 4),
    ),
    # Of the four channels of queries and keys two are not rotated.
    "fused per head": lambda: network(
        fused_per_head,
        STREAM * HEADS * (fac(2) * fac(4)) ** 2,
        IDS,
        **WORDS,
        g=(4,),
        b=(4,),
        qkv=(4, 24),
        o=(8, 4),
    ),
    "partial rotation": lambda: network(
        partial_rotation,
        STREAM * HEADS * (fac(2) * fac(4)) ** 2,
        IDS,
        **WORDS,
        q=(4, 8),
        k=(4, 8),
        v=(4, 8),
        o=(8, 4),
    ),
    "paired rotation": lambda: network(
        paired_rotation,
        STREAM * HEADS * fac(4) ** 2,
        IDS,
        **WORDS,
        q=(4, 8),
        k=(4, 8),
        v=(4, 8),
        o=(8, 4),
    ),
    # The latent; per head the channels that are not rotated, and the values.
    "latent attention": lambda: network(
        latent_attention,
        STREAM * fac(3) * HEADS * (fac(3) * fac(2)) ** 2,
        IDS,
        **WORDS,
        down_kv=(4, 7),
        k=(3, 6),
        v=(3, 4),
        q=(4, 6),
        qr=(4, 8),
        o=(4, 4),
        n1=(4,),
        n2=(3,),
        n=(4,),
    ),
    "capped scores": lambda: network(
        capped_scores,
        STREAM * HEADS * fac(4) ** 2 * fac(5),
        IDS,
        embed=(7, 4),
        **{n: (4, 8) for n in "qkv"},
        o=(8, 4),
        **{n: (4,) for n in ("n1", "n2", "n3", "n4")},
        **GATED,
    ),
    "relative buckets": lambda: network(
        relative_buckets,
        STREAM * HEADS * fac(3) ** 4 * fac(5),
        IDS,
        embed=(7, 4),
        bias=(8, 2),
        **{n: Q for n in "qkv"},
        o=O,
        n1=(4,),
        n2=(4,),
        **GATED,
    ),
    "encoder and decoder": lambda: network(
        encoder_decoder,
        STREAM * (HEADS * fac(3) ** 4) ** 3 * fac(5),
        IDS,
        embed=(7, 4),
        places=(5, 4),
        **{n + i: Q for n in "qkv" for i in "123"},
        **{"o" + i: O for i in "123"},
        up=(4, 5),
        b=(5,),
        down=(5, 4),
    ),
    # Embedding and output are tied, so that the last layer permutes with the stream.
    "bert": lambda: network(
        bert,
        STREAM * HEADS * fac(3) ** 4 * fac(5) * fac(3),
        IDS,
        words=(7, 4),
        places=(5, 4),
        kinds=(2, 4),
        **{f"{n}{i}": (4,) for n in "gh" for i in range(4)},
        **{n: Q for n in "qkv"},
        **{"b" + n: (6,) for n in "qkv"},
        o=O,
        bo=(4,),
        up=(4, 5),
        bu=(5,),
        down=(5, 4),
        pool=(4, 3),
        bp=(3,),
        t=(4, 4),
        next=(3, 2),
    ),
    # Heads and channels of keys and values are those of the caches.
    "step with a cache": lambda: network(
        fast_decoding,
        fac(5),
        array(2, 1, 4),
        array(2, 5, 2, 3),
        array(2, 5, 2, 3, seed=1),
        **{n: Q for n in "qkv"},
        o=O,
        up=(4, 5),
        down=(5, 4),
        head=(4, 2),
    ),
    # An expert takes six tokens, all there are: the order of experts does not matter.
    "switch": lambda: network(
        masked_experts,
        STREAM * fac(3) * fac(5) ** 3,
        array(2, 3, 3),
        embed=(3, 4),
        router=(4, 3),
        up=(3, 4, 5),
        down=(3, 5, 4),
        head=(4, 2),
    ),
    "gathered experts": lambda: network(
        gathered_experts,
        STREAM * fac(3) * fac(5) ** 3,
        array(*SEQUENCE),
        embed=(3, 4),
        router=(4, 3),
        up=(3, 4, 5),
        gate=(3, 4, 5),
        down=(3, 5, 4),
        head=(4, 2),
    ),
    "shared experts": lambda: network(
        shared_experts,
        STREAM * fac(3) * fac(5) ** 3 * fac(5),
        array(*SEQUENCE),
        embed=(3, 4),
        router=(4, 3),
        balance=(3,),
        experts={"gate": (3, 4, 5), "up": (3, 4, 5), "down": (3, 5, 4)},
        shared=GATED,
        head=(4, 2),
    ),
    # The recurrent channels, and hidden units of the second block.
    "rwkv": lambda: network(
        receptance,
        STREAM * fac(5) * fac(6),
        array(*SEQUENCE),
        embed=(3, 4),
        g=(4,),
        h=(4,),
        **{n: (4, 5) for n in "rkv"},
        **{"m" + n: (4,) for n in ("r", "k", "v", "k2", "r2")},
        u=(5,),
        w=(5,),
        o=(5, 4),
        k2=(4, 6),
        r2=(4, 4),
        v2=(6, 4),
        head=(4, 2),
    ),
    # Stream, inner channels, entries of the state, rank of the step.
    "mamba": lambda: network(
        selective_state_space,
        fac(3) * fac(4) * fac(3) * fac(2),
        array(*SEQUENCE),
        embed=(3, 3),
        n=(3,),
        **{"in": (3, 8)},
        conv=(3, 4),
        cb=(4,),
        select=(4, 8),
        step=(2, 4),
        sb=(4,),
        a=(4, 3),
        d=(4,),
        out=(4, 3),
        head=(3, 2),
    ),
    "linear recurrent unit": lambda: network(
        complex_diagonal,
        fac(4) * fac(5),
        array(*SEQUENCE),
        embed=(3, 4),
        **{n: (5,) for n in ("nu", "theta", "gamma")},
        br=(4, 5),
        bi=(4, 5),
        cr=(5, 4),
        ci=(5, 4),
        d=(4,),
        gate=(4, 4),
        head=(4, 2),
    ),
    # Modes are permuted channel by channel.
    "state space by convolution": lambda: network(
        convolved_kernel,
        fac(4) * fac(3) ** 4,
        array(*SEQUENCE),
        embed=(3, 4),
        step=(4,),
        **{n: (4, 3) for n in ("re", "im", "cr", "ci")},
        d=(4,),
        mix=(4, 4),
        head=(4, 2),
    ),
    # Stream, inner channels, hidden units of the network that makes the filters.
    "implicit filters": lambda: network(
        implicit_filters,
        fac(3) * fac(4) * fac(5),
        array(*SEQUENCE),
        embed=(3, 3),
        **{"in": (3, 12)},
        f1=(5,),
        fb=(5,),
        f2=(5, 4),
        decay=(4,),
        out=(4, 3),
        head=(3, 2),
    ),
    # Heads decay differently.
    "retention": lambda: network(
        retention,
        fac(3) ** 4,
        array(2, 5, 4),
        **{n: Q for n in "qkv"},
        gate=(4, 6),
        o=(6, 2),
    ),
    "delta rule": lambda: network(
        delta_rule,
        HEADS * fac(3) ** 4,
        array(2, 5, 4),
        **{n: Q for n in "qkv"},
        rate=(4, 2),
        o=(6, 2),
    ),
    "exponential gates": lambda: network(
        exponential_gates,
        fac(4),
        array(6, 2, 3),
        wi=(3, 16),
        wh=(4, 16),
        b=(16,),
        out=(4, 2),
    ),
    "matrix memory": lambda: network(
        matrix_memory,
        HEADS * fac(3) ** 4,
        array(6, 2, 4),
        **{n: Q for n in "qkv"},
        i=(4, 2),
        bi=(2,),
        f=(4, 2),
        bf=(2,),
        gate=(4, 6),
        o=(6, 2),
    ),
    # Encoder's state, decoder's state, hidden units of the scores.
    "translator": lambda: network(
        translator,
        fac(4) * fac(4) * fac(5),
        array(6, 2, 3),
        ei=(3, 12),
        eh=(4, 12),
        keys=(4, 5),
        query=(4, 5),
        score=(5,),
        di=(7, 12),
        dh=(4, 12),
        bridge=(4, 4),
        out=(4, 2),
    ),
    # Stream, two gated layers, the sum of skips, the layer after it.
    "causal convolutions": lambda: network(
        causal_convolutions,
        fac(3) * fac(4) * fac(5) * fac(4) * fac(3),
        array(*SEQUENCE),
        embed=(3, 3),
        filter1=(2, 3, 4),
        gate1=(2, 3, 4),
        skip1=(4, 4),
        out1=(4, 3),
        filter2=(2, 3, 5),
        gate2=(2, 3, 5),
        skip2=(5, 4),
        out2=(5, 3),
        post=(4, 3),
        head=(3, 2),
        tail=(3, 2),
    ),
    "convolutional lstm": lambda: network(
        convolutional_lstm,
        fac(3),
        array(4, 1, 4, 4, 2),
        wi=(3, 3, 2, 12),
        wh=(3, 3, 3, 12),
        b=(12,),
        out=(1, 1, 3, 2),
    ),
    "highway and simple unit": lambda: network(
        highway,
        fac(4),
        array(6, 2, 3),
        **{"in": (3, 4)},
        t=(4, 4),
        bt=(4,),
        w=(4, 4),
        sru=(4, 12),
        bs=(12,),
        out=(4, 2),
    ),
}
