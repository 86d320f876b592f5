"""The packed layout: graphs of many topologies as one list of edges.

Node values are ``[N, d]``, edge values one array ``[E, d]``. Values of an edge's ends are
gathered by index, reductions are segment sums; indices of padding lie out of range, which
drops it.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from metanet.graphs.blocks import End
from metanet.graphs.layouts.base import Edges, Encoder, HeadEdges, Reduction, Rows
from metanet.graphs.layouts.edge_products import (
    edge_inner_products,
    edge_message_sum,
)
from metanet.graphs.layouts.packing import PackedGraphs
from metanet.graphs.schema import GraphSchema

_REDUCE = {
    "sum": jax.ops.segment_sum,
    "mean": jax.ops.segment_sum,
    "max": jax.ops.segment_max,
    "min": jax.ops.segment_min,
}


class SparseLayout:
    """A batch of packed graphs; see `metanet.graphs.Layout`."""

    def __init__(self, graphs: PackedGraphs, schema: GraphSchema):
        graphs = jax.tree.map(jnp.asarray, graphs)
        self.graphs, self.schema = graphs, schema
        self.size = graphs.graph_mask.shape[0]
        self.node_type = jnp.asarray(graphs.node_type)
        self.identity = jnp.asarray(graphs.identity)
        self.edge_type = (jnp.asarray(graphs.edge_type),)
        self._node_graph = jnp.asarray(graphs.node_graph)
        self._edge_graph = jnp.asarray(graphs.edge_graph)
        # Graphs of edges, out of range on rows that repeat one.
        self._graph_once = self._edge_graph.at[graphs.repeat].set(
            self.size, mode="drop"
        )

    def encode_nodes(self, encoder: Encoder) -> jax.Array:
        values = _without_padding(self.graphs.node_values, self._node_graph, self.size)
        return encoder.rows(values, jnp.asarray(self.graphs.node_keys))

    def encode_edges(self, encoder: Encoder) -> Edges:
        values = _without_padding(self.graphs.edge_values, self._edge_graph, self.size)
        number = self.edge_type[0]
        grids = jnp.asarray(_edge_grids(self.schema))[number]
        columns = np.arange(len(self.schema.edge_grids) + 1)[None]
        keys = jnp.where(grids[:, None] == columns, number[:, None], -1)
        position = None
        if self.schema.form.parallel:
            position = jnp.asarray(self.graphs.edge_position)
        return (encoder.rows(values, keys, position),)

    def decode(self, on_edges: Edges, on_nodes: jax.Array) -> jax.Array:
        cells = self.graphs.parameter_cells
        if cells is None:
            raise ValueError("decode: pack the networks with parameters=P")
        values = jnp.concatenate([self._full(on_edges[0]).ravel(), on_nodes.ravel()])
        # A cell of -1 is none: it is moved out of range, where "fill" gives zero.
        cells = jnp.where(cells < 0, values.size, cells)
        return jnp.take(values, cells, mode="fill", fill_value=0.0)

    def moments(self) -> tuple[jax.Array, jax.Array]:
        """Returns count, sum and sum of squares of the values of each type."""
        schema, graphs = self.schema, self.graphs
        edges = _without_padding(graphs.edge_values, self._edge_graph, self.size)
        nodes = _without_padding(graphs.node_values, self._node_graph, self.size)
        grids = _edge_grids(schema)
        spans = [(0, 1)] * len(schema.edge_grids)
        if not schema.form.parallel:
            spans = [(c.start, c.size) for c in schema.edge_grids]
        on_edges, on_nodes = [], []
        for key in range(len(schema.edge_types)):
            # Identity edges, which have no grid, have no columns either.
            start, count = [*spans, (0, 0)][grids[key]]
            members = (self.edge_type[0] == key) & (self._graph_once < self.size)
            on_edges.append(self._key_moments(edges, members, start, count))
        keys = jnp.asarray(graphs.node_keys)
        for number, key in enumerate(schema.node_keys):
            members = (keys == number).any(-1)
            grid = next(c for c in schema.node_grids if c.kind == key.grid)
            on_nodes.append(self._key_moments(nodes, members, grid.start, grid.size))
        empty = jnp.zeros((0, 3))
        return (
            jnp.stack(on_edges) if on_edges else empty,
            jnp.stack(on_nodes) if on_nodes else empty,
        )

    def _key_moments(
        self, values: jax.Array, members: jax.Array, start: int, count: int
    ) -> jax.Array:
        width = self.schema.features
        part = values[:, start * width : (start + count) * width]
        # Smaller kernels leave columns of their grid empty.
        has = members[:, None] & (
            (part != 0) if count > 1 else jnp.ones_like(part, bool)
        )
        part = jnp.where(has, part, 0.0)
        return jnp.stack([has.sum(), part.sum(), (part**2).sum()])

    def _ends(self, end: End) -> jax.Array:
        graphs = self.graphs
        return jnp.asarray(graphs.source if end == "source" else graphs.target)

    def _with_averages(self, nodes: jax.Array) -> jax.Array:
        """Appends the averages ``[A, d]`` of node values to these."""
        graphs = self.graphs
        size = jnp.asarray(graphs.average_size)[:, None]
        if not len(size):
            return nodes
        values = jnp.take(nodes, graphs.averaged, axis=0, mode="clip")
        sums = jax.ops.segment_sum(values, graphs.average, len(size))
        return jnp.concatenate([nodes, sums / size])

    def _from_averages(self, values: jax.Array, how: Reduction) -> jax.Array:
        """Reduces values ``[N + A, d]`` to nodes: all nodes of an average have its value."""
        graphs, count = self.graphs, self.node_type.shape[0]
        if len(values) == count:
            return values
        nodes, averages = values[:count], values[count:]
        parts = jnp.take(averages, graphs.average, axis=0, mode="clip")
        combine = {"max": jnp.maximum, "min": jnp.minimum}.get(how, jnp.add)
        return combine(nodes, _REDUCE[how](parts, graphs.averaged, count))

    def gather(self, nodes: jax.Array, end: End) -> Edges:
        nodes = self._with_averages(nodes)
        return (jnp.take(nodes, self._ends(end), axis=0, mode="clip"),)

    def reduce(self, edges: Edges, end: End, how: Reduction = "sum") -> jax.Array:
        count = self.node_type.shape[0] + len(self.graphs.average_size)
        values = _REDUCE[how](self._full(edges[0]), self._ends(end), count)
        values = self._from_averages(values, how)
        if how == "mean":
            return values / self.degree(end)
        return values if how == "sum" else jnp.where(jnp.isfinite(values), values, 0.0)

    def _full(self, e: jax.Array) -> jax.Array:
        shape = (self.edge_type[0].shape[0], e.shape[-1])
        return e if e.shape == shape else jnp.broadcast_to(e, shape)

    def degree(self, end: End) -> jax.Array:
        column = 0 if end == "source" else 1
        return jnp.asarray(self.graphs.degree)[:, column, None]

    def to_head_major(self, edges: Edges) -> HeadEdges:
        return HeadEdges(edges)

    def to_feature_major(self, edges: HeadEdges) -> Edges:
        return edges.blocks

    def project_heads(self, edges: HeadEdges, weight: jax.Array) -> HeadEdges:
        return HeadEdges((edges.blocks[0] @ weight,))

    def aggregate_messages(
        self, edges: HeadEdges, nodes: jax.Array, end: End, scale: bool = True
    ) -> jax.Array:
        (e,) = edges.blocks
        if scale:
            column = 0 if end == "source" else 1
            e = e * jax.lax.rsqrt(jnp.asarray(self.graphs.fan)[:, column, None])
        start = self._ends("source" if end == "target" else "target")
        nodes = self._with_averages(nodes)
        sums = edge_message_sum(e, nodes, start, self._ends(end))
        return self._from_averages(jnp.asarray(sums), "sum")

    def edge_scores(
        self, at_source: jax.Array, at_target: jax.Array, heads: int
    ) -> HeadEdges:
        ends = self._ends("source"), self._ends("target")
        at_source, at_target = map(self._with_averages, (at_source, at_target))
        scores = jnp.asarray(edge_inner_products(at_source, at_target, *ends, heads))
        scale = np.float32((at_source.shape[1] // heads) ** -0.5)
        return HeadEdges(self.mean_over_shared((scores * scale,)))

    def to_nodes(self, graphs: jax.Array) -> jax.Array:
        return jnp.take(graphs, self._node_graph, axis=0, mode="clip")

    def to_edges(self, graphs: jax.Array) -> Edges:
        return (jnp.take(graphs, self._edge_graph, axis=0, mode="clip"),)

    def pool_nodes(
        self, nodes: jax.Array, how: Reduction = "mean", where: jax.Array | None = None
    ) -> jax.Array:
        index = self._node_graph
        if where is not None:
            index = jnp.where(where > 0, index, self.size)
        return self._pool(nodes, index, how)

    def pool_edges(self, edges: Edges, how: Reduction = "mean") -> jax.Array:
        return self._pool(self._full(edges[0]), self._graph_once, how)

    def _pool(self, x: jax.Array, index: jax.Array, how: Reduction) -> jax.Array:
        sums = partial(jax.ops.segment_sum, num_segments=self.size)
        values = _REDUCE[how](x, index, self.size)
        if how == "mean":
            count = sums(jnp.ones(x.shape[0]), index)
            return values / jnp.maximum(count, 1.0)[:, None]
        return values if how == "sum" else jnp.where(jnp.isfinite(values), values, 0.0)

    def rows(self, nodes: jax.Array, edges: Edges) -> Rows:
        """Lists the nodes of all graphs, then their edges."""
        nodes_of, rows_of, edges_of = (
            jnp.bincount(graph, length=self.size)
            for graph in (self._node_graph, self._edge_graph, self._graph_once)
        )
        starts = [jnp.cumsum(c) - c for c in (nodes_of, rows_of)]
        values = jnp.concatenate([nodes, self._full(edges[0])])
        return Rows(
            values,
            jnp.concatenate([starts[0], len(nodes) + starts[1]]),
            jnp.concatenate([nodes_of, edges_of]),
            jnp.tile(jnp.arange(self.size), 2),
        )

    def mean_over_shared(self, edges: Edges) -> Edges:
        repeat, repeated = self.graphs.repeat, self.graphs.repeated
        if not len(repeat):
            return edges
        e = self._full(edges[0])
        others = jnp.take(e, repeat, axis=0, mode="clip")
        sums = e.at[repeated].add(others, mode="drop")
        count = jnp.ones((len(e), 1)).at[repeated].add(1.0, mode="drop")
        mean = sums / count
        of_repeats = jnp.take(mean, repeated, axis=0, mode="clip")
        return (mean.at[repeat].set(of_repeats, mode="drop"),)


def _without_padding(
    values: jax.Array | np.ndarray, graph: jax.Array, size: int
) -> jax.Array:
    """Zeroes the values of padding, whose content must not count."""
    return jnp.where((graph < size)[:, None], jnp.asarray(values), 0.0)


def _edge_grids(schema: GraphSchema) -> np.ndarray:
    """Returns the grid of each edge type; for identity edges one behind the last."""
    grids = [grid.kind for grid in schema.edge_grids]
    numbers = [
        len(grids) if kind.is_identity else grids.index(kind.kind)
        for kind in schema.edge_types
    ]
    return np.asarray(numbers, np.int32)
