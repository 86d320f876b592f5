"""Settings of a training run, drawn from ranges; all are values, none is compiled in."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from metanet.errors import MetanetError, suggest

OPTIMIZERS = ("sgd", "adam", "rmsprop")
INITS = ("lecun_normal", "glorot_normal", "he_normal", "normal")


@dataclass(frozen=True)
class Hyperparameters:
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

    optimizer: tuple[str, ...] = OPTIMIZERS
    learning_rate: tuple[float, float] = (5e-4, 5e-2)
    weight_decay: tuple[float, float] = (1e-8, 1e-2)
    momentum: tuple[float, float] = (0.9, 0.9)
    dropout: tuple[float, float] = (0.0, 0.7)
    activation: tuple[str, ...] = ("relu", "tanh")
    init: tuple[str, ...] = INITS
    init_scale: tuple[float, float] = (0.1, 1.0)
    train_fraction: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    label_noise: tuple[float, float] = (0.0, 0.0)
    batch_size: tuple[int, ...] = (64,)

    def __post_init__(self) -> None:
        for name, known in (("optimizer", OPTIMIZERS), ("init", INITS)):
            for value in getattr(self, name):
                if value not in known:
                    raise MetanetError(f"{name}: no {value!r}.{suggest(value, known)}")
        for field in fields(self):
            held = getattr(self, field.name)
            if field.name in _RANGES:
                low, high = _RANGES[field.name]
                pair = len(held) == 2 and all(map(math.isfinite, held))
                if not pair or not low <= held[0] <= held[1] <= high:
                    raise MetanetError(
                        f"{field.name}: expected (from, to) within {low} and {high}, "
                        f"got {held}"
                    )
            elif not held and field.name != "activation":
                raise MetanetError(f"{field.name}: needs at least one choice")
        if not all(0 < f <= 1 for f in self.train_fraction):
            raise MetanetError("train_fraction: shares lie in (0, 1]")
        if min(self.batch_size) < 1 or any(
            max(self.batch_size) % b for b in self.batch_size
        ):
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


_RANGES = {
    "learning_rate": (1e-12, 1e3),
    "weight_decay": (0.0, 1e3),
    "momentum": (0.0, 1.0),
    "dropout": (0.0, 0.95),
    "init_scale": (1e-6, 1e3),
    "label_noise": (0.0, 1.0),
}


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
