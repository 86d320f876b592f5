"""Networks that read an image row by row: 1-D convolutions and recurrent networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.errors import MetanetError, suggest
from metanet.networks.cnn import normalization
from metanet.networks.train_mode import activation as activation_of
from metanet.networks.train_mode import convolve, dropout


def _rows(images: jax.Array) -> jax.Array:
    """``[batch, height, width, channels]`` to ``[batch, height, width * channels]``."""
    return images.reshape(*images.shape[:2], -1)


class RowCNN(nnx.Module):
    """1-D convolutions over the rows of an image, global average pooling, dense.

    ``[batch, side, side, channels] -> [batch, classes]``; the pixels of a row are the
    channels of the first convolution.

    Args:
        channels, side: Of the images.
        widths: Channels of each convolution.
        kernels: Width of each.
        classes: Number of classes.
        activation: A name in `ACTIVATIONS`.
        norm: "none", "batch" or "layer", before each activation.
    """

    def __init__(
        self,
        channels: int = 1,
        side: int = 28,
        widths: Sequence[int] = (16, 16),
        kernels: Sequence[int] = (3, 3),
        classes: int = 10,
        activation: str = "relu",
        norm: str = "none",
        *,
        rngs: nnx.Rngs,
    ):
        sizes = [side * channels, *widths]
        self.layers = nnx.List(
            [
                nnx.Conv(a, b, (k,), conv_general_dilated=convolve, rngs=rngs)
                for a, b, k in zip(sizes[:-1], sizes[1:], kernels, strict=True)
            ]
        )
        self.norms = nnx.List([normalization(norm, width, rngs) for width in widths])
        self.head = nnx.Linear(sizes[-1], classes, rngs=rngs)
        self.activation = activation_of(activation)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = _rows(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = dropout(self.activation(norm(layer(x))))
        return self.head(x.mean(axis=1))


_CELLS: dict[str, Callable[..., nnx.Module]] = {
    "simple": nnx.SimpleCell,
    "gru": nnx.GRUCell,
    "lstm": nnx.LSTMCell,
}


class RowRNN(nnx.Module):
    """A recurrent network over the rows of an image; the last state is classified.

    ``[batch, side, side, channels] -> [batch, classes]``.

    Args:
        channels, side: Of the images.
        cell: "simple" (tanh), "gru" or "lstm".
        widths: Units of each layer.
        classes: Number of classes.
    """

    def __init__(
        self,
        channels: int = 1,
        side: int = 28,
        cell: str = "gru",
        widths: Sequence[int] = (32,),
        classes: int = 10,
        *,
        rngs: nnx.Rngs,
    ):
        if cell not in _CELLS:
            raise MetanetError(
                f"architecture row_rnn: cell: no {cell!r}.{suggest(cell, _CELLS)}"
            )
        sizes = [side * channels, *widths]
        self.cells = nnx.List(
            [
                _CELLS[cell](a, b, rngs=rngs)
                for a, b in zip(sizes[:-1], sizes[1:], strict=True)
            ]
        )
        self.widths, self.gated = tuple(widths), cell == "lstm"
        self.head = nnx.Linear(sizes[-1], classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        steps = jnp.moveaxis(_rows(x), 1, 0)
        for cell, width in zip(self.cells, self.widths, strict=True):
            zero = jnp.zeros((x.shape[0], width))
            start = (zero, zero) if self.gated else zero
            _, steps = jax.lax.scan(cell, start, steps)  # type: ignore[arg-type]
        return self.head(dropout(steps[-1]))
