"""A trained run, opened for evaluation and prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metanet.errors import MetanetError
from metanet.graphs import GraphSchema
from metanet.networks import Architecture
from metanet.training.batches import evaluate_split
from metanet.training.checkpoint import Checkpoints
from metanet.training.config import ExperimentConfig
from metanet.training.experiment import Experiment, InputArchitecture, Metanetwork
from metanet.training.io import RunResult, read_config, read_inputs, read_result
from metanet.training.loop import run_inputs
from metanet.training.selection import groups_of, select
from metanet.training.sources import make_source
from metanet.training.step import make_eval_step
from metanet.training.support import out_of_range_reasons, unseen_operation_reasons
from metanet.zoos import Zoo, ZooTable, completed


class Run:
    """The best checkpoint of a run; predicts without the run's zoo.

    Nothing is initialised or measured to open one: parameters and statistics are restored
    into shapes.

    Attributes:
        workdir: The run's directory.
        experiment: Its static parts.
        architectures: Architectures of its input networks, by id.
        result: Its result; None while it is not finished.

    Raises:
        MetanetError: when the run has no checkpoint yet.
    """

    def __init__(self, workdir: Path, experiment: Experiment):
        self.workdir, self.experiment = workdir, experiment
        self.architectures: dict[str, Architecture] = read_inputs(workdir).architectures
        self.result: RunResult | None = read_result(workdir)
        # The shapes alone: statistics are part of the checkpoint too.
        self._shapes: Metanetwork = nnx.eval_shape(experiment.build)
        self._graphdef, params, rest = nnx.split(self._shapes, nnx.Param, ...)
        checkpoints = Checkpoints(workdir / "checkpoints" / "best", 1, writing=False)
        checkpoint = checkpoints.restore({"params": params, "rest": rest})
        checkpoints.close()
        if checkpoint is None:
            raise MetanetError(f"{workdir}: no checkpoint yet; train the run first")
        self._params, self._rest = checkpoint[0]["params"], checkpoint[0]["rest"]
        self._programs: dict[
            int, tuple[InputArchitecture, Callable[[jax.Array], Any]]
        ] = {}

    @property
    def config(self) -> ExperimentConfig:
        """The run's config."""
        return self.experiment.config

    @property
    def calibration(self) -> dict[str, Any] | None:
        """Constants from validation networks; None while the run is not finished."""
        return None if self.result is None else self.result.calibration

    @cached_property
    def zoo(self) -> Zoo:
        """The zoo on which the run was trained and tested.

        Raises:
            MetanetError: when it is gone.
        """
        source = self.config.zoo
        zoo = completed(source.path, source.recipe.identity())
        if zoo is None:
            raise MetanetError(
                f"{source.path}: the zoo of {self.workdir} is gone or damaged; "
                f"`metanet train --config {self.workdir}/config.json` makes it again"
            )
        return zoo

    @cached_property
    def tables(self) -> dict[str, ZooTable]:
        """The networks of the zoo that the run selected, by split."""
        return select(self.zoo, self.config.data, self.experiment.task.columns)

    @cached_property
    def _net(self) -> Metanetwork:
        return nnx.merge(self._graphdef, self._params, self._rest)

    @property
    def _schema(self) -> GraphSchema | None:
        return getattr(self._shapes.model, "schema", None)

    def _program(self, architecture: InputArchitecture) -> Callable[[jax.Array], Any]:
        key = id(architecture)
        if key not in self._programs:
            if architecture not in self.experiment.inputs.values():
                self._require_readable(architecture)
            reads = self.experiment.task.reads_weights

            def outputs(weights: jax.Array) -> Any:
                return self._net(architecture.task_batch(weights, reads_weights=reads))

            self._programs[key] = architecture, jax.jit(outputs)
        return self._programs[key][1]

    def outputs(
        self, weights: np.ndarray, architecture: InputArchitecture | None = None
    ) -> Any:
        """Returns the head's outputs (logits), arrays ``[N, ...]``.

        Args:
            weights: Flat weights ``[N, P]`` of networks of one architecture.
            architecture: Their architecture, also one without part in training; may be
                left out for a run on a single one.

        Raises:
            MetanetError: for weights of another length, or an architecture with parts
                that no training network had.
        """
        architecture = architecture or self.experiment.single
        size = architecture.spec.size
        if weights.ndim != 2 or weights.shape[1] != size:
            raise MetanetError(
                f"weights: shape {weights.shape}, this run takes [N, {size}]"
            )
        batch = min(self.config.train.eval_batch, max(len(weights), 1))
        parts = []
        for start in range(0, len(weights), batch):
            part = weights[start : start + batch]
            # One shape for all calls: a short last batch repeats its first network.
            index = np.arange(batch) % len(part)
            outputs = self._program(architecture)(jnp.asarray(part[index]))
            count = len(part)
            parts.append(jax.tree.map(lambda x, n=count: np.asarray(x)[:n], outputs))
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

    def predict(
        self, weights: np.ndarray, architecture: InputArchitecture | None = None
    ) -> np.ndarray:
        """Returns the task's predictions for flat weights ``[N, P]``.

        Class probabilities, or a value with its interval; see `outputs`.
        """
        outputs = self.outputs(weights, architecture)
        return self.experiment.task.predictions(outputs, self.calibration)

    def warnings(
        self, weights: np.ndarray, architecture: InputArchitecture
    ) -> list[str]:
        """Returns how a network ``[P]`` differs from all training networks."""
        if self.result is None:
            return []
        support, windows = self.result.training_support, self.result.sliding_windows
        reasons = out_of_range_reasons(support, weights, architecture.spec)
        return reasons + unseen_operation_reasons(windows, architecture)

    def split_outputs(self, split: str) -> Any:
        """Returns what `Task.evaluate` stores of the networks of a split."""
        return self._evaluate(self.experiment, self.zoo, self.tables, split)[0]

    def _evaluate(
        self,
        experiment: Experiment,
        zoo: Zoo,
        tables: Mapping[str, ZooTable],
        split: str,
    ) -> tuple[Any, dict[str, Any]]:
        """Returns outputs and targets of a split."""
        task = experiment.task
        targets = {s: task.targets(zoo, t) for s, t in tables.items()}
        source = make_source(
            experiment, tables, targets, self._shapes, mixed=self.experiment.mixed
        )
        evaluate = make_eval_step(source.reader, task, self._graphdef)
        params, rest = source.replicate(self._params), source.replicate(self._rest)
        outputs = evaluate_split(source, evaluate, params, rest, split)
        return outputs, targets[split]

    def evaluate(self, split: str = "test", zoo: Zoo | None = None) -> dict[str, Any]:
        """Returns metrics on a split of the run's zoo, or of another.

        Args:
            split: "train", "validation" or "test".
            zoo: Another zoo, of networks that were trained on other images or have other
                architectures. The conditions of ``config.data.where`` apply.

        Raises:
            MetanetError: when the run cannot read the other zoo's networks.
        """
        if zoo is None:
            experiment, tables = self.experiment, self.tables
        else:
            experiment, tables = self._on_zoo(zoo)
        outputs, targets = self._evaluate(experiment, zoo or self.zoo, tables, split)
        groups = groups_of(tables[split])
        return experiment.task.metrics(outputs, targets, self.calibration, groups)

    def _on_zoo(self, zoo: Zoo) -> tuple[Experiment, dict[str, ZooTable]]:
        """Returns the experiment with the networks of another zoo."""
        data = replace(self.config.data, fraction=1.0, wider="")
        tables = select(zoo, data, self.experiment.task.columns)
        known = {a: k for k, a in self.architectures.items()}
        structures: dict[str, InputArchitecture] = {}
        inputs = run_inputs(zoo, tables)
        for key, architecture in inputs.architectures.items():
            if architecture in known:
                structures[key] = self.experiment.inputs[known[architecture]]
                continue
            structure = InputArchitecture.of(
                architecture, self.config, inputs.image_side
            )
            self._require_readable(structure)
            structures[key] = structure
        if len(structures) > 1 and not self.experiment.mixed:
            raise MetanetError(
                f"{zoo.path}: networks of {len(structures)} architectures; this run "
                "reads one (take some by config.data.where when training)"
            )
        return replace(self.experiment, inputs=structures), tables

    def _require_readable(self, architecture: InputArchitecture) -> None:
        """Checks that an architecture without part in training can be read."""
        if self._schema is None:
            raise MetanetError(
                f"{self.config.model.name} reads networks of the architecture that "
                "it was trained on; a graph metanetwork reads others"
            )
        self._schema.require(architecture.topology)


def load_run(workdir: str | Path) -> Run:
    """Opens a run's directory.

    Raises:
        MetanetError: when it is no run, or has no checkpoint yet.
    """
    workdir = Path(workdir)
    config = read_config(workdir)
    return Run(workdir, Experiment.of(config, read_inputs(workdir)))
