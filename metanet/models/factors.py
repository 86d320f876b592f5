"""Base class and layers of the models that are equivariant to scales and signs.

Source: canonical forms and equivariant layers of ScaleGMN (Kalogeropoulos et al., NeurIPS
2024, equations 4 to 8); scale_gmn.py and scale_product_gmn.py are the models.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.graphs import Edges, GraphSchema, Layout
from metanet.models.base import GraphModel, GraphModelConfig, ModelInputs, State
from metanet.models.layers import MLP, Linear
from metanet.models.readout import NodeReadoutName
from metanet.options import Options, PositiveInt, Rate

# Features below it count as zero; float32 ends at 1e-38.
TINY = 1e-30


@dataclass(frozen=True)
class FactorConfig(Options):
    """Options that these models share.

    Encodings are linear, for waves of a weight do not scale with it; and there are no
    probes, for activations at fixed inputs scale by a factor that no weight shows.

    Attributes:
        dim: Width of node features.
        depth: Number of blocks.
        readout: "roles", "moments", "attention", "outputs" or "mean"; see `Readout`.
        dropout: Rate on the pooled features.
    """

    dim: PositiveInt = 128
    depth: PositiveInt = 4
    readout: NodeReadoutName = "roles"
    dropout: Rate = 0.0


class ScaleMask:
    """Masks of the nodes of a batch that scaling groups act on.

    Attributes:
        positive: ``[..., 1]``, True for nodes whose features carry a positive factor.
        sign: The same for signs.
        any: True for nodes with either.
    """

    def __init__(self, layout: Layout, schema: GraphSchema):
        self.positive = self._mask("positive", layout, schema)
        self.sign = self._mask("sign", layout, schema)
        self.any = self.positive | self.sign

    @staticmethod
    def _mask(kind: str, layout: Layout, schema: GraphSchema) -> jax.Array:
        types = [kind in kinds for *_, kinds in schema.node_types]
        return jnp.asarray(types)[layout.node_type][..., None]

    def invariant(self, x: jax.Array) -> jax.Array:
        """Returns inv(x), features that no factor of their node changes."""
        size = self.norm(x)
        x = jnp.where(self.positive, x / jnp.where(size > 0, size, 1.0), x)
        return jnp.where(self.sign, jnp.abs(x), x)

    def norm(self, x: jax.Array) -> jax.Array:
        """Returns ``|x|`` over the last axis, 0 where no entry counts.

        Features are 0 at nodes without parameters before the first block. A factor of the
        node multiplies 0 as well, but no other constant. The mean of squares neither
        underflows nor overflows.
        """
        top = jax.lax.stop_gradient(jnp.abs(x).max(-1, keepdims=True))
        counts = top > TINY
        scaled = x / jnp.where(counts, top, 1.0)
        square = jnp.mean(scaled * scaled, -1, keepdims=True)
        return jnp.where(counts, top * jnp.sqrt(jnp.where(counts, square, 1.0)), 0.0)

    def divisor(self, top: jax.Array, x: jax.Array) -> jax.Array:
        """Returns a divisor that removes a node's factor; at least ``0.1 |x|``, 1 for 0.

        Nodes without a factor need no division, but their features grow by what they
        receive: their divisor is 1 unless ``top`` or ``|x|`` is more than 10.

        Args:
            top: ``[..., 1]``, values that carry the node's factor.
            x: Node features ``[..., d]``.
        """
        least = 0.1 * self.norm(x)
        factor = jnp.maximum(top, least)
        others = jnp.maximum(jnp.maximum(0.1 * top, least), 1.0)
        return jnp.where(self.positive & (factor > TINY), factor, others)


class EquivariantUpdate(nnx.Module):
    """``(a W) * MLP(inv(a))`` where nodes carry factors, ``MLP(a)`` elsewhere."""

    def __init__(self, parts: int, dim: int, *, rngs: nnx.Rngs):
        self.linear = Linear(parts * dim, dim, bias=False, scale=0.5, rngs=rngs)
        # Mixed before signs are dropped, so that relative signs of features survive.
        self.mixed = Linear(parts * dim, dim, bias=False, rngs=rngs)
        self.factor = MLP(dim, dim, dim, rngs=rngs)
        self.plain = MLP(parts * dim, dim, dim, rngs=rngs)

    def __call__(self, mask: ScaleMask, parts: list[jax.Array]) -> jax.Array:
        # All parts carry the same factor: they are made invariant together.
        joined = jnp.concatenate(parts, axis=-1)
        factor = self.factor(mask.invariant(self.mixed(joined)))
        return jnp.where(
            mask.any, self.linear(joined) * factor, 0.5 * self.plain(joined)
        )


class FactorModel(GraphModel):
    """A graph metanetwork whose features carry the factors of their nodes.

    Its arguments are those of `GraphModel`.
    """

    scale_equivariant = True

    def __init__(
        self,
        config: FactorConfig,
        schema: GraphSchema,
        model_inputs: ModelInputs,
        *,
        edge_dim: int,
        edge_floats: int = 0,
        rngs: nnx.Rngs,
    ):
        encoding = GraphModelConfig(
            dim=config.dim,
            depth=config.depth,
            frequencies=0,
            readout=config.readout,
            dropout=config.dropout,
        )
        super().__init__(
            encoding,
            schema,
            model_inputs,
            edge_dim=edge_dim,
            edge_floats=edge_floats,
            edge_readout=False,
            homogeneous=True,
            rngs=rngs,
        )
        self.last = MLP(config.dim, config.dim, config.dim, rngs=rngs)

    def pool(self, layout: Layout, state: State[Edges]) -> jax.Array:
        """Returns ``[G, dim]``, pooled after the factors are removed."""
        mask = ScaleMask(layout, self.schema)
        features = self.last(mask.invariant(state.nodes))
        return self.readout(layout, features, None, None)
