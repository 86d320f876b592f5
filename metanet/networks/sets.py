"""DeepSets on the pixels of an image (Zaheer et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.networks.inr import coordinate_grid
from metanet.networks.train_mode import activation as activation_of
from metanet.networks.train_mode import dropout


class PixelSet(nnx.Module):
    """Dense layers on every pixel with its position, mean, dense layers.

    ``[batch, height, width, channels] -> [batch, classes]``.

    Args:
        channels: Image channels.
        widths: Of the layers on pixels.
        after: Of the hidden layers after the mean.
        classes: Number of classes.
        activation: A name in `ACTIVATIONS`.
    """

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (32, 32),
        after: Sequence[int] = (32,),
        classes: int = 10,
        activation: str = "relu",
        *,
        rngs: nnx.Rngs,
    ):
        dense = lambda sizes: nnx.List(
            [
                nnx.Linear(a, b, rngs=rngs)
                for a, b in zip(sizes[:-1], sizes[1:], strict=True)
            ]
        )
        self.each = dense([channels + 2, *widths])
        self.joint = dense([widths[-1], *after])
        self.head = nnx.Linear([*widths, *after][-1], classes, rngs=rngs)
        self.activation = activation_of(activation)

    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        grid = jnp.asarray(coordinate_grid(height, width))
        places = jnp.broadcast_to(grid[None], (batch, *grid.shape))
        x = jnp.concatenate([x.reshape(batch, -1, channels), places], axis=-1)
        for layer in self.each:
            x = self.activation(layer(x))
        x = x.mean(axis=1)
        for layer in self.joint:
            x = dropout(self.activation(layer(x)))
        return self.head(x)
