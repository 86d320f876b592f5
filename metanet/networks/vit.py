"""Vision transformers (Dosovitskiy et al. 2021), pooled by the mean over patches."""

from __future__ import annotations

import jax
from flax import nnx

from metanet.networks.train_mode import activation, convolve, dropout


class ViTBlock(nnx.Module):
    """Pre-norm self-attention and MLP."""

    def __init__(self, dim: int, heads: int, hidden: int, *, rngs: nnx.Rngs):
        self.norm1, self.norm2 = (
            nnx.LayerNorm(dim, rngs=rngs),
            nnx.LayerNorm(dim, rngs=rngs),
        )
        self.attention = nnx.MultiHeadAttention(
            heads, dim, decode=False, deterministic=True, rngs=rngs
        )
        self.widen = nnx.Linear(dim, hidden, rngs=rngs)
        self.narrow = nnx.Linear(hidden, dim, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x))
        return x + self.narrow(activation("gelu")(self.widen(self.norm2(x))))


class ViT(nnx.Module):
    """``[batch, side, side, channels] -> [batch, classes]``.

    Args:
        channels: Image channels.
        side: Side of the image.
        patch: Side of a patch.
        dim, depth, heads, hidden: Widths and depth; 384, 12, 6, 1536 is ViT-S.
        classes: Number of classes.
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
        draw = jax.random.normal(rngs.params(), (count, dim))
        self.positions = nnx.Param(0.02 * draw)
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
        return self.head(dropout(self.norm(x).mean(axis=1)))
