"""Feeds a run with networks of many architectures, packed."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from metanet.graphs import Budget, PackedGraphs, Plan, pack, plan
from metanet.training.experiment import Experiment, Metanetwork
from metanet.training.feed import STATISTICS_SAMPLE, Batch, Feed, StackedFeed, T
from metanet.training.packed import (
    arrange,
    default_budget,
    make_packed_step,
    pack_batch,
)
from metanet.training.prefetch import prefetch
from metanet.zoos import FloatBuffer, ZooTable

# Networks whose prepared weights are added at once.
_TOGETHER = 4096


class _Split:
    """The networks of a split: plans, prepared weights, targets."""

    def __init__(self, experiment: Experiment, table: ZooTable, schema: Any):
        kinds = table["architecture"]
        self.targets = table[experiment.task.column]
        self.ids = table["id"]
        plans = {k: plan(n.topology, schema) for k, n in experiment.inputs.items()}
        self.plans = [plans[k] for k in kinds]
        config = experiment.config
        if config.canonicalize or config.graph.fan_in:
            buffer = FloatBuffer(Path(config.zoo.path), config.data.memory)
            starts = np.empty(len(table), np.int64)
            for key, one in experiment.inputs.items():
                rows = np.flatnonzero(kinds == key)
                for part in np.split(rows, range(_TOGETHER, len(rows), _TOGETHER)):
                    flat = one.prepared(table.take(part).weights)
                    first = buffer.append(flat.ravel())
                    starts[part] = first + np.arange(len(part)) * one.spec.size
            table = replace(table, values=buffer.finish(), starts=starts)
        self.weights = [table.network(i) for i in range(len(table))]

    def __len__(self) -> int:
        return len(self.ids)


class PackedFeed:
    """Networks of several architectures: chunks of one budget, packed ahead.

    Every epoch is arranged anew into full bins; where one ends, so does a batch.

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
        experiment.augmented()  # refuses augmentations
        self.experiment, self.optimizer = experiment, optimizer
        self.config, self.tables = experiment.config, tables

    def measure(self, net: Metanetwork) -> None:
        schema = net.model.schema  # type: ignore[attr-defined]
        self.splits = {
            name: _Split(self.experiment, table, schema)
            for name, table in self.tables.items()
        }
        train = self.splits["train"]
        everything = [p for split in self.splits.values() for p in split.plans]
        self.budget = default_budget(everything)
        size = min(self.config.train.batch_size, len(train))
        edges = size * sum(p.edges for p in train.plans) / len(train)
        self.chunks = max(1, round(edges / self.budget.edges))
        sample = list(range(len(train)))[:STATISTICS_SAMPLE:4]
        held = [train.plans[i] for i in sample]
        net.model.set_statistics(
            pack(held, [train.weights[i] for i in sample], _total(held))
        )

    def place(self, state: T) -> T:
        return state

    def compile(self, graphdef: nnx.GraphDef, params: Any) -> None:
        config, task = self.config, self.experiment.task
        self.step = make_packed_step(graphdef, task, self.optimizer, config)

        def outputs(params: Any, rest: Any, graphs: PackedGraphs) -> jax.Array:
            return nnx.merge(graphdef, params, rest)(graphs)

        self._outputs = jax.jit(outputs)

    def batches(self, position: list[int]) -> Generator[Batch]:
        return prefetch(self._batches(position))

    def _batches(self, position: list[int]) -> Iterator[Batch]:
        epoch, skip = position
        train = self.splits["train"]
        while True:
            rng = np.random.default_rng([self.config.seed, 0xDA7A, epoch])
            stream = rng.permutation(len(train)).tolist()
            arranged = list(arrange(stream, train.plans, self.budget, self.chunks))
            for number, bins in enumerate(arranged):
                if number < skip:
                    continue
                last = number + 1 == len(arranged)
                after = [epoch + 1, 0] if last else [epoch, number + 1]
                batch = pack_batch(
                    bins, train.plans, train.weights, train.targets, self.budget
                )
                rows = [i for held in bins for i in held]
                yield Batch((batch,), train.ids[rows], after)
            epoch, skip = epoch + 1, 0

    def outputs(self, params: Any, rest: Any, split: str) -> np.ndarray:
        held = self.splits[split]
        rows = list(range(len(held)))
        found: np.ndarray | None = None
        for bins in prefetch(iter(list(arrange(rows, held.plans, self.budget, 1)))):
            part = bins[0]
            graphs = pack(
                [held.plans[i] for i in part],
                [held.weights[i] for i in part],
                self.budget,
            )
            values = np.asarray(self._outputs(params, rest, graphs))[: len(part)]
            if found is None:
                found = np.empty((len(held), values.shape[-1]), values.dtype)
            found[part] = values
        assert found is not None
        return found


def make_feed(
    experiment: Experiment,
    tables: dict[str, ZooTable],
    optimizer: optax.GradientTransformation,
    *,
    mixed: bool,
) -> Feed:
    """The feed of a model of one architecture (stacked), or of several (packed)."""
    return (PackedFeed if mixed else StackedFeed)(experiment, tables, optimizer)


def _total(plans: list[Plan]) -> Budget:
    """A budget that holds all of the plans."""
    nodes, edges = sum(p.nodes for p in plans), sum(p.edges for p in plans)
    return Budget(nodes, edges, len(plans))
