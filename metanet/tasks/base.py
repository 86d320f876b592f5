"""What a task is: a head on pooled features, a loss, and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx

from metanet.registry import Registry
from metanet.zoos import ZooTable


class Task(Protocol):
    """Head, loss and metrics of one kind of experiment.

    Attributes:
        column: The zoo column with the targets.
        select_by: The metric that chooses checkpoints, larger is better.
        class_names: Names of the classes between which it decides; () where none.
    """

    column: str
    select_by: str
    class_names: tuple[str, ...]

    def head(self, features: int, *, rngs: nnx.Rngs) -> nnx.Module:
        """A module from pooled features ``[B, features]`` to outputs ``[B, k]``."""
        ...

    def loss(
        self, outputs: jax.Array, targets: jax.Array, mask: jax.Array
    ) -> jax.Array:
        """Sum of the losses of the networks with ``mask`` 1; divide by their count."""
        ...

    def calibrate(
        self, outputs: np.ndarray, targets: np.ndarray, groups: np.ndarray
    ) -> dict[str, Any]:
        """What outputs ``[N, k]`` of validation networks teach, as JSON values.

        ``groups`` are numbers ``[N]`` of independent units, as for `metrics`.
        """
        ...

    def metrics(
        self,
        outputs: np.ndarray,
        targets: np.ndarray,
        calibration: dict[str, Any] | None = None,
        groups: np.ndarray | None = None,
    ) -> dict[str, Any]:
        """Metrics of outputs ``[N, k]``, as JSON values.

        Args:
            outputs: Of the networks.
            targets: ``[N]``.
            calibration: What `calibrate` returned; adds what needs it.
            groups: ``[N]`` numbers of independent units (training runs), over which
                intervals of the metrics are found; None leaves these out.
        """
        ...

    def references(
        self, tables: Mapping[str, ZooTable], outputs: np.ndarray
    ) -> dict[str, Any]:
        """Test metrics of predictors that read no weights, by name; {} for none.

        Args:
            tables: Networks by split.
            outputs: This model's, of the test split. Where a predictor tells only a part
                of it, ``model`` among its metrics holds this model's on the same part.
        """
        ...

    def predictions(
        self, outputs: np.ndarray, calibration: dict[str, Any] | None = None
    ) -> np.ndarray:
        """What `predict` reports, ``[N, p]``: probabilities, or value and interval."""
        ...


TASKS: Registry[Any] = Registry("task", requires=("Config",))
