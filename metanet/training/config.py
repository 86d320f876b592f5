"""Typed experiment configs: mappings in, frozen dataclasses out, every error named."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from metanet.augment import AugmentConfig
from metanet.errors import MetanetError
from metanet.models import MODELS
from metanet.options import from_mapping, to_mapping, within
from metanet.registry import Registry
from metanet.tasks import TASKS
from metanet.zoos import FitConfig, PopulationConfig, Recipe


@dataclass(frozen=True)
class ZooConfig:
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
        if (self.fit is None) == (self.population is None):
            raise MetanetError("zoo: needs one of the sections fit and population")

    @property
    def recipe(self) -> Recipe:
        """What makes the zoo."""
        recipe = self.fit or self.population
        assert recipe is not None
        return recipe


@dataclass(frozen=True)
class DataConfig:
    """Which networks of the zoo an experiment takes.

    Attributes:
        where: Conditions "column=value" that all of them meet.
        checkpoints: "all" of a training run, or the "last" alone.
        fraction: Share of the training runs that is used.
        wider: Column by whose median the zoo is cut for a test out of distribution:
            training and validation take what lies at or below, test what lies above;
            "" for no cut.
        memory: GiB of weights up to which they are held in memory; more are read from
            an unnamed file beside the zoo, in the same order; 0: a quarter of the
            machine's memory.
    """

    where: tuple[str, ...] = ()
    checkpoints: Literal["all", "last"] = "all"
    fraction: float = 1.0
    wider: str = ""
    memory: float = 0.0

    def __post_init__(self) -> None:
        if not self.memory >= 0:
            raise MetanetError(f"memory: must be at least 0, got {self.memory}")
        if not 0 < self.fraction <= 1:
            raise MetanetError(f"fraction: must lie in (0, 1], got {self.fraction}")
        for condition in self.where:
            if condition.count("=") != 1:
                raise MetanetError(
                    f"where: expected conditions like activation=relu, got {condition!r}"
                )


@dataclass(frozen=True)
class GraphConfig:
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
        """The mapping that `from_json` reads."""
        return {"name": self.name, **dict(self.options)}


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimiser, schedule and parameter averaging.

    Attributes:
        name: Attribute path in optax ("adamw", "contrib.muon").
        learning_rate: Peak learning rate.
        weight_decay: Applied to matrices only, where the optimiser has it.
        schedule: "cosine", "linear" or "constant", after a linear warm-up.
        warmup_steps: Length of the warm-up.
        clip_norm: Largest norm of the gradient; 0 for no clipping.
        ema_decay: Decay of the averaged parameters that are evaluated; 0 for none.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    schedule: str = "cosine"
    warmup_steps: int = 100
    clip_norm: float = 1.0
    ema_decay: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """Length and rhythm of training.

    Attributes:
        steps: Optimiser steps.
        batch_size: Networks per step.
        micro_batch: Networks per pass of the scan inside a step; 0 chooses for the
            cache on CPU, and the whole batch elsewhere.
        log_every, eval_every, checkpoint_every: Steps between these.
        keep: Number of latest checkpoints kept, beside the best.
        patience: Evaluations without improvement before training stops; 0 for never.
        eval_batch: Networks per pass of an evaluation.
        bf16: Products of the training step round their factors to bfloat16, with
            float32 sums; evaluation does not.
    """

    steps: int = 1000
    batch_size: int = 64
    micro_batch: int = 0
    log_every: int = 50
    eval_every: int = 200
    checkpoint_every: int = 200
    keep: int = 2
    patience: int = 0
    eval_batch: int = 32
    bf16: bool = False


@dataclass(frozen=True)
class ExperimentConfig:
    """All that decides a run.

    Attributes:
        seed: Seed of initialisation, data order and augmentation.
        canonicalize: Bring every input network to the canonical representative of its
            scale, sign and phase orbit before anything else reads it.
        zoo, data, graph, model, task, augment, optimizer, train: The parts.
    """

    seed: int = 0
    canonicalize: bool = True
    zoo: ZooConfig = field(default_factory=lambda: ZooConfig(fit=FitConfig()))
    data: DataConfig = field(default_factory=DataConfig)
    graph: GraphConfig = field(default_factory=GraphConfig)
    model: NamedConfig = field(default_factory=lambda: NamedConfig("product_gmn"))
    task: NamedConfig = field(default_factory=lambda: NamedConfig("classification"))
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> ExperimentConfig:
        """Reads nested mappings (a config file's content, or config.json).

        Raises:
            MetanetError: for unknown keys (with the nearest known one), wrong types
                and impossible values, naming the dotted field.
        """
        config = from_mapping(cls, mapping, "config")
        configure(MODELS, config.model, "config.model")
        configure(TASKS, config.task, "config.task")
        _check_values(config)
        return config

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_mapping`."""
        return to_json(self)


def configure(registry: Registry[Any], named: NamedConfig, section: str) -> Any:
    """Returns the checked options of a named part.

    Args:
        registry: Table that has the name.
        named: Name and options.
        section: Dotted name of the section, for messages.

    Raises:
        MetanetError: for an unknown name or option, or an impossible value.
    """
    try:
        registry[named.name]
    except MetanetError as error:
        raise MetanetError(f"{section}.name: {error}") from error
    try:
        return registry.configure(named.name, dict(named.options))
    except MetanetError as error:
        raise within(section, error) from error


def to_json(options: Any) -> dict[str, Any]:
    """Returns the mapping of a dataclass as JSON holds it, with lists for tuples."""
    return json.loads(json.dumps(to_mapping(options)))


_POSITIVE = (
    "train.steps", "train.batch_size", "train.log_every", "train.eval_every",
    "train.checkpoint_every", "train.keep", "train.eval_batch",
)  # fmt: skip
_NOT_NEGATIVE = (
    "seed", "train.micro_batch", "train.patience", "augment.noise",
    "optimizer.learning_rate", "optimizer.weight_decay", "optimizer.warmup_steps",
    "optimizer.clip_norm",
)  # fmt: skip


def _check_values(config: ExperimentConfig) -> None:
    for least, names in ((1, _POSITIVE), (0, _NOT_NEGATIVE)):
        for name in names:
            value = operator.attrgetter(name)(config)
            if not (value >= least and math.isfinite(value)):
                raise MetanetError(
                    f"config.{name}: must be at least {least}, got {value}"
                )
    micro, batch = config.train.micro_batch, config.train.batch_size
    if micro and batch % micro:
        raise MetanetError(
            f"config.train.micro_batch: {micro} does not divide batch_size {batch}"
        )
    if not 0 <= config.optimizer.ema_decay < 1:
        raise MetanetError("config.optimizer.ema_decay: must lie in [0, 1)")
