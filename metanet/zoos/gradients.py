"""Gradients of the fitting error for many INRs at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metanet.networks import (
    Architecture,
    Params,
    abstract_network,
    build_module,
    functionalize,
    sine,
    sine_cosine_pi,
)

ApplyFn = Callable[[Params, jax.Array], jax.Array]
GradientFn = Callable[[Params, jax.Array], Params]


def inr_apply(architecture: Architecture) -> ApplyFn:
    """Returns the INR as a function of its parameters, with the fastest sine."""
    if architecture.name != "siren":
        return abstract_network(architecture).apply_fn
    return functionalize(build_module(architecture, nnx.Rngs(0), sine=sine)).apply_fn


def error_gradient(architecture: Architecture, grid: np.ndarray) -> GradientFn:
    """Builds ``gradient(params, targets)`` of the mean squared error over all pixels.

    Parameters and result have a leading axis of networks; targets are
    ``[networks, pixels, channels]``.

    Args:
        architecture: The INR.
        grid: Coordinates ``[pixels, in_dim]``.
    """
    if architecture.name == "siren":
        return partial(
            _siren_gradient,
            grid=np.ascontiguousarray(grid.T),
            w0=architecture.option("w0"),
            offset=0.5 if architecture.option("convention") == "dws" else 0.0,
        )
    apply_fn = inr_apply(architecture)

    def error(params: Params, targets: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(apply_fn(params, jnp.asarray(grid)) - targets))

    return jax.vmap(jax.grad(error))


def _siren_gradient(
    params: Params, targets: jax.Array, *, grid: np.ndarray, w0: float, offset: float
) -> Params:
    """Differentiates SIRENs by hand, three times as fast as vmap of grad on CPU.

    It computes sine and cosine by one range reduction, measures angles in half turns (the
    factor is folded into the small weights), and uses the layout ``[networks, units,
    pixels]``, in which rows are long and first-layer products need no packing.
    """
    layers = [params["layers"][i] for i in range(len(params["layers"]))]
    pixels = jnp.asarray(grid)
    values = [jnp.broadcast_to(pixels, (len(targets), *pixels.shape))]
    cosines = []
    for i, layer in enumerate(layers[:-1]):
        kernel, bias = (w0 / np.pi) * layer["kernel"], (w0 / np.pi) * layer["bias"]
        product = (
            _outer(kernel, pixels[None]) if i == 0 else _forward(kernel, values[i])
        )
        s, c = sine_cosine_pi(product + bias[:, :, None])
        values.append(s)
        cosines.append(c)
    kernel, bias = layers[-1]["kernel"], layers[-1]["bias"]
    output = _forward(kernel, values[-1]) + bias[:, :, None] + offset
    d = (output - jnp.swapaxes(targets, 1, 2)) * (2 / targets[0].size)
    grads = {}
    for i in reversed(range(len(layers))):
        grads[i] = {
            "bias": jnp.sum(d, axis=2),
            "kernel": jnp.einsum("bip,bop->bio", values[i], d),
        }
        if i > 0:
            kernel = jnp.swapaxes(w0 * layers[i]["kernel"], 1, 2)
            is_last = i == len(layers) - 1
            d = (_outer if is_last else _forward)(kernel, d) * cosines[i - 1]
    return {"layers": grads}


def _forward(kernel: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.einsum("bio,bip->bop", kernel, x)


def _outer(kernel: jax.Array, x: jax.Array) -> jax.Array:
    """Computes `_forward` for few inputs by sums, which fuse with later operations."""
    terms = [kernel[:, i, :, None] * x[:, i, None, :] for i in range(kernel.shape[1])]
    return sum(terms[1:], terms[0])
