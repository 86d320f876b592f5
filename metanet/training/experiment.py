"""Everything an experiment is made of, built once from its config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metanet import symmetry as sym
from metanet.augment import build_augmentation
from metanet.graphs import ParameterGraph, Topology, build_topology, to_graph
from metanet.graphs.scales import rest_of
from metanet.models import MODELS, Model, Probe, build_model
from metanet.networks import Network, Params, ParamSpec, create
from metanet.tasks import TASKS, Task
from metanet.training.config import ExperimentConfig, from_mapping

# Networks whose weights set the standardisation.
_STATISTICS_SAMPLE = 1024


class Metanetwork(nnx.Module):
    """A model and a task's head: parameter graphs in, outputs out."""

    def __init__(self, model: Model, head: nnx.Module):
        self.model, self.head = model, head

    def __call__(
        self,
        graphs: ParameterGraph,
        *,
        key: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Outputs ``[B, k]`` of a batch of graphs."""
        features = self.model(graphs, key=key, deterministic=deterministic)
        return self.head(features.pooled)  # type: ignore[operator]


def left_to_canonicalize(
    config: ExperimentConfig, symmetry: sym.Symmetry, topology: Topology
) -> sym.Symmetry | None:
    """The scales, signs and phases that the config's model does not handle itself."""
    if not config.canonicalize:
        return None
    carries = MODELS[config.model.name].carries_factors
    return rest_of(symmetry, topology) if carries else symmetry


@dataclass(frozen=True)
class Experiment:
    """The static parts of an experiment.

    Attributes:
        config: Its config.
        network: The input networks' architecture as a function.
        spec: Layout of its parameters as a vector.
        symmetry, topology: What discovery found, and the parameter graph.
        canonical: The part of the symmetry that is canonicalised; None: nothing is.
        task: Head, loss and metrics.
    """

    config: ExperimentConfig
    network: Network
    spec: ParamSpec
    symmetry: sym.Symmetry
    topology: Topology
    canonical: sym.Symmetry | None
    task: Task

    @classmethod
    def of(cls, config: ExperimentConfig, class_names: tuple[str, ...]) -> Experiment:
        """Discovers the structure of a config's input networks.

        Args:
            config: The config.
            class_names: Of the zoo's labels.

        Raises:
            MetanetError: for anything in the config that cannot be had.
        """
        network = create(config.zoo.fit.architecture, jax.random.key(0))
        spec = ParamSpec.of(network.params)
        symmetry = sym.discover(network.apply_fn, network.params, *network.inputs)
        topology = build_topology(symmetry)
        kind, task = TASKS[config.task.name]
        options = from_mapping(kind, dict(config.task.options), "config.task")
        return cls(
            config=config,
            network=network,
            spec=spec,
            symmetry=symmetry,
            topology=topology,
            canonical=left_to_canonicalize(config, symmetry, topology),
            task=task(options, class_names),
        )

    def prepare(self, weights: jax.Array) -> Params:
        """Flat weights ``[B, P]`` to parameters, canonical if the config says so."""
        params = self.spec.unflatten(weights)
        left = self.canonical
        if left is not None:
            params = jax.vmap(lambda p: sym.canonicalize(left, p))(params)
        return params

    def graphs(self, weights: jax.Array) -> ParameterGraph:
        """Flat weights ``[B, P]`` to the parameter graphs that models read."""
        return to_graph(self.topology, self.prepare(weights))

    def augmented(self) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
        """``(keys [B], weights [B, P]) -> weights``, or None without augmentation."""
        augment = build_augmentation(self.config.augment, self.symmetry)
        if augment is None:
            return None

        def apply(key: jax.Array, vector: jax.Array) -> jax.Array:
            return self.spec.flatten(augment(key, self.spec.unflatten(vector)))

        return jax.vmap(apply)

    def probe(self) -> Probe:
        """How models run the input network."""
        apply_fn, example = self.network.apply_fn, self.network.inputs[0]

        def activations(params: Any, inputs: jax.Array) -> tuple[Any, ...]:
            return sym.activations(apply_fn, self.symmetry, params, inputs)

        return Probe(activations, self.spec, example.shape[1:])

    def build(self, sample: np.ndarray) -> Metanetwork:
        """The untrained metanetwork, with statistics of a sample of flat weights."""
        rngs = nnx.Rngs(self.config.seed)
        model = build_model(
            self.config.model.name,
            dict(self.config.model.options),
            topology=self.topology,
            symmetry=self.symmetry,
            probe=self.probe(),
            rngs=rngs,
        )
        graphs = jax.jit(self.graphs)(jnp.asarray(sample[:_STATISTICS_SAMPLE]))
        model.set_statistics(graphs)
        return Metanetwork(model, self.task.head(model.dim, rngs=rngs))
