"""Typed experiment configs: mappings in, frozen dataclasses out, every error named."""

from __future__ import annotations

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from metanet.augment import AugmentConfig
from metanet.errors import MetanetError, suggest
from metanet.models import MODELS
from metanet.networks import Architecture
from metanet.registry import Registry
from metanet.tasks import TASKS
from metanet.zoos import FitConfig, PopulationConfig, Recipe

T = TypeVar("T")


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

    def to_json(self) -> dict[str, Any]:
        """The mapping that `from_mapping` reads."""
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
        options_of(MODELS, config.model, "config.model", lambda entry: entry.config)
        options_of(TASKS, config.task, "config.task", lambda entry: entry[0])
        _check_values(config)
        return config

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_mapping`."""
        return _to_json(self)


def _to_json(value: Any) -> Any:
    if isinstance(value, NamedConfig | Architecture):
        value = value.to_json()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        # Of sections that exclude one another, those that are not there.
        value = {k: v for k, v in value.items() if v is not None}
    if isinstance(value, Mapping):
        return {k: _to_json(v) for k, v in value.items()}
    return [_to_json(v) for v in value] if isinstance(value, tuple | list) else value


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Builds a dataclass from a mapping; fields that are left out keep their defaults.

    Args:
        cls: The dataclass.
        mapping: Values by field name, nested for nested dataclasses.
        where: Dotted name of the mapping, for messages.

    Raises:
        MetanetError: for unknown keys, wrong types and what the class itself refuses.
    """
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(typing.cast(Any, cls))]
    values = {}
    for key, value in mapping.items():
        if key not in known:
            raise MetanetError(f"{where}.{key}: unknown key.{suggest(str(key), known)}")
        values[key] = _convert(hints[key], value, f"{where}.{key}")
    try:
        return cls(**values)
    except MetanetError as error:
        raise MetanetError(f"{where}.{error}") from error


def _convert(kind: Any, value: Any, where: str) -> Any:
    if kind is NamedConfig:
        options = _mapping(value, where)
        if not isinstance(options.get("name"), str):
            raise MetanetError(
                f"{where}.name: expected str, got {options.get('name')!r}"
            )
        name = options.pop("name")
        return NamedConfig.of(name, **options)
    if kind is Architecture:
        try:
            architecture = Architecture.from_json(_mapping(value, where))
            architecture.complete()  # refuses names that do not exist
            return architecture
        except MetanetError as error:
            raise MetanetError(f"{where}: {error}") from error
    section = _section(kind)
    if section is not None and value is not None:
        return from_mapping(section, _mapping(value, where), where)
    allowed = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if typing.get_origin(kind) is typing.Literal:
        if value in typing.get_args(kind):
            return value
        choices = [str(a) for a in typing.get_args(kind)]
        raise MetanetError(f"{where}: {value!r} is none of them.{suggest('', choices)}")
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    for option in allowed:
        plain = typing.get_origin(option) or option
        if isinstance(value, list) and plain is tuple:
            return tuple(value)
        if isinstance(value, plain) and isinstance(value, bool) == (plain is bool):
            return value
    expected = getattr(kind, "__name__", str(kind))
    raise MetanetError(f"{where}: expected {expected}, got {value!r}")


def _section(kind: Any) -> type | None:
    """The dataclass that a field holds, if it holds one."""
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    found = [k for k in options if dataclasses.is_dataclass(k)]
    return typing.cast(type, found[0]) if found else None


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise MetanetError(f"{where}: expected a section, got {value!r}")
    return dict(value)


def options_of(
    known: Registry[Any], named: NamedConfig, where: str, kind: Callable[[Any], type]
) -> Any:
    """The typed options of a named part.

    Args:
        known: The registry that has the name.
        named: Name and options.
        where: Dotted field of the config, for messages.
        kind: The class of the options, from a registry's entry.

    Raises:
        MetanetError: for an unknown name or option, or a value of a wrong type.
    """
    try:
        entry = known[named.name]
    except MetanetError as error:
        raise MetanetError(f"{where}.name: {error}") from error
    return from_mapping(kind(entry), dict(named.options), where)


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
