r"""A graph metanetwork whose messages are products, equivariant to scales and signs.

Source: new here. It combines the messages of product_gmn.py, which multiply an edge by the
features of its other end and therefore scale as a forward pass does, with the canonical
forms and equivariant updates of ScaleGMN (Kalogeropoulos et al., NeurIPS 2024; see
scale_gmn.py). Edges have a few heads instead of d features, so that a block costs d
operations per edge, not d^2.

Equivariance: as ScaleGMN-B, to permutations and to the factors of nodes. The pooled feature
is invariant. Scaling groups that act on no node are canonicalised.

With |x|, inv(x) and n_t as in scale_gmn.py (n_t: maximum over the heads too), z = inv(x W_0),
u_st = e_st |x_s| / n_t, and head i of an edge acting on the i-th run of d/h values, one block
computes
    in_t  = fan^(-1/2) sum_s e_st * (x_s W_a)
    out_s = |x_s| fan^(-1/2) sum_t u_st / (u_st^2 + 0.1) * (x_t W_b / n_t)
    e_st += (e_st * tanh((d/h)^(-1/2) <z_s W_q, z_t W_k>)) W_e
    x_v  += (a W_9) * MLP(inv(a W_10)),  a = [x_v, in_v, out_v]       (nodes with a factor)
    x_v  += MLP(a) / 2                                                (others)
Where several pairs of nodes share an edge (a product over tokens), <z_s W_q, z_t W_k> and
u_st / (u_st^2 + 0.1) are means over these pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.errors import MetanetError
from metanet.graphs import Edges, GraphSchema, HeadEdges, Layout, extreme, map_edges
from metanet.models.base import MODELS, ModelInputs, State
from metanet.models.factors import (
    EquivariantUpdate,
    FactorConfig,
    FactorModel,
    ScaleMask,
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

    def __init__(
        self,
        config: ScaleProductGMNConfig,
        schema: GraphSchema,
        *,
        last: bool,
        rngs: nnx.Rngs,
    ):
        dim, heads = config.dim, config.heads
        self.schema, self.num_heads = schema, heads
        self.mixed = Linear(dim, dim, bias=False, rngs=rngs)
        self.ends = Linear(dim, 2 * dim, bias=False, rngs=rngs)
        self.projections = Linear(dim, 2 * dim, bias=False, rngs=rngs)
        mixing = jax.random.normal(rngs.params(), (heads, heads)) * 0.5 / heads**0.5
        self.edge_out = None if last else nnx.Param(mixing)
        self.update = EquivariantUpdate(3, dim, rngs=rngs)

    def __call__(
        self,
        layout: Layout,
        state: State[HeadEdges],
        *,
        key: jax.Array | None,
        deterministic: bool,
    ) -> State[HeadEdges]:
        x, e, _ = state
        mask = ScaleMask(layout, self.schema)
        to_target, to_source = jnp.split(self.projections(x), 2, axis=-1)
        incoming = layout.aggregate_messages(e, to_target, "target")
        outgoing = self._backward(layout, mask, x, e, to_source)
        if self.edge_out is not None:
            z = mask.invariant(self.mixed(x))
            queries, keys = jnp.split(self.ends(z), 2, axis=-1)
            scores = layout.edge_scores(queries, keys, self.num_heads)
            hidden = map_edges(lambda a, m: a * jnp.tanh(m), e, scores)
            e = map_edges(jnp.add, e, layout.project_heads(hidden, self.edge_out[...]))
        return State(x + self.update(mask, [x, incoming, outgoing]), e)

    def _backward(
        self,
        layout: Layout,
        mask: ScaleMask,
        x: jax.Array,
        e: HeadEdges,
        to_source: jax.Array,
    ) -> jax.Array:
        """Returns messages from targets to sources, by reciprocal edges."""
        norm = jnp.where(mask.positive, mask.norm(x), 1.0)
        plain = layout.to_feature_major(e)
        at_source = layout.gather(norm, "source")
        read = map_edges(lambda a, n: a * n, plain, at_source)
        largest = map_edges(
            lambda u: extreme(jnp.abs(u), (u.ndim - 1,), "max")[..., None], read
        )
        top = mask.divisor(layout.reduce(largest, "target", "max"), x)
        bounded = layout.mean_over_shared(
            map_edges(_bounded, read, layout.gather(top, "target"))
        )
        sums = layout.aggregate_messages(
            layout.to_head_major(bounded), to_source / top, "source"
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
                ScaleProductBlock(config, schema, last=i == count - 1, rngs=rngs)
                for i in range(count)
            ]
        )

    def initial_state(self, layout: Layout) -> State[HeadEdges]:
        """Returns encoded nodes and edges, edges head-major."""
        state = super().initial_state(layout)
        return state._replace(edges=layout.to_head_major(state.edges))

    def final_state(self, layout: Layout, state: State[HeadEdges]) -> State[Edges]:
        """Returns the state with edges feature-major."""
        edges = layout.to_feature_major(state.edges)
        return State(state.nodes, edges, state.globals_)
