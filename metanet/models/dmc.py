r"""Deep meta-classifier: convolutions along the weights in the order of the arrays.

Source: Eilertsen et al., "Classifying the Classifier: Dissecting the Weight Space of
Neural Networks" (ECAI 2020), section 4.

Equivariance: to nothing but what `canonicalize` removes beforehand; networks of any
architecture are read, as their weights in order are a sequence for each.

Deviations: the whole sequence is read, not a random slice of it. A step of it is an edge
of the parameter graph (a weight, or a whole kernel), not a single number, so that a
convolution reads as much of a CNN as of an MLP; parameters of nodes (biases, gains) are a
sequence of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.graphs import GraphBatch, GraphSchema, Rows, edge_blocks, make_layout
from metanet.models.base import MODELS, Features, ModelInputs
from metanet.models.embeddings import ParameterEncoder
from metanet.models.layers import Linear, dropout
from metanet.options import Options, PositiveInt, Rate


@dataclass(frozen=True)
class DMCConfig(Options):
    """Options of the deep meta-classifier.

    Attributes:
        dim: Channels of the last convolution; earlier ones have fewer.
        depth: Number of convolutions, each of which halves the length.
        kernel: Their width.
        dropout: Rate on the last features.
    """

    dim: PositiveInt = 128
    depth: PositiveInt = 4
    kernel: PositiveInt = 8
    dropout: Rate = 0.0


@MODELS.register("dmc")
class DMC(nnx.Module):
    """One-dimensional convolutions along the weights, then an average."""

    Config = DMCConfig

    def __init__(
        self,
        config: DMCConfig,
        schema: GraphSchema,
        model_inputs: ModelInputs,
        *,
        rngs: nnx.Rngs,
    ):
        self.config, self.schema, self.dim = config, schema, config.dim
        widths = [max(8, config.dim >> i) for i in range(config.depth - 1, 0, -1)]
        widths = [*widths, config.dim]
        linear = partial(
            ParameterEncoder,
            width=widths[0],
            frequencies=0,
            max_frequency=1.0,
            features=schema.features,
            rngs=rngs,
        )
        self.on_edges = linear(schema.edge_grids, len(schema.edge_types))
        self.on_nodes = linear(schema.node_grids, len(schema.node_keys))
        self.filters = nnx.List(
            [
                Linear(a * config.kernel, b, rngs=rngs)
                for a, b in zip([widths[0], *widths], widths, strict=False)
            ]
        )
        rows = [
            t.num_nodes
            + sum(b * s * r for b, s, r in (g.shape for g in edge_blocks(t)))
            for t in model_inputs.topologies
        ]
        self._cost = max(rows) * widths[0] * config.kernel

    @property
    def cost(self) -> int:
        """Floats per network in the widest array."""
        return self._cost

    def set_statistics(self, graphs: GraphBatch) -> None:
        """Measures the standardisation on a sample of graphs."""
        edges, nodes = make_layout(graphs, self.schema).moments()
        self.on_edges.measure(edges)
        self.on_nodes.measure(nodes)

    def __call__(
        self,
        graphs: GraphBatch,
        *,
        key: jax.Array | None = None,
        deterministic: bool = True,
    ) -> Features:
        """Pooled features ``[G, dim]``; no node or edge features."""
        layout = make_layout(graphs, self.schema)
        rows = layout.rows(
            layout.encode_nodes(self.on_nodes), layout.encode_edges(self.on_edges)
        )
        for linear in self.filters:
            windows = halved(rows, self.config.kernel)
            rows = windows._replace(values=jax.nn.silu(linear(windows.values)))
        x = _means(rows, layout.size)
        x = dropout(x, self.config.dropout, key, deterministic)
        return Features(None, None, x)


def halved(rows: Rows, kernel: int) -> Rows:
    """Every second window of each run, ``kernel`` rows behind one another.

    Behind a run's end it reads zeros, never another run.
    """
    values, start, length, graph = rows
    count = (length + 1) // 2
    ends = jnp.cumsum(count)
    first = ends - count
    own, place = _places(first, ends, (len(values) + len(start) + 1) // 2)
    inside = 2 * place[:, None] + jnp.arange(kernel)[None]
    at = jnp.where(
        inside < length[own][:, None], start[own][:, None] + inside, len(values)
    )
    windows = jnp.take(values, at, axis=0, mode="fill", fill_value=0)
    return Rows(windows.reshape(len(at), -1), first, count, graph)


def _places(
    first: jax.Array, ends: jax.Array, size: int
) -> tuple[jax.Array, jax.Array]:
    """The run ``[size]`` of each row, and its place within the run; behind the last run
    places lie outside of it."""
    number = jnp.arange(size)
    own = jnp.searchsorted(ends, number, side="right")
    own = jnp.minimum(own, len(ends) - 1)
    return own, number - first[own]


def _means(rows: Rows, size: int) -> jax.Array:
    """Mean over the rows of each graph, ``[size, d]``."""
    ends = rows.start + rows.length
    own, place = _places(rows.start, ends, len(rows.values))
    graph = jnp.where(place < rows.length[own], rows.graph[own], size)
    sums = jax.ops.segment_sum(rows.values, graph, size)
    counts = jax.ops.segment_sum(rows.length, rows.graph, size)
    return sums / jnp.maximum(counts, 1)[:, None].astype(sums.dtype)
