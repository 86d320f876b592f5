"""A trained run, opened for evaluation and prediction."""

from __future__ import annotations

from collections.abc import Callable
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
from metanet.training.config import ExperimentConfig
from metanet.training.experiment import Experiment, InputNetwork, Metanetwork
from metanet.training.files import read_config, read_inputs, read_result
from metanet.training.loop import input_networks, load_best
from metanet.training.optimizer import build_optimizer
from metanet.training.packed_feed import make_feed
from metanet.training.ranges import outside, unseen
from metanet.training.selection import groups_of, select
from metanet.zoos import Zoo, ZooTable, completed


class Run:
    """The best checkpoint of a run; predicts without the run's zoo.

    Attributes:
        workdir: The run's directory.
        experiment: Its parts.
        architectures: Of its input networks, by id.
        calibration: What the task learned from validation networks; None while the run
            is not finished.
    """

    def __init__(self, workdir: Path, experiment: Experiment):
        self.workdir, self.experiment = workdir, experiment
        self.architectures = read_inputs(workdir).architectures
        self._graphdef, self._chosen = load_best(experiment, workdir)
        self._result = read_result(workdir) or {}
        self.calibration: dict[str, Any] | None = self._result.get("calibration")
        self._programs: dict[int, tuple[InputNetwork, Callable[..., jax.Array]]] = {}

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
        zoo = completed(source.path, source.recipe.identity())
        if zoo is None:
            raise MetanetError(
                f"{source.path}: the zoo of {self.workdir} is gone or damaged; "
                f"`metanet train --config {self.workdir}/config.json` makes it again"
            )
        return zoo

    @cached_property
    def tables(self) -> dict[str, ZooTable]:
        """The networks of the zoo that the run took, by split."""
        return select(self.zoo, self.config.data, self.experiment.task.column)

    @cached_property
    def _net(self) -> Metanetwork:
        return nnx.merge(self._graphdef, self._chosen["params"], self._chosen["rest"])

    @property
    def _schema(self) -> GraphSchema | None:
        return getattr(self._net.model, "schema", None)

    def _program(self, one: InputNetwork) -> Callable[[jax.Array], jax.Array]:
        if id(one) not in self._programs:
            if one not in self.experiment.inputs.values():
                self._require_readable(one)
            program = jax.jit(lambda weights: self._net(one.graphs(weights)))
            self._programs[id(one)] = one, program
        return self._programs[id(one)][1]

    def outputs(
        self, weights: np.ndarray, one: InputNetwork | None = None
    ) -> np.ndarray:
        """Raw outputs ``[N, k]`` (logits) of networks given as flat weights ``[N, P]``.

        Args:
            weights: Of networks of one architecture.
            one: The architecture; may be left out where the run has a single one. It
                may be one that the run was not trained on.

        Raises:
            MetanetError: when the weights are of another length, or the architecture
                has parts that no training network had.
        """
        one = one or self.experiment.single
        size = one.spec.size
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
            found = self._program(one)(jnp.asarray(part[index]))
            parts.append(np.asarray(found)[: len(part)])
        return np.concatenate(parts)

    def predict(
        self, weights: np.ndarray, one: InputNetwork | None = None
    ) -> np.ndarray:
        """What the task predicts for flat weights ``[N, P]``: class probabilities, or
        a value with its interval; see `outputs`."""
        outputs = self.outputs(weights, one)
        return self.experiment.task.predictions(outputs, self.calibration)

    def outside(self, weights: np.ndarray, one: InputNetwork) -> list[str]:
        """How a network ``[P]`` differs from all that the run was trained on."""
        known = self._result
        reasons = outside(known.get("ranges", {}), weights, one.spec)
        return reasons + unseen(known.get("windows", {}), one)

    def split_outputs(self, split: str) -> np.ndarray:
        """Raw outputs ``[N, k]`` on the networks of a split."""
        return self._outputs(self.experiment, self.tables, split)

    def _outputs(
        self, experiment: Experiment, tables: dict[str, ZooTable], split: str
    ) -> np.ndarray:
        optimizer = build_optimizer(self.config.optimizer, self.config.train.steps)
        mixed = self.experiment.mixed
        feed = make_feed(experiment, tables, optimizer, mixed=mixed)
        net = self.experiment.build()
        feed.measure(net)
        feed.compile(self._graphdef, nnx.state(net, nnx.Param))
        chosen = feed.place(self._chosen)
        return feed.outputs(chosen["params"], chosen["rest"], split)

    def evaluate(self, split: str = "test", zoo: Zoo | None = None) -> dict[str, Any]:
        """Metrics on a split of the run's zoo, or of another.

        Args:
            split: "train", "validation" or "test".
            zoo: Another zoo: how well the run does on networks that were trained on
                other images, or are of other architectures. The conditions of
                ``config.data.where`` apply.

        Raises:
            MetanetError: when the run cannot read the other zoo's networks.
        """
        if zoo is None:
            experiment, tables = self.experiment, self.tables
        else:
            experiment, tables = self._other(zoo)
        task, table = self.experiment.task, tables[split]
        outputs = self._outputs(experiment, tables, split)
        groups = groups_of(table)
        return task.metrics(outputs, table[task.column], self.calibration, groups)

    def _other(self, zoo: Zoo) -> tuple[Experiment, dict[str, ZooTable]]:
        """The experiment with the networks of another zoo."""
        data = replace(self.config.data, fraction=1.0, wider="")
        tables = select(zoo, data, self.experiment.task.column)
        known = {a: k for k, a in self.architectures.items()}
        inputs: dict[str, InputNetwork] = {}
        held = input_networks(zoo, tables)
        for key, architecture in held.architectures.items():
            if architecture in known:
                inputs[key] = self.experiment.inputs[known[architecture]]
                continue
            one = InputNetwork.of(architecture, self.config, held.image_side)
            self._require_readable(one)
            inputs[key] = one
        if len(inputs) > 1 and not self.experiment.mixed:
            raise MetanetError(
                f"{zoo.path}: networks of {len(inputs)} architectures; this run reads "
                "one (take some by config.data.where when training)"
            )
        return replace(self.experiment, inputs=inputs), tables

    def _require_readable(self, one: InputNetwork) -> None:
        """Checks that an architecture without part in training can be read."""
        if self._schema is None:
            raise MetanetError(
                f"{self.config.model.name} reads networks of the architecture that "
                "it was trained on; a graph metanetwork reads others"
            )
        self._schema.require(one.topology)


def load_run(workdir: str | Path) -> Run:
    """Opens a run's directory.

    Raises:
        MetanetError: when it is no run, or has no checkpoint yet.
    """
    workdir = Path(workdir)
    config = read_config(workdir)
    return Run(workdir, Experiment.of(config, read_inputs(workdir)))
