"""Prediction of a network's test accuracy from its weights, with an interval.

Source: Unterthiner et al. 2020 (the problem), Navon et al. 2023 and Lim et al. 2024
(binary cross-entropy on a sigmoid), Romano et al. 2019 (conformalised quantiles: two
learned quantiles, widened until they cover what validation networks ask for).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from scipy.special import expit
from scipy.stats import kendalltau

from metanet.models import MLP, Features, Model
from metanet.options import Interval, Options, PositiveInt
from metanet.tasks.base import TASKS, Metrics, Targets, Task, TaskBatch
from metanet.tasks.references import references
from metanet.zoos import ZooTable

_RESAMPLES = 200


@dataclass(frozen=True)
class AccuracyConfig(Options):
    """Options of accuracy prediction.

    Attributes:
        column: The zoo column that is predicted; values in [0, 1].
        hidden: Width of the head's hidden layer.
        coverage: Share of networks whose true value lies in the predicted interval.
    """

    column: str = "test_accuracy"
    hidden: PositiveInt = 128
    coverage: Annotated[float, Interval(0, 1, "()")] = 0.9


class QuantileHead(nnx.Module):
    """A logit and the distances of a lower and an upper quantile from it, ``[G, 3]``.

    The quantiles are learned from the features without a gradient to them, so that the
    logit alone shapes the features.
    """

    def __init__(self, features: int, hidden: int, *, rngs: nnx.Rngs):
        self.value = MLP(features, hidden, 1, rngs=rngs)
        self.quantiles = MLP(features, hidden, 2, rngs=rngs)

    def __call__(self, features: Features, batch: TaskBatch) -> jax.Array:
        pooled = features.pooled
        distances = jax.nn.softplus(self.quantiles(jax.lax.stop_gradient(pooled)))
        return jnp.concatenate([self.value(pooled), distances], axis=-1)


@TASKS.register("accuracy")
class AccuracyPrediction(Task):
    """Predicts a value in [0, 1] from pooled features, with an interval."""

    Config = AccuracyConfig
    select_by = "r2"

    def __init__(self, config: AccuracyConfig, class_names: tuple[str, ...] = ()):
        # The classes are those of the input networks; the task itself has none.
        super().__init__(config)
        self.columns = (config.column,)

    def head(self, model: Model, *, rngs: nnx.Rngs) -> nnx.Module:
        """Returns the `QuantileHead`."""
        return QuantileHead(model.dim, self.config.hidden, rngs=rngs)

    def loss(self, outputs: jax.Array, batch: TaskBatch) -> jax.Array:
        """Returns binary cross-entropy plus the pinball losses of both quantiles."""
        logit, truth = outputs[..., 0], batch.targets[self.config.column]
        entropy = optax.sigmoid_binary_cross_entropy(logit, truth)
        fixed = jax.lax.stop_gradient(logit)
        tail = (1 - self.config.coverage) / 2
        low = _pinball(jax.nn.sigmoid(fixed - outputs[..., 1]), truth, tail)
        high = _pinball(jax.nn.sigmoid(fixed + outputs[..., 2]), truth, 1 - tail)
        return jnp.sum((entropy + low + high) * batch.mask)

    def calibrate(
        self, outputs: np.ndarray, targets: Targets, groups: np.ndarray
    ) -> dict[str, Any]:
        """Returns the margin by which quantiles are widened to reach the coverage.

        Split conformal prediction on validation networks (Romano et al. 2019); a negative
        margin narrows the interval. Checkpoints of one run are alike, so the finite-sample
        level counts runs.
        """
        truth = targets[self.config.column]
        _, low, high = _quantiles(outputs)
        shortfall = np.maximum(low - truth, truth - high)
        runs = len(np.unique(groups))
        level = min(1.0, math.ceil((runs + 1) * self.config.coverage) / runs)
        margin = np.quantile(shortfall, level, method="higher")
        return {"margin": float(margin), "networks": len(shortfall), "runs": runs}

    def metrics(
        self,
        outputs: np.ndarray,
        targets: Targets,
        calibration: Mapping[str, Any] | None = None,
        groups: np.ndarray | None = None,
    ) -> Metrics:
        """Returns R2, Kendall's tau, mean error and cross-entropy.

        With a calibration also coverage and width of the intervals and the calibration
        error; with groups 95 % bootstrap intervals.
        """
        truth = targets[self.config.column]
        predicted = self.predictions(outputs, calibration)
        value = predicted[:, 0]
        logit = outputs[:, 0].astype(np.float64)
        entropy = np.logaddexp(0, logit) - logit * truth
        metrics: Metrics = {
            **_scores(value, truth),
            "loss": float(entropy.mean()),
        }
        if calibration is not None:
            covered = (predicted[:, 1] <= truth) & (truth <= predicted[:, 2])
            metrics["coverage"] = float(covered.mean())
            metrics["interval_width"] = float(
                (predicted[:, 2] - predicted[:, 1]).mean()
            )
            metrics["calibration_error"] = _calibration_error(value, truth)
        if groups is not None:
            metrics["intervals"] = _bootstrap(value, truth, groups)
        return metrics

    def references(
        self,
        tables: Mapping[str, ZooTable],
        targets: Mapping[str, Targets],
        outputs: np.ndarray,
    ) -> dict[str, Metrics]:
        """Returns the scores of predictors from settings and from the first epoch."""
        column = self.config.column
        value, truth = self.predictions(outputs)[:, 0], targets["test"][column]
        scores: dict[str, Metrics] = {}
        for name, predicted in references(tables, column).items():
            defined = np.isfinite(predicted)
            scores[name] = _scores(predicted[defined], truth[defined])
            if not defined.all():
                scores[name]["model"] = _scores(value[defined], truth[defined])
        return scores

    def predictions(
        self, outputs: np.ndarray, calibration: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """Returns value, lower and upper end of the interval, ``[N, 3]``."""
        value, low, high = _quantiles(outputs)
        margin = calibration["margin"] if calibration else 0.0
        low, high = np.clip(low - margin, 0, 1), np.clip(high + margin, 0, 1)
        return np.stack([value, np.minimum(low, value), np.maximum(high, value)], -1)


def _scores(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    return {name: f(predicted, truth) for name, f in _METRICS.items()}


def _pinball(predicted: jax.Array, truth: jax.Array, share: float) -> jax.Array:
    """The loss whose minimum is a quantile (Koenker and Bassett 1978)."""
    error = truth - predicted
    return jnp.maximum(share * error, (share - 1) * error)


def _quantiles(outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    logit, below, above = outputs.astype(np.float64).T
    return expit(logit), expit(logit - below), expit(logit + above)


def r_squared(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Coefficient of determination; 0 where the true values are all equal."""
    spread = np.square(truth - truth.mean()).sum()
    error = np.square(truth - predicted).sum()
    return float(1 - error / spread) if spread > 0 else 0.0


def kendall(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Kendall's tau-b; 0 where either side is constant."""
    tau: Any = kendalltau(predicted, truth)[0]
    return float(tau) if np.isfinite(tau) else 0.0


def _mae(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(predicted - truth).mean())


_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "r2": r_squared,
    "kendall_tau": kendall,
    "mae": _mae,
}


def _calibration_error(
    predicted: np.ndarray, truth: np.ndarray, bins: int = 10
) -> float:
    """Mean distance of predicted and true means over tenths of the predictions."""
    parts = np.array_split(np.argsort(predicted, kind="stable"), bins)
    gaps = [
        abs(predicted[p].mean() - truth[p].mean()) * len(p) for p in parts if len(p)
    ]
    return float(sum(gaps) / len(predicted))


def _bootstrap(
    predicted: np.ndarray, truth: np.ndarray, groups: np.ndarray
) -> dict[str, list[float]]:
    """95 % intervals of the metrics; whole groups are drawn, with replacement."""
    rng = np.random.default_rng(0)
    _, which = np.unique(groups, return_inverse=True)
    order = np.argsort(which, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(which))[:-1])
    values: dict[str, list[float]] = {name: [] for name in _METRICS}
    for _ in range(_RESAMPLES):
        drawn = rng.integers(0, len(members), len(members))
        rows = np.concatenate([members[i] for i in drawn])
        for name, f in _METRICS.items():
            values[name].append(f(predicted[rows], truth[rows]))
    return {
        n: [float(q) for q in np.quantile(v, [0.025, 0.975])] for n, v in values.items()
    }
