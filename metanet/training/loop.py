"""The training loop: runs or resumes an experiment in a directory."""

from __future__ import annotations

import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils

from metanet.errors import MetanetError
from metanet.files import lock
from metanet.progress import track
from metanet.training.batches import evaluate_split
from metanet.training.checkpoint import Checkpoints
from metanet.training.config import ExperimentConfig
from metanet.training.experiment import Experiment, build_task
from metanet.training.io import (
    RunInputs,
    RunResult,
    read_result,
    write_config,
    write_inputs,
    write_result,
)
from metanet.training.optimizer import build_optimizer
from metanet.training.profile import parameter_count
from metanet.training.selection import groups_of, select
from metanet.training.sources import make_source
from metanet.training.step import (
    TrainState,
    initial_state,
    make_eval_step,
    make_train_step,
)
from metanet.training.support import sliding_window_ops, training_support
from metanet.training.window import StepWindow
from metanet.training.writers import MetricWriter
from metanet.zoos import Zoo, ZooTable, open_or_make


class Interrupted(MetanetError):
    """Training was asked to stop (SIGTERM, Ctrl-C) and saved its state first."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.status = 128 + number


class Busy(MetanetError):
    """Another process trains the run."""


@dataclass
class RunRecord:
    """Progress of a run, stored with every checkpoint.

    Attributes:
        best: Best validation score so far; None before the first evaluation.
        best_step: Its step.
        seconds: Duration of training, over all resumed parts.
        rates: Networks per second of each log line.
        position: Position of the next batch; see `BatchSource.batches`.
    """

    best: float | None = None
    best_step: int = 0
    seconds: float = 0.0
    rates: list[float] = field(default_factory=list)
    position: list[int] = field(default_factory=lambda: [0, 0])


def train(
    config: ExperimentConfig,
    workdir: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> RunResult:
    """Runs an experiment; resumes from the newest valid checkpoint where there is one.

    A finished run is not run again.

    Args:
        config: The experiment.
        workdir: Its directory.
        overrides: Fields that the command line changed, for the record.
        progress: Show progress.

    Returns:
        The content of result.json.

    Raises:
        MetanetError: for bad input of any kind; `Interrupted` after SIGTERM, `Busy`
            when another process trains here.
    """
    workdir = Path(workdir)
    optimizer = build_optimizer(config.optimizer, config.train.steps)
    arguments = (config, optimizer, workdir, overrides or {}, progress)
    if jax.process_index() > 0:
        return _train(*arguments)
    is_new = not workdir.exists()
    try:
        with lock(workdir / ".lock", wait=False) as acquired:
            if not acquired:
                raise Busy(f"{workdir}: another process is training here; wait for it")
            return _train(*arguments)
    finally:
        if is_new:
            with suppress(OSError):
                workdir.rmdir()  # a run that could not start leaves no directory


def _train(
    config: ExperimentConfig,
    optimizer: optax.GradientTransformation,
    workdir: Path,
    overrides: Mapping[str, Any],
    progress: bool,
) -> RunResult:
    first = jax.process_index() == 0
    fresh = first and not (workdir / "config.json").exists()
    if first:
        write_config(workdir, config, overrides)
    finished = read_result(workdir)
    if finished is not None:
        return finished
    try:
        recipe = config.zoo.recipe
        zoo = _on_first_process(
            lambda: open_or_make(config.zoo.path, recipe, progress=progress)
        )
        tables = select(zoo, config.data, build_task(config).columns)
        inputs = run_inputs(zoo, tables)
        experiment = Experiment.of(config, inputs, progress=progress and first)
        run = _Run(
            experiment, zoo, tables, inputs, optimizer, workdir, progress and first
        )
    except Exception:
        # A config that cannot run must not claim the directory.
        if fresh:
            (workdir / "config.json").unlink()
        raise
    if first:
        write_inputs(workdir, inputs)
    return run.run()


def _on_first_process(make: Callable[[], Zoo]) -> Zoo:
    """Opens or makes a zoo on the first process, then opens it on the others."""
    if jax.process_count() == 1:
        return make()
    zoo = make() if jax.process_index() == 0 else None
    multihost_utils.sync_global_devices("zoo")
    return zoo or make()


def run_inputs(zoo: Zoo, tables: Mapping[str, ZooTable]) -> RunInputs:
    """Returns the architectures of the networks that were selected from a zoo."""
    keys = np.unique(
        np.concatenate([np.unique(t["architecture"]) for t in tables.values()])
    )
    known = zoo.architectures
    architectures = {k: known[k] for k in keys.tolist()}
    return RunInputs(architectures, zoo.class_names, zoo.image_side)


class _Run:
    """One run of the loop; its attributes other than state and record are constant."""

    def __init__(
        self,
        experiment: Experiment,
        zoo: Zoo,
        tables: dict[str, ZooTable],
        inputs: RunInputs,
        optimizer: optax.GradientTransformation,
        workdir: Path,
        progress: bool,
    ):
        self.experiment, self.workdir, self.progress = experiment, workdir, progress
        self.config, self.task = experiment.config, experiment.task
        self.tables = tables
        self.targets = {s: self.task.targets(zoo, t) for s, t in tables.items()}
        self.groups = {split: groups_of(t) for split, t in tables.items()}
        self.support = training_support(tables["train"], experiment.inputs)
        # Where the images' size is not known, example inputs may be of another size.
        self.windows: dict[str, list[str]] = {}
        if inputs.image_side is not None:
            self.windows = sliding_window_ops(tables["train"], experiment.inputs)
        net = experiment.build()
        self.source = make_source(experiment, tables, self.targets, net)
        net.model.set_statistics(self.source.sample())
        graphdef, state = initial_state(net, optimizer)
        self.state: TrainState = self.source.replicate(state)
        reader = self.source.reader
        self.step = make_train_step(reader, self.task, graphdef, optimizer, self.config)
        self.eval_step = make_eval_step(reader, self.task, graphdef)
        self.latest = Checkpoints(
            workdir / "checkpoints" / "latest", self.config.train.keep
        )
        self.best = Checkpoints(workdir / "checkpoints" / "best", 1)
        self.record = RunRecord()

    def run(self) -> RunResult:
        start = 0
        checkpoint = self.latest.restore(self.state)
        if checkpoint is not None:
            self.state, self.record = checkpoint[0], RunRecord(**checkpoint[1])
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
        begun, before = time.monotonic(), self.record.seconds
        window = StepWindow()
        recent: deque[np.ndarray] = deque(maxlen=train.log_every)
        batches = self.source.batches(self.record.position)
        with (
            closing(batches),
            track(train.steps, "training", done=step, show=self.progress) as bar,
        ):
            while step < train.steps:
                batch = next(batches)
                self.state, metrics = self.step(self.state, batch.data, batch.items)
                window.add(metrics, len(batch.ids))
                recent.append(batch.ids)
                self.record.position = batch.position
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
                        self.record.rates.append(values["networks_per_second"])
                    writer.write(step, **values)
                    bar.advance(count, loss=values["loss"])
                if select or save:
                    with window.pause():
                        if select:
                            self._select(step, writer)
                        self.record.seconds = before + time.monotonic() - begun
                        if save:
                            self.latest.save(step, self.state, asdict(self.record))
                if stop and not done:
                    number = stopping.number or signal.SIGTERM
                    raise Interrupted(
                        f"{self.workdir}: stopped by {signal.Signals(number).name} at "
                        f"step {step}; the state is saved, the same command goes on "
                        "from here",
                        number,
                    )

    def _must_stop(self, stopping: _Stop, step: int) -> bool:
        """Returns True if any process received a stop signal.

        Several processes synchronise at log steps.
        """
        if jax.process_count() == 1:
            return stopping.number is not None
        if step % self.config.train.log_every:
            return False
        received = multihost_utils.process_allgather(
            np.asarray(stopping.number is not None)
        )
        return bool(np.any(received))

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

    def _outputs(self, params: Any, rest: Any, split: str) -> Any:
        return evaluate_split(self.source, self.eval_step, params, rest, split)

    def _select(self, step: int, writer: MetricWriter) -> None:
        """Evaluates on validation; stores the checkpoint if it is the best so far."""
        outputs = self._outputs(self.state.ema, self.state.rest, "validation")
        metrics = self.task.metrics(outputs, self.targets["validation"])
        score = metrics[self.task.select_by]
        numbers = {k: v for k, v in metrics.items() if isinstance(v, float)}
        writer.write(step, **{f"validation_{k}": v for k, v in numbers.items()})
        if self.record.best is None or score > self.record.best:
            self.record.best, self.record.best_step = score, step
            best = {"params": self.state.ema, "rest": self.state.rest}
            self.best.save(step, best, {"validation": metrics})

    def _finish(self) -> RunResult:
        checkpoint = self.best.restore(
            {"params": self.state.ema, "rest": self.state.rest}
        )
        if checkpoint is None:
            raise MetanetError(
                f"{self.best.directory}: the best checkpoint is gone; delete the run's "
                "directory to start again"
            )
        best, rates, targets = checkpoint[0], self.record.rates, self.targets
        outputs = {
            split: self._outputs(best["params"], best["rest"], split)
            for split in ("validation", "test")
        }
        calibration = self.task.calibrate(
            outputs["validation"], targets["validation"], self.groups["validation"]
        )
        metrics = {
            s: self.task.metrics(outputs[s], targets[s], calibration, self.groups[s])
            for s in ("test", "validation")
        }
        result = RunResult(
            **metrics,
            best_step=self.record.best_step,
            steps=int(self.state.step),
            parameters=parameter_count(self.state.params),
            networks_per_second=statistics.median(rates) if rates else None,
            wall_seconds=self.record.seconds,
            seed=self.config.seed,
            calibration=calibration,
            training_support=self.support,
            sliding_windows=self.windows,
            references=self.task.references(self.tables, targets, outputs["test"]),
        )
        if jax.process_index() == 0:
            write_result(self.workdir, result)
        return result


class _Stop:
    """The stop signal that was received, if any."""

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
