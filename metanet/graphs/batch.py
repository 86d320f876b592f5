"""Batches of feature graphs, and the primitives against which models are written.

A model never sees shapes or indices. It carries node values along the edges of a group
to an end, matches the two ends of every edge, maps features row by row, and pools them
per graph; a layout decides how these are done. This file holds the *stacked* layout:
graphs of one topology, a dense array per edge group, no indices and no padding.

Every edge group is one array ``[B, both, h, S, T]`` of h features per edge: ``both`` runs
over a diagonal index shared by source and target (1 for a fully connected block; the
number of nodes for residual edges; groups of a grouped convolution). Features come
before the ends, so that carrying and matching are matrix products.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metanet.errors import MetanetError
from metanet.graphs.topology import Topology

End = Literal["source", "target"]


@dataclass(frozen=True)
class EdgeGroup:
    """Edges between two node sets that one array holds.

    Attributes:
        source, target: Node set indices.
        shape: ``(both, sources, targets)``.
        edge: Index of the edge set whose parameters the group carries; -1 for a join.
        join: Index of the join; -1 for parameters.
    """

    source: int
    target: int
    shape: tuple[int, int, int]
    edge: int = -1
    join: int = -1


class GraphBatch(NamedTuple):
    """Features of a batch of graphs.

    Attributes:
        nodes: Per node set ``[B, N, d]``.
        edges: Per edge group ``[B, both, h, S, T]``.
        globals_: ``[B, d]``.
    """

    nodes: tuple[jax.Array, ...]
    edges: tuple[jax.Array, ...]
    globals_: jax.Array


@lru_cache
def edge_groups(topology: Topology) -> tuple[EdgeGroup, ...]:
    """The edge groups of a topology: one per edge set with a source, one per join.

    Edge sets without a source (biases, gains, running statistics) are features of the
    nodes that they reach, not edges; see `node_parameters`.

    Raises:
        MetanetError: for an edge set that indexes only some units of a node set.
    """
    groups = []
    for i, edge in enumerate(topology.edges):
        if edge.source is None:
            continue
        both, sources, targets, _ = edge.shape
        for end, size in ((edge.source, both * sources), (edge.target, both * targets)):
            _require_whole(topology, edge.name, end, size)
        groups.append(
            EdgeGroup(edge.source, edge.target, (both, sources, targets), edge=i)
        )
    for i, join in enumerate(topology.joins):
        size = topology.nodes[join.source].size
        units = topology.nodes[join.source].units
        identity = tuple((k, k) for k in range(len(units)))
        if join.join != identity or topology.nodes[join.target].size != size:
            raise MetanetError(
                f"join {join.kind} of {topology.nodes[join.source].name} and "
                f"{topology.nodes[join.target].name}: only one-to-one joins are "
                "supported by the stacked layout"
            )
        groups.append(EdgeGroup(join.source, join.target, (size, 1, 1), join=i))
    return tuple(groups)


@lru_cache
def node_parameters(topology: Topology) -> tuple[tuple[int, ...], ...]:
    """Per node set: the edge sets without a source that are features of its nodes."""
    found: list[list[int]] = [[] for _ in topology.nodes]
    for i, edge in enumerate(topology.edges):
        if edge.source is None:
            both, _, targets, _ = edge.shape
            _require_whole(topology, edge.name, edge.target, both * targets)
            found[edge.target].append(i)
    return tuple(tuple(f) for f in found)


def _require_whole(topology: Topology, name: str, node_set: int, size: int) -> None:
    node = topology.nodes[node_set]
    if node.size != size:
        raise MetanetError(
            f"parameter {name}: indexes {size} of the {node.size} nodes of "
            f"{node.name}; such edge sets are not supported by the stacked layout"
        )


def carry(edges: jax.Array, values: jax.Array, group: EdgeGroup, end: End) -> jax.Array:
    """Sums over each node's edges: the edge's features times values of the other end.

    Args:
        edges: Features ``[B, both, h, S, T]``.
        values: Of the nodes at the other end, ``[B, N, h * k]``; head i of an edge
            multiplies the i-th run of k values.
        group: The edges.
        end: Where the sums arrive.

    Returns:
        ``[B, N', h * k]`` for the nodes of ``end``.
    """
    heads = edges.shape[2]
    if end == "target":
        other = _per_head(values, group, "source", heads)
        sums = jnp.einsum("bzhst,bzshk->bzthk", edges, other)
    else:
        other = _per_head(values, group, "target", heads)
        sums = jnp.einsum("bzhst,bzthk->bzshk", edges, other)
    return sums.reshape(values.shape[0], -1, values.shape[-1])


def match(
    at_source: jax.Array, at_target: jax.Array, group: EdgeGroup, heads: int
) -> jax.Array:
    """Scaled inner products of both ends of every edge, ``[B, both, h, S, T]``.

    The ends hold ``[B, N, h * k]``; head i is the product of the i-th runs of k values.
    """
    source = _per_head(at_source, group, "source", heads)
    target = _per_head(at_target, group, "target", heads)
    scale = np.float32(source.shape[-1] ** -0.5)
    return jnp.einsum("bzshk,bzthk->bzhst", source * scale, target)


def _per_head(nodes: jax.Array, group: EdgeGroup, end: End, heads: int) -> jax.Array:
    both, sources, targets = group.shape
    count = sources if end == "source" else targets
    return nodes.reshape(nodes.shape[0], both, count, heads, -1)


def fan(group: EdgeGroup, end: End) -> int:
    """Number of edges of the group at each node of an end."""
    return group.shape[2] if end == "source" else group.shape[1]


def split_nodes(joined: jax.Array, sizes: list[int]) -> tuple[jax.Array, ...]:
    """Cuts ``[B, sum(sizes), d]`` into one array per node set."""
    parts, start = [], 0
    for size in sizes:
        parts.append(jax.lax.slice_in_dim(joined, start, start + size, axis=1))
        start += size
    return tuple(parts)


def pool(
    features: tuple[jax.Array, ...], how: Literal["mean", "sum"] = "mean"
) -> jax.Array:
    """Pools node features ``[B, N, d]`` of every set to one vector per graph."""
    total = sum(f.sum(axis=tuple(range(1, f.ndim - 1))) for f in features)
    if how == "sum":
        return jnp.asarray(total)
    count = sum(f[0, ..., 0].size for f in features)
    return jnp.asarray(total) / count
