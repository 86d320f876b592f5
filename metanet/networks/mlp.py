"""Multilayer perceptron."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.registry import Registry

ACTIVATIONS: Registry[Callable[[jax.Array], jax.Array]] = Registry("activation")
for _name, _function in (
    ("relu", jax.nn.relu),
    ("gelu", jax.nn.gelu),
    ("silu", jax.nn.silu),
    ("tanh", jnp.tanh),
    ("sigmoid", jax.nn.sigmoid),
    ("leaky_relu", jax.nn.leaky_relu),
):
    ACTIVATIONS.register(_name)(_function)


class MLP(nnx.Module):
    """Dense layers and an activation between: ``[..., in_dim] -> [..., out_dim]``.

    Args:
        in_dim, hidden, out_dim: Widths.
        activation: A name in `ACTIVATIONS`.
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
                nnx.Linear(a, b, rngs=rngs)
                for a, b in zip(widths[:-1], widths[1:], strict=True)
            ]
        )
        self.activation = ACTIVATIONS[activation]

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)
