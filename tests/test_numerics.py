"""Optimised sums, norms and quantiles equal plain ones, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from metanet.graphs import broadcast, extreme, total
from metanet.graphs.layouts.edge_products import (
    edge_inner_products,
    edge_message_sum,
)
from metanet.models.baselines import _quantiles
from metanet.models.layers import NormLinears, affine, norm_products, rms_norm


def _norm(x):
    return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)


def _plain_products(x, *weights):
    return [_norm(x) @ w for w in weights]


CASES = {
    "total": (lambda x: total(x * x, (0, 2)), lambda x: (x * x).sum((0, 2))),
    "broadcast": (
        lambda x: x * broadcast(x[:, :1] * x[..., :1, :1], x.shape),
        lambda x: x * (x[:, :1] * x[..., :1, :1]),
    ),
    "extreme": (lambda x: extreme(x, (1,), "max"), lambda x: x.max(1)),
    "rms_norm": (rms_norm, _norm),
    "one output": (
        lambda x: affine(x, jnp.arange(4.0)[:, None]),
        lambda x: x @ jnp.arange(4.0)[:, None],
    ),
    "quantiles": (
        lambda x: _quantiles(x.reshape(2, -1)),
        lambda x: jnp.quantile(x.reshape(2, -1), jnp.linspace(0, 1, 5), axis=-1).T,
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [1, 6])
def test_values_and_gradients(case, size):
    ours, plain = map(jax.jit, CASES[case])
    x = jax.random.normal(jax.random.key(size), (2, size, 4))
    np.testing.assert_allclose(ours(x), plain(x), rtol=2e-5, atol=2e-5)
    weight = jax.random.normal(jax.random.key(0), plain(x).shape)
    gradients = [
        jax.jit(jax.grad(lambda x, f=f: (f(x) * weight).sum()))(x)
        for f in (ours, plain)
    ]
    np.testing.assert_allclose(*gradients, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("shape", [(3,), (700,), (2, 3)])
def test_products_of_normed_rows(shape):
    x = jax.random.normal(jax.random.key(0), (*shape, 6))
    weights = [jax.random.normal(jax.random.key(i), (6, i)) for i in (1, 5)]
    wanted = [
        jax.random.normal(jax.random.key(9), (*shape, w.shape[1])) for w in weights
    ]

    def loss(f, x, *weights):
        return sum((a * b).sum() for a, b in zip(f(x, *weights), wanted, strict=True))

    def ours(x, *weights):
        return norm_products(x, weights)

    got, expected = (
        jax.jit(jax.grad(lambda *a, f=f: loss(f, *a), (0, 1, 2)))(x, *weights)
        for f in (ours, _plain_products)
    )
    for name, a, b in zip(("rows", "first", "second"), got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4, err_msg=name)
    layer = NormLinears(6, [2, 3], rngs=nnx.Rngs(0))
    joined = jnp.concatenate(layer(x), -1)
    np.testing.assert_allclose(joined, _norm(x) @ layer.kernel[...], atol=1e-5)


@pytest.mark.parametrize("heads", [1, 2, 6])
def test_products_along_edges(heads):
    """Carrying and matching are sums over edges; padding (node 5) takes no part."""
    start, end = jnp.array([0, 4, 2, 2, 5, 1]), jnp.array([3, 0, 0, 4, 5, 5])
    incidence = [jax.nn.one_hot(i, 5) for i in (start, end)]
    keys = jax.random.split(jax.random.key(heads), 5)
    x, y, g = (jax.random.normal(k, (5, 6)) for k in keys[:3])
    e, f = (jax.random.normal(k, (6, heads)) for k in keys[3:])

    def per_edge(x, incidence):
        return (incidence @ x).reshape(6, heads, -1)

    def ours(x, y, e):
        return jnp.vdot(g, edge_message_sum(e, x, start, end)), jnp.vdot(
            f, edge_inner_products(x, y, start, end, heads)
        )

    def plain(x, y, e):
        sent, received = per_edge(x, incidence[0]), per_edge(y, incidence[1])
        message_sums = incidence[1].T @ (e[..., None] * sent).reshape(6, -1)
        return jnp.vdot(g, message_sums), jnp.vdot(f, (sent * received).sum(-1))

    for got, wanted in zip(
        jax.jit(jax.jacrev(ours, (0, 1, 2)))(x, y, e),
        jax.jacrev(plain, (0, 1, 2))(x, y, e),
        strict=True,
    ):
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(ours(x, y, e), plain(x, y, e), rtol=1e-5)


def test_sums_propagate_nan_and_infinity():
    x = jnp.asarray([[1.0, np.nan], [np.inf, 2.0], [1e38, 1e38]])
    result = np.asarray(total(x, 1))
    assert np.isnan(result[0]) and np.isinf(result[1]) and np.isfinite(result[2])
