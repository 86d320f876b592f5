"""Aggregation of messages on edges to one vector per node: mean, sum, attention, PNA."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.graphs import Edges, End, GraphSchema, Layout, attention, map_edges
from metanet.models.layers import Linear

AggregatorName = Literal["mean", "sum", "attention", "pna"]
_HEADS = 4


class Aggregator(nnx.Module):
    """Aggregates messages ``[..., dim]`` at an end of their edges.

    * "mean", "sum";
    * "attention": softmax over the edges of a node, with four heads whose scores are
      linear in the messages;
    * "pna": mean, minimum, maximum and standard deviation, each once unscaled and once
      multiplied by ``log(degree + 1)`` over its mean (Corso et al. 2020, equation 8,
      without the attenuating scaler, which Neural Graphs leave out as well).

    Attributes:
        width: Width of the result.

    Args:
        how: Name of the aggregation.
        dim: Width of the messages.
        schema: Schema of the graphs, whose mean degree "pna" needs.
        rngs: Random streams of the initialisation.
    """

    def __init__(
        self,
        how: AggregatorName,
        dim: int,
        schema: GraphSchema,
        *,
        rngs: nnx.Rngs,
    ):
        self.how = how
        self.log_degree = schema.log_degree
        self.width = 8 * dim if how == "pna" else dim
        self.scores = (
            Linear(dim, _HEADS, bias=False, rngs=rngs) if how == "attention" else None
        )

    def __call__(self, layout: Layout, messages: Edges, end: End) -> jax.Array:
        """Returns node values ``[..., width]`` of the nodes at an end of the edges."""
        if self.how == "pna":
            return self._pna(layout, messages, end)
        if self.scores is not None:
            scores = map_edges(self.scores, messages)
            return attention(layout, [(scores, messages, end)], _HEADS)
        return layout.reduce(messages, end, "mean" if self.how == "mean" else "sum")

    def _pna(self, layout: Layout, messages: Edges, end: End) -> jax.Array:
        mean = layout.reduce(messages, end, "mean")
        square = layout.reduce(map_edges(jnp.square, messages), end, "mean")
        deviation = jnp.sqrt(jnp.maximum(square - mean * mean, 0.0) + 1e-5)
        low, high = (layout.reduce(messages, end, h) for h in ("min", "max"))
        statistics = jnp.concatenate([mean, low, high, deviation], axis=-1)
        scaler = jnp.log1p(layout.degree(end)) / self.log_degree
        return jnp.concatenate([statistics, statistics * scaler], axis=-1)
