r"""A graph metanetwork whose messages are products, equivariant to scales and signs.

Ours: the messages of product_gmn.py, which multiply an edge by what its other end holds
and so carry factors as a forward pass does, with the canonical forms and equivariant
updates of ScaleGMN (Kalogeropoulos et al., NeurIPS 2024; see scale_gmn.py). Edges have a
few heads instead of d features, so that a block costs d operations per edge, not d^2.

Equivariance: as ScaleGMN-B; permutations, and the factors that nodes carry. The pooled
feature is invariant; what no node carries is canonicalised.

With z = inv(x W_0), head i of an edge acting on the i-th run of d/h values, c and r as in
scale_gmn.py (a bounded reciprocal), one block computes
    e_st += (e_st * <z_s W_q, z_t W_k>) W_e
    in_t  = fan^(-1/2) sum_s e_st * (x_s W_a),   out_s = fan^(-1/2) sum_t r_st c_st (x_t W_b)
    x_v  += (a W_9) * MLP(inv(a W_10)),  a = [x_v, in_v, out_v]       (nodes with a factor)
    x_v  += MLP(a)                                                    (others)
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.errors import MetanetError
from metanet.graphs import Edges, GraphSchema, Layout, map_edges
from metanet.graphs.reductions import extreme
from metanet.models.base import MODELS, ModelInputs
from metanet.models.factors import (
    Carried,
    EquivariantUpdate,
    FactorConfig,
    FactorModel,
)
from metanet.models.layers import Linear
from metanet.options import PositiveInt


@dataclass(frozen=True)
class ScaleProductGMNConfig(FactorConfig):
    """Options of the scale-equivariant graph metanetwork with products as messages.

    Attributes:
        heads: Features per edge; each acts on ``dim / heads`` features of a node.
    """

    heads: PositiveInt = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.heads:
            raise MetanetError(f"heads: {self.heads} does not divide dim ({self.dim})")


class ScaleProductBlock(nnx.Module):
    """One block; see the module docstring for the equations."""

    def __init__(self, config: ScaleProductGMNConfig, *, last: bool, rngs: nnx.Rngs):
        dim, heads = config.dim, config.heads
        make = lambda a, b: Linear(a, b, bias=False, rngs=rngs)
        self.num_heads = heads
        self.mixed, self.ends = make(dim, dim), make(dim, 2 * dim)
        self.sent = make(dim, 2 * dim)
        project_heads = (
            jax.random.normal(rngs.params(), (heads, heads)) * 0.5 / heads**0.5
        )
        self.edge_out = None if last else nnx.Param(project_heads)
        self.update = EquivariantUpdate(3, dim, rngs=rngs)

    def __call__(
        self, layout: Layout, carried: Carried, x: jax.Array, e: Edges
    ) -> tuple[jax.Array, Edges]:
        forth, back = jnp.split(self.sent(x), 2, axis=-1)
        incoming = layout.aggregate_messages(e, forth, "target")
        outgoing = self._backward(layout, carried, x, e, back)
        if self.edge_out is not None:
            z = carried.invariant(self.mixed(x))
            query, key = jnp.split(self.ends(z), 2, axis=-1)
            matched = layout.edge_scores(query, key, self.num_heads)
            seen = map_edges(lambda a, m: a * jnp.tanh(m), e, matched)
            e = map_edges(jnp.add, e, layout.project_heads(seen, self.edge_out[...]))
        return x + self.update(carried, [x, incoming, outgoing]), e

    def _backward(
        self, layout: Layout, carried: Carried, x: jax.Array, e: Edges, back: jax.Array
    ) -> jax.Array:
        """What the targets of a node's edges say to it, by reciprocal edges."""
        norm = jnp.where(carried.positive, carried.norm(x), 1.0)
        plain = layout.to_feature_major(e)
        at_source = layout.gather(norm, "source")
        read = map_edges(lambda a, n: a * n, plain, at_source)
        largest = map_edges(
            lambda u: extreme(jnp.abs(u), (u.ndim - 1,), "max")[..., None], read
        )
        top = carried.divisor(layout.reduce(largest, "target", "max"), x)
        bounded = map_edges(_bounded, read, layout.gather(top, "target"))
        sums = layout.aggregate_messages(
            layout.to_head_major(bounded), back / top, "source"
        )
        return sums * norm


def _bounded(read: jax.Array, top: jax.Array) -> jax.Array:
    u = read / top
    return u / (u * u + 0.1)


@MODELS.register("scale_product_gmn")
class ScaleProductGMN(FactorModel):
    """The scale-equivariant graph metanetwork with products; see the docstring above."""

    Config = ScaleProductGMNConfig

    def __init__(
        self,
        config: ScaleProductGMNConfig,
        schema: GraphSchema,
        model_inputs: ModelInputs,
        *,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            config,
            schema,
            model_inputs,
            edge_dim=config.heads,
            rngs=rngs,
        )
        count = config.depth
        self.blocks = nnx.List(
            [
                ScaleProductBlock(config, last=i == count - 1, rngs=rngs)
                for i in range(count)
            ]
        )

    def update(
        self, layout: Layout, key: jax.Array | None, deterministic: bool
    ) -> tuple[jax.Array, Edges, jax.Array | None]:
        carried = Carried(layout, self.schema)
        x, e = self.nodes(layout), layout.to_head_major(self.encoder.edges(layout))
        for block in self.blocks:
            x, e = block(layout, carried, x, e)
        return x, layout.to_feature_major(e), None
