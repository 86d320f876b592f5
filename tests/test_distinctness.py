"""Positions of greatest entries move with the units only where no two entries are equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.symmetry_networks import array, relu

from metanet import symmetry as sym

X = array(5, 3, seed=9)


def layer_norm(h):
    centred = h - h.mean(1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(1, keepdims=True) + 1e-5)


def low_precision(p, x):
    return (x.astype(jnp.bfloat16) @ p["w"].astype(jnp.bfloat16)).astype(jnp.float32)


FORBIDDEN = np.array([0, -np.inf, -np.inf, 0], np.float32)

# Scores of four rows of a table of which the greatest is looked up; some may be equal.
EQUAL_SCORES = {
    "rectified": lambda p, x: relu(x @ p["w"]),
    "rectified, plus a number per example": lambda p, x: relu(x @ p["w"]) + x[:, :1],
    "rectified, plus a scalar": lambda p, x: relu(x @ p["w"]) + p["s"],
    "rounded to 16 bits": lambda p, x: (x @ p["w"]).astype(jnp.bfloat16),
    "computed in 16 bits": low_precision,
    "integers": lambda p, x: (x @ p["w"]).astype(jnp.int32),
    "fewer bits": lambda p, x: jax.lax.reduce_precision(x @ p["w"], 8, 2),
    "the same for all": lambda p, x: jnp.broadcast_to(
        (x @ p["w"]).sum(1)[:, None], (5, 4)
    ),
    "nothing": lambda p, x: (h := x @ p["w"]) - jax.lax.stop_gradient(h),
    "signs by a quotient": lambda p, x: (h := x @ p["w"]) / jnp.abs(h),
    "ones": lambda p, x: jax.lax.integer_pow(x @ p["w"], 0),
    "rounded": lambda p, x: jnp.round(x @ p["w"]),
    "signs": lambda p, x: jnp.sign(x @ p["w"]),
    "less the mean of an axis of size 1": lambda p, x: (
        (h := (x @ p["w"])[:, None]) - h.mean(1, keepdims=True)
    )[:, 0],
    "each twice": lambda p, x: jnp.repeat((x @ p["w"])[:, :2], 2, 1),
    "opposite squares": lambda p, x: (
        jnp.concatenate([h := (x @ p["w"])[:, :2], -h], 1) ** 2
    ),
    "entries of a Gram matrix": lambda p, x: (
        (h := (x @ p["w"])[:, :2])[:, :, None] * h[:, None]
    ).reshape(5, 4),
    "masked by minus infinity": lambda p, x: x @ p["w"] + FORBIDDEN[None],
    "masked by a large number": lambda p, x: x @ p["w"] - 1e9 * (FORBIDDEN[None] < 0),
    "infinite": lambda p, x: (x @ p["w"]) * jnp.inf,
    "divided by infinity": lambda p, x: (x @ p["w"]) / jnp.inf,
    "masked": lambda p, x: jnp.where(x[:, :1] > 0, x @ p["w"], -1.0),
    "products with zeros": lambda p, x: relu(x @ p["v"]) @ p["w"],
    "sums of centred rows": lambda p, x: (
        jnp.ones((5, 5)) @ ((h := x @ p["w"]) - h.mean(0, keepdims=True))
    ),
    "an index of the same": lambda p, x: (
        jnp.argmax(x @ p["w"], 1)[:, None].astype(jnp.float32) * jnp.ones((1, 4))
    ),
    "state of a loop": lambda p, x: jax.lax.fori_loop(
        0, 2, lambda i, h: relu(h), x @ p["w"]
    ),
}
DIFFERENT_SCORES = {
    "linear": lambda p, x: x @ p["w"],
    "softmax": lambda p, x: jax.nn.softmax(x @ p["w"]),
    "sigmoid and a correction": lambda p, x: jax.nn.sigmoid(x @ p["w"]) + p["b"][None],
    "after a rectifier with an offset": lambda p, x: relu(x @ p["w"]) + p["b"][None],
    "of a rectified layer with a bias": lambda p, x: (
        relu(x @ p["v"]) @ p["w"] + p["b"][None]
    ),
    "of a smooth layer": lambda p, x: jax.nn.silu(x @ p["v"]) @ p["w"],
    "of a norm": lambda p, x: layer_norm(x @ p["v"]) @ p["w"],
    "of a norm with gains": lambda p, x: (
        (layer_norm(x @ p["v"]) * p["g"][None]) @ p["w"]
    ),
    "of a residual stream": lambda p, x: (x + relu(x @ p["v"]) @ p["u"]) @ p["w"],
    "negative distances to a code": lambda p, x: (
        -((relu(x @ p["v"])[:, None] - p["w"].T[None]) ** 2).sum(-1)
    ),
    "sums of two scores": lambda p, x: (
        (x @ p["w"][:, :2])[:, :, None] + (x @ p["v"][:, :2])[:, None]
    ).reshape(5, 4),
    "per example scale": lambda p, x: (x @ p["w"]) * jnp.exp(x[:, :1]),
    "in 32 bits of a table in 16": lambda p, x: (
        x.astype(jnp.bfloat16).astype(jnp.float32) @ p["w"]
    ),
}
SHAPES = {
    "w": (3, 4),
    "v": (3, 3),
    "u": (3, 3),
    "g": (3,),
    "b": (4,),
    "s": (),
    "e": (4, 2),
}


def looked_up(scores, pick):
    """Returns a network that looks up rows of a table by scores."""

    def apply_fn(p, x):
        return pick(p["e"], scores(p, x))

    params = {
        name: array(*shape, seed=i) for i, (name, shape) in enumerate(SHAPES.items())
    }
    return apply_fn, params


PICKS = {
    "argmax": lambda e, scores: e[jnp.argmax(scores, 1)],
    "one-hot": lambda e, scores: jax.nn.one_hot(jnp.argmax(scores, 1), 4) @ e,
    "top k": lambda e, scores: e[jax.lax.top_k(scores, 2)[1]].sum(1),
    "sort": lambda e, scores: e[jnp.argsort(scores, 1)[:, 0]],
}


def moves_table(symmetry) -> bool:
    """Returns True if some element permutes the rows of the table."""
    return any("e[0]" in symmetry.axes_of(g.indices) for g in symmetry.groups)


@pytest.mark.parametrize("name", EQUAL_SCORES)
@pytest.mark.parametrize("pick", PICKS)
def test_rows_with_equal_scores_are_not_permuted(name, pick):
    apply_fn, params = looked_up(EQUAL_SCORES[name], PICKS[pick])
    assert not moves_table(sym.discover(apply_fn, params, X, check=False))


@pytest.mark.parametrize("name", DIFFERENT_SCORES)
@pytest.mark.parametrize("pick", PICKS)
def test_rows_with_different_scores_are_permuted(name, pick):
    apply_fn, params = looked_up(DIFFERENT_SCORES[name], PICKS[pick])
    assert moves_table(sym.discover(apply_fn, params, X, check=pick == "argmax"))


def test_sorted_values_do_not_depend_on_the_order_of_equal_ones():
    def apply_fn(p, x):
        h = relu(x @ p["w"])
        return jnp.sort(h, 1) @ p["e"] + jax.lax.top_k(h, 4)[0] @ p["e"]

    params = {"w": array(3, 4), "e": array(4, 2)}
    symmetry = sym.discover(apply_fn, params, X)
    assert symmetry.order == 24


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.bool_])
def test_integers_are_neither_scaled_nor_negated(dtype):
    def apply_fn(p, x):
        return (
            jnp.tanh(x @ p["w"]) @ (p["q"].astype(jnp.float32) * p["s"][None]) @ p["o"]
        )

    params = {
        "w": array(3, 4),
        "q": jnp.asarray(np.arange(24).reshape(4, 6) % 3, dtype),
        "s": array(6),
        "o": array(6, 2),
    }
    symmetry = sym.discover(apply_fn, params, X)
    leaves = [leaf.path for leaf in symmetry.leaves]
    scaled = {
        (leaves[e.leaf], e.position.axis)
        for group in symmetry.scaling_groups
        for e in group.exponents
    }
    # On paper: the scales of the six columns, inverse to rows of o; no sign of a tanh.
    assert scaled == {("s", 0), ("o", 0)}
    assert symmetry.order == 24 * 720
