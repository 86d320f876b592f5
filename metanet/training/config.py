"""Typed experiment configs: mappings in, frozen dataclasses out, every error named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from metanet.augment import AugmentConfig
from metanet.errors import MetanetError
from metanet.models import MODELS
from metanet.options import (
    Interval,
    NonNegativeFloat,
    NonNegativeInt,
    Options,
    PositiveInt,
    from_mapping,
    to_mapping,
    within,
)
from metanet.registry import ModuleName, Registry
from metanet.tasks import TASKS
from metanet.training.optimizer import OptimizerConfig
from metanet.zoos import FitConfig, PopulationConfig, Recipe


@dataclass(frozen=True)
class ZooConfig(Options):
    """Where the zoo lies, and how it is made when it is missing.

    Attributes:
        path: Its directory.
        fit: A zoo of INRs, or
        population: a zoo of classifiers; one of both.
    """

    path: str = "zoos/digits"
    fit: FitConfig | None = None
    population: PopulationConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.fit is None) == (self.population is None):
            raise MetanetError("fit: needs this section or population, one of both")

    @property
    def recipe(self) -> Recipe:
        """What makes the zoo."""
        recipe = self.fit or self.population
        assert recipe is not None
        return recipe


@dataclass(frozen=True)
class DataConfig(Options):
    """Which networks of the zoo an experiment takes.

    Attributes:
        where: Conditions "column=value" that all of them meet.
        fraction: Share of the training runs that is used.
        wider: Column by whose median the zoo is cut for a test out of distribution:
            training and validation take what lies at or below, test what lies above;
            "" for no cut.
        memory: GiB of weights up to which they are held in memory; more are read from
            an unnamed file beside the zoo, in the same order; 0: a quarter of the
            machine's memory.
    """

    where: tuple[str, ...] = ()
    fraction: Annotated[float, Interval(0, 1, "(]")] = 1.0
    wider: str = ""
    memory: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for condition in self.where:
            if condition.count("=") != 1:
                raise MetanetError(
                    f"where: expected conditions like activation=relu, got {condition!r}"
                )


@dataclass(frozen=True)
class GraphConfig(Options):
    """What the parameter graphs of the input networks tell.

    Attributes:
        fuse: "reader": a node set per layer; "quotient": one per permutation group, so
            that layers that residual connections tie together share their nodes.
        activations: Nodes know the nonlinearity through which they are read.
        depths: Nodes know their depth.
        fan_in: Weights are multiplied by the root of their fan-in, so that they look
            alike in networks of every width.
    """

    fuse: Literal["reader", "quotient"] = "reader"
    activations: bool = True
    depths: bool = True
    fan_in: bool = False


@dataclass(frozen=True)
class NamedConfig:
    """Something chosen by name, with its options: ``{name: ..., option: ...}``."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, name: str, **options: Any) -> NamedConfig:
        """Builds one with sorted options; lists become tuples."""
        freeze = lambda v: tuple(v) if isinstance(v, list) else v
        return cls(name, tuple((k, freeze(v)) for k, v in sorted(options.items())))

    @classmethod
    def from_json(cls, mapping: Mapping[str, Any]) -> NamedConfig:
        """Reads ``{"name": ..., option: ...}``."""
        options = dict(mapping)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise MetanetError(f"name: expected str, got {name!r}")
        return cls.of(name, **options)

    def to_json(self) -> dict[str, Any]:
        """Returns the mapping that `from_json` reads."""
        return {"name": self.name, **dict(self.options)}

    def configure(self, registry: Registry[Any], section: str) -> Any:
        """Returns the checked options of the registered object of this name.

        Args:
            registry: Table that has the name.
            section: Dotted name of the field, for messages.

        Raises:
            MetanetError: for an unknown name or option, or an impossible value.
        """
        try:
            registry.check(self.name)
        except MetanetError as error:
            raise MetanetError(f"{section}.name: {error}") from error
        try:
            return registry.configure(self.name, dict(self.options))
        except MetanetError as error:
            raise within(section, error) from error


@dataclass(frozen=True)
class TrainConfig(Options):
    """Length and rhythm of training.

    Attributes:
        steps: Optimiser steps.
        batch_size: Networks per step.
        micro_batch: Networks per pass of the scan inside a step; 0 chooses for the
            cache on CPU, and the whole batch elsewhere.
        log_every, eval_every, checkpoint_every: Steps between these.
        keep: Number of latest checkpoints kept, beside the best.
        eval_batch: Networks per pass of an evaluation.
        bf16: Products of the training step round their factors to bfloat16, with
            float32 sums; evaluation does not.
    """

    steps: PositiveInt = 1000
    batch_size: PositiveInt = 64
    micro_batch: NonNegativeInt = 0
    log_every: PositiveInt = 50
    eval_every: PositiveInt = 200
    checkpoint_every: PositiveInt = 200
    keep: PositiveInt = 2
    eval_batch: PositiveInt = 32
    bf16: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise MetanetError(
                f"micro_batch: {self.micro_batch} does not divide batch_size "
                f"{self.batch_size}"
            )


def _no_augmentation() -> AugmentConfig:
    """Returns the augmentations of the package, all switched off."""
    return AugmentConfig.from_json({})


@dataclass(frozen=True)
class ExperimentConfig(Options):
    """All that decides a run.

    Attributes:
        imports: Modules outside the package that register models, tasks or zoo families;
            they are imported before the other fields are read.
        seed: Seed of initialisation, data order and augmentation.
        canonicalize: Bring every input network to the canonical representative of its
            scale, sign and phase orbit before anything else reads it.
        zoo, data, graph, model, task, augment, optimizer, train: The parts.
    """

    imports: tuple[ModuleName, ...] = ()
    seed: NonNegativeInt = 0
    canonicalize: bool = True
    zoo: ZooConfig = field(default_factory=lambda: ZooConfig(fit=FitConfig()))
    data: DataConfig = field(default_factory=DataConfig)
    graph: GraphConfig = field(default_factory=GraphConfig)
    model: NamedConfig = field(default_factory=lambda: NamedConfig("product_gmn"))
    task: NamedConfig = field(default_factory=lambda: NamedConfig("classification"))
    augment: AugmentConfig = field(default_factory=_no_augmentation)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        for section, registry in (("model", MODELS), ("task", TASKS)):
            named: NamedConfig = getattr(self, section)
            options = to_mapping(named.configure(registry, section))
            object.__setattr__(self, section, NamedConfig.of(named.name, **options))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> ExperimentConfig:
        """Reads nested mappings (a config file's content, or config.json).

        Raises:
            MetanetError: for unknown keys (with the nearest known one), wrong types
                and impossible values, naming the dotted field.
        """
        return from_mapping(cls, mapping, "config")

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_mapping`."""
        return to_json(self)


def to_json(options: Any) -> dict[str, Any]:
    """Returns the mapping of a dataclass as JSON holds it, with lists for tuples."""
    return json.loads(json.dumps(to_mapping(options)))
