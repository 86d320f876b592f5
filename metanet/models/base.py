"""What every metanetwork is: graphs in, features of nodes, edges and graphs out."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.errors import MetanetError
from metanet.graphs import (
    Edges,
    GraphBatch,
    GraphSchema,
    Layout,
    ParameterGraph,
    Topology,
    apply_form,
    edge_blocks,
    make_layout,
)
from metanet.models.embeddings import GraphEncoder
from metanet.models.layers import dropout
from metanet.models.probes import Probe, ProbeFeatures
from metanet.models.readout import Readout
from metanet.registry import Registry
from metanet.symmetry import Symmetry

MODELS: Registry[Any] = Registry("model", requires=("Config",))


class Features(NamedTuple):
    """What a model makes of a batch.

    Attributes:
        nodes: Node values ``[..., d]``, or None.
        edges: Edge values ``[..., d]``, or None.
        pooled: ``[G, d]``, which heads read.
    """

    nodes: jax.Array | None
    edges: Edges | None
    pooled: jax.Array


class ModelInputs(NamedTuple):
    """The input networks for which a model is built.

    Attributes:
        topologies: Their topologies; models that are bound to one take the first.
        symmetry: What was discovered, where there is one topology.
        probe: How to run them, where there is one topology.
    """

    topologies: tuple[Topology, ...]
    symmetry: Symmetry | None = None
    probe: Probe | None = None

    def single(self, model: str) -> Topology:
        """The only topology.

        Raises:
            MetanetError: when there are several, naming the model.
        """
        if len(self.topologies) != 1:
            raise MetanetError(
                f"name: {model} reads networks of one architecture, these "
                f"are of {len(self.topologies)}; take a graph metanetwork"
            )
        return self.topologies[0]


def require_dense(graphs: GraphBatch) -> ParameterGraph:
    """Returns the graphs of one topology.

    Raises:
        MetanetError: for packed graphs.
    """
    if not isinstance(graphs, ParameterGraph):
        raise MetanetError(
            "name: this model reads networks of one architecture; take a graph "
            "metanetwork or deep_sets for packed batches"
        )
    return graphs


class Model(Protocol):
    """What tasks and training rely on.

    Attributes:
        dim: Width of the pooled features.
        cost: Floats that one network occupies in the widest intermediate array.
    """

    dim: int

    @property
    def cost(self) -> int: ...

    def set_statistics(self, graphs: GraphBatch) -> None: ...

    def __call__(
        self,
        graphs: GraphBatch,
        *,
        key: jax.Array | None = None,
        deterministic: bool = True,
    ) -> Features: ...


class GraphModel(nnx.Module):
    """A graph metanetwork: encodes a batch, updates its features in blocks, pools them.

    Subclasses define `update`. Options that all share are read from ``config``: ``dim``,
    ``frequencies``, ``max_frequency``, ``probes``, ``readout``, ``dropout``.

    Args:
        config: The model's options.
        schema: What the graphs are made of.
        subject: The input networks.
        edge_dim: Width of edge features.
        edge_floats: Width of the widest array over edges, where it is another.
        edge_readout: Whether readouts may read edges.
        homogeneous: See `GraphEncoder`.
        has_globals: Whether blocks keep a feature per graph.
    """

    def __init__(
        self,
        config: Any,
        schema: GraphSchema,
        model_inputs: ModelInputs,
        *,
        edge_dim: int,
        edge_floats: int = 0,
        edge_readout: bool = True,
        homogeneous: bool = False,
        has_globals: bool = False,
        rngs: nnx.Rngs,
    ):
        self.config, self.schema = config, schema
        self.encoder = GraphEncoder(
            schema,
            config.dim,
            edge_dim,
            frequencies=config.frequencies,
            max_frequency=config.max_frequency,
            homogeneous=homogeneous,
            rngs=rngs,
        )
        self.probes = (
            ProbeFeatures(
                config.probes,
                config.dim,
                model_inputs.single(f"probes={config.probes}"),
                model_inputs.probe,
                rngs=rngs,
            )
            if config.probes
            else None
        )
        self.readout = Readout(
            config.readout,
            schema,
            nodes=config.dim,
            edges=edge_dim if edge_readout else 0,
            graphs=config.dim if has_globals else 0,
            rngs=rngs,
        )
        self.dim, self.node_dim, self.edge_dim = self.readout.dim, config.dim, edge_dim
        largest = [apply_form(t, schema.form) for t in model_inputs.topologies]
        width = edge_floats or edge_dim
        self._cost = max(_floats(t, config.dim, width, schema) for t in largest)

    @property
    def cost(self) -> int:
        """Floats that one network occupies in the widest array of a block."""
        return self._cost

    def set_statistics(self, graphs: GraphBatch) -> None:
        """Measures the standardisation on a sample of graphs."""
        self.encoder.measure(make_layout(graphs, self.schema))

    def nodes(self, layout: Layout) -> jax.Array:
        """Node features ``[..., dim]`` before the first block, probes included."""
        x = self.encoder.nodes(layout)
        if self.probes is not None:
            x = x + self.probes(layout)
        return x

    def update(
        self, layout: Layout, key: jax.Array | None, deterministic: bool
    ) -> tuple[jax.Array, Edges, jax.Array | None]:
        """Features of nodes, edges and graphs (None: none) after all blocks."""
        raise NotImplementedError

    def pool(
        self,
        layout: Layout,
        nodes: jax.Array,
        edges: Edges,
        globals_: jax.Array | None,
    ) -> jax.Array:
        """The invariant feature ``[G, dim]`` of each graph."""
        return self.readout(layout, nodes, edges, globals_)

    def __call__(
        self,
        graphs: GraphBatch,
        *,
        key: jax.Array | None = None,
        deterministic: bool = True,
    ) -> Features:
        """Features of a batch; ``pooled`` is ``[G, self.dim]``."""
        layout = make_layout(graphs, self.schema)
        nodes, edges, globals_ = self.update(layout, key, deterministic)
        pooled = self.pool(layout, nodes, edges, globals_)
        pooled = dropout(pooled, self.config.dropout, key, deterministic)
        return Features(nodes, edges, pooled)


def _floats(topology: Topology, dim: int, edge_dim: int, schema: GraphSchema) -> int:
    edges = 0
    for group in edge_blocks(topology):
        both, sources, targets = group.shape
        parallel = 1
        if schema.form.parallel and group.edge >= 0:
            parallel = topology.edges[group.edge].shape[3]
        edges += both * sources * targets * parallel
    return max(6 * dim * topology.num_nodes, edge_dim * edges)


def per_graph(layout: Layout, vector: jax.Array) -> jax.Array:
    """A vector ``[d]`` for each graph, ``[G, d]``."""
    return jnp.broadcast_to(vector[None], (layout.size, vector.shape[-1]))
