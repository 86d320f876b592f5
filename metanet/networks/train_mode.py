"""What differs while a network is trained: dropout, activations as data, convolutions.

A zoo trains many networks of one architecture with different settings in one compiled
program. Inside `training`, the modules of this package read dropout rate and activation
from arrays, and convolutions are products of patches: on CPU XLA's own are several times
slower, their gradients most of all. Outside, modules compute as they say.
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
from jax import lax

from metanet.compiler import on_cpu
from metanet.networks.mlp import ACTIVATIONS


class TrainMode(NamedTuple):
    """How the modules of this package compute.

    Attributes:
        activation: Index into ``activations``; scalar.
        activations: Names; the architecture's own activation plays no part.
        key: Of the dropout masks; None for none.
        dropout: Rate, scalar.
    """

    activation: jax.Array | int
    activations: tuple[str, ...]
    key: jax.Array | None = None
    dropout: jax.Array | float = 0.0


class _Active(NamedTuple):
    train_mode: TrainMode
    calls: Iterator[int]


_ACTIVE: ContextVar[_Active | None] = ContextVar("train_mode", default=None)


@contextmanager
def training(train_mode: TrainMode) -> Iterator[None]:
    """Modules that are called (traced) inside follow the regime."""
    token = _ACTIVE.set(_Active(train_mode, itertools.count()))
    try:
        yield
    finally:
        _ACTIVE.reset(token)


@functools.cache
def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The activation of that name, or that of the regime where one is active.

    Raises:
        MetanetError: for an unknown name.
    """
    own = ACTIVATIONS[name]

    def apply(x: jax.Array) -> jax.Array:
        active = _ACTIVE.get()
        if active is None:
            return own(x)
        chosen = [ACTIVATIONS[n] for n in active.train_mode.activations]
        if len(chosen) == 1:
            return chosen[0](x)
        return lax.switch(active.train_mode.activation, chosen, x)

    return apply


def dropout(x: jax.Array) -> jax.Array:
    """Zeroes whole channels (last axis) of each image at the regime's rate, if any.

    One mask per image and channel (spatial dropout, Tompson et al. 2015), which costs
    one random number per channel.
    """
    active = _ACTIVE.get()
    if active is None or active.train_mode.key is None:
        return x
    key = jax.random.fold_in(active.train_mode.key, next(active.calls))
    shape = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
    keep = 1.0 - active.train_mode.dropout
    return x * (jax.random.bernoulli(key, keep, shape) / keep)


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Any,
    *,
    feature_group_count: int = 1,
    **options: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated` as `flax.nnx.Conv` calls it (channels last).

    Inside `training` on CPU, a product of patches.
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
    sizes, inputs = kernel.shape[:-2], kernel.shape[-2]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:-1], sizes, tuple(strides), padding)
    if any(pad != (0, 0) for pad in map(tuple, padding)):
        x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    if inputs == 1:
        return jnp.asarray(_one_channel(x, kernel, tuple(strides)))
    return _patched(x, kernel, tuple(strides))


def _shifts(x: jax.Array, sizes: tuple[int, ...], strides: tuple[int, ...]):
    """The input below each kernel position, ``[batch, *places, channels]`` each."""
    outs = [
        (n - k) // s + 1 for n, k, s in zip(x.shape[1:-1], sizes, strides, strict=True)
    ]
    for start in np.ndindex(*sizes):
        stop = [
            i + s * (o - 1) + 1 for i, s, o in zip(start, strides, outs, strict=True)
        ]
        yield lax.slice(
            x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *strides, 1)
        )


def _patched(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...]) -> jax.Array:
    patches = jnp.concatenate(list(_shifts(x, kernel.shape[:-2], strides)), axis=-1)
    flat = kernel.reshape(-1, kernel.shape[-1])
    rows = patches.reshape(-1, flat.shape[0]) @ flat
    return rows.reshape(*patches.shape[:-1], flat.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _one_channel(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...]
) -> jax.Array:
    """Of one channel a sum of shifted images: a product would have nine columns."""
    flat = kernel.reshape(-1, kernel.shape[-1])
    shifts = _shifts(x, kernel.shape[:-2], strides)
    rows = flat.reshape(-1, *(1,) * (x.ndim - 1), flat.shape[-1])
    parts = (part * row for part, row in zip(shifts, rows, strict=True))
    return functools.reduce(jnp.add, parts)


def _one_channel_forward(x, kernel, strides):
    return _one_channel(x, kernel, strides), (x, kernel)


def _one_channel_backward(strides, saved, g):
    return jax.vjp(lambda x, k: _patched(x, k, strides), *saved)[1](g)


_one_channel.defvjp(_one_channel_forward, _one_channel_backward)
