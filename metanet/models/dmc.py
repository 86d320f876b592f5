r"""Deep meta-classifier: convolutions along the weights in the order of the arrays.

Source: Eilertsen et al., "Classifying the Classifier: Dissecting the Weight Space of
Neural Networks" (ECAI 2020), section 4.

Equivariance: none; `canonicalize` may remove symmetries beforehand. The model reads
networks of any architecture, since the ordered weights of each are a sequence.

Deviations: the model reads the whole sequence, not a random slice of it. A step of the
sequence is an edge of the parameter graph (a weight, or a whole kernel), not a single
number, so that a convolution covers as much of a CNN as of an MLP. The nodes form a
separate sequence, a step of which is the sum of the node's encoded parameters (biases,
gains), 0 for none. Edges without a parameter have a learned vector. Convolutions of
stride 2 with zeros behind the end are followed by SiLU; the output is the mean over both
sequences.
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
        dim: Channels of the last convolution; each earlier one has half as many as the
            next, at least 8.
        depth: Number of convolutions, each of which halves the length.
        kernel: Width of the convolutions.
        dropout: Dropout rate on the last features.
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
        """Returns pooled features ``[G, dim]``, without node or edge features."""
        layout = make_layout(graphs, self.schema)
        rows = layout.rows(
            layout.encode_nodes(self.on_nodes), layout.encode_edges(self.on_edges)
        )
        for linear in self.filters:
            windows = strided_windows(rows, self.config.kernel)
            rows = windows._replace(values=jax.nn.silu(linear(windows.values)))
        x = _means(rows, layout.size)
        x = dropout(x, self.config.dropout, key, deterministic)
        return Features(None, None, x)


def strided_windows(rows: Rows, kernel: int) -> Rows:
    """Returns every second window of ``kernel`` consecutive rows of each run.

    A window that reaches beyond the end of its run is padded with zeros.
    """
    values, start, length, graph = rows
    count = (length + 1) // 2
    ends = jnp.cumsum(count)
    first = ends - count
    run, position = _runs_and_positions(
        first, ends, (len(values) + len(start) + 1) // 2
    )
    inside = 2 * position[:, None] + jnp.arange(kernel)[None]
    at = jnp.where(
        inside < length[run][:, None], start[run][:, None] + inside, len(values)
    )
    windows = jnp.take(values, at, axis=0, mode="fill", fill_value=0)
    return Rows(windows.reshape(len(at), -1), first, count, graph)


def _runs_and_positions(
    first: jax.Array, ends: jax.Array, size: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the run ``[size]`` of each row, and the row's position within the run.

    Rows behind the last run belong to it, at positions beyond its end.
    """
    number = jnp.arange(size)
    run = jnp.searchsorted(ends, number, side="right")
    run = jnp.minimum(run, len(ends) - 1)
    return run, number - first[run]


def _means(rows: Rows, size: int) -> jax.Array:
    """Returns the mean over the rows of each graph, ``[size, d]``."""
    ends = rows.start + rows.length
    run, position = _runs_and_positions(rows.start, ends, len(rows.values))
    graph = jnp.where(position < rows.length[run], rows.graph[run], size)
    sums = jax.ops.segment_sum(rows.values, graph, size)
    counts = jax.ops.segment_sum(rows.length, rows.graph, size)
    return sums / jnp.maximum(counts, 1)[:, None].astype(sums.dtype)
