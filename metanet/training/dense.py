"""Batches of networks of one architecture: weights on the device, batches by index."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metanet.errors import MetanetError
from metanet.graphs import GraphBatch
from metanet.tasks import Targets, TaskBatch
from metanet.training.batches import STATISTICS_SAMPLE, Batch, EvaluationCall
from metanet.training.experiment import Experiment, Metanetwork
from metanet.training.prefetch import prefetch
from metanet.training.profile import parameter_count
from metanet.training.sharding import DataParallel
from metanet.tuning import DEVICE_TABLE_BYTES, EDGE_ARRAY_BYTES
from metanet.zoos import ZooTable

T = TypeVar("T")


class Dataset(NamedTuple):
    """A split on the device: flat weights ``[N, P]`` and targets ``[N, ...]`` by name."""

    weights: jax.Array
    targets: dict[str, jax.Array]


class DensePass(NamedTuple):
    """One pass: its task batch without targets, and rows ``[M]`` of the data set."""

    graphs: GraphBatch
    weights: jax.Array | None
    rows: jax.Array


class DenseReader:
    """Gathers weights by row and views them as graphs; see `BatchReader`.

    Items are rows ``[C, M]`` of a `Dataset`.

    Args:
        experiment: The experiment, on one architecture.
        parallel: Devices over which the networks of a pass are divided.
    """

    def __init__(self, experiment: Experiment, parallel: DataParallel | None = None):
        self.parallel: DataParallel | None = parallel
        self._architecture = experiment.single
        self._augment = experiment.augmentation()
        self._reads_weights = experiment.task.reads_weights

    def keys(self, key: jax.Array, items: jax.Array) -> jax.Array:
        """Returns a key ``[C, M]`` per network."""
        slots = jnp.arange(items.size).reshape(items.shape)
        return jax.vmap(jax.vmap(lambda i: jax.random.fold_in(key, i)))(slots)

    def prepare(
        self, data: Dataset, items: jax.Array, keys: jax.Array
    ) -> tuple[DensePass, jax.Array]:
        """Returns the passes of a step, augmented, and their keys of dropout."""

        def read(rows: jax.Array, pass_keys: jax.Array) -> DensePass:
            weights = data.weights[rows]
            if self._augment is not None:
                weights = self._augment(pass_keys, weights)
            batch = self._architecture.task_batch(
                weights, reads_weights=self._reads_weights
            )
            return DensePass(batch.graphs, batch.weights, rows)

        # All at once and before the loop over passes: inside it, XLA would compute the
        # weights, random noise included, again in every fusion that reads them.
        passes = jax.vmap(read)(items, keys)
        dropout_keys = jax.vmap(lambda k: jax.random.fold_in(k[0], 1))(keys)
        return passes, dropout_keys

    def training_batch(self, data: Dataset, item: DensePass) -> TaskBatch:
        """Returns the batch of one pass."""
        targets = {name: x[item.rows] for name, x in data.targets.items()}
        mask = jnp.ones(item.rows.shape[0])
        apply = self._architecture.apply if self._reads_weights else None
        return TaskBatch(item.graphs, targets, mask, item.weights, apply)

    def evaluation_batch(self, data: Dataset, item: jax.Array) -> TaskBatch:
        """Returns the batch of rows ``[M]``."""
        targets = {name: x[item] for name, x in data.targets.items()}
        return self._architecture.task_batch(
            data.weights[item], targets, reads_weights=self._reads_weights
        )

    def count(self, items: jax.Array) -> int:
        """Returns the number of rows."""
        return items.size


class DenseSource:
    """Networks of one architecture; see `BatchSource`.

    Args:
        experiment: The experiment.
        tables: Networks by split.
        targets: Targets by split; see `Task.targets`.
        net: The metanetwork, or its shapes alone: sizes the passes.

    Raises:
        MetanetError: when passes do not divide over the devices.
    """

    def __init__(
        self,
        experiment: Experiment,
        tables: Mapping[str, ZooTable],
        targets: Mapping[str, Targets],
        net: Metanetwork,
    ):
        self._config = train = experiment.config.train
        self._parallel = DataParallel()
        self.reader = DenseReader(experiment, self._parallel)
        self._architecture, self._train = experiment.single, tables["train"]
        self._ids = self._train["id"]
        self._splits = {
            split: DeviceTable(table, targets[split], self._parallel)
            for split, table in tables.items()
        }
        self._order = DataOrder(
            len(self._ids), train.batch_size, experiment.config.seed
        )
        self._micro_batch = micro_batch(
            train.batch_size,
            net.model.cost,
            self._parallel.size,
            jax.default_backend(),
            train.micro_batch,
            parameter_count(nnx.state(net, nnx.Param)),
        )
        if self._micro_batch % self._parallel.size:
            raise MetanetError(
                f"config.train: {self._micro_batch} networks per pass do not divide over "
                f"{self._parallel.size} devices"
            )

    def sample(self) -> GraphBatch:
        """Returns the graphs of the first training networks."""
        rows = np.arange(len(self._ids))[:STATISTICS_SAMPLE]
        weights = jnp.asarray(self._train.take(rows).weights)
        return jax.jit(self._architecture.graphs)(weights)

    def replicate(self, state: T) -> T:
        """Copies a pytree to every device."""
        return self._parallel.replicate(state)

    def batches(self, position: list[int]) -> Generator[Batch]:
        """Yields batches; prepared ahead where weights stay on the host."""
        batches = self._batches(position[0])
        return batches if self._splits["train"].on_device else prefetch(batches)

    def _batches(self, step: int) -> Generator[Batch]:
        while True:
            rows = self._order.batch(step)
            step += 1
            data, items = self._splits["train"].take(
                rows.reshape(-1, self._micro_batch)
            )
            yield Batch(data, items, self._ids[rows], [step, 0])

    def size(self, split: str) -> int:
        """Returns the number of networks of a split."""
        return len(self._splits[split])

    def evaluation(self, split: str) -> Iterator[EvaluationCall]:
        """Yields one call for a split on the device, else one per pass."""
        table, size = self._splits[split], self._config.eval_batch
        size = -(-size // self._parallel.size) * self._parallel.size
        chunks = -(-len(table) // size)
        places = np.arange(chunks * size).reshape(chunks, size)
        rows = np.minimum(places, len(table) - 1).astype(np.int32)
        parts = [slice(None)] if table.on_device else [[i] for i in range(chunks)]
        for part in parts:
            data, items = table.take(rows[part])
            slots = np.flatnonzero(places[part].ravel() < len(table))
            yield EvaluationCall(data, items, slots, places[part].ravel()[slots])


class DataOrder:
    """Batches that walk through one shuffled epoch after another.

    The networks of a step depend on the seed and the step alone, so a resumed run sees
    what an uninterrupted one would have seen, and no iterator has to be stored. An
    epoch that does not divide into batches is continued by the next within a batch.

    Args:
        count: Number of networks.
        batch_size: Networks per step.
        seed: Seed of the shuffles.
    """

    def __init__(self, count: int, batch_size: int, seed: int):
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self._epoch = lru_cache(maxsize=2)(self._shuffle)

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 0xDA7A, epoch]).permutation(self.count)

    def batch(self, step: int) -> np.ndarray:
        """Returns indices ``[batch_size]`` of the networks of a step."""
        first = step * self.batch_size
        positions = np.arange(first, first + self.batch_size)
        epochs, within = np.divmod(positions, self.count)
        out = np.empty(self.batch_size, np.int32)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            out[here] = self._epoch(int(epoch))[within[here]]
        return out


class DeviceTable:
    """The networks of a split, on the devices if they fit there, else on the host.

    A memory-mapped table is never copied to the devices as a whole.

    Args:
        table: The networks, of one size.
        targets: Their targets ``[N, ...]`` by name.
        parallel: The devices.
        limit: Bytes up to which the weights are copied to every device.
    """

    def __init__(
        self,
        table: ZooTable,
        targets: Targets,
        parallel: DataParallel,
        limit: int = DEVICE_TABLE_BYTES,
    ):
        self._table, self._targets, self._parallel = table, targets, parallel
        self._dataset: Dataset | None = None
        in_memory = not isinstance(table.values, np.memmap)
        if in_memory and len(table) * table.size * 4 <= limit:
            self._dataset = self._copy(np.arange(len(table)))

    def __len__(self) -> int:
        return len(self._table)

    @property
    def on_device(self) -> bool:
        """True where batches are gathered on the device."""
        return self._dataset is not None

    def _copy(self, rows: np.ndarray) -> Dataset:
        weights: Any = self._table.take(rows).weights
        targets = {name: values[rows] for name, values in self._targets.items()}
        return self._parallel.replicate(Dataset(weights, targets))

    def take(self, rows: np.ndarray) -> tuple[Dataset, jax.Array]:
        """Returns a data set with the networks ``rows [C, M]``, and indices into it."""
        if self._dataset is not None:
            return self._dataset, self._parallel.split(rows, axis=1)
        index = np.arange(rows.size, dtype=np.int32).reshape(rows.shape)
        return self._copy(rows.ravel()), self._parallel.split(index, axis=1)


def micro_batch(
    batch: int,
    cost: int,
    devices: int,
    backend: str,
    requested: int = 0,
    parameters: int = 0,
) -> int:
    """Returns the networks per pass: a divisor of the batch that fits the cache on CPU.

    Args:
        batch: Networks per step.
        cost: Floats per network in the widest array.
        devices: Number of devices that share a pass; the result is a multiple of it
            where the batch allows.
        backend: Only "cpu" is split.
        requested: A size from the config, returned as it is; 0 to choose.
        parameters: Parameters of the model: adding up its gradient once per pass must
            not cost more than the pass.
    """
    if requested:
        return requested
    if backend != "cpu":
        return batch
    cached = EDGE_ARRAY_BYTES // (4 * max(cost, 1))
    worthwhile = parameters // (8 * max(cost, 1))
    fitting = max(1, cached, worthwhile) * devices
    divisors = [d for d in range(1, batch + 1) if batch % d == 0]
    shared = [d for d in divisors if d % devices == 0] or divisors
    return max(d for d in shared if d <= fitting)
