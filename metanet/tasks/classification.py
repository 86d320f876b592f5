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

from metanet.models import MLP, Model
from metanet.options import Options, PositiveInt, Rate
from metanet.tasks.base import TASKS, Metrics, PooledHead, Targets, Task, TaskBatch


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
class Classification(Task):
    """Predicts the class of what a network represents from its pooled features."""

    Config = ClassificationConfig
    columns = ("label",)
    select_by = "accuracy"

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def head(self, model: Model, *, rngs: nnx.Rngs) -> nnx.Module:
        """Returns an MLP from pooled features to logits ``[G, classes]``."""
        return PooledHead(
            MLP(model.dim, self.config.hidden, self.num_classes, rngs=rngs)
        )

    def loss(self, outputs: jax.Array, batch: TaskBatch) -> jax.Array:
        """Returns the sum of the cross-entropies with smoothed labels."""
        smoothing, labels = self.config.label_smoothing, batch.targets["label"]
        wanted = jax.nn.one_hot(labels, self.num_classes) * (1 - smoothing)
        wanted = wanted + smoothing / self.num_classes
        return jnp.sum(optax.softmax_cross_entropy(outputs, wanted) * batch.mask)

    def metrics(
        self,
        outputs: np.ndarray,
        targets: Targets,
        calibration: Mapping[str, Any] | None = None,
        groups: np.ndarray | None = None,
    ) -> Metrics:
        """Returns accuracy, cross-entropy and the confusion matrix (rows are labels)."""
        labels = targets["label"]
        cross_entropy = -log_softmax(outputs.astype(np.float64), axis=-1)
        confusion = np.zeros((self.num_classes, self.num_classes), int)
        np.add.at(confusion, (labels, outputs.argmax(-1)), 1)
        return {
            "accuracy": float(np.trace(confusion) / len(labels)),
            "loss": float(cross_entropy[np.arange(len(labels)), labels].mean()),
            "confusion": confusion.tolist(),
        }

    def predictions(
        self, outputs: np.ndarray, calibration: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """Returns class probabilities ``[N, classes]``."""
        return softmax(outputs.astype(np.float64), axis=-1)
