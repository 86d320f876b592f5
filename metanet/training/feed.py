"""What feeds a run: batches for its steps, and outputs on whole splits."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from metanet.errors import MetanetError
from metanet.training.data import DataOrder, SplitData
from metanet.training.experiment import Experiment, Metanetwork
from metanet.training.prefetch import prefetch
from metanet.training.profile import parameter_count
from metanet.training.sharding import DataParallel
from metanet.training.step import (
    TrainState,
    make_eval_step,
    make_train_step,
    micro_batch,
)
from metanet.zoos import ZooTable

T = TypeVar("T")
# Networks whose weights set the standardisation.
STATISTICS_SAMPLE = 1024


class Batch(NamedTuple):
    """What one step reads.

    Attributes:
        inputs: Arguments of the step after the state.
        ids: Zoo ids of its networks.
        position: Where the next batch begins; JSON values.
    """

    inputs: tuple[Any, ...]
    ids: np.ndarray
    position: list[int]


class Feed(Protocol):
    """Batches, the step that takes them, and outputs on splits."""

    def measure(self, net: Metanetwork) -> None:
        """Sets a model's statistics from training networks."""
        ...

    def compile(self, graphdef: nnx.GraphDef, params: Any) -> None:
        """Prepares the step for a model; before everything below."""
        ...

    def place(self, state: T) -> T:
        """Puts a state, or parameters, where the step wants them."""
        ...

    def batches(self, position: list[int]) -> Generator[Batch]:
        """Batches without end; the first is at ``[0, 0]``."""
        ...

    def step(self, state: TrainState, *inputs: Any) -> tuple[TrainState, Any]:
        """One optimiser step; the state is donated."""
        ...

    def outputs(self, params: Any, rest: Any, split: str) -> np.ndarray:
        """Outputs ``[N, k]`` on all networks of a split."""
        ...


class StackedFeed:
    """Networks of one architecture: weights on the device, batches by index.

    Args:
        experiment: The experiment.
        tables: Networks by split.
        optimizer: Of the step.
    """

    def __init__(
        self,
        experiment: Experiment,
        tables: dict[str, ZooTable],
        optimizer: optax.GradientTransformation,
    ):
        self.experiment, self.optimizer = experiment, optimizer
        self.config, task = experiment.config, experiment.task
        self.parallel = DataParallel()
        self.ids = tables["train"]["id"]
        self.sample = (
            tables["train"].take(np.arange(len(self.ids))[:STATISTICS_SAMPLE]).weights
        )
        self.data = {
            split: SplitData(t, task.column, self.parallel)
            for split, t in tables.items()
        }
        train = self.config.train
        self.order = DataOrder(len(self.ids), train.batch_size, self.config.seed)

    def measure(self, net: Metanetwork) -> None:
        graphs = jax.jit(self.experiment.single.graphs)(jnp.asarray(self.sample))
        net.model.set_statistics(graphs)
        self._cost = net.model.cost

    def place(self, state: T) -> T:
        return self.parallel.replicate(state)

    def compile(self, graphdef: nnx.GraphDef, params: Any) -> None:
        train = self.config.train
        self.micro = micro_batch(
            train.batch_size,
            self._cost,
            self.parallel.size,
            jax.default_backend(),
            train.micro_batch,
            parameter_count(params),
        )
        if self.micro % self.parallel.size:
            raise MetanetError(
                f"config.train: {self.micro} networks per pass do not divide over "
                f"{self.parallel.size} devices"
            )
        self.step = make_train_step(
            self.experiment, graphdef, self.optimizer, self.parallel
        )
        self.eval_step = make_eval_step(
            self.experiment, graphdef, self.parallel.replicated
        )

    def batches(self, position: list[int]) -> Generator[Batch]:
        batches = self._batches(position[0])
        return batches if self.data["train"].on_device else prefetch(batches)

    def _batches(self, step: int) -> Generator[Batch]:
        while True:
            rows = self.order.batch(step)
            step += 1
            inputs = self.data["train"].take(rows.reshape(-1, self.micro))
            yield Batch(inputs, self.ids[rows], [step, 0])

    def outputs(self, params: Any, rest: Any, split: str) -> np.ndarray:
        data, size = self.data[split], self.config.train.eval_batch
        size = -(-size // self.parallel.size) * self.parallel.size
        chunks = -(-len(data) // size)
        places = np.arange(chunks * size).reshape(chunks, size)
        rows = np.minimum(places, len(data) - 1).astype(np.int32)
        # All in one call, or chunk by chunk where the device cannot hold them.
        calls = [slice(None)] if data.on_device else [[i] for i in range(chunks)]
        parts = [self.eval_step(params, rest, *data.take(rows[c])) for c in calls]
        found = np.concatenate(jax.device_get(parts))
        return found.reshape(-1, found.shape[-1])[: len(data)]
