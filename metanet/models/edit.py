"""The edit head, which maps node and edge features to one value per parameter.

Source: Zhou et al. 2023 and Kofinas et al. 2024 add a small multiple of an equivariant
output to the weights, ``theta + s * f(theta)`` with a learned s per layer that starts at
0.01; here one s per edge type, and one for all parameters of nodes. Equivariance: the values
transform as the parameters do under permutations, and with a homogeneous head on features of
ScaleGMN also under scales and signs.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.errors import MetanetError
from metanet.graphs import GraphBatch, make_layout, map_edges
from metanet.models.base import Features, GraphModel, Model
from metanet.models.layers import Linear

_START = 0.01


class EditHead(nnx.Module):
    """Values per parameter from the features of a graph metanetwork.

    Args:
        model: A graph metanetwork with node and edge features.
        homogeneous: True for linear maps without offsets of the features of each edge and
            node, which are equivariant to scales as well. Otherwise an MLP reads the
            edges with both of their ends.
        rngs: Random streams of the initialisation.

    Raises:
        MetanetError: for a model without node and edge features.
    """

    def __init__(self, model: Model, *, homogeneous: bool = False, rngs: nnx.Rngs):
        if not isinstance(model, GraphModel):
            raise MetanetError(
                f"edit head: {type(model).__name__} has no features of nodes and edges; "
                "take a graph metanetwork"
            )
        self.schema, self.homogeneous = model.schema, homogeneous
        schema, nodes, edges = model.schema, model.node_dim, model.edge_dim
        columns = 1 if schema.form.parallel else schema.edge_columns

        def linear(width: int, out: int) -> Linear:
            return Linear(width, out, bias=not homogeneous, rngs=rngs)

        self.projection = linear(edges, nodes)
        self.ends = None if homogeneous else linear(nodes, 2 * nodes)
        self.on_edges = linear(nodes, columns)
        self.on_nodes = linear(nodes, max(schema.node_columns, 1))
        types = max(len(schema.edge_types), 1)
        self.edge_scale = nnx.Param(jnp.full((types,), _START))
        self.node_scale = nnx.Param(jnp.full((), _START))

    def __call__(self, graphs: GraphBatch, features: Features) -> jax.Array:
        """Returns one value per parameter, ``[G, P]``; see `Layout.decode`."""
        assert features.nodes is not None and features.edges is not None
        layout = make_layout(graphs, self.schema)
        hidden = map_edges(self.projection, features.edges)
        if self.ends is not None:
            source, target = jnp.split(self.ends(features.nodes), 2, axis=-1)
            hidden = map_edges(
                lambda e, s, t: jax.nn.silu(e + s + t),
                hidden,
                layout.gather(source, "source"),
                layout.gather(target, "target"),
            )
            hidden = layout.mean_over_shared(hidden)
        scales = tuple(self.edge_scale[...][t][..., None] for t in layout.edge_type)
        edges = map_edges(lambda h, s: self.on_edges(h) * s, hidden, scales)
        nodes = self.on_nodes(features.nodes) * self.node_scale[...]
        return layout.decode(edges, nodes[..., : self.schema.node_columns])
