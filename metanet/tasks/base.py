"""What a task is: a head on pooled features, a loss, and metrics that add up."""

from __future__ import annotations

from typing import Any, Protocol

import jax
from flax import nnx

from metanet.registry import Registry

Sums = dict[str, jax.Array]


class Task(Protocol):
    """Head, loss and metrics of one kind of experiment.

    Attributes:
        column: The zoo column with the targets.
        select_by: The metric that chooses checkpoints, larger is better.
        class_names: Names of the classes between which it decides.
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

    def sums(self, outputs: jax.Array, targets: jax.Array, mask: jax.Array) -> Sums:
        """Sums from which metrics are made; those of batches and processes add up."""
        ...

    def metrics(self, sums: Any) -> dict[str, Any]:
        """Metrics from added sums, as JSON values."""
        ...

    def predictions(self, outputs: jax.Array) -> jax.Array:
        """What `predict` reports: probabilities, or predicted values."""
        ...


TASKS: Registry[Any] = Registry("task")
