"""Config of an experiment: frozen dataclasses that check themselves.

The dataclasses are the only place of the defaults. Config files, command line flags and
config.json are mappings that `ExperimentConfig.from_mapping` reads.
"""

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
    """Directory of a zoo, and the recipe of a zoo that does not exist yet.

    Attributes:
        path: Directory.
        fit: Recipe of a zoo of INRs; exactly one of both recipes is given.
        population: Recipe of a zoo of classifiers.
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
        """The recipe that is given."""
        recipe = self.fit or self.population
        assert recipe is not None  # by __post_init__
        return recipe


@dataclass(frozen=True)
class DataConfig(Options):
    """Selection of networks from a zoo.

    Attributes:
        where: Conditions "column=value" that every network satisfies.
        fraction: Share of the training runs that is used, in (0, 1].
        wider: Column whose median splits the zoo for a test out of distribution: training
            and validation networks have values up to the median, test networks larger
            ones; "" for no such split.
        memory: Weights in GiB up to which they are kept in memory; larger sets are read
            from an unnamed file beside the zoo, in the same order. 0 stands for a quarter
            of the machine's memory.
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
    """Node features and preprocessing of the parameter graphs.

    Attributes:
        fuse: "reader": one node set per layer; "quotient": one per permutation group, so
            that layers that residual connections tie together share their nodes.
        activations: The nonlinearity applied to a node is one of its features.
        depths: The depth of a node is one of its features.
        fan_in: Weights are multiplied by the square root of their fan-in, which gives
            them one scale in networks of every width.
    """

    fuse: Literal["reader", "quotient"] = "reader"
    activations: bool = True
    depths: bool = True
    fan_in: bool = False


@dataclass(frozen=True)
class NamedConfig:
    """A registered name with options: ``{"name": ..., option: ...}``.

    Attributes:
        name: Name in a registry, or ``package.module:attribute``.
        options: Pairs of option and value, sorted.
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, name: str, **options: Any) -> NamedConfig:
        """Returns a name with options, whose lists become tuples."""
        pairs = []
        for option, value in sorted(options.items()):
            pairs.append((option, tuple(value) if isinstance(value, list) else value))
        return cls(name, tuple(pairs))

    @classmethod
    def from_json(cls, mapping: Mapping[str, Any]) -> NamedConfig:
        """Reads ``{"name": ..., option: ...}``.

        Raises:
            MetanetError: for a mapping without a name.
        """
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
    """Length of training, batches, evaluations and checkpoints.

    Attributes:
        steps: Optimiser steps.
        batch_size: Networks per step.
        micro_batch: Networks per iteration of the scan inside a step; divides
            ``batch_size``. 0 chooses a size that fits the cache on CPU, and the whole batch
            elsewhere.
        log_every: Steps between log lines.
        eval_every: Steps between evaluations on the validation networks.
        checkpoint_every: Steps between checkpoints.
        keep: Number of latest checkpoints that are kept besides the best one.
        eval_batch: Networks per iteration of an evaluation.
        bf16: Matrix products of the training step round their factors to bfloat16 and
            sum in float32, for accelerators with units for them; evaluation keeps float32.
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
    """Returns all registered augmentations with their default options."""
    return AugmentConfig.from_json({})


@dataclass(frozen=True)
class ExperimentConfig(Options):
    """Everything that determines the result of a run.

    Options of the model and of the task are completed with their defaults.

    Attributes:
        imports: Modules outside the package that register models, tasks or zoo families;
            they are imported before the other fields are read.
        seed: Seed of initialisation, data order and augmentation.
        canonicalize: Every input network is replaced by the canonical representative of
            its orbit under scales, signs and phases.
        zoo: Directory and recipe of the input networks.
        data: Selection of input networks.
        graph: Parameter graphs.
        model: Metanetwork and its options.
        task: Task and its options.
        augment: Augmentations of the input networks.
        optimizer: Optimiser, schedule and averaging.
        train: Length of training, batches, evaluations and checkpoints.
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
        """Reads the nested mapping of a config file or of config.json.

        Raises:
            MetanetError: for unknown keys (with the nearest one), wrong types and
                impossible values, with the dotted name of the field.
        """
        return from_mapping(cls, mapping, "config")

    def to_json(self) -> dict[str, Any]:
        """Returns the mapping that `from_mapping` reads, with lists for tuples."""
        return json.loads(json.dumps(to_mapping(self)))
