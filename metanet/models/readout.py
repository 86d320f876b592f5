"""Invariant readouts, which pool node, edge and global features to a vector per graph."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.graphs import Edges, GraphSchema, Layout, map_edges
from metanet.models.layers import Linear, log_variance, rms_norm

NodeReadoutName = Literal["roles", "moments", "attention", "outputs", "mean"]
ReadoutName = NodeReadoutName | Literal["edges", "nodes_edges"]
_ROLES = ("input", "hidden", "output")
_QUERIES = 4


class Readout(nnx.Module):
    """Pools a batch to ``[G, dim]``, appends the global feature and normalises.

    * "roles": means over input, output and all other nodes, concatenated;
    * "moments": "roles" and the logarithms of the variances;
    * "attention": softmax-weighted means of all nodes for four learned queries;
    * "edges": mean over edges of a learned map (Graph Metanetworks, edge readout);
    * "nodes_edges": "edges" and a mean over nodes of a learned map (Graph Metanetworks);
    * "outputs": features of the output nodes one by one (Neural Graphs: the outputs of
      the input network are in a fixed order);
    * "mean": the mean over all nodes.

    Args:
        how: Name of the readout.
        schema: Schema of the graphs.
        nodes, edges, graphs: Widths of the features; 0 if there are none.
        rngs: Random streams of the initialisation.
    """

    def __init__(
        self,
        how: ReadoutName,
        schema: GraphSchema,
        *,
        nodes: int,
        edges: int,
        graphs: int,
        rngs: nnx.Rngs,
    ):
        self.how = how
        kinds = [kind for kind, *_ in schema.node_types]
        role = [k if k in ("input", "output") else "hidden" for k in kinds]
        self.role = tuple(_ROLES.index(r) for r in role)
        self.roles = tuple(i for i, r in enumerate(_ROLES) if r in role)
        self.outputs = (0, 0)
        start = 0
        for kind, count in schema.identities:
            if kind == "output":
                self.outputs = (start, count)
            start += count
        query = edge_map = node_map = None
        if how == "attention":
            query = Linear(nodes, _QUERIES, rngs=rngs)
        if how in ("edges", "nodes_edges"):
            edge_map = Linear(edges, nodes, rngs=rngs)
        if how == "nodes_edges":
            node_map = Linear(nodes, nodes, rngs=rngs)
        self.query, self.edge_map, self.node_map = query, edge_map, node_map
        parts = {
            "roles": len(self.roles),
            "moments": 2 * len(self.roles),
            "attention": _QUERIES,
            "edges": 1,
            "nodes_edges": 2,
            "outputs": max(self.outputs[1], 1),
            "mean": 1,
        }[how]
        self.dim = nodes * parts + graphs
        self.gain = nnx.Param(jnp.ones(self.dim))

    def __call__(
        self,
        layout: Layout,
        nodes: jax.Array,
        edges: Edges | None,
        globals_: jax.Array | None,
    ) -> jax.Array:
        """Returns the pooled, normalised features ``[G, dim]``."""
        parts: list[jax.Array] = []
        if self.how in ("roles", "moments"):
            role = jnp.asarray(self.role)[layout.node_type]
            parts = [layout.pool_nodes(nodes, where=role == i) for i in self.roles]
            if self.how == "moments":
                for i, mean in zip(self.roles, tuple(parts), strict=True):
                    square = jnp.square(nodes - layout.to_nodes(mean))
                    parts.append(
                        log_variance(layout.pool_nodes(square, where=role == i))
                    )
        elif self.how == "mean":
            parts = [layout.pool_nodes(nodes)]
        elif self.how == "attention":
            parts = [self._attend(layout, nodes)]
        elif self.how == "outputs":
            start, count = self.outputs
            if count:
                masks = [layout.identity == start + i for i in range(count)]
                parts = [layout.pool_nodes(nodes, "sum", where=mask) for mask in masks]
            else:
                role = jnp.asarray(self.role)[layout.node_type]
                parts = [layout.pool_nodes(nodes, where=role == 2)]
        edge_map = self.edge_map
        if edge_map is not None:
            assert edges is not None
            mapped = map_edges(lambda e: jax.nn.silu(edge_map(e)), edges)
            parts.append(layout.pool_edges(mapped))
        if self.node_map is not None:
            parts.append(layout.pool_nodes(jax.nn.silu(self.node_map(nodes))))
        if globals_ is not None:
            parts.append(globals_)
        x = jnp.concatenate(parts, axis=-1)
        return rms_norm(x) * self.gain[...][None]

    def _attend(self, layout: Layout, nodes: jax.Array) -> jax.Array:
        assert self.query is not None
        scores = self.query(nodes)
        highest = jax.lax.stop_gradient(layout.pool_nodes(scores, "max"))
        weights = jnp.exp(scores - layout.to_nodes(highest))
        total = layout.pool_nodes(weights, "sum")
        total = jnp.maximum(total, 1e-30)  # graphs of padding have no nodes
        mixed = (weights[..., None] * nodes[..., None, :]).reshape(
            *nodes.shape[:-1], -1
        )
        sums = layout.pool_nodes(mixed, "sum").reshape(layout.size, _QUERIES, -1)
        return (sums / total[..., None]).reshape(layout.size, -1)
