r"""NG-GNN: a graph network with PNA aggregation and edge-modulated messages.

Source: Kofinas et al., "Graph Neural Networks for Learning Equivariant Representations of
Neural Networks" (ICLR 2024), section 3.2: biases are node features, weights edge
features (a kernel one vector); messages are modulated by the edge as in FiLM, PNA
aggregates them, edges are updated in every layer; activation embeddings on nodes, one
learned embedding per input and output node; probe features (section 3.3).

Equivariance: to every automorphism of the parameter graph. Signs, scales and phases are
handled by feeding canonical parameters.

One block computes, with scale and shift linear in the edge,
    m_st  = scale(e_st) * (norm(x_s) W_1 + norm(x_t) W_2) + shift(e_st)
    x_v  += silu(norm(x_v) W_3 + PNA_in(m) W_4 + PNA_out(m) W_5) W_6
    e_st += silu(norm(e_st) W_7 + norm(x_s) W_8 + norm(x_t) W_9) W_10

Deviations, and why:
    * Reversed edges are not copies with further features. A node reads the edges that leave
      it with separate weights, which halves the number of edges.
    * Norms precede the updates instead of following them.
    * The frequencies of the input features are those of all models here.
    * The readout "outputs" concatenates the features of the output nodes (the paper's
      choice for INRs). Networks whose outputs have no identity take their mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.graphs import Edges, GraphSchema, Layout, map_edges
from metanet.models.aggregators import Aggregator
from metanet.models.base import (
    MODELS,
    GraphModel,
    GraphModelConfig,
    ModelInputs,
    State,
)
from metanet.models.layers import Linear, NormLinear, NormLinears, dropout


@dataclass(frozen=True)
class NGGNNConfig(GraphModelConfig):
    """Options of NG-GNN.

    Attributes:
        dropout: Rate on node updates and on the pooled features.
    """


class NGBlock(nnx.Module):
    """One layer; see the module docstring for the equations."""

    def __init__(self, config: NGGNNConfig, schema: GraphSchema, *, rngs: nnx.Rngs):
        dim = config.dim
        self.dropout = config.dropout
        self.node_in = NormLinear(dim, 5 * dim, rngs=rngs)
        # Scale and shift of the message, and the update of the edge.
        self.edge_in = NormLinears(dim, [dim, dim, dim], rngs=rngs)
        self.edge_out = Linear(dim, dim, scale=0.5, rngs=rngs)
        self.aggregate = Aggregator("pna", dim, schema, rngs=rngs)
        width = self.aggregate.width
        self.arriving = Linear(width, dim, bias=False, rngs=rngs)
        self.leaving = Linear(width, dim, bias=False, rngs=rngs)
        self.node_out = Linear(dim, dim, scale=0.5, rngs=rngs)

    def __call__(
        self,
        layout: Layout,
        state: State[Edges],
        *,
        key: jax.Array | None,
        deterministic: bool,
    ) -> State[Edges]:
        x, e, _ = state
        *ends, update = jnp.split(self.node_in(x), 5, axis=-1)
        # Projections of both ends for the message and for the update of the edge.
        src_msg, src_edge = (layout.gather(v, "source") for v in ends[:2])
        dst_msg, dst_edge = (layout.gather(v, "target") for v in ends[2:])
        scale, shift, change = zip(*map(self.edge_in, e), strict=True)
        messages = map_edges(
            lambda a, b, s, t: a * (s + t) + b, scale, shift, src_msg, dst_msg
        )
        update = update + self.arriving(self.aggregate(layout, messages, "target"))
        update = update + self.leaving(self.aggregate(layout, messages, "source"))
        update = self.node_out(jax.nn.silu(update))
        x = x + dropout(update, self.dropout, key, deterministic)
        changes = map_edges(
            lambda r, s, t: self.edge_out(jax.nn.silu(r + s + t)),
            change,
            src_edge,
            dst_edge,
        )
        return State(x, map_edges(jnp.add, e, layout.mean_over_shared(changes)))


@MODELS.register("ng_gnn")
class NGGNN(GraphModel):
    """NG-GNN; see the module docstring."""

    Config = NGGNNConfig

    def __init__(
        self,
        config: NGGNNConfig,
        schema: GraphSchema,
        model_inputs: ModelInputs,
        *,
        rngs: nnx.Rngs,
    ):
        super().__init__(config, schema, model_inputs, edge_dim=config.dim, rngs=rngs)
        self.blocks = nnx.List(
            [NGBlock(config, schema, rngs=rngs) for _ in range(config.depth)]
        )
