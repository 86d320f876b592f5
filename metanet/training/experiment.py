"""Builds task, input networks and metanetwork from an `ExperimentConfig`."""

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
    ParameterGraph,
    Topology,
    build_topology,
    fan_in,
    remaining_symmetry,
    to_graph,
)
from metanet.models import MODELS, Model, Probe, build_model
from metanet.networks import Architecture, Network, Params, ParamSpec, abstract_network
from metanet.options import within
from metanet.programs import SlidingWindows, sliding_windows
from metanet.progress import track
from metanet.tasks import TASKS, Task, TaskBatch
from metanet.training.config import ExperimentConfig
from metanet.training.io import RunInputs
from metanet.tuning import PREPROCESSING_BATCH


class Metanetwork(nnx.Module):
    """A model and a task's head: a batch of networks in, the task's outputs out."""

    def __init__(self, model: Model, head: nnx.Module):
        self.model, self.head = model, head

    def __call__(
        self,
        batch: TaskBatch,
        *,
        key: jax.Array | None = None,
        deterministic: bool = True,
    ) -> Any:
        """Returns the head's outputs, a pytree of arrays ``[G, ...]``.

        Args:
            batch: The networks.
            key: Key of dropout; needed where ``deterministic`` is False.
            deterministic: Switches dropout off.
        """
        features = self.model(batch.graphs, key=key, deterministic=deterministic)
        return self.head(features, batch)  # type: ignore[operator]


def build_task(config: ExperimentConfig, class_names: tuple[str, ...] = ()) -> Task:
    """Builds the task of a config."""
    options = config.task.configure(TASKS, "config.task")
    return TASKS[config.task.name](options, class_names)


@lru_cache(maxsize=256)  # runs of a sweep share their zoo
def _discover(
    architecture: Architecture, side: int | None
) -> tuple[Network, sym.Symmetry]:
    # The tests check the symmetries of every architecture that has a name.
    network = abstract_network(architecture, side)
    return network, sym.discover(*network[:2], *network.inputs, check=False)


@dataclass(frozen=True, eq=False)
class InputArchitecture:
    """One architecture of input networks, and how they are preprocessed.

    Attributes:
        network: The architecture as a function; of a named one without values.
        spec: Layout of its parameters as a vector.
        symmetry: Its discovered symmetry.
        topology: Its parameter graph.
        canonical: The part of the symmetry that preprocessing canonicalizes, or None.
        fan_in_scale: Factors sqrt(fan-in) per parameter, or None.
    """

    network: Network
    spec: ParamSpec
    symmetry: sym.Symmetry
    topology: Topology
    canonical: sym.Symmetry | None
    fan_in_scale: Params | None

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        config: ExperimentConfig,
        image_side: int | None = None,
    ) -> InputArchitecture:
        """Discovers the structure of an architecture, once per process.

        Args:
            architecture: Architecture of the networks.
            config: The experiment, which decides the preprocessing.
            image_side: Height and width of the images that they read, where known.
        """
        return cls._of(*_discover(architecture, image_side), config)

    @classmethod
    def of_network(
        cls, network: Network, config: ExperimentConfig
    ) -> InputArchitecture:
        """Discovers the structure of any network."""
        symmetry = sym.discover(*network[:2], *network.inputs)
        return cls._of(network, symmetry, config)

    @classmethod
    def _of(
        cls, network: Network, symmetry: sym.Symmetry, config: ExperimentConfig
    ) -> InputArchitecture:
        topology = build_topology(symmetry, config.graph.fuse).without(
            activations=not config.graph.activations, depths=not config.graph.depths
        )
        canonical = None
        if config.canonicalize:
            # Scale-equivariant models need only the remaining symmetries canonicalized.
            equivariant = getattr(MODELS[config.model.name], "scale_equivariant", False)
            canonical = (
                remaining_symmetry(symmetry, topology) if equivariant else symmetry
            )
        spec = ParamSpec.of(network.params)
        scale = None
        if config.graph.fan_in:
            scale = spec.unflatten(np.sqrt(fan_in(topology)))
        return cls(network, spec, symmetry, topology, canonical, scale)

    @cached_property
    def sliding_windows(self) -> SlidingWindows:
        """Windows that the program slides; the graph does not show them."""
        return sliding_windows(*self.network[:2], *self.network.inputs)

    def preprocess(self, weights: jax.Array) -> Params:
        """Returns the preprocessed parameters of flat weights ``[B, P]``."""
        params, symmetry = self.spec.unflatten(weights), self.canonical
        if symmetry is not None:
            params = jax.vmap(lambda p: sym.canonicalize(symmetry, p))(params)
        if self.fan_in_scale is not None:
            params = jax.tree.map(lambda p, s: p * s[None], params, self.fan_in_scale)
        return params

    @cached_property
    def _preprocess_flat(self) -> Callable[[np.ndarray], jax.Array]:
        return jax.jit(
            lambda weights: self.spec.flatten(self.preprocess(weights)),
            compiler_options=fast_compile_options(),
        )

    def preprocess_all(self, weights: np.ndarray) -> np.ndarray:
        """Returns preprocessed flat weights ``[N, P]``, computed on the host.

        Compiled once, whatever N is.
        """
        if self.canonical is None and self.fan_in_scale is None:
            return weights
        out = np.empty_like(weights)
        for start in range(0, len(weights), PREPROCESSING_BATCH):
            part = weights[start : start + PREPROCESSING_BATCH]
            # A short last part repeats some of its networks.
            index = np.arange(PREPROCESSING_BATCH) % len(part)
            flat = self._preprocess_flat(part[index])
            out[start : start + len(part)] = np.asarray(flat)[: len(part)]
        return out

    def graphs(self, weights: jax.Array) -> ParameterGraph:
        """Returns the parameter graphs of flat weights ``[B, P]``."""
        return to_graph(self.topology, self.preprocess(weights))

    def restore(self, weights: jax.Array) -> jax.Array:
        """Returns flat weights ``[B, P]`` without the fan-in scale of `preprocess`.

        Canonicalization is not undone: it leaves the networks' functions as they are.
        """
        if self.fan_in_scale is None:
            return weights
        params = self.spec.unflatten(weights)
        return self.spec.flatten(
            jax.tree.map(lambda p, s: p / s[None], params, self.fan_in_scale)
        )

    def apply(self, weights: jax.Array, *inputs: Any) -> jax.Array:
        """Runs networks given by preprocessed flat weights ``[B, P]``; ``[B, ...]``."""
        params = self.spec.unflatten(self.restore(weights))
        return jax.vmap(lambda p: self.network.apply_fn(p, *inputs))(params)

    def task_batch(
        self,
        weights: jax.Array,
        targets: dict[str, jax.Array] | None = None,
        *,
        reads_weights: bool = False,
    ) -> TaskBatch:
        """Returns the batch that a `Metanetwork` reads, from flat weights ``[B, P]``.

        Args:
            weights: Weights as they are stored.
            targets: Arrays ``[B, ...]`` by name.
            reads_weights: Add what `Task.reads_weights` asks for.
        """
        params = self.preprocess(weights)
        graphs, mask = to_graph(self.topology, params), jnp.ones(weights.shape[0])
        if not reads_weights:
            return TaskBatch(graphs, targets or {}, mask)
        flat = self.spec.flatten(params)
        return TaskBatch(graphs, targets or {}, mask, flat, self.apply)

    def probe(self) -> Probe:
        """Returns the access to activations that probing models need."""
        apply_fn, example = self.network.apply_fn, self.network.inputs[0]

        def activations(params: Any, inputs: jax.Array) -> tuple[Any, ...]:
            if self.fan_in_scale is not None:
                params = jax.tree.map(jnp.divide, params, self.fan_in_scale)
            return sym.compute_activations(apply_fn, self.symmetry, params, inputs)

        return Probe(activations, self.spec, example.shape[1:])


@dataclass(frozen=True)
class Experiment:
    """The static parts of an experiment.

    Attributes:
        config: Its config.
        inputs: Its input architectures by id.
        task: Head, loss and metrics.
    """

    config: ExperimentConfig
    inputs: dict[str, InputArchitecture]
    task: Task

    @classmethod
    def of(
        cls, config: ExperimentConfig, inputs: RunInputs, *, progress: bool = False
    ) -> Experiment:
        """Discovers the structure of a config's input networks.

        Args:
            config: The config.
            inputs: Architectures and class names.
            progress: Show progress where there are many architectures.

        Raises:
            MetanetError: for a config that cannot be built.
        """
        architectures = inputs.architectures
        structures: dict[str, InputArchitecture] = {}
        show = progress and len(architectures) > 8
        with track(
            len(architectures), "symmetries", unit="architectures", show=show
        ) as bar:
            for key, architecture in architectures.items():
                structures[key] = InputArchitecture.of(
                    architecture, config, inputs.image_side
                )
                bar.advance(1)
        return cls(config, structures, build_task(config, inputs.class_names))

    @property
    def single(self) -> InputArchitecture:
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
        """True for networks of several architectures."""
        return len(self.inputs) > 1

    def augmentation(self) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
        """Returns ``(keys [B], weights [B, P]) -> weights``, or None for none.

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
        architecture = self.single
        augment = build_augmentation(self.config.augment, architecture.symmetry)
        if augment is None:
            return None

        def apply(key: jax.Array, vector: jax.Array) -> jax.Array:
            spec = architecture.spec
            return spec.flatten(augment(key, spec.unflatten(vector)))

        return jax.vmap(apply)

    def build(self) -> Metanetwork:
        """Builds the untrained metanetwork; its statistics are not yet measured.

        Raises:
            MetanetError: for a model that cannot read the networks, naming the field.
        """
        rngs = nnx.Rngs(self.config.seed)
        symmetry = probe = None
        if not self.mixed:
            symmetry, probe = self.single.symmetry, self.single.probe()
        try:
            model = build_model(
                self.config.model.name,
                dict(self.config.model.options),
                topology=[a.topology for a in self.inputs.values()],
                symmetry=symmetry,
                probe=probe,
                rngs=rngs,
            )
            head = self.task.head(model, rngs=rngs)
        except MetanetError as error:
            raise within("config.model", error) from error
        return Metanetwork(model, head)
