"""Settings of a training run, drawn from ranges; all are values, none is compiled in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Literal, TypeVar, get_args

import numpy as np

from metanet.errors import MetanetError
from metanet.options import Interval, NonEmpty, Options, PositiveInt, RangeWithin

T = TypeVar("T")

OptimizerName = Literal["sgd", "adam", "rmsprop"]
InitName = Literal["lecun_normal", "glorot_normal", "he_normal", "normal"]
OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)
INITS: tuple[InitName, ...] = get_args(InitName)


Bounds = tuple[float, float]
Share = Annotated[float, Interval(0, 1, "(]")]


@dataclass(frozen=True)
class Hyperparameters(Options):
    """Ranges from which every run of a zoo draws its settings, independently.

    The defaults are those of the Small CNN Zoo (Unterthiner et al. 2020, appendix), except
    for the batch size, which is 512 there, and orthogonal initialisation, which is missing
    here.

    Attributes:
        optimizer: Choices among "sgd" (with momentum), "adam", "rmsprop".
        learning_rate: Bounds, log-uniform.
        weight_decay: Bounds of the l2 penalty on kernels, log-uniform; (0, 0) for none.
        momentum: Bounds, uniform; for "sgd".
        dropout: Bounds of the rate, uniform.
        activation: Choices of names; () for the architectures' own.
        init: Choices among "lecun_normal", "glorot_normal", "he_normal", "normal" (a
            deviation of ``init_scale`` whatever the layer).
        init_scale: Bounds, log-uniform: factor of the initial kernels.
        train_fraction: Choices of the share of the training images that a run uses.
        label_noise: Bounds of the share of training labels that are random, uniform.
        batch_size: Choices; a run with a smaller one than the largest repeats its images
            within a batch, which changes no gradient.
    """

    optimizer: Annotated[tuple[OptimizerName, ...], NonEmpty()] = OPTIMIZERS
    learning_rate: Annotated[Bounds, RangeWithin(1e-12, 1e3)] = (5e-4, 5e-2)
    weight_decay: Annotated[Bounds, RangeWithin(0.0, 1e3)] = (1e-8, 1e-2)
    momentum: Annotated[Bounds, RangeWithin(0.0, 1.0)] = (0.9, 0.9)
    dropout: Annotated[Bounds, RangeWithin(0.0, 0.95)] = (0.0, 0.7)
    activation: tuple[str, ...] = ("relu", "tanh")
    init: Annotated[tuple[InitName, ...], NonEmpty()] = INITS
    init_scale: Annotated[Bounds, RangeWithin(1e-6, 1e3)] = (0.1, 1.0)
    train_fraction: Annotated[tuple[Share, ...], NonEmpty()] = (0.1, 0.25, 0.5, 1.0)
    label_noise: Annotated[Bounds, RangeWithin(0.0, 1.0)] = (0.0, 0.0)
    batch_size: Annotated[tuple[PositiveInt, ...], NonEmpty()] = (64,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(max(self.batch_size) % size for size in self.batch_size):
            raise MetanetError(
                f"batch_size: each must divide the largest, got {self.batch_size}"
            )

    def draw(self, rng: np.random.Generator, activations: tuple[str, ...]) -> Settings:
        """Draws the settings of one run.

        Args:
            rng: Source of random numbers. Each setting takes one, whatever the ranges,
                so that a change of one range does not shift the others.
            activations: Activations to choose from.
        """
        return Settings(
            optimizer=_pick(rng, self.optimizer),
            learning_rate=_log_uniform(rng, self.learning_rate),
            weight_decay=_log_uniform(rng, self.weight_decay),
            momentum=_uniform(rng, self.momentum),
            dropout=_uniform(rng, self.dropout),
            activation=_pick(rng, activations),
            init=_pick(rng, self.init),
            init_scale=_log_uniform(rng, self.init_scale),
            train_fraction=float(_pick(rng, self.train_fraction)),
            label_noise=_uniform(rng, self.label_noise),
            batch_size=int(_pick(rng, self.batch_size)),
        )


def _pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.random() * len(choices))]


def _uniform(rng: np.random.Generator, bounds: Bounds) -> float:
    low, high = bounds
    return float(low + (high - low) * rng.random())


def _log_uniform(rng: np.random.Generator, bounds: Bounds) -> float:
    low, high = bounds
    share = rng.random()
    return float(low * (high / low) ** share) if low > 0 else 0.0


@dataclass(frozen=True)
class Settings:
    """Settings of one run; the fields are columns of the zoo."""

    optimizer: str
    learning_rate: float
    weight_decay: float
    momentum: float
    dropout: float
    activation: str
    init: str
    init_scale: float
    train_fraction: float
    label_noise: float
    batch_size: int


_COLUMN_TYPES = {"str": "string", "float": "float32", "int": "int32"}
# Arrow type of each setting.
SETTING_COLUMNS: dict[str, str] = {
    field.name: _COLUMN_TYPES[str(field.type)] for field in fields(Settings)
}

# For zoos in which architectures vary most: few runs of each fail altogether.
VARIED = Hyperparameters(
    optimizer=("sgd", "adam"),
    learning_rate=(1e-3, 3e-2),
    weight_decay=(1e-6, 1e-2),
    dropout=(0.0, 0.5),
    activation=(),
    init=("lecun_normal", "he_normal"),
    init_scale=(0.5, 1.5),
    train_fraction=(0.1, 0.3, 1.0),
    label_noise=(0.0, 0.3),
)
