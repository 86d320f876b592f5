"""The training loop: runs or resumes an experiment in a directory."""

from __future__ import annotations

import math
import signal
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from metanet.errors import MetanetError
from metanet.progress import track
from metanet.training.checkpoint import Checkpoints
from metanet.training.config import ExperimentConfig
from metanet.training.data import DataOrder
from metanet.training.experiment import Experiment
from metanet.training.files import read_result, write_config, write_result
from metanet.training.optimizer import build_optimizer
from metanet.training.profile import parameter_count
from metanet.training.sharding import DataParallel
from metanet.training.step import (
    Dataset,
    TrainState,
    initial_state,
    make_eval_step,
    make_train_step,
    micro_batch,
)
from metanet.training.writers import MetricWriter


class Interrupted(MetanetError):
    """Training was asked to stop (SIGTERM) and saved its state first."""


def train(
    config: ExperimentConfig,
    workdir: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Runs an experiment, or goes on with an interrupted one.

    Order: the newest whole checkpoint in the directory, else from scratch. A finished
    run is not run again.

    Args:
        config: The experiment.
        workdir: Its directory.
        overrides: What the command line changed, for the record.
        progress: Show progress.

    Returns:
        The content of result.json.

    Raises:
        MetanetError: for bad input of any kind; `Interrupted` after SIGTERM.
    """
    workdir = Path(workdir)
    first = jax.process_index() == 0
    fresh = first and not (workdir / "config.json").exists()
    if first:
        write_config(workdir, config, overrides or {})
    finished = read_result(workdir)
    if finished is not None:
        return finished
    try:
        experiment = Experiment.from_config(config, progress=progress and first)
        run = _Run(experiment, workdir, progress and first)
    except MetanetError:
        # A config that cannot run must not claim the directory.
        if fresh:
            (workdir / "config.json").unlink()
        raise
    return run.run()


class _Run:
    """One run of the loop; holds what does not change during it."""

    def __init__(self, experiment: Experiment, workdir: Path, progress: bool):
        self.experiment, self.workdir, self.progress = experiment, workdir, progress
        config = experiment.config
        self.config, self.task = config, experiment.task
        self.parallel = DataParallel()
        tables = {
            split: experiment.zoo.read(split, (self.task.column, "id"))
            for split in ("train", "validation", "test")
        }
        for split, table in tables.items():
            if not len(table.weights):
                raise MetanetError(f"{experiment.zoo.path}: the {split} split is empty")
        self.ids = tables["train"]["id"]
        self.data = {
            split: self.parallel.replicate(
                Dataset(t.weights, t[self.task.column])  # type: ignore[arg-type]
            )
            for split, t in tables.items()
        }
        net = experiment.build(tables["train"].weights)
        self.micro = micro_batch(
            config.train.batch_size,
            net.model.cost,
            self.parallel.size,
            jax.default_backend(),
            config.train.micro_batch,
        )
        if self.micro % self.parallel.size:
            raise MetanetError(
                f"config.train: {self.micro} networks per pass do not divide over "
                f"{self.parallel.size} devices"
            )
        optimizer = build_optimizer(config.optimizer, config.train.steps)
        self.graphdef, state = initial_state(net, optimizer)
        self.state: TrainState = self.parallel.replicate(state)
        self.train_step = make_train_step(experiment, self.graphdef, optimizer)
        self.eval_step = make_eval_step(experiment, self.graphdef)
        self.order = DataOrder(len(self.ids), config.train.batch_size, config.seed)
        self.latest = Checkpoints(workdir / "checkpoints" / "latest", config.train.keep)
        self.best = Checkpoints(workdir / "checkpoints" / "best", 1)
        self.record: dict[str, Any] = {
            "best": None,
            "best_step": 0,
            "stale": 0,
            "seconds": 0.0,
            "rates": [],
        }

    def run(self) -> dict[str, Any]:
        start = 0
        held = self.latest.restore(self.state)
        if held is not None:
            self.state, self.record = held
            start = int(self.state.step)
            self.latest.discard_after(start)
        writer = MetricWriter(self.workdir, start, active=jax.process_index() == 0)
        try:
            with _stop_on_sigterm() as stopping:
                self._train(start, writer, stopping)
            return self._finish()
        finally:
            writer.close()
            self.latest.close()
            self.best.close()

    def _train(self, step: int, writer: MetricWriter, stopping: threading.Event):
        train = self.config.train
        begun, before = time.monotonic(), self.record["seconds"]
        window, fresh = time.monotonic(), True
        waiting: list[dict[str, jax.Array]] = []
        with track(
            train.steps, "training", done=step, show=self.progress
        ) as bar:  # fmt: skip
            while step < train.steps and not self._out_of_patience():
                indices = self.parallel.split(
                    self.order.batch(step).reshape(-1, self.micro), axis=1
                )
                self.state, metrics = self.train_step(
                    self.state, self.data["train"], indices
                )
                waiting.append(metrics)
                step += 1
                done = step == train.steps
                if step % train.log_every == 0 or done or stopping.is_set():
                    values = self._fetch(waiting, step)
                    seconds = time.monotonic() - window
                    rate = len(waiting) * train.batch_size / seconds
                    if not fresh:  # the first window compiles
                        self.record["rates"].append(rate)
                    writer.write(step, **values, networks_per_second=rate)
                    bar.advance(len(waiting), loss=values["loss"])
                    waiting, fresh = [], False
                    window = time.monotonic()
                if step % train.eval_every == 0 or done:
                    self._select(step, writer)
                    window = time.monotonic()
                self.record["seconds"] = before + time.monotonic() - begun
                if step % train.checkpoint_every == 0 or done or stopping.is_set():
                    self.latest.save(step, self.state, self.record)
                    window = time.monotonic()
                if stopping.is_set() and not done:
                    raise Interrupted(
                        f"{self.workdir}: stopped by SIGTERM at step {step}; the state "
                        "is saved, the same command goes on from here"
                    )

    def _fetch(
        self, waiting: list[dict[str, jax.Array]], step: int
    ) -> dict[str, float]:
        """Waits for the metrics of the last steps; means, or an error for NaN."""
        held = jax.device_get(waiting)
        losses = np.asarray([m["loss"] for m in held])
        if not np.isfinite(losses).all():
            bad = step - len(held) + int(np.argmin(np.isfinite(losses)))
            rows = self.ids[self.order.batch(bad)]
            raise MetanetError(
                f"{self.workdir}: loss is not finite at step {bad}; zoo ids of its "
                f"batch: {', '.join(map(str, rows))}; lower "
                "config.optimizer.learning_rate or look at these networks"
            )
        names = held[0]
        return {n: float(np.mean([m[n] for m in held])) for n in names}

    def _evaluate(self, split: str, params: Any, rest: Any) -> dict[str, Any]:
        data = self.data[split]
        count, size = len(data.targets), self.config.train.eval_batch
        size = -(-size // self.parallel.size) * self.parallel.size
        chunks = -(-count // size)
        places = np.arange(chunks * size)
        mask = (places < count).astype(np.float32).reshape(chunks, size)
        indices = np.minimum(places, count - 1).astype(np.int32).reshape(chunks, size)
        sums = self.eval_step(
            params,
            rest,
            data,
            self.parallel.split(indices, axis=1),
            self.parallel.split(mask, axis=1),
        )
        return self.task.metrics(jax.device_get(sums))

    def _select(self, step: int, writer: MetricWriter) -> None:
        """Evaluates on validation; keeps the checkpoint if it is the best so far."""
        metrics = self._evaluate("validation", self.state.ema, self.state.rest)
        score = metrics[self.task.select_by]
        numbers = {k: v for k, v in metrics.items() if isinstance(v, float)}
        writer.write(step, **{f"validation_{k}": v for k, v in numbers.items()})
        if self.record["best"] is None or score > self.record["best"]:
            self.record.update(best=score, best_step=step, stale=0)
            chosen = {"params": self.state.ema, "rest": self.state.rest}
            self.best.save(step, chosen, {"validation": metrics})
        else:
            self.record["stale"] += 1

    def _out_of_patience(self) -> bool:
        patience = self.config.train.patience
        return bool(patience) and self.record["stale"] >= patience

    def _finish(self) -> dict[str, Any]:
        held = self.best.restore({"params": self.state.ema, "rest": self.state.rest})
        assert held is not None
        chosen = held[0]
        rates = self.record["rates"]
        result = {
            "test": self._evaluate("test", **chosen),
            "validation": self._evaluate("validation", **chosen),
            "best_step": self.record["best_step"],
            "steps": int(self.state.step),
            "parameters": parameter_count(self.state.params),
            "networks_per_second": statistics.median(rates) if rates else math.nan,
            "wall_seconds": self.record["seconds"],
            "seed": self.config.seed,
        }
        if jax.process_index() == 0:
            write_result(self.workdir, result)
        return result


def load_best(
    experiment: Experiment, workdir: Path
) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """The best checkpoint of a run: definition, and ``{"params", "rest"}``.

    Raises:
        MetanetError: when the run has none yet.
    """
    sample = experiment.zoo.read("train", ()).weights
    net = experiment.build(sample)
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    checkpoints = Checkpoints(workdir / "checkpoints" / "best", 1)
    held = checkpoints.restore({"params": params, "rest": rest})
    checkpoints.close()
    if held is None:
        raise MetanetError(f"{workdir}: no checkpoint yet; train the run first")
    return graphdef, held[0]


@contextmanager
def _stop_on_sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, so that the loop can save before it ends."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, previous)
