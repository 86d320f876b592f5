"""Multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx

from metanet.networks.architecture import ARCHITECTURES, CoordinateNetwork
from metanet.networks.layers import ACTIVATIONS


@ARCHITECTURES.register("mlp")
class MLP(CoordinateNetwork):
    """Dense layers with an activation in between, ``[..., in_dim] -> [..., out_dim]``.

    Args:
        in_dim: Input width.
        hidden: Widths of the hidden layers.
        out_dim: Output width.
        activation: A name in `ACTIVATIONS`.
        rngs: Random numbers of the initialisation.
    """

    def __init__(
        self,
        in_dim: int = 2,
        hidden: Sequence[int] = (32, 32),
        out_dim: int = 1,
        activation: str = "relu",
        *,
        rngs: nnx.Rngs,
    ):
        widths = [in_dim, *hidden, out_dim]
        self.layers = nnx.List(
            [
                nnx.Linear(inputs, outputs, rngs=rngs)
                for inputs, outputs in zip(widths[:-1], widths[1:], strict=True)
            ]
        )
        self.activation = ACTIVATIONS[activation]

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)
