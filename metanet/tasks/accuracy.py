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

from metanet.models.layers import MLP
from metanet.options import Interval, Options, PositiveInt
from metanet.tasks.base import TASKS
from metanet.tasks.references import references
from metanet.zoos import ZooTable

_RESAMPLES = 200


@dataclass(frozen=True)
class AccuracyConfig(Options):
    """Options of accuracy prediction.

    Attributes:
        column: The zoo column that is predicted; values in [0, 1].
        hidden: Width of the head's hidden layer.
        coverage: Share of networks whose true value the interval is to hold.
    """

    column: str = "test_accuracy"
    hidden: PositiveInt = 128
    coverage: Annotated[float, Interval(0, 1, "()")] = 0.9


class _Head(nnx.Module):
    """A logit, and how far below and above it the two quantiles lie.

    The quantiles learn from the features and leave these as the logit wants them.
    """

    def __init__(self, features: int, hidden: int, *, rngs: nnx.Rngs):
        self.value = MLP(features, hidden, 1, rngs=rngs)
        self.quantiles = MLP(features, hidden, 2, rngs=rngs)

    def __call__(self, pooled: jax.Array) -> jax.Array:
        apart = jax.nn.softplus(self.quantiles(jax.lax.stop_gradient(pooled)))
        return jnp.concatenate([self.value(pooled), apart], axis=-1)


@TASKS.register("accuracy")
class AccuracyPrediction:
    """Predicts a value in [0, 1] from pooled features, with an interval."""

    Config = AccuracyConfig
    select_by = "r2"
    class_names: tuple[str, ...] = ()

    def __init__(self, config: AccuracyConfig, class_names: tuple[str, ...] = ()):
        self.config, self.column = config, config.column

    def head(self, features: int, *, rngs: nnx.Rngs) -> nnx.Module:
        return _Head(features, self.config.hidden, rngs=rngs)

    def loss(
        self, outputs: jax.Array, targets: jax.Array, mask: jax.Array
    ) -> jax.Array:
        logit = outputs[..., 0]
        value = optax.sigmoid_binary_cross_entropy(logit, targets)
        fixed = jax.lax.stop_gradient(logit)
        tail = (1 - self.config.coverage) / 2
        low, high = (
            _pinball(jax.nn.sigmoid(fixed - outputs[..., 1]), targets, tail),
            _pinball(jax.nn.sigmoid(fixed + outputs[..., 2]), targets, 1 - tail),
        )
        return jnp.sum((value + low + high) * mask)

    def calibrate(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray
    ) -> dict[str, Any]:
        """How much the quantiles must be widened to hold their share of networks.

        May be negative: then they are narrowed.
        """
        _, low, high = _quantiles(outputs)
        short = np.maximum(low - targets, targets - high)
        # The finite-sample level of split conformal prediction; checkpoints of one run
        # are alike, so that runs are counted.
        runs = len(np.unique(groups))
        level = min(1.0, math.ceil((runs + 1) * self.config.coverage) / runs)
        margin = np.quantile(short, level, method="higher")
        return {"margin": float(margin), "networks": len(short), "runs": runs}

    def metrics(
        self,
        outputs: np.ndarray,
        targets: np.ndarray,
        calibration: dict[str, Any] | None = None,
        groups: np.ndarray | None = None,
    ) -> dict[str, Any]:
        found = self.predictions(outputs, calibration)
        value = found[:, 0]
        logit = outputs[:, 0].astype(np.float64)
        entropy = np.logaddexp(0, logit) - logit * targets
        out: dict[str, Any] = {
            **_measured(value, targets),
            "loss": float(entropy.mean()),
        }
        if calibration is not None:
            held = (found[:, 1] <= targets) & (targets <= found[:, 2])
            out["coverage"] = float(held.mean())
            out["interval_width"] = float((found[:, 2] - found[:, 1]).mean())
            out["calibration_error"] = _calibration_error(value, targets)
        if groups is not None:
            out["intervals"] = _bootstrap(value, targets, groups)
        return out

    def references(
        self, tables: Mapping[str, ZooTable], outputs: np.ndarray
    ) -> dict[str, Any]:
        own, wanted = self.predictions(outputs)[:, 0], tables["test"][self.column]
        out: dict[str, Any] = {}
        for name, values in references(tables, self.column).items():
            asked = np.isfinite(values)
            out[name] = _measured(values[asked], wanted[asked])
            if not asked.all():
                out[name]["model"] = _measured(own[asked], wanted[asked])
        return out

    def predictions(
        self, outputs: np.ndarray, calibration: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Value, lower and upper end of the interval, ``[N, 3]``."""
        value, low, high = _quantiles(outputs)
        margin = calibration["margin"] if calibration else 0.0
        low, high = np.clip(low - margin, 0, 1), np.clip(high + margin, 0, 1)
        return np.stack([value, np.minimum(low, value), np.maximum(high, value)], -1)


def _measured(found: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    return {name: f(found, wanted) for name, f in _METRICS.items()}


def _pinball(found: jax.Array, wanted: jax.Array, share: float) -> jax.Array:
    """The loss whose minimum is a quantile (Koenker and Bassett 1978)."""
    miss = wanted - found
    return jnp.maximum(share * miss, (share - 1) * miss)


def _quantiles(outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    logit, below, above = outputs.astype(np.float64).T
    return expit(logit), expit(logit - below), expit(logit + above)


def r_squared(found: np.ndarray, wanted: np.ndarray) -> float:
    """Coefficient of determination; 0 where the wanted values are all equal."""
    spread = np.square(wanted - wanted.mean()).sum()
    error = np.square(wanted - found).sum()
    return float(1 - error / spread) if spread > 0 else 0.0


def kendall(found: np.ndarray, wanted: np.ndarray) -> float:
    """Kendall's tau-b; 0 where either side is constant."""
    tau: Any = kendalltau(found, wanted)[0]
    return float(tau) if np.isfinite(tau) else 0.0


def _mae(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).mean())


_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "r2": r_squared,
    "kendall_tau": kendall,
    "mae": _mae,
}


def _calibration_error(found: np.ndarray, wanted: np.ndarray, bins: int = 10) -> float:
    """Mean distance of predicted and true means over tenths of the predictions."""
    parts = np.array_split(np.argsort(found, kind="stable"), bins)
    gaps = [abs(found[p].mean() - wanted[p].mean()) * len(p) for p in parts if len(p)]
    return float(sum(gaps) / len(found))


def _bootstrap(
    found: np.ndarray, wanted: np.ndarray, groups: np.ndarray
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
            values[name].append(f(found[rows], wanted[rows]))
    return {
        n: [float(q) for q in np.quantile(v, [0.025, 0.975])] for n, v in values.items()
    }
