r"""NG-T: a relational transformer on parameter graphs.

Source: Kofinas et al., "Graph Neural Networks for Learning Equivariant Representations of
Neural Networks" (ICLR 2024), section 3.2, after Diao and Loynd, "Relational Attention"
(ICLR 2023, equations 2 to 7): queries, keys and values read the edge beside the node,
values are multiplied and shifted by the edge, edges are updated from both ends.

Equivariance: to every automorphism of the parameter graph. Signs, scales and phases are
handled by feeding canonical parameters.

For node v and an edge e between it and a neighbour u, in either direction,
    q = norm(x_v) Q_n + norm(e) Q_e,    k = norm(x_u) K_n + norm(e) K_e
    w = (norm(x_u) V_n) * (norm(e) V_s) + norm(e) V_e
    x_v  += concat_heads(sum_u softmax_u(q.k / sqrt(d_h)) w) W_o;  x_v += MLP(norm(x_v))
    e_st += MLP(norm(e_st), norm(x_s), norm(x_t))

Deviations, and why:
    * Attention runs over the edges that exist, in both directions, not over all pairs of
      nodes. (The published code attends to all pairs, including padding, as it omits its
      mask.) Pairs without a parameter have no weight to read, and the cost of a batch is
      linear in its edges, not quadratic in its nodes.
    * Arriving and leaving edges have separate Q_e, K_e, V_s and V_e. (The published code
      gives them the reversed edge as a further feature.)
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metanet.errors import MetanetError
from metanet.graphs import (
    Edges,
    End,
    GraphSchema,
    Layout,
    attention,
    head_matrix,
    map_edges,
)
from metanet.models.base import (
    MODELS,
    GraphModel,
    GraphModelConfig,
    ModelInputs,
    State,
)
from metanet.models.layers import Linear, NormLinear, NormLinears, affine, dropout
from metanet.options import PositiveInt

_OTHER: dict[End, End] = {"target": "source", "source": "target"}


@dataclass(frozen=True)
class NGTConfig(GraphModelConfig):
    """Options of NG-T.

    Attributes:
        edge_dim: Width of edge features.
        heads: Attention heads; they share ``attention_dim``.
        attention_dim: Width of queries, keys and values over all heads.
        dropout: Rate on node updates and on the pooled features.
    """

    edge_dim: PositiveInt = 32
    heads: PositiveInt = 8
    attention_dim: PositiveInt = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention_dim % self.heads:
            raise MetanetError(
                f"heads: {self.heads} does not divide attention_dim "
                f"({self.attention_dim})"
            )


class RelationalBlock(nnx.Module):
    """Attention, feed-forward map and edge update; see the module docstring."""

    def __init__(self, config: NGTConfig, *, rngs: nnx.Rngs):
        dim, edge, width = config.dim, config.edge_dim, config.attention_dim
        self.heads, self.dropout = config.heads, config.dropout
        self.node_in = NormLinear(dim, 3 * width, rngs=rngs)
        self.edge_in = nnx.Dict(
            {end: NormLinears(edge, [width] * 4, rngs=rngs) for end in _OTHER}
        )
        self.node_out = Linear(width, dim, scale=0.5, rngs=rngs)
        self.first = NormLinear(dim, 2 * dim, rngs=rngs)
        self.second = Linear(2 * dim, dim, scale=0.5, rngs=rngs)
        self.edge_self = NormLinear(edge, 2 * edge, rngs=rngs)
        self.edge_ends = NormLinear(dim, 4 * edge, rngs=rngs)
        self.edge_out = Linear(2 * edge, edge, scale=0.5, rngs=rngs)

    def __call__(
        self,
        layout: Layout,
        state: State[Edges],
        *,
        key: jax.Array | None,
        deterministic: bool,
    ) -> State[Edges]:
        x, e, _ = state
        query, neighbour, value = jnp.split(self.node_in(x), 3, axis=-1)
        parts = []
        for end, other in _OTHER.items():
            q, k, scale, shift = zip(*map(self.edge_in[end], e), strict=True)
            scores = map_edges(
                self._scores,
                q,
                k,
                layout.gather(query, end),
                layout.gather(neighbour, other),
            )
            values = map_edges(
                lambda a, b, v: a * v + b, scale, shift, layout.gather(value, other)
            )
            parts.append((scores, values, end))
        update = self.node_out(attention(layout, parts, self.heads))
        x = x + dropout(update, self.dropout, key, deterministic)
        x = x + self.second(jax.nn.silu(self.first(x)))

        at_source, at_target = jnp.split(self.edge_ends(x), 2, axis=-1)
        changes = map_edges(
            lambda a, s, t: self.edge_out(jax.nn.silu(self.edge_self(a) + s + t)),
            e,
            layout.gather(at_source, "source"),
            layout.gather(at_target, "target"),
        )
        return State(x, map_edges(jnp.add, e, layout.mean_over_shared(changes)))

    def _scores(
        self, q: jax.Array, k: jax.Array, query: jax.Array, neighbour: jax.Array
    ) -> jax.Array:
        width = q.shape[-1]
        scale = np.float32((width // self.heads) ** -0.5)
        sums = jnp.asarray(head_matrix(width, self.heads) * scale)
        return affine((query + q) * (neighbour + k), sums)


@MODELS.register("ng_t")
class NGT(GraphModel):
    """NG-T; see the module docstring."""

    Config = NGTConfig

    def __init__(
        self,
        config: NGTConfig,
        schema: GraphSchema,
        model_inputs: ModelInputs,
        *,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            config,
            schema,
            model_inputs,
            edge_dim=config.edge_dim,
            edge_floats=2 * config.attention_dim,
            rngs=rngs,
        )
        self.blocks = nnx.List(
            [RelationalBlock(config, rngs=rngs) for _ in range(config.depth)]
        )
