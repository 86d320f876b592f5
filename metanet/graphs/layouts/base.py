"""The interface against which models are written, for every layout of a batch.

Node values are one array ``[..., d]`` (node sets concatenated), edge values a
tuple of arrays ``[..., d]``, one per edge block. A model maps features row by row, and
moves them with the methods of `Layout`: to the ends of edges, from edges to nodes, from
graphs to both and back. No shape or index is visible, so a model is the same function
on graphs of one topology stacked as dense blocks (`DenseLayout`) and on graphs of many
topologies packed as lists of edges (`SparseLayout`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol, overload

import jax
import jax.numpy as jnp
import numpy as np

from metanet.graphs.blocks import End
from metanet.graphs.schema import GraphSchema

# Edge values, features last: an array ``[..., d]`` per edge block.
Edges = tuple[jax.Array, ...]
Reduction = Literal["sum", "mean", "max", "min"]


class HeadEdges(NamedTuple):
    """Edge values in the memory order of products between nodes and edges.

    Only `Layout.to_head_major` and `Layout.edge_scores` return it. Each layout has its own
    order.

    Attributes:
        blocks: An array per edge block, with h features (heads).
    """

    blocks: tuple[jax.Array, ...]


class Encoder(Protocol):
    """Encodes values of parameters; layouts call it block by block or row by row.

    Attributes:
        width: Width of an encoding.
    """

    width: int

    def block(
        self, values: jax.Array, kind: int, positions: tuple[int, ...], key: int
    ) -> jax.Array:
        """Encodes ``[..., M * F]`` values of one type as ``[..., width]``."""
        ...

    def parallel(
        self, values: jax.Array, kind: int, positions: tuple[int, ...], key: int
    ) -> jax.Array:
        """Encodes ``[B, M, ..., F]`` values, an edge per kernel position."""
        ...

    def rows(
        self, values: jax.Array, keys: jax.Array, position: jax.Array | None = None
    ) -> jax.Array:
        """Encodes ``[R, C]`` values whose rows may be of different types."""
        ...

    def vector(self, key: int) -> jax.Array:
        """Returns the encoding ``[width]`` of edges without a value."""
        ...


class Rows(NamedTuple):
    """Features of a batch as one list of rows, for models that depend on their order.

    A run is a range of rows: the nodes, or the edges, of one graph in their order.

    Attributes:
        values: ``[R, d]``; rows outside of all runs are padding.
        start, length: ``[runs]`` integers.
        graph: ``[runs]`` graph of each run.
    """

    values: jax.Array
    start: jax.Array
    length: jax.Array
    graph: jax.Array


class Layout(Protocol):
    """Features of a batch: their memory layout and the operations on them.

    Attributes:
        schema: Schema of the graphs.
        size: Number of graphs G.
        node_type, identity: Per node its number in ``schema.node_types`` and its
            identity (-1: none), integer arrays that broadcast against node values
            without their last axis.
        edge_type: Per edge its number in ``schema.edge_types``, likewise.
    """

    schema: GraphSchema
    size: int
    node_type: jax.Array
    identity: jax.Array
    edge_type: tuple[jax.Array, ...]

    def encode_nodes(self, encoder: Encoder) -> jax.Array:
        """Encodes the parameters of nodes (biases, gains), summed per node."""
        ...

    def encode_edges(self, encoder: Encoder) -> Edges:
        """Encodes the parameters of edges; identity edges have the vector of their type."""
        ...

    def moments(self) -> tuple[jax.Array, jax.Array]:
        """Returns count, sum and sum of squares of the values of each edge type.

        ``[K, 3]``, and ``[K', 3]`` for the types of parameters of nodes.
        """
        ...

    def decode(self, on_edges: Edges, on_nodes: jax.Array) -> jax.Array:
        """Returns one value per parameter, from a value per grid column.

        Args:
            on_edges: Per edge ``[..., edge_columns]`` (parallel edges: ``[..., 1]``).
            on_nodes: Per node ``[..., node_columns]``.

        Returns:
            ``[G, P]`` in the order of flat parameters; padded with zeros for smaller
            networks. Tied parameters take the value of their primary edge set.

        Raises:
            ValueError: for graphs that were packed without ``parameters``.
        """
        ...

    def gather(self, nodes: jax.Array, end: End) -> Edges:
        """Returns values of the nodes at an end of every edge; broadcasts against edges."""
        ...

    def reduce(self, edges: Edges, end: End, how: Reduction = "sum") -> jax.Array:
        """Reduces values over each node's edges; 0 where it has none."""
        ...

    def degree(self, end: End) -> jax.Array:
        """Returns the number of edges at each node, at least 1, as values of width 1."""
        ...

    def aggregate_messages(
        self, edges: HeadEdges, nodes: jax.Array, end: End, scale: bool = True
    ) -> jax.Array:
        """Sums over each node's edges the edge's features times values of its other end.

        Head i of an edge (feature i of h) multiplies the i-th run of d / h values. With
        ``scale``, sums of each edge block are divided by the square root of its number
        of edges per node.
        """
        ...

    def edge_scores(
        self, at_source: jax.Array, at_target: jax.Array, heads: int
    ) -> HeadEdges:
        """Returns per edge and head the scaled inner product of its ends.

        Where several pairs of nodes share an edge, the mean of their products.
        """
        ...

    def to_head_major(self, edges: Edges) -> HeadEdges:
        """Brings edge features, one per edge, into the order of `aggregate_messages`.

        Raises:
            ValueError: for values that differ between pairs of nodes that share an edge.
        """
        ...

    def to_feature_major(self, edges: HeadEdges) -> Edges:
        """Brings edge features back; the inverse of `to_head_major`."""
        ...

    def project_heads(self, edges: HeadEdges, weight: jax.Array) -> HeadEdges:
        """Multiplies the features of every edge by a matrix ``[h, h']``."""
        ...

    def to_nodes(self, graphs: jax.Array) -> jax.Array:
        """Returns values per graph ``[G, d]`` as node values; broadcasts against them."""
        ...

    def to_edges(self, graphs: jax.Array) -> Edges:
        """Returns values per graph ``[G, d]`` as edge values; broadcasts against them."""
        ...

    def pool_nodes(
        self,
        nodes: jax.Array,
        how: Reduction = "mean",
        where: jax.Array | None = None,
    ) -> jax.Array:
        """Reduces node values per graph, ``[G, d]``.

        Args:
            nodes: Node values.
            how: The reduction.
            where: 1 (or True) for nodes that count, with the shape of `node_type`; None for all.
        """
        ...

    def pool_edges(self, edges: Edges, how: Reduction = "mean") -> jax.Array:
        """Reduces edge values per graph, ``[G, d]``."""
        ...

    def rows(self, nodes: jax.Array, edges: Edges) -> Rows:
        """Lists nodes and edges, in the order of the graphs' topology."""
        ...

    def mean_over_shared(self, edges: Edges) -> Edges:
        """Reduces edge values that were computed from `gather` to one per edge.

        Where several pairs of nodes share an edge (channels of a product over tokens),
        their values are averaged.
        """
        ...


def head_matrix(width: int, heads: int) -> np.ndarray:
    """Returns ``[width, heads]``, 1 where a feature belongs to a head, run by run."""
    return np.repeat(np.eye(heads, dtype=np.float32), width // heads, axis=0)


@overload
def map_edges(function: Callable[..., jax.Array], *edges: Edges) -> Edges: ...


@overload
def map_edges(function: Callable[..., jax.Array], *edges: HeadEdges) -> HeadEdges: ...


def map_edges(
    function: Callable[..., jax.Array], *edges: Edges | HeadEdges
) -> Edges | HeadEdges:
    """Applies a function of arrays ``[..., d]`` to every edge block.

    Raises:
        TypeError: when edges of both memory orders are mixed.
    """
    head_major = [e.blocks for e in edges if isinstance(e, HeadEdges)]
    if head_major and len(head_major) < len(edges):
        raise TypeError("map_edges: takes Edges alone, or HeadEdges alone")
    blocks = zip(*(head_major or edges), strict=True)
    results = tuple(function(*block) for block in blocks)
    return HeadEdges(results) if head_major else results


def attention(
    layout: Layout, parts: Sequence[tuple[Edges, Edges, End]], heads: int
) -> jax.Array:
    """Softmax-weighted sums over each node's edges.

    Args:
        layout: The batch.
        parts: (scores ``[..., heads]``, values ``[..., d]``, end) of the edges that
            take part; head i weighs the i-th run of d / heads values. The weights of a
            node sum to 1 over all parts.
        heads: Number of heads.
    """
    highest_of = [layout.reduce(scores, end, "max") for scores, _, end in parts]
    highest = jax.lax.stop_gradient(functools.reduce(jnp.maximum, highest_of))

    width = parts[0][1][0].shape[-1]
    spread = jnp.asarray(head_matrix(width, heads).T)

    def weighted(weights: jax.Array, values: jax.Array) -> jax.Array:
        # A small product instead of a broadcast within rows, which XLA does not vectorise.
        return (weights @ spread) * values

    sums: jax.Array | float = 0.0
    total: jax.Array | float = 0.0
    for scores, values, end in parts:
        weights = map_edges(
            lambda s, m: jnp.exp(s - m), scores, layout.gather(highest, end)
        )
        total = total + layout.reduce(weights, end)
        sums = sums + layout.reduce(map_edges(weighted, weights, values), end)
    sums, total = jnp.asarray(sums), jnp.asarray(total)
    per_head = sums.reshape(*sums.shape[:-1], heads, -1)
    return (per_head / jnp.maximum(total, 1e-30)[..., None]).reshape(sums.shape)
