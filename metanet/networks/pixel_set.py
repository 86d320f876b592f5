"""DeepSets on the pixels of an image (Zaheer et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.networks.architecture import ARCHITECTURES, ImageNetwork
from metanet.networks.inr import coordinate_grid
from metanet.networks.layers import activation as activation_named
from metanet.networks.layers import channel_dropout


def _dense_layers(widths: Sequence[int], rngs: nnx.Rngs) -> nnx.List[nnx.Linear]:
    return nnx.List(
        [
            nnx.Linear(inputs, outputs, rngs=rngs)
            for inputs, outputs in zip(widths[:-1], widths[1:], strict=True)
        ]
    )


@ARCHITECTURES.register("pixel_set")
class PixelSet(ImageNetwork):
    """Dense layers on every pixel and its position, their mean, dense layers.

    ``[batch, height, width, channels] -> [batch, classes]``.

    Args:
        channels: Image channels.
        widths: Widths of the layers on pixels.
        after: Widths of the hidden layers after the mean.
        classes: Number of classes.
        activation: A name in `ACTIVATIONS`.
        rngs: Random numbers of the initialisation.
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
        self.each = _dense_layers([channels + 2, *widths], rngs)
        self.joint = _dense_layers([widths[-1], *after], rngs)
        self.head = nnx.Linear([*widths, *after][-1], classes, rngs=rngs)
        self.activation = activation_named(activation)

    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        grid = jnp.asarray(coordinate_grid(height, width))
        positions = jnp.broadcast_to(grid[None], (batch, *grid.shape))
        x = jnp.concatenate([x.reshape(batch, -1, channels), positions], axis=-1)
        for layer in self.each:
            x = self.activation(layer(x))
        x = x.mean(axis=1)
        for layer in self.joint:
            x = channel_dropout(self.activation(layer(x)))
        return self.head(x)
