"""Classification of networks: cross-entropy, accuracy, confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from scipy.special import log_softmax, softmax

from metanet.models.layers import MLP
from metanet.options import Options, PositiveInt, Rate
from metanet.tasks.base import TASKS
from metanet.zoos import ZooTable


@dataclass(frozen=True)
class ClassificationConfig(Options):
    """Options of the classification task.

    Attributes:
        hidden: Width of the head's hidden layer.
        label_smoothing: Mass spread evenly over all classes in the training loss.
    """

    hidden: PositiveInt = 128
    label_smoothing: Rate = 0.0


@TASKS.register("classification")
class Classification:
    """Predicts the class of what a network represents from its pooled features."""

    Config = ClassificationConfig
    column = "label"
    select_by = "accuracy"

    def __init__(self, config: ClassificationConfig, class_names: tuple[str, ...]):
        self.config, self.class_names = config, class_names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def head(self, features: int, *, rngs: nnx.Rngs) -> nnx.Module:
        return MLP(features, self.config.hidden, self.num_classes, rngs=rngs)

    def loss(
        self, outputs: jax.Array, targets: jax.Array, mask: jax.Array
    ) -> jax.Array:
        smooth = self.config.label_smoothing
        wanted = jax.nn.one_hot(targets, self.num_classes) * (1 - smooth)
        wanted = wanted + smooth / self.num_classes
        return jnp.sum(optax.softmax_cross_entropy(outputs, wanted) * mask)

    def calibrate(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray
    ) -> dict[str, Any]:
        return {}

    def metrics(
        self,
        outputs: np.ndarray,
        targets: np.ndarray,
        calibration: dict[str, Any] | None = None,
        groups: np.ndarray | None = None,
    ) -> dict[str, Any]:
        exact = -log_softmax(outputs.astype(np.float64), axis=-1)
        confusion = np.zeros((self.num_classes, self.num_classes), int)
        np.add.at(confusion, (targets, outputs.argmax(-1)), 1)
        return {
            "accuracy": float(np.trace(confusion) / len(targets)),
            "loss": float(exact[np.arange(len(targets)), targets].mean()),
            "confusion": confusion.tolist(),
        }

    def references(
        self, tables: Mapping[str, ZooTable], outputs: np.ndarray
    ) -> dict[str, Any]:
        return {}

    def predictions(
        self, outputs: np.ndarray, calibration: dict[str, Any] | None = None
    ) -> np.ndarray:
        return softmax(outputs.astype(np.float64), axis=-1)
