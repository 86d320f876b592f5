"""Programs in double precision, and the sizes of what their integers look up."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.symmetry_networks import array
from jax import lax

from metanet.programs import DoublePrecision, lookup_sizes
from metanet.programs.precision import as_double

X = array(5, 3, seed=9)
IDS = jnp.array([0, 1, 2, 1, 3])

# Functions of numbers of any precision, and integers.
FUNCTIONS = {
    "conversions": lambda x, i: x.astype(jnp.bfloat16).astype(jnp.float32) * 2,
    "products in 16 bits": lambda x, i: lax.dot(
        x.astype(jnp.float16), x.T.astype(jnp.float16), precision="highest"
    ),
    "convolution": lambda x, i: lax.conv(
        x[None, None], x[None, None, :2, :2], (1, 1), "SAME"
    ),
    "scatter": lambda x, i: jnp.zeros((6, 3), x.dtype).at[i].add(x).at[i[0]].mul(2.5),
    "segments": lambda x, i: jax.ops.segment_max(x, i, 4),
    "scan": lambda x, i: lax.scan(lambda c, r: (jnp.sin(c) + r, c * r), x[0], x)[1],
    "while": lambda x, i: lax.while_loop(
        lambda c: c.sum() < 50, lambda c: c * 1.5 + 1, x
    ),
    "branches": lambda x, i: lax.switch(i[1], [jnp.sin, jnp.cos, jnp.exp], x),
    "custom derivative": lambda x, i: jax.grad(lambda x: jax.nn.gelu(x).sum())(x),
    "sort": lambda x, i: jnp.take_along_axis(x, jnp.argsort(x, 0), 0),
    "top k": lambda x, i: lax.top_k(x, 2)[0],
    "linear algebra": lambda x, i: jnp.linalg.svd(x, compute_uv=False),
    "Fourier transform": lambda x, i: jnp.abs(jnp.fft.rfft(x, axis=0)),
    "look-up": lambda x, i: x[i] + jax.nn.one_hot(i, 3),
}


def evaluated(function, *arguments):
    """Evaluates a function in double precision after tracing it in single precision."""
    closed = jax.make_jaxpr(function)(*arguments)
    interpreter = DoublePrecision()
    with jax.enable_x64(True):
        constants = [as_double(np.asarray(c)) for c in closed.consts]
        doubles = [as_double(np.asarray(a)) for a in arguments]
        run = jax.jit(lambda *a: interpreter.evaluate(closed.jaxpr, constants, a))
        return run(*doubles)[0], interpreter


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_are_those_of_numbers_of_64_bits(name):
    """Functions without casts are traced with 64-bit numbers for comparison."""
    function = FUNCTIONS[name]
    result, interpreter = evaluated(function, X, IDS)
    assert result.dtype == np.float64
    assert interpreter.unit == np.finfo(np.float64).eps
    with jax.enable_x64(True):
        x = np.asarray(X, np.float64)
        if name == "conversions":
            expected = 2 * x
        elif name == "products in 16 bits":
            expected = x @ x.T
        else:
            expected = function(jnp.asarray(x), IDS)
    # The derivative has constants of 32 bits.
    rtol = 1e-6 if name == "custom derivative" else 1e-12
    np.testing.assert_allclose(result, expected, rtol=rtol, atol=1e-14)


def test_what_is_tied_to_a_type_has_its_precision():
    """A function of the host that takes and returns numbers of 32 bits."""

    def function(x):
        shape = jax.ShapeDtypeStruct(x.shape, np.float32)
        return jax.pure_callback(lambda a: np.cbrt(a, dtype=np.float32), shape, x)

    result, interpreter = evaluated(function, X)
    assert result.dtype == np.float64
    assert interpreter.unit == np.finfo(np.float32).eps
    np.testing.assert_allclose(result, np.cbrt(X), rtol=1e-6)


def test_steps_round_what_has_few_bits():
    """With one bit of the mantissa: 1, 1.5, 2, 3, 4, ..."""

    def function(x):
        return x * 3, (x * 3).astype(jnp.bfloat16).astype(jnp.float32)

    closed = jax.make_jaxpr(function)(jnp.ones(4))
    with jax.enable_x64(True):
        interpreter = DoublePrecision(steps=True)
        x = np.array([0.34, 0.45, 0.9, 1.4])
        exact, stepped = interpreter.evaluate(closed.jaxpr, [], [x])
        np.testing.assert_allclose(exact, 3 * x)
        np.testing.assert_array_equal(stepped, [1.0, 1.5, 3.0, 4.0])
    assert interpreter.coarse and not interpreter.orders


TABLE = array(10, 3)
LOOKUPS = {
    "embedding": (lambda i: TABLE[i], 10),
    "clipped": (lambda i: jnp.take(TABLE, i, 0, mode="clip"), 10),
    "reshaped": (lambda i: TABLE[i.reshape(5, 1)], 10),
    "a smaller table as well": (lambda i: TABLE[i] + array(4, 3)[i], 4),
    "one-hot": (lambda i: jax.nn.one_hot(i, 7), 7),
    "in a loop": (lambda i: lax.map(lambda k: TABLE[k], i), 10),
    "in a branch": (
        lambda i: lax.cond(i.sum() > 2, lambda i: TABLE[i], lambda i: TABLE[i] * 2, i),
        10,
    ),
    "a slice": (lambda i: lax.dynamic_slice(TABLE, (i[0], 0), (3, 3)), 8),
    "messages": (lambda i: jax.ops.segment_sum(array(5, 2), i, 6), 6),
    "vectorised": (lambda i: jax.vmap(lambda k: TABLE[k])(i), 10),
    "numbers": (lambda i: jnp.sin(i * 0.1), None),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_sizes_of_lookups(name):
    function, size = LOOKUPS[name]
    assert lookup_sizes(jax.make_jaxpr(function)(IDS)) == [size]
