"""The training loop: runs or resumes an experiment in a directory."""

from __future__ import annotations

import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from jax.experimental import multihost_utils

from metanet.errors import MetanetError
from metanet.files import lock
from metanet.progress import track
from metanet.training.checkpoint import Checkpoints
from metanet.training.config import ExperimentConfig
from metanet.training.experiment import Experiment, build_task
from metanet.training.files import (
    InputNetworks,
    read_result,
    write_config,
    write_inputs,
    write_result,
)
from metanet.training.optimizer import build_optimizer
from metanet.training.packed_feed import make_feed
from metanet.training.profile import parameter_count
from metanet.training.ranges import ranges_of, windows_in
from metanet.training.selection import groups_of, select
from metanet.training.step import TrainState, initial_state
from metanet.training.window import StepWindow
from metanet.training.writers import MetricWriter
from metanet.zoos import Zoo, ZooTable, open_or_make


class Interrupted(MetanetError):
    """Training was asked to stop (SIGTERM, Ctrl-C) and saved its state first."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.status = 128 + number


class Busy(MetanetError):
    """Another process is at the run."""


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
        MetanetError: for bad input of any kind; `Interrupted` after SIGTERM, `Busy`
            when another process trains here.
    """
    workdir = Path(workdir)
    optimizer = build_optimizer(config.optimizer, config.train.steps)
    more = (overrides or {}, progress)
    if jax.process_index() > 0:
        return _train(config, optimizer, workdir, *more)
    made = not workdir.exists()
    try:
        with lock(workdir / ".lock", wait=False) as own:
            if not own:
                raise Busy(f"{workdir}: another process is training here; wait for it")
            return _train(config, optimizer, workdir, *more)
    finally:
        if made:
            with suppress(OSError):
                workdir.rmdir()  # what could not start leaves nothing


def _train(
    config: ExperimentConfig,
    optimizer: optax.GradientTransformation,
    workdir: Path,
    overrides: Mapping[str, Any],
    progress: bool,
) -> dict[str, Any]:
    first = jax.process_index() == 0
    fresh = first and not (workdir / "config.json").exists()
    if first:
        write_config(workdir, config, overrides)
    finished = read_result(workdir)
    if finished is not None:
        return finished
    try:
        recipe = config.zoo.recipe
        zoo = _in_turn(lambda: open_or_make(config.zoo.path, recipe, progress=progress))
        tables = select(zoo, config.data, build_task(config).column)
        inputs = input_networks(zoo, tables)
        experiment = Experiment.of(config, inputs, progress=progress and first)
        # Where it is not known, examples may be of another size.
        sized = inputs.image_side is not None
        windows = windows_in(tables["train"], experiment.inputs) if sized else {}
        run = _Run(experiment, tables, windows, optimizer, workdir, progress and first)
    except Exception:
        # A config that cannot run must not claim the directory.
        if fresh:
            (workdir / "config.json").unlink()
        raise
    if first:
        write_inputs(workdir, inputs)
    return run.run()


def _in_turn(fit: Callable[[], Zoo]) -> Zoo:
    """Opens or fits a zoo on the first process, then opens it on the others."""
    if jax.process_count() == 1:
        return fit()
    zoo = fit() if jax.process_index() == 0 else None
    multihost_utils.sync_global_devices("zoo")
    return zoo or fit()


def input_networks(zoo: Zoo, tables: Mapping[str, ZooTable]) -> InputNetworks:
    """The architectures of the networks that were selected."""
    kinds = [np.unique(t["architecture"]) for t in tables.values()]
    known = zoo.architectures
    used = np.unique(np.concatenate(kinds)).tolist()
    return InputNetworks({k: known[k] for k in used}, zoo.class_names, zoo.image_side)


class _Run:
    """One run of the loop; holds what does not change during it."""

    def __init__(
        self,
        experiment: Experiment,
        tables: dict[str, ZooTable],
        windows: dict[str, list[str]],
        optimizer: optax.GradientTransformation,
        workdir: Path,
        progress: bool,
    ):
        self.experiment, self.workdir, self.progress = experiment, workdir, progress
        self.config, self.task = experiment.config, experiment.task
        column = self.task.column
        self.targets = {split: t[column] for split, t in tables.items()}
        self.tables = tables
        self.ranges = ranges_of(tables["train"], experiment.inputs)
        self.windows = windows
        self.groups = {split: groups_of(t) for split, t in tables.items()}
        self.feed = make_feed(experiment, tables, optimizer, mixed=experiment.mixed)
        net = experiment.build()
        self.feed.measure(net)
        self.graphdef, state = initial_state(net, optimizer)
        self.state: TrainState = self.feed.place(state)
        self.feed.compile(self.graphdef, self.state.params)
        train = self.config.train
        self.latest = Checkpoints(workdir / "checkpoints" / "latest", train.keep)
        self.best = Checkpoints(workdir / "checkpoints" / "best", 1)
        self.record: dict[str, Any] = {
            "best": None,
            "best_step": 0,
            "seconds": 0.0,
            "rates": [],
            "position": [0, 0],
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
            with _stop_on_signal() as stopping:
                self._train(start, writer, stopping)
            return self._finish()
        finally:
            writer.close()
            self.latest.close()
            self.best.close()

    def _train(self, step: int, writer: MetricWriter, stopping: _Stop) -> None:
        train = self.config.train
        begun, before = time.monotonic(), self.record["seconds"]
        window = StepWindow()
        recent: deque[np.ndarray] = deque(maxlen=train.log_every)
        batches = self.feed.batches(self.record["position"])
        with (
            closing(batches),
            track(train.steps, "training", done=step, show=self.progress) as bar,
        ):
            while step < train.steps:
                batch = next(batches)
                self.state, metrics = self.feed.step(self.state, *batch.inputs)
                window.add(metrics, len(batch.ids))
                recent.append(batch.ids)
                self.record["position"] = batch.position
                step += 1
                done, stop = step == train.steps, self._must_stop(stopping, step)
                log = step % train.log_every == 0 or done or stop
                select = step % train.eval_every == 0 or done
                save = step % train.checkpoint_every == 0 or done or stop
                if log or select or save:
                    self._require_finite(window, step, recent)
                if log:
                    count, values = len(window), window.close()
                    if "networks_per_second" in values:
                        self.record["rates"].append(values["networks_per_second"])
                    writer.write(step, **values)
                    bar.advance(count, loss=values["loss"])
                if select or save:
                    with window.pause():
                        if select:
                            self._select(step, writer)
                        self.record["seconds"] = before + time.monotonic() - begun
                        if save:
                            self.latest.save(step, self.state, self.record)
                if stop and not done:
                    number = stopping.number or signal.SIGTERM
                    raise Interrupted(
                        f"{self.workdir}: stopped by {signal.Signals(number).name} at "
                        f"step {step}; the state is saved, the same command goes on "
                        "from here",
                        number,
                    )

    def _must_stop(self, stopping: _Stop, step: int) -> bool:
        """Whether any process was told to stop; asked of the others at log steps."""
        if jax.process_count() == 1:
            return stopping.number is not None
        if step % self.config.train.log_every:
            return False
        told = multihost_utils.process_allgather(
            np.asarray(stopping.number is not None)
        )
        return bool(np.any(told))

    def _require_finite(
        self, window: StepWindow, step: int, recent: deque[np.ndarray]
    ) -> None:
        """Stops before a state with NaN is evaluated or saved."""
        ago = window.first_bad()
        if ago is None:
            return
        raise MetanetError(
            f"{self.workdir}: loss or gradient is not finite at step {step - ago + 1}; "
            f"zoo ids of its batch: {', '.join(map(str, recent[-ago]))}; lower "
            "config.optimizer.learning_rate or look at these networks"
        )

    def _select(self, step: int, writer: MetricWriter) -> None:
        """Evaluates on validation; keeps the checkpoint if it is the best so far."""
        outputs = self.feed.outputs(self.state.ema, self.state.rest, "validation")
        metrics = self.task.metrics(outputs, self.targets["validation"])
        score = metrics[self.task.select_by]
        numbers = {k: v for k, v in metrics.items() if isinstance(v, float)}
        writer.write(step, **{f"validation_{k}": v for k, v in numbers.items()})
        if self.record["best"] is None or score > self.record["best"]:
            self.record.update(best=score, best_step=step)
            chosen = {"params": self.state.ema, "rest": self.state.rest}
            self.best.save(step, chosen, {"validation": metrics})

    def _finish(self) -> dict[str, Any]:
        held = self.best.restore({"params": self.state.ema, "rest": self.state.rest})
        if held is None:
            raise MetanetError(
                f"{self.best.directory}: the best checkpoint is gone; delete the run's "
                "directory to start again"
            )
        chosen = held[0]
        rates = self.record["rates"]
        outputs = {
            split: self.feed.outputs(chosen["params"], chosen["rest"], split)
            for split in ("validation", "test")
        }
        targets = self.targets
        learned = self.task.calibrate(
            outputs["validation"], targets["validation"], self.groups["validation"]
        )
        measured = {
            s: self.task.metrics(outputs[s], targets[s], learned, self.groups[s])
            for s in ("test", "validation")
        }
        result = {
            **measured,
            "best_step": self.record["best_step"],
            "steps": int(self.state.step),
            "parameters": parameter_count(self.state.params),
            "networks_per_second": statistics.median(rates) if rates else None,
            "wall_seconds": self.record["seconds"],
            "seed": self.config.seed,
            "calibration": learned,
            "ranges": self.ranges,
            "windows": self.windows,
            "references": self.task.references(self.tables, outputs["test"]),
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
    # Shapes alone: also its statistics are part of the checkpoint.
    net = nnx.eval_shape(experiment.build)
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    checkpoints = Checkpoints(workdir / "checkpoints" / "best", 1, writing=False)
    held = checkpoints.restore({"params": params, "rest": rest})
    checkpoints.close()
    if held is None:
        raise MetanetError(f"{workdir}: no checkpoint yet; train the run first")
    return graphdef, held[0]


class _Stop:
    """Which signal asked to stop, if any."""

    number: int | None = None

    def ask(self, number: int, frame: Any) -> None:
        """Handles a signal: the loop saves and ends; a second Ctrl-C ends at once."""
        if self.number == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number


@contextmanager
def _stop_on_signal() -> Iterator[_Stop]:
    """Lets the loop save before SIGTERM or Ctrl-C end it."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(number, stop.ask) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            # None: the handler was not set from Python.
            signal.signal(number, handler or signal.SIG_DFL)
