"""A trained run, opened for evaluation and prediction."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metanet.errors import MetanetError
from metanet.training.config import ExperimentConfig
from metanet.training.experiment import Experiment
from metanet.training.files import read_class_names, read_config
from metanet.training.loop import load_best
from metanet.training.step import make_outputs
from metanet.zoos import Zoo, completed


class Run:
    """The best checkpoint of a run; predicts without the run's zoo.

    Attributes:
        workdir: The run's directory.
        experiment: Its parts.
    """

    def __init__(self, workdir: Path, experiment: Experiment):
        self.workdir, self.experiment = workdir, experiment
        graphdef, chosen = load_best(experiment, workdir)
        outputs = make_outputs(experiment, graphdef)
        self._outputs = jax.jit(lambda w: outputs(chosen["params"], chosen["rest"], w))

    @property
    def config(self) -> ExperimentConfig:
        """The run's config."""
        return self.experiment.config

    @cached_property
    def zoo(self) -> Zoo:
        """The networks that the run was trained and tested on.

        Raises:
            MetanetError: when they are not there any more.
        """
        source = self.config.zoo
        zoo = completed(source.path, source.fit.identity())
        if zoo is None:
            raise MetanetError(
                f"{source.path}: the zoo of {self.workdir} is gone or damaged; "
                f"`metanet train --config {self.workdir}/config.json` fits it again"
            )
        return zoo

    def outputs(self, weights: np.ndarray) -> np.ndarray:
        """Raw outputs ``[N, k]`` (logits) of networks given as flat weights ``[N, P]``.

        Raises:
            MetanetError: when the weights are of another length.
        """
        size = self.experiment.spec.size
        if weights.ndim != 2 or weights.shape[1] != size:
            raise MetanetError(
                f"weights: shape {weights.shape}, this run takes [N, {size}]"
            )
        batch = self.config.train.eval_batch
        parts = []
        for start in range(0, len(weights), batch):
            part = weights[start : start + batch]
            # One shape for all calls: a short last batch repeats its first network.
            index = np.arange(batch) % len(part)
            parts.append(
                np.asarray(self._outputs(jnp.asarray(part[index])))[: len(part)]
            )
        return np.concatenate(parts)

    def predict(self, weights: np.ndarray) -> np.ndarray:
        """What the task predicts (class probabilities) for flat weights ``[N, P]``."""
        return np.asarray(
            self.experiment.task.predictions(jnp.asarray(self.outputs(weights)))
        )

    def evaluate(self, split: str = "test") -> dict[str, Any]:
        """Metrics on a split of the run's zoo."""
        task = self.experiment.task
        table = self.zoo.read(split, (task.column,))
        outputs = jnp.asarray(self.outputs(table.weights))
        targets = jnp.asarray(table[task.column])
        sums = task.sums(outputs, targets, jnp.ones(len(table.weights)))
        return task.metrics(jax.device_get(sums))


def load_run(workdir: str | Path) -> Run:
    """Opens a run's directory.

    Raises:
        MetanetError: when it is no run, or has no checkpoint yet.
    """
    workdir = Path(workdir)
    config = read_config(workdir)
    return Run(workdir, Experiment.of(config, read_class_names(workdir)))
