"""Batches of networks of many architectures: packed on the host, ahead of the device.

One compiled step serves all architectures of a schema: every step has the same number of
bins of one budget.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from metanet.graphs import (
    Budget,
    GraphBatch,
    GraphSchema,
    PackedGraphs,
    PackedTopology,
    compile_topology,
    first_fit_decreasing,
    pack,
)
from metanet.tasks import Targets, TaskBatch
from metanet.training.batches import STATISTICS_SAMPLE, Batch, EvaluationCall
from metanet.training.experiment import Experiment, InputArchitecture, Metanetwork
from metanet.training.prefetch import prefetch
from metanet.training.sharding import DataParallel
from metanet.tuning import CHUNK_EDGES, TABLE_ROWS
from metanet.zoos import FloatBuffer, ZooTable

T = TypeVar("T")


class PackedNetworks(NamedTuple):
    """Bins of packed networks, ``[C, ...]`` on every array.

    Attributes:
        graphs: Their graphs.
        targets: Arrays ``[C, G, ...]`` by name, 0 for padding.
        weights: Flat parameters ``[C, G, P]``; None unless the task reads them.
        architecture: ``[C, G]`` index of each network's architecture; None likewise.
    """

    graphs: PackedGraphs
    targets: dict[str, np.ndarray]
    weights: np.ndarray | None = None
    architecture: np.ndarray | None = None


class PackedItems(NamedTuple):
    """Items of a training step: bins, and the number of networks in them."""

    bins: PackedNetworks
    networks: np.ndarray


class PackedReader:
    """Reads bins of packed graphs; see `BatchReader`. Items are `PackedItems`.

    Args:
        architectures: Input architectures, numbered in this order.
    """

    parallel: DataParallel | None = None

    def __init__(self, architectures: Sequence[InputArchitecture] = ()):
        self._architectures = tuple(architectures)

    def keys(self, key: jax.Array, items: PackedItems) -> jax.Array:
        """Returns a key per bin."""
        return jax.random.split(key, items.bins.graphs.graph_mask.shape[0])

    def prepare(
        self, data: Any, items: PackedItems, keys: jax.Array
    ) -> tuple[PackedNetworks, jax.Array]:
        """Returns the bins and keys as they are."""
        return items.bins, keys

    def training_batch(self, data: Any, item: PackedNetworks) -> TaskBatch:
        """Returns the batch of one bin."""
        mask = jnp.asarray(item.graphs.graph_mask)
        targets = {name: jnp.asarray(x) for name, x in item.targets.items()}
        if item.weights is None or item.architecture is None:
            return TaskBatch(item.graphs, targets, mask)
        apply = self._apply(jnp.asarray(item.architecture))
        return TaskBatch(item.graphs, targets, mask, jnp.asarray(item.weights), apply)

    def evaluation_batch(self, data: Any, item: PackedNetworks) -> TaskBatch:
        """Returns the batch of one bin."""
        return self.training_batch(data, item)

    def count(self, items: PackedItems) -> jax.Array:
        """Returns the number of networks that are not padding, at least 1."""
        return jnp.maximum(items.networks, 1)

    def _apply(self, architecture: jax.Array) -> Callable[..., jax.Array]:
        """Returns a function that runs networks of several architectures.

        Every architecture runs on all networks, and each network's own result is
        selected: under `vmap` a branch per network would do the same.
        """

        def apply(weights: jax.Array, *inputs: Any) -> jax.Array:
            outputs: jax.Array | None = None
            for number, part in enumerate(self._architectures):
                chosen = architecture == number
                # Zeros in place of the weights of other architectures, which may overflow
                # here: their gradient, 0 times infinity, would be NaN.
                masked = jnp.where(chosen[:, None], weights[:, : part.spec.size], 0.0)
                result = part.apply(masked, *inputs)
                chosen = chosen.reshape(-1, *[1] * (result.ndim - 1))
                outputs = jnp.where(chosen, result, 0.0 if outputs is None else outputs)
            assert outputs is not None
            return outputs

        return apply


class _Split:
    """The networks of a split: index arrays, preprocessed weights and targets."""

    def __init__(
        self,
        experiment: Experiment,
        table: ZooTable,
        targets: Targets,
        schema: GraphSchema,
    ):
        keys = table["architecture"]
        self.targets, self.ids = targets, table["id"]
        topologies = {
            k: compile_topology(a.topology, schema).packed
            for k, a in experiment.inputs.items()
        }
        self.topologies = [topologies[k] for k in keys]
        numbers = {k: i for i, k in enumerate(experiment.inputs)}
        self.architectures = np.asarray([numbers[k] for k in keys], np.int32)
        config = experiment.config
        if config.canonicalize or config.graph.fan_in:
            buffer = FloatBuffer(Path(config.zoo.path), config.data.memory)
            starts = np.empty(len(table), np.int64)
            for key, architecture in experiment.inputs.items():
                rows = np.flatnonzero(keys == key)
                for part in np.split(rows, range(TABLE_ROWS, len(rows), TABLE_ROWS)):
                    flat = architecture.preprocess_all(table.take(part).weights)
                    first = buffer.append(flat.ravel())
                    starts[part] = first + np.arange(len(part)) * architecture.spec.size
            table = replace(table, values=buffer.finish(), starts=starts)
        self.weights = [table.network(i) for i in range(len(table))]

    def __len__(self) -> int:
        return len(self.ids)


class PackedSource:
    """Networks of several architectures; see `BatchSource`.

    Every epoch is arranged anew into full bins; where one ends, so does a batch.

    Args:
        experiment: The experiment.
        tables: Networks by split.
        targets: Targets by split; see `Task.targets`.
        net: The metanetwork, or its shapes alone: knows the schema of its graphs.

    Raises:
        MetanetError: for a model that reads one architecture, and for augmentations.
    """

    def __init__(
        self,
        experiment: Experiment,
        tables: Mapping[str, ZooTable],
        targets: Mapping[str, Targets],
        net: Metanetwork,
    ):
        experiment.augmentation()  # raises for augmentations
        self._config = experiment.config
        self.reader = PackedReader(tuple(experiment.inputs.values()))
        schema: GraphSchema = net.model.schema  # type: ignore[attr-defined]
        self._splits = {
            name: _Split(experiment, table, targets[name], schema)
            for name, table in tables.items()
        }
        train = self._splits["train"]
        topologies = [p for split in self._splits.values() for p in split.topologies]
        self._budget = default_budget(topologies)
        # Width of flat parameters in a batch; 0 where the task does not read them.
        self._parameters = 0
        if experiment.task.reads_weights:
            self._parameters = max(p.parameters for p in topologies)
        size = min(self._config.train.batch_size, len(train))
        edges = size * sum(p.edges for p in train.topologies) / len(train)
        self._bins = max(1, round(edges / self._budget.edges))

    def sample(self) -> GraphBatch:
        """Returns every fourth of the first training networks, packed together."""
        train = self._splits["train"]
        rows = list(range(len(train)))[:STATISTICS_SAMPLE:4]
        topologies = [train.topologies[i] for i in rows]
        weights = [train.weights[i] for i in rows]
        return pack(topologies, weights, Budget.of(topologies))

    def replicate(self, state: T) -> T:
        """Returns the state: packed batches take one device."""
        return state

    def batches(self, position: list[int]) -> Generator[Batch]:
        """Yields batches that a thread packs ahead."""
        return prefetch(self._batches(position))

    def _batches(self, position: list[int]) -> Iterator[Batch]:
        epoch, skip = position
        train = self._splits["train"]
        while True:
            rng = np.random.default_rng([self._config.seed, 0xDA7A, epoch])
            stream = rng.permutation(len(train)).tolist()
            arranged = list(arrange(stream, train.topologies, self._budget, self._bins))
            for number, bins in enumerate(arranged):
                if number < skip:
                    continue
                last = number + 1 == len(arranged)
                after = [epoch + 1, 0] if last else [epoch, number + 1]
                rows = [i for members in bins for i in members]
                items = PackedItems(
                    self._pack(train, bins), np.asarray(len(rows), np.int32)
                )
                yield Batch((), items, train.ids[rows], after)
            epoch, skip = epoch + 1, 0

    def _pack(self, split: _Split, bins: list[list[int]]) -> PackedNetworks:
        return pack_bins(
            bins,
            split.topologies,
            split.weights,
            split.targets,
            self._budget,
            architectures=split.architectures,
            parameters=self._parameters,
        )

    def size(self, split: str) -> int:
        """Returns the number of networks of a split."""
        return len(self._splits[split])

    def evaluation(self, split: str) -> Iterator[EvaluationCall]:
        """Yields a call per bin, packed ahead."""
        part = self._splits[split]
        arranged = list(arrange(range(len(part)), part.topologies, self._budget, 1))

        def calls() -> Iterator[EvaluationCall]:
            for bins in arranged:
                rows = np.asarray(bins[0])
                items = self._pack(part, bins)
                yield EvaluationCall((), items, np.arange(len(rows)), rows)

        return prefetch(calls())


def default_budget(
    topologies: Sequence[PackedTopology], edges: int = CHUNK_EDGES
) -> Budget:
    """Returns a budget that fits every network, with few empty nodes beside its edges."""
    edges = max(edges, max(p.edges for p in topologies))
    ratio = sum(p.nodes for p in topologies) / sum(p.edges for p in topologies)
    nodes = max(int(1.3 * ratio * edges), max(p.nodes for p in topologies))
    smallest = min(p.edges for p in topologies)
    graphs = min(edges // smallest + 1, 256)

    def most(counts: Iterable[int]) -> int:
        """Returns the most of something beside ``edges`` edges of any networks."""
        pairs = zip(counts, topologies, strict=True)
        return max(edges * count // p.edges for count, p in pairs)

    return Budget(
        nodes,
        edges,
        graphs,
        averages=most(len(p.average_size) for p in topologies),
        averaged=most(len(p.averaged) for p in topologies),
        repeats=most(len(p.repeat) for p in topologies),
    )


def arrange(
    stream: Iterable[int],
    topologies: Sequence[PackedTopology],
    budget: Budget,
    bins: int,
) -> Iterator[list[list[int]]]:
    """Cuts a stream of networks into batches of full bins.

    Networks that do not fit wait for the next batch, ahead of those that follow. The last
    batch of a finite stream may have empty bins.

    Args:
        stream: Numbers of networks.
        topologies: Index arrays of each network.
        budget: Budget of a bin.
        bins: Bins per batch.

    Raises:
        MetanetError: for a network that exceeds the budget.
    """
    waiting: list[int] = []
    source = iter(stream)
    capacity = bins * budget.edges
    while True:
        edges = sum(topologies[i].edges for i in waiting)
        # Half as many again to choose from, so that the last gaps are filled too.
        while edges < 1.5 * capacity:
            number = next(source, None)
            if number is None:
                break
            waiting.append(number)
            edges += topologies[number].edges
        if not waiting:
            return
        sizes = [(topologies[i].nodes, topologies[i].edges) for i in waiting]
        chosen = first_fit_decreasing(sizes, budget)[:bins]
        chosen += [[] for _ in range(bins - len(chosen))]
        yield [[waiting[k] for k in members] for members in chosen]
        packed = {k for members in chosen for k in members}
        waiting = [n for k, n in enumerate(waiting) if k not in packed]


def pack_bins(
    bins: list[list[int]],
    topologies: Sequence[PackedTopology],
    weights: Sequence[np.ndarray],
    targets: Targets,
    budget: Budget,
    *,
    architectures: np.ndarray | None = None,
    parameters: int = 0,
) -> PackedNetworks:
    """Packs the networks of a batch's bins.

    Args:
        bins: Numbers of networks; some may be empty, not all.
        topologies, weights: Index arrays and flat weights of each network.
        targets: Arrays ``[N, ...]`` by name.
        budget: Budget of a bin.
        architectures: ``[N]`` number of each network's architecture.
        parameters: Width of flat parameters; 0 leaves these and ``architectures`` out.
    """
    graphs = []
    labels = {
        name: np.zeros((len(bins), budget.graphs, *x.shape[1:]), x.dtype)
        for name, x in targets.items()
    }
    flat = kinds = None
    if parameters:
        flat = np.zeros((len(bins), budget.graphs, parameters), np.float32)
        kinds = np.full((len(bins), budget.graphs), -1, np.int32)
    spare = next(i for members in bins for i in members)
    for row, members in enumerate(bins):
        # An empty bin takes the shapes of some network, none of whose graphs count.
        part = members or [spare]
        packed = pack(
            [topologies[i] for i in part],
            [weights[i] for i in part],
            budget,
            parameters=parameters,
        )
        if not members:
            packed = packed._replace(graph_mask=np.zeros_like(packed.graph_mask))
        graphs.append(packed)
        for name, values in labels.items():
            values[row, : len(members)] = targets[name][members]
        if flat is not None and kinds is not None and architectures is not None:
            for column, i in enumerate(members):
                flat[row, column, : topologies[i].parameters] = weights[i]
                kinds[row, column] = architectures[i]
    stacked = jax.tree.map(lambda *parts: np.stack(parts), *graphs)
    return PackedNetworks(stacked, labels, flat, kinds)
