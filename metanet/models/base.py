"""Interface of metanetworks, and the base class of graph metanetworks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.errors import MetanetError
from metanet.graphs import (
    Edges,
    GraphBatch,
    GraphForm,
    GraphSchema,
    HeadEdges,
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
from metanet.models.readout import Readout, ReadoutName
from metanet.options import (
    NonNegativeInt,
    Options,
    PositiveFloat,
    PositiveInt,
    Rate,
    from_mapping,
)
from metanet.registry import Registry
from metanet.symmetry import Symmetry

MODELS: Registry[Any] = Registry("model", requires=("Config",))


class Features(NamedTuple):
    """Output of a model.

    Attributes:
        nodes: Node values ``[..., d]``, or None.
        edges: Edge values ``[..., d]``, or None.
        pooled: Invariant features ``[G, d]``, which heads read.
    """

    nodes: jax.Array | None
    edges: Edges | None
    pooled: jax.Array


class ModelInputs(NamedTuple):
    """The input networks for which a model is built.

    Attributes:
        topologies: Their topologies.
        symmetry: Their discovered symmetry, where there is one topology.
        probe: Access to their activations, where there is one topology.
    """

    topologies: tuple[Topology, ...]
    symmetry: Symmetry | None = None
    probe: Probe | None = None

    def single(self, model: str) -> Topology:
        """Returns the only topology.

        Args:
            model: Name of the model that needs it, for the message.

        Raises:
            MetanetError: when there are several.
        """
        if len(self.topologies) != 1:
            raise MetanetError(
                f"{model} reads networks of one architecture, these are of "
                f"{len(self.topologies)}; take a graph metanetwork"
            )
        return self.topologies[0]


def require_dense(graphs: GraphBatch) -> ParameterGraph:
    """Returns the graphs of one topology.

    Raises:
        MetanetError: for packed graphs.
    """
    if not isinstance(graphs, ParameterGraph):
        raise MetanetError(
            "this model reads networks of one architecture; take a graph metanetwork "
            "for packed batches"
        )
    return graphs


class Model(Protocol):
    """Interface of a model, on which tasks and training rely.

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


@dataclass(frozen=True)
class GraphModelConfig(Options):
    """Options of every graph metanetwork; models add theirs in a subclass.

    Attributes:
        dim: Width of node features.
        depth: Number of blocks.
        frequencies: Fourier frequencies per parameter; 0 encodes linearly.
        max_frequency: Highest frequency, in radians per standard deviation.
        probes: Number of learned inputs whose activations become node features; 0: the
            model reads weights only.
        readout: Pooling of the features after the last block; see `Readout`.
        dropout: Rate on the pooled features.
    """

    dim: PositiveInt = 64
    depth: PositiveInt = 4
    frequencies: NonNegativeInt = 16
    max_frequency: PositiveFloat = 8.0
    probes: NonNegativeInt = 0
    readout: ReadoutName = "outputs"
    dropout: Rate = 0.0


E = TypeVar("E", Edges, HeadEdges)


class State(NamedTuple, Generic[E]):
    """Features of a batch between two blocks.

    Attributes:
        nodes: ``[..., dim]``.
        edges: `Edges` ``[..., edge_dim]``, or `HeadEdges` in models whose blocks multiply
            edges and nodes.
        globals_: ``[G, dim]``, or None for a model without a feature per graph.
    """

    nodes: jax.Array
    edges: E
    globals_: jax.Array | None = None


class Block(Protocol):
    """One round of message passing."""

    def __call__(
        self,
        layout: Layout,
        state: State[Any],
        *,
        key: jax.Array | None,
        deterministic: bool,
    ) -> State[Any]:
        """Returns the updated features.

        Args:
            layout: The batch.
            state: Features before the block.
            key: Key of dropout; None where ``deterministic``.
            deterministic: Switches dropout off.
        """
        ...


class GraphModel(nnx.Module):
    """A graph metanetwork: encodes a batch, updates its features in blocks, pools them.

    A subclass sets ``blocks``, a list of modules with the signature of `Block`, which this
    class runs one after another. Where its blocks need more than encoded nodes and edges,
    it overrides `initial_state`, and `final_state` to undo a memory order.

    Args:
        config: Options; only those of `GraphModelConfig` are read here.
        schema: Schema of the graphs.
        model_inputs: The input networks.
        edge_dim: Width of edge features.
        edge_floats: Width of the widest array over edges, where it is another.
        edge_readout: Whether readouts may read edges.
        homogeneous: See `GraphEncoder`.
        has_globals: Whether blocks keep a feature per graph.
        rngs: Keys of the initialisation.
    """

    Config: type[Options]
    blocks: nnx.List

    def __init__(
        self,
        config: GraphModelConfig,
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
                model_inputs.single(f"a model with probes={config.probes}"),
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

    @classmethod
    def for_graphs(
        cls,
        topologies: Topology | Sequence[Topology],
        *,
        features: int = 1,
        rngs: nnx.Rngs,
        **options: object,
    ) -> Self:
        """Builds the model for graphs of one topology, or of several.

        ``GMN.for_graphs(graph.topology, dim=32, rngs=nnx.Rngs(0))``

        Args:
            topologies: Topology or topologies of the graphs.
            features: Values per parameter.
            rngs: Keys of the initialisation.
            **options: Fields of ``cls.Config``.

        Raises:
            MetanetError: for an unknown option or an impossible value.
        """
        config = from_mapping(cls.Config, options)
        return new_model(cls, config, topologies, features=features, rngs=rngs)

    @property
    def cost(self) -> int:
        """Floats that one network occupies in the widest array of a block."""
        return self._cost

    def set_statistics(self, graphs: GraphBatch) -> None:
        """Measures the standardisation on a sample of graphs."""
        self.encoder.measure(make_layout(graphs, self.schema))

    def nodes(self, layout: Layout) -> jax.Array:
        """Returns encoded nodes ``[..., dim]``, features of probes included."""
        x = self.encoder.nodes(layout)
        if self.probes is not None:
            x = x + self.probes(layout)
        return x

    def initial_state(self, layout: Layout) -> State[Any]:
        """Returns the features before the first block; encoded nodes and edges."""
        return State(self.nodes(layout), self.encoder.edges(layout))

    def final_state(self, layout: Layout, state: State[Any]) -> State[Edges]:
        """Returns the features that the model outputs, edges feature-major."""
        return state

    def pool(self, layout: Layout, state: State[Edges]) -> jax.Array:
        """Returns the invariant feature ``[G, dim]`` of each graph."""
        return self.readout(layout, state.nodes, state.edges, state.globals_)

    def __call__(
        self,
        graphs: GraphBatch,
        *,
        key: jax.Array | None = None,
        deterministic: bool = True,
    ) -> Features:
        """Returns the features of a batch; ``pooled`` is ``[G, self.dim]``.

        Args:
            graphs: Dense or packed graphs of the model's schema.
            key: Key of dropout; without one there is none.
            deterministic: Switches dropout off.

        Raises:
            MetanetError: for graphs that the schema does not know.
        """
        layout = make_layout(graphs, self.schema)
        state = self.initial_state(layout)
        for i, block in enumerate(self.blocks):
            block_key = None if key is None else jax.random.fold_in(key, i)
            state = block(layout, state, key=block_key, deterministic=deterministic)
        state = self.final_state(layout, state)
        pooled = self.pool(layout, state)
        pooled = dropout(pooled, self.config.dropout, key, deterministic)
        return Features(state.nodes, state.edges, pooled)


M = TypeVar("M")


def new_model(
    model: Callable[..., M],
    config: Options,
    topologies: Topology | Sequence[Topology],
    *,
    symmetry: Symmetry | None = None,
    probe: Probe | None = None,
    features: int = 1,
    rngs: nnx.Rngs,
) -> M:
    """Calls a model's class with the schema of its graphs.

    Args:
        model: Class of the model.
        config: Its options. A property ``form`` chooses the form of the graphs.
        topologies: Topology or topologies of the graphs.
        symmetry: Discovered symmetry, for weight-space functionals.
        probe: Access to activations, for models with probes.
        features: Values per parameter.
        rngs: Keys of the initialisation.
    """
    if isinstance(topologies, Topology):
        topologies = (topologies,)
    form = getattr(config, "form", GraphForm())
    schema = GraphSchema.of(tuple(topologies), form, features)
    model_inputs = ModelInputs(tuple(topologies), symmetry, probe)
    return model(config, schema, model_inputs, rngs=rngs)


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
    """Repeats a vector ``[d]`` for each graph, ``[G, d]``."""
    return jnp.broadcast_to(vector[None], (layout.size, vector.shape[-1]))
