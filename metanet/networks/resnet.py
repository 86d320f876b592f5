"""Residual networks (He et al. 2016) with batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.networks.architecture import ARCHITECTURES, ImageNetwork
from metanet.networks.layers import activation, convolve, normalization


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int, rngs: nnx.Rngs
) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        outputs,
        (kernel, kernel),
        stride,
        use_bias=False,
        conv_general_dilated=convolve,
        rngs=rngs,
    )


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        self.conv1 = _conv(inputs, outputs, 3, stride, rngs)
        self.norm1 = normalization("batch", outputs, rngs)
        self.conv2 = _conv(outputs, outputs, 3, 1, rngs)
        self.norm2 = normalization("batch", outputs, rngs)
        same_shape = inputs == outputs and stride == 1
        self.shortcut = None if same_shape else _conv(inputs, outputs, 1, stride, rngs)
        self.norm3 = None if same_shape else normalization("batch", outputs, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = activation("relu")(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.shortcut is not None and self.norm3 is not None:
            x = self.norm3(self.shortcut(x))
        return activation("relu")(x + y)


@ARCHITECTURES.register("resnet")
class ResNet(ImageNetwork):
    """Residual network, ``[batch, height, width, channels] -> [batch, classes]``.

    Args:
        channels: Image channels.
        widths: Channels of each stage; all but the first halve the image.
        blocks: Basic blocks per stage; 2, 2, 2, 2 with the default widths is ResNet-18.
        classes: Number of classes.
        rngs: Random numbers of the initialisation.
    """

    def __init__(
        self,
        channels: int = 3,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks: Sequence[int] = (2, 2, 2, 2),
        classes: int = 10,
        *,
        rngs: nnx.Rngs,
    ):
        self.stem = _conv(channels, widths[0], 3, 1, rngs)
        self.norm = normalization("batch", widths[0], rngs)
        layers, inputs = [], widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                layers.append(BasicBlock(inputs, width, stride, rngs=rngs))
                inputs = width
        self.blocks = nnx.List(layers)
        self.head = nnx.Linear(inputs, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = activation("relu")(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, axis=(1, 2)))
