"""Settings of a training run, drawn from ranges; all are values, none is compiled in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import numpy as np

from metanet.errors import MetanetError
from metanet.options import Interval, NonEmpty, Options, PositiveInt, RangeWithin

OptimizerName = Literal["sgd", "adam", "rmsprop"]
InitName = Literal["lecun_normal", "glorot_normal", "he_normal", "normal"]
OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)
INITS: tuple[InitName, ...] = get_args(InitName)
Pair = tuple[float, float]
Share = Annotated[float, Interval(0, 1, "(]")]


@dataclass(frozen=True)
class Hyperparameters(Options):
    """Ranges from which every run of a zoo draws its settings, independently.

    The defaults are those of the Small CNN Zoo (Unterthiner et al. 2020, appendix), but
    for the batch size, which is 512 there, and orthogonal initialisation, which is left
    out.

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
        train_fraction: Choices of the share of the training images that a run sees.
        label_noise: Bounds of the share of training labels that are random, uniform.
        batch_size: Choices; a run with a smaller one than the largest repeats its images
            within a batch, which leaves every gradient as it is.
    """

    optimizer: Annotated[tuple[OptimizerName, ...], NonEmpty()] = OPTIMIZERS
    learning_rate: Annotated[Pair, RangeWithin(1e-12, 1e3)] = (5e-4, 5e-2)
    weight_decay: Annotated[Pair, RangeWithin(0.0, 1e3)] = (1e-8, 1e-2)
    momentum: Annotated[Pair, RangeWithin(0.0, 1.0)] = (0.9, 0.9)
    dropout: Annotated[Pair, RangeWithin(0.0, 0.95)] = (0.0, 0.7)
    activation: tuple[str, ...] = ("relu", "tanh")
    init: Annotated[tuple[InitName, ...], NonEmpty()] = INITS
    init_scale: Annotated[Pair, RangeWithin(1e-6, 1e3)] = (0.1, 1.0)
    train_fraction: Annotated[tuple[Share, ...], NonEmpty()] = (0.1, 0.25, 0.5, 1.0)
    label_noise: Annotated[Pair, RangeWithin(0.0, 1.0)] = (0.0, 0.0)
    batch_size: Annotated[tuple[PositiveInt, ...], NonEmpty()] = (64,)

    def __post_init__(self) -> None:
        super().__post_init__()
        largest = max(self.batch_size)
        if any(largest % size for size in self.batch_size):
            raise MetanetError(
                f"batch_size: each must divide the largest, got {self.batch_size}"
            )

    def draw(self, rng: np.random.Generator, activations: tuple[str, ...]) -> Settings:
        """Settings of one run.

        Args:
            rng: Source of the draw.
            activations: Those to choose from.
        """
        # Every draw is made, so that one range does not shift the others.
        pick = lambda choices: choices[int(rng.random() * len(choices))]
        between = lambda low, high: float(low + (high - low) * rng.random())

        def log_between(low: float, high: float) -> float:
            share = rng.random()
            return float(low * (high / low) ** share) if low > 0 else 0.0

        return Settings(
            optimizer=pick(self.optimizer),
            learning_rate=log_between(*self.learning_rate),
            weight_decay=log_between(*self.weight_decay),
            momentum=between(*self.momentum),
            dropout=between(*self.dropout),
            activation=pick(activations),
            init=pick(self.init),
            init_scale=log_between(*self.init_scale),
            train_fraction=float(pick(self.train_fraction)),
            label_noise=between(*self.label_noise),
            batch_size=int(pick(self.batch_size)),
        )


@dataclass(frozen=True)
class Settings:
    """What one run was trained with; the fields are columns of the zoo."""

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
SETTING_COLUMNS: dict[str, Any] = {
    "optimizer": "string",
    "learning_rate": "float32",
    "weight_decay": "float32",
    "momentum": "float32",
    "dropout": "float32",
    "activation": "string",
    "init": "string",
    "init_scale": "float32",
    "train_fraction": "float32",
    "label_noise": "float32",
    "batch_size": "int32",
}
