"""The interface of a task: what is predicted, by which head, and how it is judged.

A new task is one file: a frozen dataclass of options, and a subclass of `Task` with the
decorator ``@TASKS.register("name")``. Training, evaluation and prediction are the same for
all tasks, and for networks of one architecture or of many.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
from flax import nnx

from metanet.errors import MetanetError
from metanet.graphs import GraphBatch
from metanet.models import Features, Model
from metanet.registry import Registry
from metanet.zoos import Zoo, ZooTable

# Metrics of a split: numbers by name, and what else a report shows of them (JSON values).
Metrics = dict[str, Any]
Targets = dict[str, Any]


@dataclass(frozen=True)
class TaskBatch:
    """The networks of one pass through a metanetwork; G of them, padding included.

    Attributes:
        graphs: Their parameter graphs, dense or packed.
        targets: Arrays ``[G, ...]`` by name, see `Task.targets`; {} for prediction.
        mask: ``[G]``, 1 for networks and 0 for padding.
        weights: Flat parameters ``[G, P]`` as the graphs hold them (zeros behind the
            parameters of smaller networks); None unless the task ``reads_weights``.
        apply: ``apply(weights [G, P], *inputs) -> outputs [G, ...]`` runs each network on
            the same inputs; None unless the task ``reads_weights``.
    """

    graphs: GraphBatch
    targets: Mapping[str, jax.Array]
    mask: jax.Array
    weights: jax.Array | None = None
    apply: Callable[..., jax.Array] | None = None


class Task(abc.ABC):
    """Head, loss and metrics of one kind of experiment.

    Args:
        config: Options, an instance of ``Config``.
        class_names: Class names of the zoo's labels.

    Attributes:
        Config: Dataclass of the task's options.
        reads_weights: Whether batches carry flat parameters and the networks' functions.
        columns: Columns of the zoo that the task reads.
        select_by: The metric that selects checkpoints; larger is better.
        class_names: Names of the classes that the task distinguishes; () for none.
    """

    Config: ClassVar[type]
    reads_weights: ClassVar[bool] = False
    columns: tuple[str, ...] = ()
    select_by: str
    class_names: tuple[str, ...] = ()

    def __init__(self, config: Any, class_names: tuple[str, ...] = ()):
        self.config, self.class_names = config, class_names

    def targets(self, zoo: Zoo, table: ZooTable) -> Targets:
        """Returns the targets of the networks of a table, arrays ``[N, ...]`` by name.

        The default is the zoo's columns ``self.columns``.
        """
        return {name: table[name] for name in self.columns}

    @abc.abstractmethod
    def head(self, model: Model, *, rngs: nnx.Rngs) -> nnx.Module:
        """Returns a module ``(features: Features, batch: TaskBatch) -> outputs``.

        Outputs are a pytree of arrays ``[G, ...]``.
        """

    @abc.abstractmethod
    def loss(self, outputs: Any, batch: TaskBatch) -> jax.Array:
        """Returns the sum of the losses of the networks whose ``mask`` is 1."""

    def evaluate(self, outputs: Any, batch: TaskBatch) -> Any:
        """Returns what evaluation stores of a pass, a pytree of arrays ``[G, ...]``.

        The default is the outputs themselves.
        """
        return outputs

    @abc.abstractmethod
    def metrics(
        self,
        outputs: Any,
        targets: Targets,
        calibration: Mapping[str, Any] | None = None,
        groups: np.ndarray | None = None,
    ) -> Metrics:
        """Returns the metrics of N networks as JSON values.

        Args:
            outputs: Results of `evaluate`, arrays ``[N, ...]``.
            targets: Results of `targets`.
            calibration: Result of `calibrate`; adds the metrics that need it.
            groups: ``[N]`` numbers of independent units (training runs), over which
                confidence intervals are computed; None computes none.
        """

    def calibrate(
        self, outputs: Any, targets: Targets, groups: np.ndarray
    ) -> dict[str, Any]:
        """Returns constants estimated on the validation networks, as JSON values.

        The default is none.
        """
        return {}

    def references(
        self,
        tables: Mapping[str, ZooTable],
        targets: Mapping[str, Targets],
        outputs: Any,
    ) -> dict[str, Metrics]:
        """Returns test metrics of baselines without a metanetwork, by name.

        Args:
            tables: Networks by split.
            targets: Targets by split.
            outputs: This run's, on the test split. Where a baseline predicts only a part
                of it, ``model`` among its metrics holds this run's on the same part.
        """
        return {}

    def predictions(
        self, outputs: Any, calibration: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """Returns the rows ``[N, p]`` that ``metanet predict`` prints.

        Raises:
            MetanetError: for a task without such predictions.
        """
        raise MetanetError(f"{type(self).__name__} has no predictions to print")


class PooledHead(nnx.Module):
    """Head that applies a module to the pooled features ``[G, dim]``."""

    def __init__(self, module: Callable[[jax.Array], jax.Array]):
        self.module = module

    def __call__(self, features: Features, batch: TaskBatch) -> jax.Array:
        return self.module(features.pooled)


TASKS: Registry[type[Task]] = Registry("task", requires=("Config",))
