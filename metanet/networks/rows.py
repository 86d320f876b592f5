"""Networks that read an image row by row: 1-D convolutional and recurrent ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.errors import MetanetError, suggest
from metanet.networks.architecture import ARCHITECTURES, ImageNetwork
from metanet.networks.layers import activation as activation_named
from metanet.networks.layers import channel_dropout, convolve, normalization


def _rows(images: jax.Array) -> jax.Array:
    """Reshapes ``[batch, height, width, channels]`` to ``[batch, height, width * channels]``."""
    return images.reshape(*images.shape[:2], -1)


@ARCHITECTURES.register("row_cnn")
class RowCNN(ImageNetwork):
    """1-D convolutions over the rows of an image, global average pooling, dense.

    ``[batch, side, side, channels] -> [batch, classes]``; the pixels of a row are the
    channels of the first convolution.

    Args:
        channels: Image channels.
        side: Height and width of the images.
        widths: Channels of each convolution.
        kernels: Width of each kernel.
        classes: Number of classes.
        activation: A name in `ACTIVATIONS`.
        norm: "none", "batch" or "layer", before each activation.
        rngs: Random numbers of the initialisation.
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
                nnx.Conv(
                    inputs, outputs, (kernel,), conv_general_dilated=convolve, rngs=rngs
                )
                for inputs, outputs, kernel in zip(
                    sizes[:-1], sizes[1:], kernels, strict=True
                )
            ]
        )
        self.norms = nnx.List([normalization(norm, width, rngs) for width in widths])
        self.head = nnx.Linear(sizes[-1], classes, rngs=rngs)
        self.activation = activation_named(activation)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = _rows(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = channel_dropout(self.activation(norm(layer(x))))
        return self.head(x.mean(axis=1))


_CELLS: dict[str, Callable[..., nnx.Module]] = {
    "simple": nnx.SimpleCell,
    "gru": nnx.GRUCell,
    "lstm": nnx.LSTMCell,
}


@ARCHITECTURES.register("row_rnn")
class RowRNN(ImageNetwork):
    """Recurrent layers over the rows of an image; a dense layer reads the last state.

    ``[batch, side, side, channels] -> [batch, classes]``.

    Args:
        channels: Image channels.
        side: Height and width of the images.
        cell: "simple" (tanh), "gru" or "lstm".
        widths: Units of each layer.
        classes: Number of classes.
        rngs: Random numbers of the initialisation.
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
                _CELLS[cell](inputs, outputs, rngs=rngs)
                for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True)
            ]
        )
        self.widths, self.has_memory = tuple(widths), cell == "lstm"
        self.head = nnx.Linear(sizes[-1], classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        steps = jnp.moveaxis(_rows(x), 1, 0)
        for cell, width in zip(self.cells, self.widths, strict=True):
            zero = jnp.zeros((x.shape[0], width))
            start = (zero, zero) if self.has_memory else zero
            _, steps = jax.lax.scan(cell, start, steps)  # type: ignore[arg-type]
        return self.head(channel_dropout(steps[-1]))
