"""Layers that networks share: activations, dropout, convolution, normalisation.

A zoo trains many networks of one architecture with different settings in one compiled
program. Inside `train_mode`, these layers read dropout rate and activation from arrays,
and convolutions are products of patches: on CPU XLA's own are several times slower,
their gradients most of all. Outside, every layer computes what its name says.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from metanet.compiler import on_cpu
from metanet.errors import MetanetError, suggest
from metanet.registry import Registry

Activation = Callable[[jax.Array], jax.Array]
ACTIVATIONS: Registry[Activation] = Registry("activation")
ACTIVATIONS.register("relu")(jax.nn.relu)
ACTIVATIONS.register("gelu")(jax.nn.gelu)
ACTIVATIONS.register("silu")(jax.nn.silu)
ACTIVATIONS.register("tanh")(jnp.tanh)
ACTIVATIONS.register("sigmoid")(jax.nn.sigmoid)
ACTIVATIONS.register("leaky_relu")(jax.nn.leaky_relu)

NORMS = ("none", "batch", "layer")


class TrainMode(NamedTuple):
    """Training-time behaviour of the layers in this module.

    Attributes:
        activation: Index into ``activations``, scalar.
        activations: Names; the architecture's own activation is ignored.
        key: Random key of the dropout masks; None for no dropout.
        dropout: Rate, scalar.
    """

    activation: jax.Array | int
    activations: tuple[str, ...]
    key: jax.Array | None = None
    dropout: jax.Array | float = 0.0


class _Active(NamedTuple):
    mode: TrainMode
    dropout_calls: Iterator[int]


_ACTIVE: ContextVar[_Active | None] = ContextVar("train_mode", default=None)


@contextmanager
def train_mode(mode: TrainMode) -> Iterator[None]:
    """Applies a train mode to networks that are called (traced) inside."""
    token = _ACTIVE.set(_Active(mode, itertools.count()))
    try:
        yield
    finally:
        _ACTIVE.reset(token)


@functools.cache
def activation(name: str) -> Activation:
    """Returns an activation by name; a train mode replaces it.

    Raises:
        MetanetError: for an unknown name.
    """
    function = ACTIVATIONS[name]

    def apply(x: jax.Array) -> jax.Array:
        active = _ACTIVE.get()
        if active is None:
            return function(x)
        choices = [ACTIVATIONS[n] for n in active.mode.activations]
        if len(choices) == 1:
            return choices[0](x)
        return lax.switch(active.mode.activation, choices, x)

    return apply


def channel_dropout(x: jax.Array) -> jax.Array:
    """Zeroes whole channels (last axis) of each image at the rate of the train mode.

    One mask per image and channel (spatial dropout, Tompson et al. 2015), which costs
    one random number per channel. The identity outside `train_mode`.
    """
    active = _ACTIVE.get()
    if active is None or active.mode.key is None:
        return x
    key = jax.random.fold_in(active.mode.key, next(active.dropout_calls))
    shape = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
    keep = 1.0 - active.mode.dropout
    return x * (jax.random.bernoulli(key, keep, shape) / keep)


def normalization(name: str, width: int, rngs: nnx.Rngs) -> Callable[..., jax.Array]:
    """Returns a normalisation layer by name; "none" is the identity.

    Raises:
        MetanetError: for a name that is not in `NORMS`.
    """
    if name == "none":
        return _identity
    if name == "layer":
        return nnx.LayerNorm(width, rngs=rngs)
    if name == "batch":
        # Running averages over some ten batches: zoos train for few steps.
        return nnx.BatchNorm(width, use_running_average=True, momentum=0.9, rngs=rngs)
    raise MetanetError(f"norm: no {name!r}.{suggest(name, NORMS)}")


def _identity(x: jax.Array) -> jax.Array:
    return x


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    feature_group_count: int = 1,
    **options: Any,
) -> jax.Array:
    """Convolves as `jax.lax.conv_general_dilated` does (channels last).

    `flax.nnx.Conv` takes it as ``conv_general_dilated``. Inside `train_mode` on CPU it is
    a product of patches.

    Args:
        x: ``[batch, *spatial, inputs]``.
        kernel: ``[*window, inputs, outputs]``.
        strides: Per spatial axis.
        padding: "SAME", "VALID", or pairs.
        feature_group_count: Number of groups.
        **options: Passed on to `jax.lax.conv_general_dilated`.
    """
    dilated = any(
        np.any(np.asarray(options.get(name) or 1) != 1)
        for name in ("lhs_dilation", "rhs_dilation")
    )
    plain = feature_group_count == 1 and not dilated
    if _ACTIVE.get() is None or not plain or not on_cpu():
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            feature_group_count=feature_group_count,
            **options,
        )
    window, inputs = kernel.shape[:-2], kernel.shape[-2]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:-1], window, tuple(strides), padding)
    if any(tuple(pad) != (0, 0) for pad in padding):
        x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    if inputs == 1:
        return jnp.asarray(_convolve_one_channel(x, kernel, tuple(strides)))
    return _convolve_patches(x, kernel, tuple(strides))


def _shifted_inputs(
    x: jax.Array, window: tuple[int, ...], strides: tuple[int, ...]
) -> Iterator[jax.Array]:
    """Yields the input below each kernel position, ``[batch, *outputs, channels]``."""
    outputs = [
        (n - k) // s + 1 for n, k, s in zip(x.shape[1:-1], window, strides, strict=True)
    ]
    for start in np.ndindex(*window):
        stop = [
            i + s * (o - 1) + 1 for i, s, o in zip(start, strides, outputs, strict=True)
        ]
        yield lax.slice(
            x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1)
        )


def _convolve_patches(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...]
) -> jax.Array:
    patches = jnp.concatenate(
        list(_shifted_inputs(x, kernel.shape[:-2], strides)), axis=-1
    )
    flat = kernel.reshape(-1, kernel.shape[-1])
    rows = patches.reshape(-1, flat.shape[0]) @ flat
    return rows.reshape(*patches.shape[:-1], flat.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_one_channel(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...]
) -> jax.Array:
    """Sums shifted images: for one channel a product would have nine columns only."""
    flat = kernel.reshape(-1, kernel.shape[-1])
    shifts = _shifted_inputs(x, kernel.shape[:-2], strides)
    rows = flat.reshape(-1, *(1,) * (x.ndim - 1), flat.shape[-1])
    parts = (part * row for part, row in zip(shifts, rows, strict=True))
    return functools.reduce(jnp.add, parts)


def _one_channel_forward(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve_one_channel(x, kernel, strides), (x, kernel)


def _one_channel_backward(
    strides: tuple[int, ...], saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def by_patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _convolve_patches(x, kernel, strides)

    return jax.vjp(by_patches, *saved)[1](g)


_convolve_one_channel.defvjp(_one_channel_forward, _one_channel_backward)
