"""Edge groups of a topology, and how the nodes at their ends stand along them.

An edge group is a dense block of edges: ``both`` runs over a diagonal index shared by
source and target (1 for a fully connected block; the number of nodes for residual edges;
groups of a grouped convolution). `carry` and `match` take h features per edge as ``[B,
both, h, S, T]``: features before the ends, so that they are matrix products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from metanet.errors import MetanetError
from metanet.graphs.topology import EdgeSet, Topology

End = Literal["source", "target"]


@dataclass(frozen=True)
class AxisMap:
    """How the nodes of a set stand at one end of an edge group.

    Attributes:
        units: Sizes of the set's unit indices.
        order: Places of the units: first those that both ends share without an edge of
            their own (the channels of a product over tokens), then the diagonal ones,
            those that index the edges at this end, and the rest, over which values are
            averaged.
        shape: Number of joint indices of each of the four kinds.
    """

    units: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, int, int, int]

    @property
    def plain(self) -> bool:
        """Whether nodes need only be reshaped."""
        shared, _, _, rest = self.shape
        return shared == rest == 1 and self.order == tuple(range(len(self.units)))


@dataclass(frozen=True)
class EdgeBlock:
    """Edges between two node sets that one array holds.

    Attributes:
        source, target: Node set indices.
        shape: ``(both, sources, targets)``.
        ends: How the nodes of the source and of the target stand along it.
        edge: Index of the edge set whose parameters the group carries; -1 for a join.
        join: Index of the join; -1 for parameters.
    """

    source: int
    target: int
    shape: tuple[int, int, int]
    ends: tuple[AxisMap, AxisMap]
    edge: int = -1
    join: int = -1


@lru_cache
def edge_blocks(topology: Topology) -> tuple[EdgeBlock, ...]:
    """The edge groups of a topology: one per edge set with a source, one per join.

    Edge sets without a source (biases, gains, running statistics) are features of the
    nodes that they reach, not edges; see `node_parameters`. A join is one edge per pair
    of nodes whose joined indices agree (every channel of a head to the head).

    Raises:
        MetanetError: for an edge set that indexes the same units twice at one end.
    """
    groups = []
    for i, edge in enumerate(topology.edges):
        if edge.source is None:
            continue
        both, sources, targets, _ = edge.shape
        ends = (
            _end_view(topology, edge, "source"),
            _end_view(topology, edge, "target"),
        )
        shape = (both, sources, targets)
        groups.append(EdgeBlock(edge.source, edge.target, shape, ends, edge=i))
    for i, join in enumerate(topology.identity_edges):
        ends = (
            _join_view(topology.nodes[join.source].units, [a for a, _ in join.join]),
            _join_view(topology.nodes[join.target].units, [b for _, b in join.join]),
        )
        both = ends[0].shape[1]
        if ends[1].shape[1] != both:
            raise MetanetError(
                f"join {join.kind} of {topology.nodes[join.source].name} and "
                f"{topology.nodes[join.target].name}: an index is joined twice, which "
                "the stacked layout does not support"
            )
        shape = (both, ends[0].shape[2], ends[1].shape[2])
        groups.append(EdgeBlock(join.source, join.target, shape, ends, join=i))
    return tuple(groups)


def _end_view(topology: Topology, edge: EdgeSet, end: End) -> AxisMap:
    """The view of the nodes at one end of an edge set."""
    k = 0 if end == "source" else 1
    node = topology.nodes[edge.source if end == "source" else edge.target]  # type: ignore[index]
    both = tuple(u[k] for u in edge.units if u[0] >= 0 and u[1] >= 0)
    own = tuple(u[k] for u in edge.units if u[k] >= 0 and u[1 - k] < 0)
    diagonal = {u for u in edge.units if u[0] >= 0 and u[1] >= 0}
    shared = tuple(pair[k] for pair in edge.join if pair not in diagonal)
    if len({*both, *own, *shared}) < len(both) + len(own) + len(shared):
        raise MetanetError(
            f"parameter {edge.name}: indexes {node.name} twice, which the stacked layout "
            "does not support"
        )
    return _view(node.units, shared, both, own)


def _view(
    units: tuple[int, ...],
    shared: tuple[int, ...],
    both: tuple[int, ...],
    own: tuple[int, ...],
) -> AxisMap:
    rest = tuple(i for i in range(len(units)) if i not in {*shared, *both, *own})
    kinds = (shared, both, own, rest)
    shared_n, both_n, own_n, rest_n = (math.prod(units[i] for i in k) for k in kinds)
    return AxisMap(
        units, (*shared, *both, *own, *rest), (shared_n, both_n, own_n, rest_n)
    )


def _join_view(units: tuple[int, ...], joined: list[int]) -> AxisMap:
    both = tuple(dict.fromkeys(joined))
    own = tuple(i for i in range(len(units)) if i not in both)
    return _view(units, (), both, own)


@lru_cache
def node_parameters(topology: Topology) -> tuple[tuple[tuple[int, AxisMap], ...], ...]:
    """Per node set the edge sets without a source, which are features of its nodes.

    Each with the view along which `from_end` brings its values to the nodes.
    """
    found: list[list[tuple[int, AxisMap]]] = [[] for _ in topology.nodes]
    for i, edge in enumerate(topology.edges):
        if edge.source is None:
            found[edge.target].append((i, _end_view(topology, edge, "target")))
    return tuple(tuple(f) for f in found)


def to_end(nodes: jax.Array, view: AxisMap) -> jax.Array:
    """Node values ``[B, N, d]`` to ``[B, shared, both, n, d]``, averaged over the rest."""
    batch, d = nodes.shape[0], nodes.shape[-1]
    if view.plain:
        return nodes.reshape(batch, *view.shape[:3], d)
    order = (0, *(1 + i for i in view.order), 1 + len(view.units))
    turned = nodes.reshape(batch, *view.units, d).transpose(order)
    return turned.reshape(batch, *view.shape, d).mean(axis=4)


def from_end(values: jax.Array, view: AxisMap) -> jax.Array:
    """Values ``[B, shared, both, n, d]`` to nodes ``[B, N, d]``, the rest all alike."""
    batch, d = values.shape[0], values.shape[-1]
    if view.plain:
        return values.reshape(batch, -1, d)
    wide = jnp.broadcast_to(values[:, :, :, :, None], (batch, *view.shape, d))
    sizes = [view.units[i] for i in view.order]
    back = sorted(range(len(sizes)), key=view.order.__getitem__)
    turned = wide.reshape(batch, *sizes, d)
    turned = turned.transpose(0, *(1 + i for i in back), 1 + len(sizes))
    return turned.reshape(batch, -1, d)


def aggregate_messages(
    edges: jax.Array, values: jax.Array, group: EdgeBlock, end: End
) -> jax.Array:
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
    view = group.ends[end == "target"]
    batch, both, count = sums.shape[:3]
    shared = view.shape[0]
    if shared > 1:
        sums = sums.reshape(batch, both, count, heads, shared, -1)
        sums = jnp.moveaxis(sums, 4, 1)
    return from_end(sums.reshape(batch, shared, both, count, -1), view)


def edge_scores(
    at_source: jax.Array, at_target: jax.Array, group: EdgeBlock, heads: int
) -> jax.Array:
    """Scaled inner products of both ends of every edge, ``[B, both, h, S, T]``.

    The ends hold ``[B, N, h * k]``; head i is the product of the i-th runs of k values.
    """
    source = _per_head(at_source, group, "source", heads)
    target = _per_head(at_target, group, "target", heads)
    shared, width = group.ends[0].shape[0], source.shape[-1]
    scale = np.float32((width // shared) ** -0.5 / shared)
    return jnp.einsum("bzshk,bzthk->bzhst", source * scale, target)


def _per_head(nodes: jax.Array, group: EdgeBlock, end: End, heads: int) -> jax.Array:
    """Node values as ``[B, both, n, h, shared * k]``."""
    values = to_end(nodes, group.ends[end == "target"])
    batch, shared, both, count, _ = values.shape
    if shared == 1:
        return values.reshape(batch, both, count, heads, -1)
    values = values.reshape(batch, shared, both, count, heads, -1)
    return jnp.moveaxis(values, 1, 4).reshape(batch, both, count, heads, -1)


def fan(group: EdgeBlock, end: End) -> int:
    """Number of edges of the group at each node of an end."""
    return group.shape[2] if end == "source" else group.shape[1]
