"""From messages on edges to one vector per node: mean, sum, attention, PNA."""

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
    * "attention": softmax over the edges of a node, by scores read from the messages,
      four heads;
    * "pna": mean, minimum, maximum and standard deviation, each as it is and amplified
      by ``log(degree + 1)`` over its mean (Corso et al. 2020, equation 8; Neural Graphs
      leave out the attenuation, and so do we).

    Attributes:
        width: Width of the result.
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
        found = jnp.concatenate([mean, low, high, deviation], axis=-1)
        amplified = jnp.log1p(layout.degree(end)) / self.log_degree
        return jnp.concatenate([found, found * amplified], axis=-1)
