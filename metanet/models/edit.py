"""The edit head: node and edge features to one value per parameter.

Source: Zhou et al. 2023 and Kofinas et al. 2024 add a small multiple of an equivariant
output to the weights, ``theta + s * f(theta)`` with a learned s per layer that starts at
0.01. Equivariance: the values move as the parameters do, under permutations; with a
homogeneous head on features of ScaleGMN also under scales and signs.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.errors import MetanetError
from metanet.graphs import GraphBatch, GraphSchema, make_layout, map_edges
from metanet.models.base import Features
from metanet.models.layers import Linear

_START = 0.01


class EditHead(nnx.Module):
    """Values per parameter from the features of a graph metanetwork.

    Args:
        schema: The model's.
        nodes, edges: Widths of the features.
        homogeneous: A linear map without offsets of each edge's (node's) own features,
            which keeps their factors; otherwise an MLP that also reads the edge's ends.
    """

    def __init__(
        self,
        schema: GraphSchema,
        nodes: int,
        edges: int,
        *,
        homogeneous: bool = False,
        rngs: nnx.Rngs,
    ):
        self.schema, self.homogeneous = schema, homogeneous
        columns = 1 if schema.form.parallel else schema.edge_columns
        make = lambda a, b: Linear(a, b, bias=not homogeneous, rngs=rngs)
        self.own = make(edges, nodes)
        self.ends = None if homogeneous else make(nodes, 2 * nodes)
        self.on_edges = make(nodes, columns)
        self.on_nodes = make(nodes, max(schema.node_columns, 1))
        count = lambda keys: max(len(keys), 1)
        self.edge_scale = nnx.Param(jnp.full((count(schema.edge_types),), _START))
        self.node_scale = nnx.Param(jnp.full((), _START))

    def __call__(self, graphs: GraphBatch, features: Features) -> Any:
        """Values in the form of the batch; see `Layout.decode`.

        Raises:
            MetanetError: for a model without node and edge features.
        """
        if features.nodes is None or features.edges is None:
            raise MetanetError(
                "edit head: this model has no features of nodes and edges; take a "
                "graph metanetwork"
            )
        layout = make_layout(graphs, self.schema)
        hidden = map_edges(self.own, features.edges)
        if self.ends is not None:
            at = jnp.split(self.ends(features.nodes), 2, axis=-1)
            hidden = map_edges(
                lambda e, s, t: jax.nn.silu(e + s + t),
                hidden,
                layout.gather(at[0], "source"),
                layout.gather(at[1], "target"),
            )
            hidden = layout.mean_over_shared(hidden)
        scales = tuple(self.edge_scale[...][t][..., None] for t in layout.edge_type)
        edges = map_edges(lambda h, s: self.on_edges(h) * s, hidden, scales)
        nodes = self.on_nodes(features.nodes) * self.node_scale[...]
        return layout.decode(edges, nodes[..., : self.schema.node_columns])
