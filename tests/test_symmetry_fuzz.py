"""Random programs: their discovered symmetries hold numerically."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.symmetry_networks import array, relu, tanh
from hypothesis import given, settings
from hypothesis import strategies as st

from metanet import symmetry as sym

lax = jax.lax
X = array(5, 3, seed=9)
ORDER, REPEATED = np.array([3, 1, 4, 0, 2, 5]), np.array([0, 0, 1, 2, 3, 3])


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


COUNTED = jnp.arange(1.0, 7.0)[None]
STEPS = {
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
}
# Steps that have parameters.
LAYERS = {
    "layer": {"w": (6, 6), "b": (6,)},
    "residual": {"w": (6, 6)},
    "bias": {"b": (6,)},
    "stacked": {"w": (2, 6, 6)},
    "fused": {"w": (6, 18)},
    "maxout": {"w": (6, 12)},
    "product": {"w": (12, 6)},
}


def layer(name, p, h):
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
    return h @ (p["w"][:6] * p["w"][6:])


def check(names) -> int:
    """Discovers a program's group, which verifies itself, and returns its order."""
    params = {"in": array(3, 6, seed=1), "out": array(6, 2, seed=2)}
    for i, name in enumerate(names):
        for k, shape in LAYERS.get(name, {}).items():
            params[f"{i}/{k}"] = array(*shape, seed=i + 3)

    def apply_fn(p, x):
        h = x @ p["in"]
        for i, name in enumerate(names):
            if name in LAYERS:
                params_of_layer = {k: p[f"{i}/{k}"] for k in LAYERS[name]}
                h = layer(name, params_of_layer, h)
            else:
                h = STEPS[name](h)
        return h @ p["out"]

    outputs = np.asarray(apply_fn(params, X))
    if np.isfinite(outputs).all() and np.abs(outputs).max() < 1e6:
        return sym.discover(apply_fn, params, X).order
    return 1


PROGRAMS = st.lists(
    st.sampled_from([*STEPS, *LAYERS, *["layer"] * 6]), min_size=1, max_size=5
)


def test_random_programs_are_sound():
    orders: list[int] = []

    @given(PROGRAMS)
    @settings(max_examples=40, deadline=None, derandomize=True)
    def run(names):
        orders.append(check(names))

    run()
    # A discovery that finds nothing is sound as well.
    assert len(orders) >= 40
    assert sum(order > 1 for order in orders) >= len(orders) // 2


@pytest.mark.slow
@given(PROGRAMS)
@settings(max_examples=1000, deadline=None)
def test_many_random_programs_are_sound(names):
    check(names)


# Programs for which an earlier rule yielded a false symmetry, and similar ones.
@pytest.mark.parametrize(
    "names",
    [
        ["sin", "halves", "roll rows", "messages", "greatest"],
        ["messages", "layer", "routed"],
        ["relu", "argsort", "layer", "looked up"],
        ["three pieces", "stacked", "interleaved"],
    ],
    ids=" ".join,
)
def test_earlier_counterexamples_are_sound(names):
    check(names)
