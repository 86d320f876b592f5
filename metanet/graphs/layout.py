"""The interface against which models are written, whatever the layout of a batch.

Node values are one array ``[..., d]`` (all node sets behind one another), edge values a
tuple of arrays ``[..., d]``, one per edge group. A model maps features row by row, and
moves them with the methods of `Layout`: to the ends of edges, from edges to nodes, from
graphs to both and back. No shape or index is visible, so a model is the same function
on graphs of one topology stacked as dense blocks (`Stacked`) and on graphs of many
topologies packed as lists of edges (`Packed`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from metanet.graphs.batch import End
from metanet.graphs.schema import GraphSchema

Edges = tuple[jax.Array, ...]
Reduction = Literal["sum", "mean", "max", "min"]


class Rows(NamedTuple):
    """Features of a batch as one list of rows, for models that read an order.

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
    """How the features of a batch lie in memory, and how they move.

    Attributes:
        schema: What the graphs are made of.
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

    def encode_nodes(self, encoder: Any) -> jax.Array:
        """Encoded parameters of the nodes (biases, gains), summed per node."""
        ...

    def encode_edges(self, encoder: Any) -> Edges:
        """Encoded parameters of the edges; of a join its type's vector."""
        ...

    def moments(self) -> tuple[jax.Array, jax.Array]:
        """Count, sum and sum of squares of the values of each edge type ``[K, 3]``, and
        of each key of parameters of nodes."""
        ...

    def decode(self, on_edges: Edges, on_nodes: jax.Array) -> jax.Array:
        """Returns one value per parameter, from values per grid column.

        Args:
            on_edges: Per edge ``[..., edge_columns]`` (parallel edges: ``[..., 1]``).
            on_nodes: Per node ``[..., node_columns]``.

        Returns:
            ``[G, P]`` in the order of flat parameters; zeros behind the parameters of a
            smaller network. Tied parameters take the value of their primary edge set.

        Raises:
            ValueError: for graphs that were packed without ``parameters``.
        """
        ...

    def gather(self, nodes: jax.Array, end: End) -> Edges:
        """Values of the nodes at an end of every edge; broadcasts against edges."""
        ...

    def reduce(self, edges: Edges, end: End, how: Reduction = "sum") -> jax.Array:
        """Sum, mean, maximum or minimum over each node's edges; 0 where it has none."""
        ...

    def degree(self, end: End) -> jax.Array:
        """Number of edges at each node, at least 1, as node values of width 1."""
        ...

    def aggregate_messages(
        self, edges: Edges, nodes: jax.Array, end: End, scale: bool = True
    ) -> jax.Array:
        """Sums over each node's edges of edge features times values of the other end.

        Head i of an edge (feature i of h) multiplies the i-th run of d / h values.
        Sums of each edge group are divided by the square root of its fan, with
        ``scale``. Edges are in the order of `heads`.
        """
        ...

    def edge_scores(
        self, at_source: jax.Array, at_target: jax.Array, heads: int
    ) -> Edges:
        """Per edge and head the scaled inner product of both ends, as `heads`."""
        ...

    def to_head_major(self, edges: Edges) -> Edges:
        """Edge features in the order that `carry` and `match` want."""
        ...

    def to_feature_major(self, edges: Edges) -> Edges:
        """The inverse of `heads`."""
        ...

    def project_heads(self, edges: Edges, weight: jax.Array) -> Edges:
        """Features in the order of `heads` times a matrix ``[h, h']``."""
        ...

    def to_nodes(self, graphs: jax.Array) -> jax.Array:
        """Values per graph ``[G, d]`` as node values; broadcasts against them."""
        ...

    def to_edges(self, graphs: jax.Array) -> Edges:
        """Values per graph ``[G, d]`` as edge values; broadcasts against them."""
        ...

    def pool_nodes(
        self, nodes: jax.Array, how: Reduction = "mean", where: Any = None
    ) -> jax.Array:
        """Per graph ``[G, d]``; ``where``: 1 for nodes that count, shaped as
        `node_type`."""
        ...

    def pool_edges(self, edges: Edges, how: Reduction = "mean") -> jax.Array:
        """Per graph ``[G, d]``."""
        ...

    def rows(self, nodes: jax.Array, edges: Edges) -> Rows:
        """Nodes and edges one by one, in the order of the graphs' topology."""
        ...

    def mean_over_shared(self, edges: Edges) -> Edges:
        """Edge values computed from `send`, one per edge again.

        Where several pairs of nodes share an edge (channels of a product over tokens),
        their values are averaged.
        """
        ...


@functools.lru_cache
def head_matrix(width: int, heads: int) -> np.ndarray:
    """``[width, heads]``: 1 where a feature belongs to a head, run by run."""
    return np.repeat(np.eye(heads, dtype=np.float32), width // heads, axis=0)


def map_edges(function: Callable[..., jax.Array], *edges: Edges) -> Edges:
    """Applies a function of arrays ``[..., d]`` to every edge group."""
    return tuple(function(*group) for group in zip(*edges, strict=True))


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
    tops = [layout.reduce(scores, end, "max") for scores, _, end in parts]
    highest = jax.lax.stop_gradient(functools.reduce(jnp.maximum, tops))

    width = parts[0][1][0].shape[-1]
    spread = jnp.asarray(head_matrix(width, heads).T)
    # A small product instead of a broadcast within rows, which XLA does not vectorise.
    weigh = lambda w, v: (w @ spread) * v

    sums: jax.Array | float = 0.0
    total: jax.Array | float = 0.0
    for scores, values, end in parts:
        weights = map_edges(
            lambda s, m: jnp.exp(s - m), scores, layout.gather(highest, end)
        )
        total = total + layout.reduce(weights, end)
        sums = sums + layout.reduce(map_edges(weigh, weights, values), end)
    sums, total = jnp.asarray(sums), jnp.asarray(total)
    per_head = sums.reshape(*sums.shape[:-1], heads, -1)
    return (per_head / jnp.maximum(total, 1e-30)[..., None]).reshape(sums.shape)
