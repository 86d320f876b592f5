"""Vision transformers (Dosovitskiy et al. 2021), pooled by the mean over patches."""

from __future__ import annotations

import jax
from flax import nnx

from metanet.networks.architecture import ARCHITECTURES, ImageNetwork
from metanet.networks.layers import activation, channel_dropout, convolve


class ViTBlock(nnx.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, dim: int, heads: int, hidden: int, *, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(dim, rngs=rngs)
        self.norm2 = nnx.LayerNorm(dim, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            heads, dim, decode=False, deterministic=True, rngs=rngs
        )
        self.widen = nnx.Linear(dim, hidden, rngs=rngs)
        self.narrow = nnx.Linear(hidden, dim, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x))
        return x + self.narrow(activation("gelu")(self.widen(self.norm2(x))))


@ARCHITECTURES.register("vit")
class ViT(ImageNetwork):
    """Vision transformer, ``[batch, side, side, channels] -> [batch, classes]``.

    Args:
        channels: Image channels.
        side: Side of the image.
        patch: Side of a patch.
        dim: Width of the residual stream; 384 in ViT-S.
        depth: Number of blocks; 12 in ViT-S.
        heads: Attention heads; 6 in ViT-S.
        hidden: Width of the MLP's hidden layer; 1536 in ViT-S.
        classes: Number of classes.
        rngs: Random numbers of the initialisation.
    """

    def __init__(
        self,
        channels: int = 3,
        side: int = 28,
        patch: int = 4,
        dim: int = 32,
        depth: int = 2,
        heads: int = 4,
        hidden: int = 64,
        classes: int = 10,
        *,
        rngs: nnx.Rngs,
    ):
        count = (side // patch) ** 2
        self.patches = nnx.Conv(
            channels,
            dim,
            (patch, patch),
            patch,
            padding="VALID",
            conv_general_dilated=convolve,
            rngs=rngs,
        )
        noise = jax.random.normal(rngs.params(), (count, dim))
        self.positions = nnx.Param(0.02 * noise)
        self.blocks = nnx.List(
            [ViTBlock(dim, heads, hidden, rngs=rngs) for _ in range(depth)]
        )
        self.norm = nnx.LayerNorm(dim, rngs=rngs)
        self.head = nnx.Linear(dim, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.patches(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1]) + self.positions[...][None]
        for block in self.blocks:
            x = block(x)
        return self.head(channel_dropout(self.norm(x).mean(axis=1)))
