"""Small networks on which the parameter graph is tested, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metanet.networks import Network

Params = dict[str, Any]
NHWC = ("NHWC", "HWIO", "NHWC")


def array(*shape: int, seed: int = 0) -> jax.Array:
    """Random numbers, no two of them equal."""
    rng = np.random.default_rng((seed, *shape))
    return jnp.asarray(rng.normal(size=shape), jnp.float32) * 0.5


def dense(a: int, b: int, seed: int) -> Params:
    return {"kernel": array(a, b, seed=seed), "bias": array(b, seed=seed + 100)}


def conv(*shape: int, seed: int) -> Params:
    return {"kernel": array(*shape, seed=seed), "bias": array(shape[-1], seed=seed)}


def linear(p: Params, x: jax.Array) -> jax.Array:
    y = x @ p["kernel"]
    return y + p["bias"].reshape((1,) * (y.ndim - 1) + (-1,))


def convolve(p: Params, x: jax.Array, stride: int = 1, groups: int = 1) -> jax.Array:
    y = jax.lax.conv_general_dilated(
        x,
        p["kernel"],
        (stride, stride),
        "SAME",
        dimension_numbers=NHWC,
        feature_group_count=groups,
    )
    return y + p["bias"].reshape(1, 1, 1, -1)


def norm(p: Params, x: jax.Array) -> jax.Array:
    mean, var, scale, bias = (
        p[name].reshape(1, 1, 1, -1) for name in ("mean", "var", "scale", "bias")
    )
    return (x - mean) * jax.lax.rsqrt(var + 1e-5) * scale + bias


def statistics(n: int, seed: int) -> Params:
    return {
        "scale": array(n, seed=seed),
        "bias": array(n, seed=seed + 1),
        "mean": array(n, seed=seed + 2),
        "var": jnp.abs(array(n, seed=seed + 3)) + 0.5,
    }


def mlp(activation: Callable[[jax.Array], jax.Array]) -> Network:
    def apply_fn(p, x):
        for i in range(2):
            x = activation(linear(p["layers"][i], x))
        return linear(p["layers"][2], x)

    widths = ((3, 4), (4, 5), (5, 2))
    layers = {i: dense(*w, seed=i) for i, w in enumerate(widths)}
    return Network(apply_fn, {"layers": layers}, (array(6, 3, seed=9),))


def siren() -> Network:
    return mlp(lambda x: jnp.sin(30.0 * x))


def wide_siren() -> Network:
    def apply_fn(p, x):
        for i in range(2):
            x = jnp.sin(30.0 * linear(p["layers"][i], x))
        return linear(p["layers"][2], x)

    widths = ((2, 32), (32, 32), (32, 1))
    layers = {i: dense(*w, seed=i) for i, w in enumerate(widths)}
    return Network(apply_fn, {"layers": layers}, (array(4, 2, seed=9),))


def cnn_flatten() -> Network:
    def apply_fn(p, x):
        x = jax.nn.relu(convolve(p["c0"], x, stride=2))
        x = jax.nn.relu(convolve(p["c1"], x))
        x = jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
        )
        return linear(p["d"], x.reshape(x.shape[0], -1))

    params = {
        "c0": conv(3, 3, 2, 3, seed=1),
        "c1": conv(3, 2, 3, 4, seed=2),
        "d": dense(16, 2, seed=3),
    }
    return Network(apply_fn, params, (array(2, 8, 8, 2, seed=9),))


def cnn_pool() -> Network:
    def apply_fn(p, x):
        x = jax.nn.relu(norm(p["n0"], convolve(p["c0"], x)))
        x = jax.nn.relu(convolve(p["c1"], x))
        return linear(p["d"], x.mean((1, 2)))

    params = {
        "c0": conv(3, 3, 1, 4, seed=1),
        "n0": statistics(4, seed=5),
        "c1": conv(3, 3, 4, 3, seed=2),
        "d": dense(3, 2, seed=3),
    }
    return Network(apply_fn, params, (array(2, 5, 5, 1, seed=9),))


def resnet() -> Network:
    def apply_fn(p, x):
        x = jax.nn.relu(norm(p["n0"], convolve(p["c0"], x)))
        h = jax.nn.relu(norm(p["n1"], convolve(p["c1"], x)))
        x = jax.nn.relu(x + norm(p["n2"], convolve(p["c2"], h)))
        return linear(p["d"], x.mean((1, 2)))

    params: Params = {f"n{i}": statistics(4, seed=5 * i) for i in range(3)}
    params |= {"c0": conv(3, 3, 2, 4, seed=1), "d": dense(4, 2, seed=3)}
    params |= {f"c{i}": conv(3, 3, 4, 4, seed=i) for i in (1, 2)}
    return Network(apply_fn, params, (array(2, 4, 4, 2, seed=9),))


def residual_mlp() -> Network:
    def apply_fn(p, x):
        x = linear(p["in"], x)
        x = x + linear(p["b"], jnp.tanh(linear(p["a"], x)))
        return linear(p["out"], jnp.tanh(x))

    params = {
        "in": dense(3, 4, seed=1),
        "a": dense(4, 3, seed=2),
        "b": dense(3, 4, seed=3),
        "out": dense(4, 2, seed=4),
    }
    return Network(apply_fn, params, (array(6, 3, seed=9),))


def grouped() -> Network:
    def apply_fn(p, x):
        x = jax.nn.relu(convolve(p["a"], x))
        x = jax.nn.relu(convolve(p["b"], x, groups=2))
        return linear(p["d"], x.mean((1, 2)))

    params = {
        "a": conv(1, 1, 2, 4, seed=1),
        "b": conv(3, 3, 2, 6, seed=2),
        "d": dense(6, 2, seed=3),
    }
    return Network(apply_fn, params, (array(2, 4, 4, 2, seed=9),))


def tied() -> Network:
    def apply_fn(p, x):
        h = jnp.tanh(x @ p["in"])
        return jnp.tanh(jnp.tanh(h @ p["w"]) @ p["w"]) @ p["out"]

    params = {
        "in": array(3, 4, seed=1),
        "w": array(4, 4, seed=2),
        "out": array(4, 2, seed=3),
    }
    return Network(apply_fn, params, (array(6, 3, seed=9),))


def low_rank() -> Network:
    def apply_fn(p, x):
        return jax.nn.relu(x @ (p["w"] + p["a"] @ p["b"])) @ p["out"]

    params = {
        "w": array(3, 4, seed=1),
        "a": array(3, 2, seed=2),
        "b": array(2, 4, seed=3),
        "out": array(4, 2, seed=4),
    }
    return Network(apply_fn, params, (array(6, 3, seed=9),))


def generated() -> Network:
    """A weight that is a mixture: a parameter with an index of neither end."""

    def apply_fn(p, x):
        w = jnp.tensordot(p["z"], p["bank"], 1)
        return jax.nn.relu(x @ w) @ p["out"]

    params = {
        "z": array(3, seed=1),
        "bank": array(3, 2, 4, seed=2),
        "out": array(4, 2, seed=4),
    }
    return Network(apply_fn, params, (array(6, 2, seed=9),))


def split_kernel() -> Network:
    """One array holds two layers' weights side by side: several tiles of a leaf."""

    def apply_fn(p, x):
        a, b = jnp.split(x @ p["fused"], 2, axis=-1)
        return jnp.tanh(a) @ p["u"] + jnp.tanh(b) @ p["v"]

    params = {
        "fused": array(3, 8, seed=1),
        "u": array(4, 2, seed=2),
        "v": array(4, 2, seed=3),
    }
    return Network(apply_fn, params, (array(6, 3, seed=9),))


def dead() -> Network:
    """Parameters that nothing reads, a scalar, and integers among the floats."""

    def apply_fn(p, x):
        return p["gain"] * (jnp.tanh(x @ p["in"]) @ p["out"])

    params = {
        "in": array(3, 4, seed=1),
        "out": array(4, 2, seed=2),
        "gain": jnp.float32(1.5),
        "never": array(2, 3, 4, seed=3),
        "steps": jnp.int32(7),
    }
    return Network(apply_fn, params, (array(6, 3, seed=9),))


NETWORKS: dict[str, Callable[[], Network]] = {
    "mlp": lambda: mlp(jax.nn.relu),
    "tanh": lambda: mlp(jnp.tanh),
    "siren": siren,
    "cnn_flatten": cnn_flatten,
    "cnn_pool": cnn_pool,
    "resnet": resnet,
    "residual_mlp": residual_mlp,
    "grouped": grouped,
    "tied": tied,
    "low_rank": low_rank,
    "generated": generated,
    "split_kernel": split_kernel,
    "dead": dead,
}
