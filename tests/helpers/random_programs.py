"""Random programs of tricky steps, and a search for false symmetries among them.

A program is a list of names: an input layer, the steps, an output layer. Every step maps
``[5, 6]`` to ``[5, 6]``, so that it is compiled once for all programs that contain it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from helpers.brute_force import Actions, Cases, find_false_element
from helpers.symmetry_networks import array, relu, tanh
from metanet import symmetry as sym
from metanet.compiler import fast_compile_options

lax = jax.lax
Step = Callable[[jax.Array], jax.Array]
X = array(5, 3, seed=9)
WIDTH = 6
ORDER = np.array([3, 1, 4, 0, 2, 5], np.int32)
REPEATED = np.array([0, 0, 1, 2, 3, 3], np.int32)
ROWS = np.array([1, 0, 4, 2, 3], np.int32)
TURNS = np.arange(5.0)[:, None]


def three_pieces(h):
    a, b, c = jnp.unstack(h.reshape(5, 3, 2), axis=1)
    return jnp.stack([tanh(a), b, relu(c)], 1).reshape(5, 6)


def interleaved(h):
    t = h.reshape(5, 2, 3)
    return jnp.stack([tanh(t[:, 0]), t[:, 1] * 2], -1).reshape(5, 6)


def swapped(h):
    t = h.reshape(5, 2, 3)
    return jnp.concatenate([t[:, 1], t[:, 0]], 1)


def routed(h):
    index = lax.top_k(h, 2)[1]
    return jax.nn.one_hot(index, 6, dtype=h.dtype).sum(1) * h


def rows(h):

    def step(c, r):
        return tanh(c + r), c * r

    return lax.scan(step, jnp.ones(6, h.dtype), h)[1]


def halves(h):
    a, b = jnp.split(h, 2, 1)
    return a @ b.T @ h


def grouped(h):
    t = h.reshape(5, 2, 3)
    return (t - t.mean(2, keepdims=True)).reshape(5, 6)


def rotated(h):
    a, b = jnp.split(h.reshape(5, 3, 2), 2, -1)
    cos, sin = (jnp.asarray(f(TURNS)[:, None], h.dtype) for f in (np.cos, np.sin))
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).reshape(5, 6)


def partly_rotated(h):
    t = h.reshape(5, 2, 3)
    a, b, rest = t[..., :1], t[..., 1:2], t[..., 2:]
    cos, sin = (jnp.asarray(f(TURNS)[:, None], h.dtype) for f in (np.cos, np.sin))
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], -1).reshape(
        5, 6
    )


def major_parts(h):
    t = h.reshape(5, 3, 2)
    return jnp.concatenate([tanh(t[:, :2]), relu(t[:, 2:3])], 1).reshape(5, 6)


def experts(h):
    """Multiplies three units by the gate that the other three decide."""
    index = jnp.argmax(h[:, :3], 1)
    gates = jax.nn.one_hot(index, 3, dtype=h.dtype)
    return jnp.concatenate([gates * h[:, :3], h[:, 3:]], 1)


def depthwise(h):
    kernel = jnp.asarray(np.ones((2, 1, 6)), h.dtype)
    return lax.conv_general_dilated(
        h[None],
        kernel,
        (1,),
        [(1, 0)],
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=6,
    )[0]


def set_columns(h):
    return lax.fori_loop(0, 6, lambda i, g: g.at[:, i].set(relu(h[:, i])), h)


def sized(value: Any, h: jax.Array) -> jax.Array:
    return jnp.asarray(value, h.dtype)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=shape)


COUNTED = jnp.arange(1.0, 7.0)[None]
STEPS: dict[str, Step] = {
    "relu": relu,
    "tanh": tanh,
    "sin": jnp.sin,
    "abs": jnp.abs,
    "square": jnp.square,
    "softmax": jax.nn.softmax,
    "sign": jnp.sign,
    "clip": lambda h: jnp.clip(h, -1, 1),
    "center": lambda h: h - h.mean(1, keepdims=True),
    "less the greatest": lambda h: h - h.max(1, keepdims=True),
    "norm": lambda h: h / jnp.sqrt((h * h).sum(1, keepdims=True) + 1.0),
    "gate": lambda h: h * jax.nn.sigmoid(h),
    "tripled": lambda h: h + 3.0 * h,
    "constant": lambda h: h * COUNTED.astype(h.dtype),
    "first half": lambda h: jnp.concatenate([relu(h[:, :3]), h[:, 3:]], 1),
    "fold": lambda h: tanh(h.reshape(5, 2, 3).transpose(0, 2, 1)).reshape(5, 6),
    "grouped": grouped,
    "sums": lambda h: (
        h + h.reshape(5, 3, 2).sum(2, keepdims=True).repeat(2, 2).reshape(5, 6)
    ),
    "even and odd": lambda h: jnp.concatenate([h[:, ::2], h[:, 1::2]], 1),
    "three pieces": three_pieces,
    "interleaved": interleaved,
    "swapped": swapped,
    "turned heads": lambda h: h.reshape(5, 2, 3)[:, ::-1].reshape(5, 6),
    "halves": halves,
    "roll": lambda h: jnp.roll(h, 1, 1),
    "roll rows": lambda h: h + jnp.roll(h, 1, 0),
    "pad and cut": lambda h: jnp.pad(h, ((0, 0), (0, 2)))[:, 2:],
    "pad": lambda h: jnp.pad(h, ((0, 0), (1, 1)))[:, 1:-1],
    "cumsum": lambda h: jnp.cumsum(h, 1),
    "cumsum of rows": lambda h: jnp.cumsum(h, 0),
    "sort": lambda h: jnp.sort(h, 1),
    "sort rows": lambda h: jnp.sort(h, 0),
    "argsort": lambda h: jnp.take_along_axis(h, jnp.argsort(h, 1), 1),
    "routed": routed,
    "greatest": lambda h: h + jax.nn.one_hot(jnp.argmax(h, 1), 6, dtype=h.dtype),
    "looked up": lambda h: h * jnp.eye(6, dtype=h.dtype)[jnp.argmax(h, 1)],
    "index as number": lambda h: h * (1 + jnp.argmax(h, 1)[:, None]),
    "permuted": lambda h: h[:, ORDER],
    "repeated": lambda h: h[:, REPEATED],
    "summed by index": lambda h: jax.ops.segment_sum(h.T, REPEATED, 6).T,
    "messages": lambda h: jax.ops.segment_sum(h, np.array([0, 1, 1, 2, 4]), 5),
    "window": lambda h: lax.reduce_window(h, -jnp.inf, lax.max, (1, 2), (1, 1), "SAME"),
    "one column set": lambda h: h.at[:, 0].set(h[:, 1]),
    "outer": lambda h: tanh(h[:, :, None] * h[:, None]).sum(1),
    "attention": lambda h: jax.nn.softmax(h @ h.T) @ h,
    "rows": rows,
    "branch": lambda h: lax.cond(h.sum() > 0, tanh, lambda h: h * 2, h),
    "while": lambda h: lax.fori_loop(0, jnp.int32(2), lambda i, h: tanh(h) + h, h),
    "reversed turns": lambda h: lax.scan(
        lambda c, _: (tanh(c)[:, ::-1], None), h, length=2
    )[0],
    "remat": jax.checkpoint(lambda h: tanh(h) * h),
    "vmap": jax.vmap(lambda row: row * row.max()),
    # Ties.
    "plus a row's constant": lambda h: relu(h) + h[:, :1] * 0 + sized(TURNS, h),
    "at most zero": lambda h: jnp.minimum(h, 0),
    "bfloat16": lambda h: h.astype(jnp.bfloat16).astype(h.dtype),
    "integers": lambda h: (4 * h).astype(jnp.int32).astype(h.dtype),
    "reduced": lambda h: lax.reduce_precision(h, 8, 3),
    "broadcast sum": lambda h: jnp.broadcast_to(h.sum(1, keepdims=True), h.shape),
    "less its copy": lambda h: h - lax.stop_gradient(h),
    "over its size": lambda h: h / jnp.maximum(jnp.abs(h), 1e-30),
    "to the power 0": lambda h: lax.integer_pow(h, 0),
    "rounded": jnp.round,
    "floor": jnp.floor,
    "mean over nothing": lambda h: h[:, None].mean(1),
    "less its mean over nothing": lambda h: h - h[:, None].mean(1),
    "repeat": lambda h: jnp.repeat(h, 2, axis=1)[:, :6],
    "leaky": jax.nn.leaky_relu,
    "times zero": lambda h: 0 * h,
    "positive": lambda h: (h > 0).astype(h.dtype),
    "straight-through": lambda h: h + lax.stop_gradient(jnp.round(h) - h),
    "greatest two": lambda h: (
        h
        + jax.nn.one_hot(lax.top_k(h, 2)[1][:, 1], 6, dtype=h.dtype)
        - jax.nn.one_hot(jnp.argmin(h, 1), 6, dtype=h.dtype)
    ),
    "greatest of bfloat16": lambda h: (
        h + jax.nn.one_hot(jnp.argmax(h.astype(jnp.bfloat16), 1), 6, dtype=h.dtype)
    ),
    "greatest set": lambda h: h.at[jnp.arange(5), jnp.argmax(h, 1)].set(0.0),
    "greatest's value": lambda h: (
        h - jnp.take_along_axis(h, jnp.argmax(h, 1)[:, None], 1)
    ),
    "experts": experts,
    "rank": lambda h: h + (h[:, :, None] > h[:, None]).sum(2),
    "index compared": lambda h: (
        h * (jnp.argmax(h, 1)[:, None] == jnp.argmin(h, 1)[:, None])
    ),
    "sorted payload": lambda h: lax.sort((h, tanh(h)), dimension=1, num_keys=1)[1],
    "greatest row": lambda h: h + h[jnp.argmax(h[:, 0])][None],
    # What discovery should follow.
    "tile": lambda h: jnp.tile(h[:, :3], (1, 2)),
    "tile rows": lambda h: jnp.tile(h, (2, 1)).reshape(2, 5, 6).sum(0),
    "device put": jax.device_put,
    "rows updated": lambda h: lax.dynamic_update_slice(
        jnp.zeros_like(h), tanh(h)[:3], (1, 0)
    ),
    "columns updated": lambda h: lax.dynamic_update_slice(h, tanh(h)[:, :3], (0, 2)),
    "sliced by sign": lambda h: (
        h
        + lax.dynamic_slice(h, ((h.sum() > 0).astype(jnp.int32), jnp.int32(0)), (1, 6))
    ),
    "fft of rows": lambda h: jnp.fft.fft(h, axis=0).real,
    "fft of units": lambda h: jnp.fft.fft(h, axis=1).real,
    "complex": lambda h: jnp.real(jnp.exp(1j * h) * h),
    "imaginary": lambda h: jnp.imag(lax.complex(h, tanh(h)) ** 2),
    "searched": lambda h: jnp.searchsorted(sized([-0.5, 0.0, 0.5], h), h).astype(
        h.dtype
    ),
    "multiplied in": lambda h: h.at[np.array([0, 0, 3])].multiply(tanh(h)[:3]),
    "added in": lambda h: h.at[np.array([0, 0, 3])].add(tanh(h)[:3]),
    "columns added in": lambda h: h.at[:, np.array([0, 3, 3])].add(tanh(h)[:, :3]),
    "maxima in": lambda h: h.at[np.array([0, 1])].max(tanh(h)[2:4]),
    "noise of rows": lambda h: h + sized(noise(5, 1), h),
    "noise of units": lambda h: h + sized(noise(5, 6), h),
    "random bits": lambda h: h + jax.random.normal(jax.random.key(3), (5, 1), h.dtype),
    "random bits of units": lambda h: (
        h + jax.random.normal(jax.random.key(3), (5, 6), h.dtype)
    ),
    "depthwise": depthwise,
    "major parts": major_parts,
    "rotated": rotated,
    "partly rotated": partly_rotated,
    "along rows": lambda h: jnp.take_along_axis(
        h, ROWS[:, None] * np.ones((1, 6), int), 0
    ),
    "full indices": lambda h: h[ROWS[:, None], np.arange(6)[None]],
    "full indices set": lambda h: (
        jnp.zeros_like(h).at[ROWS[:, None], np.arange(6)[None]].set(h)
    ),
    "mapped units": lambda h: lax.map(lambda u: tanh(u) * u.sum(), h.T).T,
    "scanned units": lambda h: (
        lax.scan(lambda c, u: (tanh(c + u), c), h[:, 0] * 0, h.T)[1].T
    ),
    "columns set in a loop": set_columns,
    "switch": lambda h: lax.switch(
        (h[0] > 0).sum() % 3, [tanh, jnp.sin, lambda h: h[:, ::-1]], h
    ),
    "switch on the greatest": lambda h: lax.switch(
        jnp.argmax(h[0]), [tanh, relu, jnp.sin, jnp.abs, jnp.square, jnp.negative], h
    ),
    "associative scan of rows": lambda h: lax.associative_scan(jnp.add, h),
    "associative scan of units": lambda h: lax.associative_scan(jnp.maximum, h, axis=1),
    "flip": lambda h: h[:, ::-1],
    "flip rows": lambda h: h[::-1],
    "flip twice": lambda h: tanh(h[:, ::-1])[:, ::-1],
    "shuffle": lambda h: h.reshape(5, 2, 3).swapaxes(1, 2).reshape(5, 6),
    "circulant": lambda h: (
        h @ sized([np.roll([1, 2, 0, 0, 0, 3], i) for i in range(6)], h)
    ),
    "permuting product": lambda h: h @ jnp.eye(6, dtype=h.dtype)[:, ORDER],
    "ring": lambda h: h + jnp.roll(h, 1, 1) + jnp.roll(h, -1, 1),
    "both directions": lambda h: jnp.maximum(h, h[:, ::-1]),
    "constant plus": lambda h: tanh(h + COUNTED.astype(h.dtype)),
    "tree": lambda h: (
        jax.nn.sigmoid(h) * sized(noise(1, 6), h) + jax.nn.sigmoid(-h) * 2.0
    ),
    "double concatenation": lambda h: grouped(
        jnp.concatenate([h[:, :3], tanh(h)[:, :3]], 1)
    ),
    "concatenation off the border": lambda h: grouped(
        jnp.concatenate([h[:, :2], tanh(h)[:, :4]], 1)
    ),
    "derivative": lambda h: jax.jvp(tanh, (h,), (h,))[1],
    "gradient": lambda h: jax.grad(lambda h: (tanh(h) * h.sum(1, keepdims=True)).sum())(
        h
    ),
    "named mean": lambda h: jax.vmap(
        lambda r: tanh(r - lax.pmean(r, "b")), axis_name="b"
    )(h),
    "named index": lambda h: jax.vmap(
        lambda u: u * (1.0 + lax.axis_index("u")), 1, 1, axis_name="u"
    )(h),
    "gram": lambda h: h @ jnp.linalg.inv(h.T @ h + jnp.eye(6, dtype=h.dtype)),
    "triangle": lambda h: jnp.triu(h[:, :, None] * h[:, None]).sum(1),
    "diagonal": lambda h: jnp.diagonal(h[:, :, None] * h[:, None], axis1=1, axis2=2),
    "phase": lambda h: jnp.sin(h + 1.0) + jnp.cos(h),
    "cos": jnp.cos,
    "exponential": lambda h: jnp.exp(-jnp.abs(h)),
    "copysign": lambda h: jnp.copysign(jnp.ones_like(h), h),
    "equal": lambda h: h + (h == h[:, :1]),
    "any": lambda h: h * (h > 0).any(1, keepdims=True),
    "product": lambda h: h * jnp.prod(h, 1, keepdims=True),
}
# Shapes of the parameters of steps that have some; integers and booleans by example.
INT8 = np.random.default_rng(3).integers(-9, 9, (6, 6)).astype(np.int8)
LAYERS: dict[str, dict[str, Any]] = {
    "layer": {"w": (6, 6), "b": (6,)},
    "residual": {"w": (6, 6)},
    "bias": {"b": (6,)},
    "stacked": {"w": (2, 6, 6)},
    "fused": {"w": (6, 18)},
    "maxout": {"w": (6, 12)},
    "product of weights": {"w": (12, 6)},
    "scalar": {"s": ()},
    "gain": {"g": (6,)},
    "quantized": {"q": INT8, "s": (6,)},
    "masked": {"w": (6, 6), "m": INT8 > 0},
    "table": {"e": (6, 6)},
    "table of relus": {"e": (6, 6)},
    "ranked table": {"e": (6, 6), "r": (3,)},
    "soft splits": {"a": (6, 6), "b": (6, 6)},
    "heads": {"q": (6, 4), "k": (6, 4), "v": (6, 6)},
    "fused per head": {"w": (6, 18)},
    "gathered experts": {"r": (6, 3), "a": (3, 6, 4), "b": (3, 4, 6)},
    "summed experts": {"a": (3, 6, 4), "b": (3, 4, 6)},
    "recurrent": {"u": (6, 6)},
    "square": {"u": (6, 6)},
    "concatenated": {"a": (6, 3), "b": (6, 3)},
    "empty": {"n": (6, 0)},
    "complex layer": {"re": (6, 6), "im": (6, 6)},
    "frequencies": {"re": (3, 6, 6)},
}


def layer(name: str, p: dict[str, jax.Array], h: jax.Array) -> jax.Array:
    """Applies a step that has parameters."""
    if name == "layer":
        return h @ p["w"] + p["b"][None]
    if name == "residual":
        return h + relu(h @ p["w"])
    if name == "bias":
        return h + p["b"][None]
    if name == "stacked":
        return tanh(h @ p["w"][0]) + h @ p["w"][1]
    if name == "fused":
        t = 1.5 * (h @ p["w"]).reshape(5, 3, 6)
        return jax.nn.softmax(t[:, 0] @ t[:, 1].T) @ t[:, 2]
    if name == "maxout":
        return relu(h @ p["w"]).reshape(5, 6, 2).max(-1)
    if name == "product of weights":
        return h @ (p["w"][:6] * p["w"][6:])
    if name == "scalar":
        return relu(h) + p["s"][None, None]
    if name == "gain":
        return h * p["g"][None]
    if name == "quantized":
        return h @ (p["q"].astype(h.dtype) * p["s"][None])
    if name == "masked":
        return h @ (p["w"] * p["m"])
    if name == "table":
        return p["e"][jnp.argmax(h, 1)]
    if name == "table of relus":
        return p["e"][jnp.argmax(jnp.minimum(h, 0), 1)]
    if name == "ranked table":
        return jnp.einsum("tre,r->te", p["e"][lax.top_k(h, 3)[1]], p["r"])
    if name == "soft splits":
        return jax.nn.sigmoid(h) @ p["a"] + (1 - jax.nn.sigmoid(h)) @ p["b"]
    if name == "heads":
        q, k, v = ((h @ p[n]).reshape(5, 2, -1) for n in "qkv")
        return attention(q, k, v)
    if name == "fused per head":
        return attention(*jnp.unstack((h @ p["w"]).reshape(5, 2, 3, 3), axis=2))
    if name == "gathered experts":
        index = jnp.argmax(h @ p["r"], 1)
        hidden = relu(jnp.einsum("ti,tih->th", h, p["a"][index]))
        return jnp.einsum("th,tho->to", hidden, p["b"][index])
    if name == "summed experts":
        return lax.scan(
            lambda total, w: (total + relu(h @ w[0]) @ w[1], None), h, (p["a"], p["b"])
        )[0]
    if name == "recurrent":
        start = jnp.zeros((1, 6), h.dtype)

        def step(c, r):
            c = tanh(c @ p["u"] + r[None])
            return c, c[0]

        return lax.scan(step, start, h)[1]
    if name == "square":
        return h @ p["u"] @ p["u"]
    if name == "concatenated":
        return jnp.concatenate([relu(h @ p["a"]), h @ p["b"]], 1)
    if name == "empty":
        return h + (h @ p["n"]).sum(1, keepdims=True)
    if name == "complex layer":
        return jnp.abs(h @ lax.complex(p["re"], p["im"]))
    if name == "frequencies":
        spectrum = jnp.fft.rfft(h, axis=0)
        mixed = jnp.einsum("ki,kio->ko", spectrum, p["re"].astype(spectrum.dtype))
        return jnp.fft.irfft(mixed, n=5, axis=0)
    raise KeyError(name)


def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Returns ``[time, heads x width]``."""
    weights = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", q, k))
    return jnp.einsum("hqk,khd->qhd", weights, v).reshape(5, 6)


NAMES = (*STEPS, *LAYERS, *["layer"] * 12, *["bias"] * 4)


def parameters(names: Sequence[str]) -> dict[str, Any]:
    """Returns example parameters of a program."""
    params: dict[str, Any] = {"in": array(3, 6, seed=1), "out": array(6, 2, seed=2)}
    for i, name in enumerate(names):
        for k, leaf in LAYERS.get(name, {}).items():
            shaped = isinstance(leaf, tuple)
            params[f"{i}/{k}"] = (
                array(*leaf, seed=i + 3) if shaped else jnp.asarray(leaf)
            )
    return params


def _of_step(params: dict[str, Any], i: int, name: str) -> dict[str, Any]:
    return {k: params[f"{i}/{k}"] for k in LAYERS[name]}


def program(names: Sequence[str]) -> Callable[..., jax.Array]:
    """Returns ``apply_fn(params, x)`` of a list of steps."""

    def apply_fn(params: dict[str, Any], x: jax.Array) -> jax.Array:
        h = x @ params["in"]
        for i, name in enumerate(names):
            if name in LAYERS:
                h = layer(name, _of_step(params, i, name), h)
            else:
                h = STEPS[name](h)
        return h @ params["out"]

    return apply_fn


@functools.cache
def _compiled(name: str) -> Callable[..., Any]:
    """Returns a step over ``[elements, cases]``."""
    if name in LAYERS:
        step = functools.partial(layer, name)
    elif name in STEPS:
        step = STEPS[name]
    else:
        step = jnp.matmul
    return jax.jit(jax.vmap(jax.vmap(step)), compiler_options=fast_compile_options())


def run_compiled(names: Sequence[str]) -> Callable[..., Any]:
    """Returns a program over ``[elements, cases]`` parameters and ``[cases]`` inputs."""

    def run(params: dict[str, Any], x: jax.Array) -> jax.Array:
        count = len(params["in"])
        h = _compiled("in")(jnp.broadcast_to(x[None], (count, *x.shape)), params["in"])
        for i, name in enumerate(names):
            if name in LAYERS:
                h = _compiled(name)(_of_step(params, i, name), h)
            else:
                h = _compiled(name)(h)
        return _compiled("in")(h, params["out"])

    return run


def draw_programs(count: int, seed: int) -> Iterator[list[str]]:
    """Yields random lists of one to six steps."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        length = rng.integers(1, 7)
        yield [NAMES[i] for i in rng.integers(0, len(NAMES), length)]


def random_elements(
    symmetry: sym.Symmetry, count: int, seed: int
) -> Iterator[sym.Element]:
    """Yields elements no part of which is the identity, of factors exact in any type."""
    rng = np.random.default_rng(seed)
    plain = jax.tree.map(np.asarray, sym.identity(symmetry))
    for _ in range(count):
        permutations = []
        for group in symmetry.groups:
            rows = np.tile(np.arange(group.degree), (group.copies, 1))
            for row in rows:
                order = rng.permutation(group.degree)
                row[order] = np.roll(order, 1)
            permutations.append(rows)
        factors = []
        for group, one in zip(symmetry.scaling_groups, plain.factors, strict=True):
            if group.kind == "sign":
                values = rng.choice([-1.0, 1.0], one.shape)
            elif group.kind == "phase":
                values = rng.choice([-1.0, 0.0, 1.0, 2.0], one.shape)
            else:
                values = rng.choice([0.25, 1.0, 4.0], one.shape)
            factors.append(values)
        yield sym.Element(tuple(permutations), tuple(factors))


def find_fault(names: Sequence[str], seed: int = 0) -> tuple[int, str]:
    """Discovers a program's group and tries its elements.

    Args:
        names: The steps.
        seed: Seed of parameters, inputs and elements.

    Returns:
        The group's order, and a description of the fault or nothing.
    """
    params = parameters(names)
    try:
        symmetry = sym.discover(program(names), params, X, check=False)
    except Exception as error:  # noqa: BLE001
        return 0, f"{type(error).__name__}: {error}".splitlines()[0][:150]
    if symmetry.order == 1 and not symmetry.scaling_groups:
        return 1, ""
    with jax.enable_x64(True):
        cases = Cases(
            program(names),
            params,
            (X,),
            1,
            ordered=True,
            tolerance=1e-7,
            seed=seed,
            run=run_compiled(names),
        )
        actions = Actions(symmetry, params, compiled=False)
        elements = [*random_elements(symmetry, 3, seed)]
        changed = [
            actions.apply(e, actions.entries(e), cases.params[0]) for e in elements
        ]
        deviations = cases.deviations(changed, 0)
        if not deviations.any():
            return symmetry.order, ""
        message = find_false_element(symmetry, cases, params, exact=True)
    return (
        symmetry.order,
        message or f"elements change outputs by {deviations.max():.1e}",
    )
