"""Convolutional networks: of the Small CNN Zoo, and of varying shape."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from flax import nnx

from metanet.errors import MetanetError
from metanet.networks.architecture import ARCHITECTURES, ImageNetwork
from metanet.networks.layers import (
    activation as activation_named,
)
from metanet.networks.layers import channel_dropout, convolve, normalization


@ARCHITECTURES.register("small_cnn")
class SmallCNN(ImageNetwork):
    """Strided 3x3 convolutions, global average pooling, dense.

    ``[batch, height, width, channels] -> [batch, classes]``.

    Args:
        channels: Image channels (the zoo's images are grey).
        widths: Channels of the convolutions.
        classes: Number of classes.
        activation: A name in `ACTIVATIONS` (the zoo has relu and tanh).
        padding: "VALID" as in the zoo, or "SAME" for images below 15 pixels.
        rngs: Random numbers of the initialisation.
    """

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (16, 16, 16),
        classes: int = 10,
        activation: str = "relu",
        padding: str = "VALID",
        *,
        rngs: nnx.Rngs,
    ):
        sizes = [channels, *widths]
        self.layers = nnx.List(
            [
                nnx.Conv(
                    inputs,
                    outputs,
                    (3, 3),
                    2,
                    padding=padding,
                    conv_general_dilated=convolve,
                    rngs=rngs,
                )
                for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True)
            ]
        )
        self.head = nnx.Linear(sizes[-1], classes, rngs=rngs)
        self.activation = activation_named(activation)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = channel_dropout(self.activation(layer(x)))
        return self.head(x.mean(axis=(1, 2)))


@ARCHITECTURES.register("varying_cnn")
class VaryingCNN(ImageNetwork):
    """A CNN of any depth, widths, kernels and shortcuts (as in the CNN Wild Park).

    ``[batch, height, width, channels] -> [batch, classes]``.

    Args:
        channels: Image channels.
        widths: Channels of each convolution.
        kernels: Side of each kernel.
        residual: Per convolution the number (from 1) of an earlier one of as many
            channels, whose output is added; 0 for none.
        classes: Number of classes.
        activation: A name in `ACTIVATIONS`.
        norm: "none", "batch" or "layer", before each activation.
        rngs: Random numbers of the initialisation.
    """

    def __init__(
        self,
        channels: int = 1,
        widths: Sequence[int] = (16, 16),
        kernels: Sequence[int] = (3, 3),
        residual: Sequence[int] = (0,),
        classes: int = 10,
        activation: str = "relu",
        norm: str = "none",
        *,
        rngs: nnx.Rngs,
    ):
        if len(kernels) != len(widths):
            raise MetanetError(
                f"architecture varying_cnn: {len(kernels)} kernels for "
                f"{len(widths)} widths"
            )
        self.residual = (*residual, *(0,) * (len(widths) - len(residual)))
        for layer, source in enumerate(self.residual):
            if source and (source > layer or widths[source - 1] != widths[layer]):
                raise MetanetError(
                    f"architecture varying_cnn: residual {source} of layer {layer + 1} "
                    "must name an earlier layer with as many channels"
                )
        sizes = [channels, *widths]
        self.layers = nnx.List(
            [
                nnx.Conv(
                    inputs,
                    outputs,
                    (kernel, kernel),
                    2 if i == 0 else 1,
                    conv_general_dilated=convolve,
                    rngs=rngs,
                )
                for i, (inputs, outputs, kernel) in enumerate(
                    zip(sizes[:-1], sizes[1:], kernels, strict=True)
                )
            ]
        )
        self.norms = nnx.List([normalization(norm, width, rngs) for width in widths])
        self.head = nnx.Linear(sizes[-1], classes, rngs=rngs)
        self.activation = activation_named(activation)

    def __call__(self, x: jax.Array) -> jax.Array:
        outputs = []
        layers = zip(self.layers, self.norms, self.residual, strict=True)
        for layer, norm, source in layers:
            x = channel_dropout(self.activation(norm(layer(x))))
            if source:
                x = x + outputs[source - 1]
            outputs.append(x)
        return self.head(x.mean(axis=(1, 2)))
