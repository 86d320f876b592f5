"""The dense layout: graphs of one topology, an array per edge block.

Node values are ``[B, N, d]``; edge values of a block ``[B, P, diagonal, S, T, d]``, where P
runs over parallel edges (kernel positions, in a form that has them; 1 otherwise), or over
the pairs of nodes that share an edge. Where there are both, it runs over pairs and, within
each, over parallel edges, whose values are then there once per pair. ``diagonal`` runs over
a diagonal index shared by source and target. No indices and no padding: gathering and
reducing are reshapes, broadcasts and sums.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metanet.graphs.blocks import AxisMap, EdgeBlock, End
from metanet.graphs.compiled import CompiledBlock, compile_topology
from metanet.graphs.form import apply_form_to_graph
from metanet.graphs.layouts import block_ops
from metanet.graphs.layouts.base import Edges, Encoder, HeadEdges, Reduction, Rows
from metanet.graphs.reductions import broadcast, extreme, total
from metanet.graphs.schema import GraphSchema
from metanet.graphs.view import ParameterGraph, to_params

_START = {"max": -jnp.inf, "min": jnp.inf}


class DenseLayout:
    """A batch of graphs of one topology; see `metanet.graphs.Layout`."""

    def __init__(self, graphs: ParameterGraph, schema: GraphSchema):
        self._compiled = compile_topology(graphs.topology, schema)
        graphs = apply_form_to_graph(graphs, schema.form)
        self.schema, self.graphs = schema, graphs
        self.topology = graphs.topology
        self.size = graphs.edges[0].shape[0]
        self.blocks = tuple(entry.block for entry in self._compiled.blocks)
        # Parallel edges of blocks that have these once per pair of nodes; 0 elsewhere.
        self._repeated = tuple(map(self._repeated_edges, self.blocks))
        self.sizes = [node.size for node in self.topology.nodes]
        self.node_type = jnp.asarray(self._compiled.node_type[None])
        self.identity = jnp.asarray(self._compiled.identity[None])
        self.edge_type = tuple(
            jnp.full((1,) * 5, entry.type, jnp.int32) for entry in self._compiled.blocks
        )

    def encode_nodes(self, encoder: Encoder) -> jax.Array:
        """Encodes the parameters of nodes, summed per node."""
        parts = []
        for size, parameters in zip(
            self.sizes, self._compiled.node_parameters, strict=True
        ):
            x = jnp.zeros((self.size, size, encoder.width))
            for p in parameters:
                # [B, 1, 1, n, M, F]: the block of an edge set without a source
                values = _flat(self.graphs.edges[p.edge])
                encoded = encoder.block(values, p.grid, p.positions, p.type)
                x = x + block_ops.from_end(encoded, p.axis_map)
            parts.append(x)
        return jnp.concatenate(parts, axis=1)

    def encode_edges(self, encoder: Encoder) -> Edges:
        """Encodes the parameters of edges; see `Layout`."""
        return tuple(self._encode(entry, encoder) for entry in self._compiled.blocks)

    def _encode(self, entry: CompiledBlock, encoder: Encoder) -> jax.Array:
        block = entry.block
        if block.edge < 0:
            vector = encoder.vector(entry.type).reshape((1,) * 5 + (-1,))
            shape = (self.size, 1, *block.shape, encoder.width)
            return jnp.broadcast_to(vector, shape)
        values = self.graphs.edges[block.edge]
        if not self.schema.form.parallel:
            values = _flat(values)[:, None]
            return encoder.block(values, entry.grid, entry.positions, entry.type)
        values = jnp.moveaxis(values, -2, 1)
        encoded = encoder.parallel(values, entry.grid, entry.columns, entry.type)
        if self._repeated_edges(block):
            encoded = jnp.tile(encoded, (1, block.ends[0].shape[0], 1, 1, 1, 1))
        return encoded

    def _repeated_edges(self, block: EdgeBlock) -> int:
        """Returns the number of parallel edges that several pairs of nodes share."""
        if block.edge < 0 or not self.schema.form.parallel:
            return 0
        parallel = self.topology.edges[block.edge].shape[3]
        return parallel if parallel > 1 and block.ends[0].shape[0] > 1 else 0

    def _once(self, edges: Edges) -> Edges:
        """Returns edge values without those that repeat others."""
        pairs = zip(edges, self._repeated, strict=True)
        return tuple(e[:, :count] if count else e for e, count in pairs)

    def decode(self, on_edges: Edges, on_nodes: jax.Array) -> jax.Array:
        """Returns one value per parameter ``[G, P]``; see `Layout`."""
        arrays: list[Any] = [None] * len(self.topology.edges)
        once = self._once(on_edges)
        for entry, values in zip(self._compiled.blocks, once, strict=True):
            if entry.block.edge < 0:
                continue
            values = _filled(values, entry.block)
            if self.schema.form.parallel:
                array = jnp.moveaxis(values, 1, -2)
            else:
                array = values[:, 0][..., np.asarray(entry.columns), None]
            arrays[entry.block.edge] = array
        sets = self._split(on_nodes)
        for nodes, parameters in zip(sets, self._compiled.node_parameters, strict=True):
            for p in parameters:
                values = block_ops.to_end(nodes, p.axis_map)
                arrays[p.edge] = values[..., np.asarray(p.columns), None]
        original = self._compiled.original
        shapes = [(self.size, *e.shape, 1) for e in original.edges]
        edges = tuple(a.reshape(s) for a, s in zip(arrays, shapes, strict=True))
        graphs = ParameterGraph(edges, original)
        leaves = to_params(graphs, list(range(len(original.leaves))))
        return jnp.concatenate([x.reshape(self.size, -1) for x in leaves], axis=1)

    def moments(self) -> tuple[jax.Array, jax.Array]:
        """Returns count, sum and sum of squares per type; see `Layout`."""
        arrays = self.graphs.edges
        edges = [
            (entry.type, arrays[entry.block.edge])
            for entry in self._compiled.blocks
            if entry.block.edge >= 0
        ]
        nodes = [
            (p.type, arrays[p.edge])
            for parameters in self._compiled.node_parameters
            for p in parameters
        ]
        return (
            _moments(edges, len(self.schema.edge_types)),
            _moments(nodes, len(self.schema.node_keys)),
        )

    def _split(self, nodes: jax.Array) -> Sequence[jax.Array]:
        # The derivative is one concatenation; that of slices would be a sum of padded arrays.
        return jax.lax.split(nodes, self.sizes, axis=1)

    def gather(self, nodes: jax.Array, end: End) -> Edges:
        out, sets = [], self._split(nodes)
        for block, parallel in zip(self.blocks, self._repeated, strict=True):
            at, axis_map, axis = _end(block, end)
            x = block_ops.to_end(sets[at], axis_map)
            if parallel:
                x = jnp.repeat(x, parallel, axis=1)
            x = jnp.expand_dims(x, axis)
            out.append(broadcast(x, (*x.shape[:2], *block.shape, x.shape[-1])))
        return tuple(out)

    def reduce(self, edges: Edges, end: End, how: Reduction = "sum") -> jax.Array:
        """Reduces the values of the edges at each node, one block after the other."""
        parts: list[Any] = [None] * len(self.sizes)
        combine = {"max": jnp.maximum, "min": jnp.minimum}.get(how, jnp.add)
        blocks = zip(self.blocks, edges, self._repeated, strict=True)
        for block, e, parallel in blocks:
            at, axis_map, other = _end(block, end)
            e = _filled(e, block)
            if parallel:
                values = jnp.moveaxis(_per_pair(e, parallel), 2, 0)
                e = functools.reduce(combine, values)
            # Axis P indexes parallel edges, or the nodes that share an edge.
            axes = (other,) if axis_map.shape[0] > 1 else (1, other)
            values = extreme(e, axes, how) if how in _START else total(e, axes)
            if axis_map.shape[0] == 1:
                values = values[:, None]
            elif values.shape[1] == 1:
                shape = (values.shape[0], axis_map.shape[0], *values.shape[2:])
                values = broadcast(values, shape)
            part = block_ops.from_end(values, axis_map)
            parts[at] = part if parts[at] is None else combine(parts[at], part)
        width = edges[0].shape[-1]
        filled = [
            jnp.zeros((self.size, n, width)) if part is None else part
            for n, part in zip(self.sizes, parts, strict=True)
        ]
        nodes = jnp.concatenate(filled, axis=1)
        return nodes / self.degree(end) if how == "mean" else nodes

    def degree(self, end: End) -> jax.Array:
        return jnp.asarray(self._compiled.degrees[end])[None, :, None]

    def to_head_major(self, edges: Edges) -> HeadEdges:
        # [B, 1, diagonal, S, T, h] to [B, diagonal, h, S, T]
        if any(e.shape[1] > 1 for e in edges):
            raise ValueError(
                "to_head_major: several values per edge; average them first"
            )
        return HeadEdges(tuple(jnp.moveaxis(e[:, 0], -1, 2) for e in edges))

    def to_feature_major(self, edges: HeadEdges) -> Edges:
        return tuple(jnp.moveaxis(e, 2, -1)[:, None] for e in edges.blocks)

    def project_heads(self, edges: HeadEdges, weight: jax.Array) -> HeadEdges:
        blocks = (jnp.einsum("bzhst,hi->bzist", e, weight) for e in edges.blocks)
        return HeadEdges(tuple(blocks))

    def aggregate_messages(
        self, edges: HeadEdges, nodes: jax.Array, end: End, scale: bool = True
    ) -> jax.Array:
        """Sums products of edges and nodes, as one matrix product per block."""
        parts: list[Any] = [None] * len(self.sizes)
        sets = self._split(nodes)
        for block, e in zip(self.blocks, edges.blocks, strict=True):
            at, other = block.target, block.source
            if end == "source":
                at, other = other, at
            x = sets[other]
            if scale:
                x = x * np.float32(block_ops.fan(block, end) ** -0.5)
            part = block_ops.aggregate_messages(e, x, block, end)
            parts[at] = part if parts[at] is None else parts[at] + part
        filled = [
            jnp.zeros((self.size, n, nodes.shape[-1])) if part is None else part
            for n, part in zip(self.sizes, parts, strict=True)
        ]
        return jnp.concatenate(filled, axis=1)

    def edge_scores(
        self, at_source: jax.Array, at_target: jax.Array, heads: int
    ) -> HeadEdges:
        sources, targets = self._split(at_source), self._split(at_target)
        blocks = (
            block_ops.edge_scores(sources[b.source], targets[b.target], b, heads)
            for b in self.blocks
        )
        return HeadEdges(tuple(blocks))

    def to_nodes(self, graphs: jax.Array) -> jax.Array:
        return broadcast(
            graphs[:, None, :], (self.size, sum(self.sizes), graphs.shape[-1])
        )

    def to_edges(self, graphs: jax.Array) -> Edges:
        x = graphs.reshape(-1, 1, 1, 1, 1, graphs.shape[-1])
        return tuple(
            broadcast(x, (*x.shape[:2], *g.shape, x.shape[-1])) for g in self.blocks
        )

    def pool_nodes(
        self, nodes: jax.Array, how: Reduction = "mean", where: jax.Array | None = None
    ) -> jax.Array:
        keep = None if where is None else where[..., None] > 0
        if how in _START:
            x = nodes if keep is None else jnp.where(keep, nodes, _START[how])
            return extreme(x, (1,), how)
        sums = total(nodes if keep is None else jnp.where(keep, nodes, 0.0), 1)
        if how == "sum":
            return sums
        count = nodes.shape[1] if where is None else (where > 0).sum(1)[:, None]
        return sums / jnp.maximum(count, 1)

    def pool_edges(self, edges: Edges, how: Reduction = "mean") -> jax.Array:
        if how in _START:
            combine = jnp.maximum if how == "max" else jnp.minimum
            parts = [extreme(e, (1, 2, 3, 4), how) for e in edges]
            return functools.reduce(combine, parts)
        once = zip(self._once(edges), self.blocks, strict=True)
        full = [_filled(e, block) for e, block in once]
        sums = jnp.asarray(sum(total(e, (1, 2, 3, 4)) for e in full))
        count = sum(math.prod(e.shape[1:5]) for e in full)
        return sums / count if how == "mean" else sums

    def rows(self, nodes: jax.Array, edges: Edges) -> Rows:
        """Lists the nodes, then the edges, of each graph."""
        width = nodes.shape[-1]
        parts = [
            # Parallel edges of a pair of nodes follow each other, as in packed graphs.
            jnp.moveaxis(_filled(e, g), 1, 4).reshape(self.size, -1, width)
            for e, g in zip(self._once(edges), self.blocks, strict=True)
        ]
        graphs = jnp.concatenate(
            [jnp.broadcast_to(nodes, (self.size, *nodes.shape[1:])), *parts], 1
        )
        inside = [0, nodes.shape[1], graphs.shape[1]]
        first = graphs.shape[1] * np.arange(self.size)[:, None] + inside[:2]
        length = np.broadcast_to(np.diff(inside), first.shape)
        return Rows(
            graphs.reshape(-1, width),
            jnp.asarray(first.ravel()),
            jnp.asarray(length.ravel()),
            jnp.repeat(jnp.arange(self.size), 2),
        )

    def mean_over_shared(self, edges: Edges) -> Edges:
        blocks = zip(self.blocks, edges, self._repeated, strict=True)
        return tuple(_mean_over_pairs(e, g, parallel) for g, e, parallel in blocks)


def _mean_over_pairs(e: jax.Array, block: EdgeBlock, parallel: int) -> jax.Array:
    """Averages values over the pairs of nodes that share an edge."""
    if block.ends[0].shape[0] == 1:
        return e
    if not parallel:
        return e.mean(1, keepdims=True)
    pairs = _per_pair(e, parallel)
    mean = jnp.broadcast_to(pairs.mean(1, keepdims=True), pairs.shape)
    return mean.reshape(e.shape)


def _per_pair(e: jax.Array, parallel: int) -> jax.Array:
    """Reshapes ``[B, P, ...]`` to ``[B, pairs, parallel, ...]``."""
    return e.reshape(e.shape[0], -1, parallel, *e.shape[2:])


def _end(block: EdgeBlock, end: End) -> tuple[int, AxisMap, int]:
    """Returns node set, axis map and axis of the other end in ``[B, P, diagonal, S, T, d]``."""
    if end == "source":
        return block.source, block.ends[0], 4
    return block.target, block.ends[1], 3


def _filled(e: jax.Array, block: EdgeBlock) -> jax.Array:
    """Repeats edge values along the axes along which they broadcast."""
    shape = (*e.shape[:2], *block.shape, e.shape[-1])
    return broadcast(e, shape)


def _moments(blocks: list[tuple[int, jax.Array]], keys: int) -> jax.Array:
    moments = jnp.zeros((keys, 3))
    for key, block in blocks:
        row = jnp.stack([jnp.asarray(1.0 * block.size), block.sum(), (block**2).sum()])
        moments = moments.at[key].add(row)
    return moments


def _flat(block: jax.Array) -> jax.Array:
    """Reshapes ``[..., M, F]`` to ``[..., M * F]``."""
    return block.reshape(*block.shape[:-2], -1)
