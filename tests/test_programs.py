"""Sliding windows of a program, however it is written."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax import lax

from metanet.programs import sliding_windows

IMAGE = jnp.zeros((2, 9, 9, 3))
KEY = jax.random.key(0)
KERNEL = jnp.zeros((3, 3, 3, 4))
LAST = ("NHWC", "HWIO", "NHWC")
TWO = "a convolution over 3 x 3, stride 2, padding 0+1"


def conv(x, kernel, padding, layout=LAST, **options):
    return lax.conv_general_dilated(
        x, kernel, (2, 2), padding, dimension_numbers=layout, **options
    )


def padded_before(kernel, x):
    return conv(jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))), kernel, "VALID")


def channels_first(kernel, x):
    x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))).transpose(0, 3, 1, 2)
    kernel = kernel.transpose(3, 2, 0, 1)
    return conv(x, kernel, "VALID", ("NCHW", "OIHW", "NCHW"))


def half_by_each(kernel, x):
    """Pads in one function by a computed filler, convolves in another."""
    filler = jnp.zeros((1,)).reshape(())
    x = jax.jit(lambda x: lax.pad(x, filler, [(0, 0, 0), *[(0, 1, 0)] * 2, (0, 0, 0)]))(
        x
    )
    return jax.jit(lambda k, x: conv(x, k, ((0, 0), (0, 0))))(kernel, x)


def scanned(kernel, x):
    def step(state, _):
        return state, conv(x, kernel, ((0, 1), (0, 1)))

    return lax.scan(step, 0.0, length=2)


def branches(kernel, x):
    def slide(x):
        return conv(x, kernel, ((0, 1), (0, 1)))

    return lax.cond(x[0, 0, 0, 0] > 0, slide, lambda x: slide(2 * x), x)


@pytest.mark.parametrize(
    "program", [padded_before, channels_first, half_by_each, scanned, branches]
)
def test_the_same_windows_however_written(program):
    direct = sliding_windows(lambda k, x: conv(x, k, ((0, 1), (0, 1))), KERNEL, IMAGE)
    assert direct == ((TWO,), "9 x 9")
    assert sliding_windows(program, KERNEL, IMAGE) == direct


@pytest.mark.parametrize(
    ("program", "kinds"),
    [
        # Padding by copies of the edge is none of the convolution.
        (
            lambda k, x: conv(
                jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge"), k, "VALID"
            ),
            ["a convolution over 3 x 3, stride 2, padding 0"],
        ),
        (
            lambda k, x: conv(x, k, ((2, 2), (0, 1)), rhs_dilation=(2, 1)),
            ["a convolution over 3 x 3, stride 2, padding 2 x 0+1, dilated 2 x 1"],
        ),
        (
            lambda k, x: nnx.max_pool(x * k.sum(), (2, 2), (2, 2), padding="SAME"),
            ["a maximum over 2 x 2, stride 2, padding 0+1"],
        ),
        (
            lambda k, x: nnx.avg_pool(x * k.sum(), (3, 1), (1, 1)),
            ["a sum over 3, stride 1, padding 0"],
        ),
        # Over constants (how many values a mean has), over all places, and patches.
        (
            lambda k, x: (
                k.sum() * x / nnx.avg_pool(jnp.ones_like(x), (2, 2), (1, 1), "SAME")
            ),
            [],
        ),
        (lambda k, x: nnx.avg_pool(x * k.sum(), (9, 9)), []),
        (
            lambda k, x: lax.conv_general_dilated(
                x, k, (3, 3), "SAME", dimension_numbers=LAST
            ),
            [],
        ),
        (lambda k, x: k.sum() * x + jax.random.normal(KEY, x.shape), []),
        (lambda k, x: x.reshape(2, -1) @ jnp.ones((243, 1)) * k.sum(), []),
    ],
)
def test_kinds(program, kinds):
    windows = sliding_windows(program, KERNEL, IMAGE)
    assert list(windows.kinds) == kinds
    assert bool(windows.extent) == bool(kinds)
