"""What the models that are equivariant to scales and signs share.

Source: canonical forms and equivariant layers of ScaleGMN (Kalogeropoulos et al., NeurIPS
2024, equations 4 to 8); scale_gmn.py and scale_product_gmn.py are the models.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.graphs import GraphSchema, Layout
from metanet.models.base import GraphModel, ModelInputs
from metanet.models.layers import MLP, Linear
from metanet.models.readout import NodeReadoutName
from metanet.options import Options, PositiveInt, Rate

# Features below it count as zero; float32 ends at 1e-38.
TINY = 1e-30


@dataclass(frozen=True)
class FactorConfig(Options):
    """Options that these models share.

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

    # Encodings are linear: waves of a weight do not carry its factor; neither do
    # activations at given inputs, for which a unit's factor is its own.
    frequencies = 0
    max_frequency = 1.0
    probes = 0


class Carried:
    """Which nodes of a batch carry factors, and their features without these."""

    def __init__(self, layout: Layout, schema: GraphSchema):
        held = [carries for *_, carries in schema.node_types]
        mask = lambda kind: jnp.asarray([kind in c for c in held])[layout.node_type]
        self.positive, self.sign = mask("positive")[..., None], mask("sign")[..., None]
        self.any = self.positive | self.sign

    def invariant(self, x: jax.Array) -> jax.Array:
        """inv(x): features that no factor of their node changes."""
        x = jnp.where(self.positive, x / self.norm(x), x)
        return jnp.where(self.sign, jnp.abs(x), x)

    def norm(self, x: jax.Array) -> jax.Array:
        """``|x|`` over the last axis, without the mean of squares under- or
        overflowing; 1 where x is 0."""
        top = jax.lax.stop_gradient(jnp.abs(x).max(-1, keepdims=True))
        top = jnp.where(top > TINY, top, 1.0)
        scaled = x / top
        square = jnp.mean(scaled * scaled, -1, keepdims=True)
        return top * jnp.sqrt(jnp.where(square > 0, square, 1.0))

    def divisor(self, top: jax.Array, x: jax.Array) -> jax.Array:
        """What takes a node's factor off, by ``top``, which carries it.

        At least a tenth of ``|x|``. Other nodes need no division, but feed back what they
        receive: theirs is 1 unless they hold or receive more than 10.
        """
        size = 0.1 * self.norm(x)
        factor = jnp.maximum(top, size)
        others = jnp.maximum(jnp.maximum(0.1 * top, size), 1.0)
        return jnp.where(self.positive & (factor > TINY), factor, others)


class EquivariantUpdate(nnx.Module):
    """``(a W) * MLP(inv(a))`` where nodes carry factors, ``MLP(a)`` elsewhere."""

    def __init__(self, parts: int, dim: int, *, rngs: nnx.Rngs):
        self.linear = Linear(parts * dim, dim, bias=False, scale=0.5, rngs=rngs)
        # Mixed before a sign is dropped: how signs of features agree is kept.
        self.mixed = Linear(parts * dim, dim, bias=False, rngs=rngs)
        self.factor = MLP(dim, dim, dim, rngs=rngs)
        self.plain = MLP(parts * dim, dim, dim, rngs=rngs)

    def __call__(self, carried: Carried, parts: list[jax.Array]) -> jax.Array:
        # All parts carry the same factor: they are made invariant together.
        joined = jnp.concatenate(parts, axis=-1)
        factor = self.factor(carried.invariant(self.mixed(joined)))
        return jnp.where(
            carried.any, self.linear(joined) * factor, 0.5 * self.plain(joined)
        )


class FactorModel(GraphModel):
    """A graph metanetwork whose features carry the factors of their nodes.

    Subclasses define `update`; its arguments are those of `GraphModel`.
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
        super().__init__(
            config,
            schema,
            model_inputs,
            edge_dim=edge_dim,
            edge_floats=edge_floats,
            edge_readout=False,
            homogeneous=True,
            rngs=rngs,
        )
        self.last = MLP(config.dim, config.dim, config.dim, rngs=rngs)

    def pool(self, layout: Layout, nodes, edges, globals_) -> jax.Array:
        features = self.last(Carried(layout, self.schema).invariant(nodes))
        return self.readout(layout, features, None, None)
