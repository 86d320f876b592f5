"""The stacked layout: graphs of one topology, a dense array per edge group.

Node values are ``[B, N, d]``; edge values of a group ``[B, P, both, S, T, d]``, where P
runs over parallel edges (kernel positions, in a form that has them; 1 otherwise) and
``both`` over a diagonal index shared by source and target. No indices and no padding:
sending and reducing are reshapes, broadcasts and sums.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metanet.errors import MetanetError
from metanet.graphs import batch
from metanet.graphs.batch import EdgeBlock, End
from metanet.graphs.form import apply_form_to_graph
from metanet.graphs.layout import Edges, Reduction, Rows
from metanet.graphs.reductions import broadcast, extreme, total
from metanet.graphs.schema import (
    GraphSchema,
    degree,
    edge_type,
    join_type,
    node_key,
    node_parameter_kinds,
    node_type,
)
from metanet.graphs.topology import Topology
from metanet.graphs.view import ParameterGraph, to_params

_START = {"max": -jnp.inf, "min": jnp.inf}


class DenseLayout:
    """A batch of graphs of one topology; see `metanet.graphs.Layout`."""

    def __init__(self, graphs: ParameterGraph, schema: GraphSchema):
        schema.require(graphs.topology)
        self._original = graphs.topology
        graphs = apply_form_to_graph(graphs, schema.form)
        self.schema, self.graphs = schema, graphs
        self.topology = graphs.topology
        self.size = graphs.edges[0].shape[0]
        self.groups = batch.edge_blocks(self.topology)
        self.sizes = [node.size for node in self.topology.nodes]
        types, identities, edges = _numbers(self.topology, schema)
        self.node_type, self.identity = jnp.asarray(types), jnp.asarray(identities)
        self._edge_keys = edges
        self.edge_type = tuple(jnp.full((1,) * 5, key, jnp.int32) for key in edges)

    def encode_nodes(self, encoder: Any) -> jax.Array:
        parts = []
        schema, topology = self.schema, self.topology
        grids = {c.kind: (i, c) for i, c in enumerate(schema.node_grids)}
        for node, held in zip(
            topology.nodes, batch.node_parameters(topology), strict=True
        ):
            x = jnp.zeros((self.size, node.size, encoder.width))
            for slot, (index, view) in zip(
                node_parameter_kinds(topology, held), held, strict=True
            ):
                edge = topology.edges[index]
                kind, grid = grids[slot]
                key = schema.node_keys.index(node_key(topology, edge, slot))
                # [B, 1, 1, n, M, F]: the block of an edge set without a source
                values = _flat(self.graphs.edges[index])
                places = grid.places(edge)
                x = x + batch.from_end(encoder.block(values, kind, places, key), view)
            parts.append(x)
        return jnp.concatenate(parts, axis=1)

    def encode_edges(self, encoder: Any) -> Edges:
        schema, topology = self.schema, self.topology
        grids = {c.kind: (i, c) for i, c in enumerate(schema.edge_grids)}
        out = []
        for group, key in zip(self.groups, self._edge_keys, strict=True):
            if group.edge < 0:
                vector = encoder.vector(key).reshape((1,) * 5 + (-1,))
                shape = (self.size, 1, *group.shape, encoder.width)
                out.append(jnp.broadcast_to(vector, shape))
                continue
            edge = topology.edges[group.edge]
            kind, grid = grids[edge.kind]
            block, places = self.graphs.edges[group.edge], grid.places(edge)
            if schema.form.parallel:
                if group.ends[0].shape[0] > 1 and edge.shape[3] > 1:
                    raise MetanetError(
                        f"parameter {edge.name}: parallel edges that several pairs of "
                        "nodes share; use a form with one edge per kernel"
                    )
                values = jnp.moveaxis(block, -2, 1)
                numbers = tuple(grid.start + i for i in places)
                out.append(encoder.parallel(values, kind, numbers, key))
            else:
                out.append(encoder.block(_flat(block)[:, None], kind, places, key))
        return tuple(out)

    def decode(self, on_edges: Edges, on_nodes: jax.Array) -> jax.Array:
        schema, topology = self.schema, self.topology
        grids = {c.kind: c for c in schema.edge_grids}
        blocks: list[Any] = [None] * len(topology.edges)
        for group, values in zip(self.groups, on_edges, strict=True):
            if group.edge < 0:
                continue
            edge = topology.edges[group.edge]
            values = _filled(values, group)
            if schema.form.parallel:
                block = jnp.moveaxis(values, 1, -2)
            else:
                grid = grids[edge.kind]
                places = grid.start + np.asarray(grid.places(edge))
                block = values[:, 0][..., places, None]
            blocks[group.edge] = block
        grids = {c.kind: c for c in schema.node_grids}
        sets = self._split(on_nodes)
        for at, held in enumerate(batch.node_parameters(topology)):
            for slot, (index, view) in zip(
                node_parameter_kinds(topology, held), held, strict=True
            ):
                edge, grid = topology.edges[index], grids[slot]
                places = grid.start + np.asarray(grid.places(edge))
                values = batch.to_end(sets[at], view)
                blocks[index] = values[..., places, None]
        shapes = [(self.size, *e.shape, 1) for e in self._original.edges]
        edges = tuple(b.reshape(s) for b, s in zip(blocks, shapes, strict=True))
        graphs = ParameterGraph(
            edges, (None,) * len(self._original.nodes), self._original
        )
        leaves = to_params(graphs, list(range(len(self._original.leaves))))
        return jnp.concatenate([x.reshape(self.size, -1) for x in leaves], axis=1)

    def moments(self) -> tuple[jax.Array, jax.Array]:
        schema, topology = self.schema, self.topology
        edges: list[tuple[int, jax.Array]] = [
            (key, self.graphs.edges[g.edge])
            for g, key in zip(self.groups, self._edge_keys, strict=True)
            if g.edge >= 0
        ]
        nodes = [
            (
                schema.node_keys.index(node_key(topology, topology.edges[i], slot)),
                self.graphs.edges[i],
            )
            for held in batch.node_parameters(topology)
            for slot, (i, _) in zip(
                node_parameter_kinds(topology, held), held, strict=True
            )
        ]
        return (
            _moments(edges, len(schema.edge_types)),
            _moments(nodes, len(schema.node_keys)),
        )

    def _split(self, nodes: jax.Array) -> Sequence[jax.Array]:
        # Its derivative is one concatenation; that of slices is a padded sum of each.
        return jax.lax.split(nodes, self.sizes, axis=1)

    def gather(self, nodes: jax.Array, end: End) -> Edges:
        out, sets = [], self._split(nodes)
        for group in self.groups:
            at, view, axis = _end(group, end)
            x = batch.to_end(sets[at], view)
            x = jnp.expand_dims(x, axis)
            out.append(broadcast(x, (*x.shape[:2], *group.shape, x.shape[-1])))
        return tuple(out)

    def reduce(self, edges: Edges, end: End, how: Reduction = "sum") -> jax.Array:
        parts: list[Any] = [None] * len(self.sizes)
        join = {"max": jnp.maximum, "min": jnp.minimum}.get(how, jnp.add)
        for group, e in zip(self.groups, edges, strict=True):
            at, view, other = _end(group, end)
            e = _filled(e, group)
            # Along P stand parallel edges, or the nodes that share an edge.
            axes = (other,) if view.shape[0] > 1 else (1, other)
            found = extreme(e, axes, how) if how in _START else total(e, axes)
            if view.shape[0] == 1:
                found = found[:, None]
            elif found.shape[1] == 1:
                shape = (found.shape[0], view.shape[0], *found.shape[2:])
                found = broadcast(found, shape)
            part = batch.from_end(found, view)
            parts[at] = part if parts[at] is None else join(parts[at], part)
        width = edges[0].shape[-1]
        filled = [
            jnp.zeros((self.size, n, width)) if part is None else part
            for n, part in zip(self.sizes, parts, strict=True)
        ]
        nodes = jnp.concatenate(filled, axis=1)
        return nodes / self.degree(end) if how == "mean" else nodes

    def degree(self, end: End) -> jax.Array:
        counts = degree(self.topology, self.schema.form, end)
        return jnp.asarray(counts)[None, :, None]

    def to_head_major(self, edges: Edges) -> Edges:
        # [B, 1, both, S, T, h] to [B, both, h, S, T]
        return tuple(jnp.moveaxis(e[:, 0], -1, 2) for e in edges)

    def to_feature_major(self, edges: Edges) -> Edges:
        return tuple(jnp.moveaxis(e, 2, -1)[:, None] for e in edges)

    def project_heads(self, edges: Edges, weight: jax.Array) -> Edges:
        return tuple(jnp.einsum("bzhst,hi->bzist", e, weight) for e in edges)

    def aggregate_messages(
        self, edges: Edges, nodes: jax.Array, end: End, scale: bool = True
    ) -> jax.Array:
        parts: list[Any] = [None] * len(self.sizes)
        sets = self._split(nodes)
        for group, e in zip(self.groups, edges, strict=True):
            at, other = group.target, group.source
            if end == "source":
                at, other = other, at
            x = sets[other]
            if scale:
                x = x * np.float32(batch.fan(group, end) ** -0.5)
            part = batch.aggregate_messages(e, x, group, end)
            parts[at] = part if parts[at] is None else parts[at] + part
        filled = [
            jnp.zeros((self.size, n, nodes.shape[-1])) if part is None else part
            for n, part in zip(self.sizes, parts, strict=True)
        ]
        return jnp.concatenate(filled, axis=1)

    def edge_scores(
        self, at_source: jax.Array, at_target: jax.Array, heads: int
    ) -> Edges:
        sources, targets = self._split(at_source), self._split(at_target)
        return tuple(
            batch.edge_scores(sources[g.source], targets[g.target], g, heads)
            for g in self.groups
        )

    def to_nodes(self, graphs: jax.Array) -> jax.Array:
        return broadcast(
            graphs[:, None, :], (self.size, sum(self.sizes), graphs.shape[-1])
        )

    def to_edges(self, graphs: jax.Array) -> Edges:
        x = graphs.reshape(-1, 1, 1, 1, 1, graphs.shape[-1])
        return tuple(
            broadcast(x, (*x.shape[:2], *g.shape, x.shape[-1])) for g in self.groups
        )

    def pool_nodes(
        self, nodes: jax.Array, how: Reduction = "mean", where: Any = None
    ) -> jax.Array:
        keep = None if where is None else where[..., None] > 0
        if how in _START:
            x = nodes if keep is None else jnp.where(keep, nodes, _START[how])
            return extreme(x, (1,), how)
        found = total(nodes if keep is None else jnp.where(keep, nodes, 0.0), 1)
        if how == "sum":
            return found
        count = nodes.shape[1] if where is None else (where > 0).sum(1)[:, None]
        return found / jnp.maximum(count, 1)

    def pool_edges(self, edges: Edges, how: Reduction = "mean") -> jax.Array:
        if how in _START:
            join = jnp.maximum if how == "max" else jnp.minimum
            parts = [extreme(e, (1, 2, 3, 4), how) for e in edges]
            return functools.reduce(join, parts)
        full = [_filled(e, g) for e, g in zip(edges, self.groups, strict=True)]
        found = jnp.asarray(sum(total(e, (1, 2, 3, 4)) for e in full))
        count = sum(int(np.prod(e.shape[1:5])) for e in full)
        return found / count if how == "mean" else found

    def rows(self, nodes: jax.Array, edges: Edges) -> Rows:
        width = nodes.shape[-1]
        parts = [
            # Parallel edges of a pair of nodes behind one another, as they are packed.
            jnp.moveaxis(_filled(e, g), 1, 4).reshape(self.size, -1, width)
            for e, g in zip(edges, self.groups, strict=True)
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
        return tuple(
            e.mean(1, keepdims=True) if g.ends[0].shape[0] > 1 else e
            for e, g in zip(edges, self.groups, strict=True)
        )


def _end(group: EdgeBlock, end: End) -> tuple[int, batch.AxisMap, int]:
    """Node set, view and the axis of the other end in ``[B, P, both, S, T, d]``."""
    if end == "source":
        return group.source, group.ends[0], 4
    return group.target, group.ends[1], 3


def _filled(e: jax.Array, group: EdgeBlock) -> jax.Array:
    """Edge values with the axes along which they broadcast written out."""
    shape = (*e.shape[:2], *group.shape, e.shape[-1])
    return broadcast(e, shape)


def _moments(blocks: list[tuple[int, jax.Array]], keys: int) -> jax.Array:
    found = jnp.zeros((keys, 3))
    for key, block in blocks:
        row = jnp.stack([jnp.asarray(1.0 * block.size), block.sum(), (block**2).sum()])
        found = found.at[key].add(row)
    return found


def _flat(block: jax.Array) -> jax.Array:
    """``[..., M, F]`` to ``[..., M * F]``."""
    return block.reshape(*block.shape[:-2], -1)


@lru_cache
def _numbers(
    topology: Topology, schema: GraphSchema
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Node types and identities ``[1, N]``, and the type of each edge group."""
    types = [
        [schema.node_types.index(node_type(node))] * node.size
        for node in topology.nodes
    ]
    identities = [schema.identity(node) for node in topology.nodes]
    edges = [
        schema.edge_types.index(
            edge_type(topology, topology.edges[g.edge])
            if g.edge >= 0
            else join_type(topology, g.join)
        )
        for g in batch.edge_blocks(topology)
    ]
    joined = np.asarray(list(itertools.chain(*types)), np.int32)
    return joined[None], np.concatenate(identities)[None], edges
