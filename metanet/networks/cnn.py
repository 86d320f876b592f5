"""The network of the Small CNN Zoo (Unterthiner et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx

from metanet.networks.mlp import ACTIVATIONS


class SmallCNN(nnx.Module):
    """Strided 3x3 convolutions, global average pooling, dense.

    ``[batch, height, width, channels] -> [batch, classes]``.

    Args:
        channels: Image channels (the zoo's images are grey).
        widths: Channels of the convolutions.
        classes: Number of classes.
        activation: A name in `ACTIVATIONS` (the zoo has relu and tanh).
    """

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (16, 16, 16),
        classes: int = 10,
        activation: str = "relu",
        *,
        rngs: nnx.Rngs,
    ):
        sizes = [channels, *widths]
        self.layers = nnx.List(
            [
                nnx.Conv(a, b, (3, 3), strides=2, padding="VALID", rngs=rngs)
                for a, b in zip(sizes[:-1], sizes[1:], strict=True)
            ]
        )
        self.head = nnx.Linear(sizes[-1], classes, rngs=rngs)
        self.activation = ACTIVATIONS[activation]

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = self.activation(layer(x))
        return self.head(x.mean(axis=(1, 2)))
