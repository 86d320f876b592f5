"""Everything an experiment is made of, built once from its config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metanet import symmetry as sym
from metanet.augment import build_augmentation
from metanet.compiler import fast_compile_options
from metanet.errors import MetanetError
from metanet.graphs import (
    GraphBatch,
    ParameterGraph,
    Topology,
    build_topology,
    fan_in,
    to_graph,
)
from metanet.graphs.scales import remaining_symmetry
from metanet.models import MODELS, Model, Probe, build_model
from metanet.networks import Architecture, Network, Params, ParamSpec, abstract_network
from metanet.progress import track
from metanet.tasks import TASKS, Task
from metanet.training.config import ExperimentConfig
from metanet.training.files import InputNetworks

# Networks that are prepared in one call on the host.
_PREPARED = 64


class Metanetwork(nnx.Module):
    """A model and a task's head: parameter graphs in, outputs out."""

    def __init__(self, model: Model, head: nnx.Module):
        self.model, self.head = model, head

    def __call__(
        self,
        graphs: GraphBatch,
        *,
        key: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Outputs ``[B, k]`` of a batch of graphs."""
        features = self.model(graphs, key=key, deterministic=deterministic)
        return self.head(features.pooled)  # type: ignore[operator]


def build_task(config: ExperimentConfig, class_names: tuple[str, ...] = ()) -> Task:
    """The task of a config."""
    options = config.task.configure(TASKS, "config.task")
    return TASKS[config.task.name](options, class_names)


@lru_cache(maxsize=256)  # runs of a sweep share their zoo
def _discovered(
    architecture: Architecture, side: int | None
) -> tuple[Network, sym.Symmetry]:
    # The tests check the symmetries of every architecture that has a name.
    network = abstract_network(architecture, side)
    return network, sym.discover(*network[:2], *network.inputs, check=False)


@dataclass(frozen=True, eq=False)
class InputNetwork:
    """One architecture of input networks.

    Attributes:
        network: The architecture as a function; of a named one without values.
        spec: Layout of its parameters as a vector.
        symmetry, topology: What discovery found, and the parameter graph.
        canonical: The part of the symmetry that is canonicalised; None: nothing is.
        factors: What the parameters are multiplied by after that; None: 1.
    """

    network: Network
    spec: ParamSpec
    symmetry: sym.Symmetry
    topology: Topology
    canonical: sym.Symmetry | None
    factors: Params | None

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        config: ExperimentConfig,
        image_side: int | None = None,
    ) -> InputNetwork:
        """Discovers the structure of an architecture, once per process.

        Args:
            architecture: Of the networks.
            config: How they are read.
            image_side: Height and width of the images that they read, where known.
        """
        return cls._of(*_discovered(architecture, image_side), config)

    @classmethod
    def of_network(cls, network: Network, config: ExperimentConfig) -> InputNetwork:
        """Discovers the structure of any network."""
        symmetry = sym.discover(*network[:2], *network.inputs)
        return cls._of(network, symmetry, config)

    @classmethod
    def _of(
        cls, network: Network, symmetry: sym.Symmetry, config: ExperimentConfig
    ) -> InputNetwork:
        topology = build_topology(symmetry, config.graph.fuse).without(
            activations=not config.graph.activations, depths=not config.graph.depths
        )
        canonical = None
        if config.canonicalize:
            # What the model handles itself is left to it.
            carries = getattr(MODELS[config.model.name], "carries_factors", False)
            canonical = remaining_symmetry(symmetry, topology) if carries else symmetry
        spec = ParamSpec.of(network.params)
        factors = None
        if config.graph.fan_in:
            factors = spec.unflatten(np.sqrt(fan_in(topology)))
        return cls(network, spec, symmetry, topology, canonical, factors)

    @cached_property
    def windows(self) -> sym.Windows:
        """How the program slides windows, which the graph does not show."""
        return sym.windows_of(*self.network[:2], *self.network.inputs)

    def prepare(self, weights: jax.Array) -> Params:
        """Flat weights ``[B, P]`` to parameters as the config wants them."""
        params, left = self.spec.unflatten(weights), self.canonical
        if left is not None:
            params = jax.vmap(lambda p: sym.canonicalize(left, p))(params)
        if self.factors is not None:
            params = jax.tree.map(lambda p, by: p * by[None], params, self.factors)
        return params

    @cached_property
    def _prepare_flat(self) -> Callable[[np.ndarray], jax.Array]:
        return jax.jit(
            lambda weights: self.spec.flatten(self.prepare(weights)),
            compiler_options=fast_compile_options(),
        )

    def prepared(self, weights: np.ndarray) -> np.ndarray:
        """What `prepare` makes of weights ``[N, P]`` on the host, flat again.

        Compiled once, whatever N is.
        """
        if self.canonical is None and self.factors is None:
            return weights
        out = np.empty_like(weights)
        for start in range(0, len(weights), _PREPARED):
            part = weights[start : start + _PREPARED]
            index = np.arange(_PREPARED) % len(part)  # repeats some of a short part
            found = self._prepare_flat(part[index])
            out[start : start + len(part)] = np.asarray(found)[: len(part)]
        return out

    def graphs(self, weights: jax.Array) -> ParameterGraph:
        """Flat weights ``[B, P]`` to the parameter graphs that models read."""
        return to_graph(self.topology, self.prepare(weights))

    def probe(self) -> Probe:
        """How models run the network."""
        apply_fn, example = self.network.apply_fn, self.network.inputs[0]

        def activations(params: Any, inputs: jax.Array) -> tuple[Any, ...]:
            if self.factors is not None:
                params = jax.tree.map(jnp.divide, params, self.factors)
            return sym.compute_activations(apply_fn, self.symmetry, params, inputs)

        return Probe(activations, self.spec, example.shape[1:])


@dataclass(frozen=True)
class Experiment:
    """The static parts of an experiment.

    Attributes:
        config: Its config.
        inputs: Its input networks by the id of their architecture.
        task: Head, loss and metrics.
    """

    config: ExperimentConfig
    inputs: dict[str, InputNetwork]
    task: Task

    @classmethod
    def of(
        cls, config: ExperimentConfig, inputs: InputNetworks, *, progress: bool = False
    ) -> Experiment:
        """Discovers the structure of a config's input networks.

        Args:
            config: The config.
            inputs: Architectures and class names.
            progress: Show progress where there are many.

        Raises:
            MetanetError: for anything in the config that cannot be had.
        """
        held, found = inputs.architectures, {}
        show = progress and len(held) > 8
        with track(len(held), "symmetries", unit="architectures", show=show) as bar:
            for key, architecture in held.items():
                found[key] = InputNetwork.of(architecture, config, inputs.image_side)
                bar.advance(1)
        return cls(config, found, build_task(config, inputs.class_names))

    @property
    def single(self) -> InputNetwork:
        """The only architecture.

        Raises:
            MetanetError: when there are several.
        """
        if len(self.inputs) != 1:
            raise MetanetError(
                f"the run reads {len(self.inputs)} architectures; this needs one"
            )
        return next(iter(self.inputs.values()))

    @property
    def mixed(self) -> bool:
        """Whether the networks are of several architectures."""
        return len(self.inputs) > 1

    def augmented(self) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
        """``(keys [B], weights [B, P]) -> weights``, or None without augmentation.

        Raises:
            MetanetError: for networks of several architectures.
        """
        if self.mixed:
            first = next(iter(self.inputs.values()))
            if build_augmentation(self.config.augment, first.symmetry) is not None:
                raise MetanetError(
                    "config.augment: takes networks of one architecture; switch it off"
                )
            return None
        one = self.single
        augment = build_augmentation(self.config.augment, one.symmetry)
        if augment is None:
            return None

        def apply(key: jax.Array, vector: jax.Array) -> jax.Array:
            return one.spec.flatten(augment(key, one.spec.unflatten(vector)))

        return jax.vmap(apply)

    def build(self) -> Metanetwork:
        """The untrained metanetwork, its statistics not yet measured."""
        rngs = nnx.Rngs(self.config.seed)
        one = None if self.mixed else self.single
        model = build_model(
            self.config.model.name,
            dict(self.config.model.options),
            topology=[held.topology for held in self.inputs.values()],
            symmetry=one and one.symmetry,
            probe=one and one.probe(),
            rngs=rngs,
        )
        return Metanetwork(model, self.task.head(model.dim, rngs=rngs))
