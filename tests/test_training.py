"""Training: steps against their definitions, the loop, runs opened again."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.training_cases import (
    TEST,
    TRAIN,
    config,
    experiment,
    measured,
    run_steps,
    shared_zoo,
    without_discovery,
)

from metanet.errors import MetanetError
from metanet.tasks import Classification
from metanet.training import (
    Experiment,
    ExperimentConfig,
    RunResult,
    load_run,
    read_metrics,
    read_result,
    train,
)
from metanet.training import dense as dense_module
from metanet.training.config import OptimizerConfig
from metanet.training.dense import DataOrder, DeviceTable, micro_batch
from metanet.training.experiment import Metanetwork
from metanet.training.optimizer import SCHEDULES, build_optimizer, build_schedule
from metanet.training.sources import make_source
from metanet.training.window import StepWindow
from metanet.tuning import EDGE_ARRAY_BYTES
from metanet.zoos import Zoo

FLAT = {"name": "flat_mlp", "dim": 8, "depth": 1}
GMN = {"name": "product_gmn", "dim": 4, "heads": 2, "depth": 1, "frequencies": 2}
SGD = {"name": "sgd", "learning_rate": 0.1, "warmup_steps": 0, "clip_norm": 0.0}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    without_discovery(monkeypatch)


def distance(a, b) -> float:
    """Largest difference of two states, relative to the largest entry of each leaf."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(
        float(np.abs(np.asarray(x) - np.asarray(y)).max() / (np.abs(y).max() + 1e-6))
        for x, y in pairs
    )


@pytest.mark.parametrize(
    ("model", "cases"), [(FLAT, ((4, 1), (1, 4))), (GMN, ((2, 4),))]
)
def test_micro_batches_and_devices_do_not_change_the_numbers(model, cases):
    built = experiment(config(model=model, optimizer=SGD, canonicalize=True))
    rows = np.stack([DataOrder(TRAIN, 16, 0).batch(i) for i in range(3)])
    whole, expected = run_steps(built, rows[:, None, :])
    for chunks, devices in cases:
        state, metrics = run_steps(built, rows.reshape(3, chunks, -1), devices)
        assert distance(state.params, whole.params) < 2e-5
        for a, b in zip(metrics, expected, strict=True):
            assert a == pytest.approx(b, rel=1e-5)
    # Statistics are state, but not trained.
    start = measured(built, Zoo.open(shared_zoo()).read("train", ()).weights)
    kept = jax.tree.leaves(nnx.split(start, nnx.Param, ...)[2])
    assert kept and distance(whole.rest, kept) == 0


def test_averaged_parameters():
    built = experiment(config(optimizer={**SGD, "ema_decay": 0.5}))
    seen = []
    rows = np.arange(6 * 16).reshape(6, 1, 16)

    def record(state):
        seen.append(jax.device_get((state.params, state.ema)))

    run_steps(built, rows, each=record)
    average = jax.tree.leaves(nnx.state(built.build(), nnx.Param))
    for step, (params, ema) in enumerate(seen):
        decay = min(0.5, (1 + step) / (10 + step))
        pairs = zip(average, jax.tree.leaves(params), strict=True)
        average = [decay * a + (1 - decay) * p for a, p in pairs]
        assert distance(ema, average) < 1e-6
    assert distance(seen[-1][0], seen[-1][1]) > 1e-4
    plain, _ = run_steps(experiment(config(optimizer=SGD)), rows)
    assert distance(plain.ema, plain.params) == 0


def test_clipping_limits_the_gradient():
    optimizer = build_optimizer(OptimizerConfig(**{**SGD, "clip_norm": 0.5}), 10)
    params = {"a": jnp.zeros((3, 2)), "b": jnp.zeros(2)}
    for size in (1e-3, 1e3):
        gradient = jax.tree.map(lambda x, s=size: jnp.full(x.shape, s), params)
        update, _ = optimizer.update(gradient, optimizer.init(params), params)
        leaves = jax.tree.leaves(update)
        norm = np.sqrt(sum(np.square(u).sum() for u in leaves))
        assert norm == pytest.approx(0.1 * min(0.5, size * np.sqrt(8)), rel=1e-5)


def test_weight_decay_spares_vectors():
    chosen = OptimizerConfig(warmup_steps=0, weight_decay=0.5, schedule="constant")
    optimizer = build_optimizer(chosen, 10)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zero = jax.tree.map(jnp.zeros_like, params)
    update, _ = optimizer.update(zero, optimizer.init(params), params)
    assert np.allclose(update["kernel"], -0.5 * 1e-3) and not update["bias"].any()


@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize("name", list(SCHEDULES))
def test_schedules(name, warmup):
    chosen = OptimizerConfig(schedule=name, warmup_steps=warmup, learning_rate=2.0)
    rate = np.array([build_schedule(chosen, 20)(i) for i in range(21)])
    start = np.linspace(0, 2, warmup + 1) if warmup else 2.0
    assert np.allclose(rate[: warmup + 1], start)
    if name == "constant":
        assert np.allclose(rate[warmup:], 2.0)
        return
    assert rate[20] == pytest.approx(0, abs=1e-6) and (np.diff(rate[warmup:]) < 0).all()
    middle = (warmup + 20) // 2
    assert rate[middle] == pytest.approx(1.0)


def test_optimizers_by_name(tmp_path):
    built = experiment(config(optimizer={"name": "contrib.muon", "warmup_steps": 0}))
    state, metrics = run_steps(built, np.arange(32).reshape(2, 1, 16))
    assert int(state.step) == 2 and np.isfinite(metrics[-1]["loss"])
    for wrong, field in (
        (
            {"name": "adamm"},
            "config.optimizer.name: optax has no optimiser 'adamm'.*\"adam\"",
        ),
        ({"name": "chain"}, "optax has no optimiser 'chain'"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'.*\"cosine\""),
    ):
        with pytest.raises(MetanetError, match=field):
            train(config(optimizer=wrong), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (7, 7), (3, 8)])
def test_data_order(count, batch):
    order = DataOrder(count, batch, seed=1)
    epochs = 3
    steps = -(-epochs * count // batch)
    stream = np.concatenate([order.batch(i) for i in range(steps)])[: epochs * count]
    parts = stream.reshape(epochs, count)
    assert (np.sort(parts, axis=1) == np.arange(count)).all()
    assert count < 7 or len({tuple(p) for p in parts}) == epochs
    again = DataOrder(count, batch, seed=1)
    assert (again.batch(steps - 1) == order.batch(steps - 1)).all()
    other = np.concatenate([DataOrder(count, batch, 2).batch(i) for i in range(steps)])
    assert count < 7 or (other[: epochs * count] != stream).any()


def test_micro_batch_sizes():
    """The largest divisor of a batch whose widest arrays fit the cache.

    A pass has at least as many networks as make the sum of gradients worth it, and a
    multiple of the devices where the batch allows.
    """
    for batch, cost, devices, parameters in itertools.product(
        (1, 7, 20, 24, 64, 100), (0, 1, 9_999, 10**9), (1, 4), (0, 10**6)
    ):
        size = micro_batch(batch, cost, devices, "cpu", parameters=parameters)
        floats = max(cost, 1)
        fitting = max(1, EDGE_ARRAY_BYTES // 4 // floats, parameters // 8 // floats)
        sizes = [n for n in range(1, batch + 1) if batch % n == 0]
        if batch % devices == 0:
            sizes = [n for n in sizes if n % devices == 0]
        assert size == max(n for n in sizes if n <= fitting * devices)
    assert micro_batch(64, 70_000, 1, "gpu") == 64
    assert micro_batch(64, 70_000, 1, "cpu", requested=32) == 32


def test_weights_that_stay_on_the_host(tmp_path, monkeypatch):
    results = [train(config(), tmp_path / "device", progress=False)]
    made = []

    def counted(*args, **limit) -> DeviceTable:
        made.append(DeviceTable(*args, **limit))
        return made[-1]

    monkeypatch.setattr(dense_module, "DeviceTable", counted)
    mapped = config(data={"memory": 1e-9})
    results.append(train(mapped, tmp_path / "file", progress=False))
    on_host = partial(counted, limit=0)
    monkeypatch.setattr(dense_module, "DeviceTable", on_host)
    results.append(train(config(), tmp_path / "host", progress=False))
    assert len(made) == 6 and not any(data.on_device for data in made)
    assert results[1].test == results[2].test
    for split in ("test", "validation"):
        device, host = (getattr(r, split) for r in results[:2])
        assert device["confusion"] == host["confusion"]
        assert device["loss"] == pytest.approx(host["loss"], rel=1e-5)


class Finished(NamedTuple):
    """A run, and what was traced for it."""

    workdir: Path
    config: ExperimentConfig
    result: RunResult
    traces: list[str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished:
    """A run of 120 steps, with every trace of the loss and of the model counted."""
    workdir = tmp_path_factory.mktemp("finished")
    chosen = config(
        train={"steps": 120, "eval_every": 20, "log_every": 10, "checkpoint_every": 60},
        optimizer={"learning_rate": 3e-2, "ema_decay": 0.5},
    )
    traces: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        without_discovery(patch)
        for owner, name in ((Classification, "loss"), (Metanetwork, "__call__")):
            run = getattr(owner, name)

            def counted(self, *args, _run=run, _name=name, **options):
                traces.append(_name)
                return _run(self, *args, **options)

            patch.setattr(owner, name, counted)
        result = train(chosen, workdir, overrides={"seed": 3}, progress=False)
    return Finished(workdir, chosen, result, traces)


def test_one_trace_for_all_steps(finished):
    # One for training; validation and test are of one size and share another.
    assert sorted(finished.traces) == ["__call__", "__call__", "loss"]


def test_what_a_run_leaves(finished):
    workdir, _, result, _ = finished
    assert result.test["accuracy"] > 0.6
    assert np.sum(result.test["confusion"]) == TEST
    assert result.seed == 3 and result.parameters > 0
    assert result.networks_per_second > 0 and result.wall_seconds > 0
    assert read_result(workdir) == result
    assert json.loads((workdir / "result.json").read_text()) == asdict(result)

    lines = read_metrics(workdir)
    losses = {x["step"]: x["loss"] for x in lines if "loss" in x}
    assert list(losses) == list(range(10, 121, 10))
    assert losses[120] < 0.7 * losses[10]
    scores = {x["step"]: x["validation_accuracy"] for x in lines if "loss" not in x}
    assert list(scores) == list(range(20, 121, 20))
    # The first of several steps that are equally good.
    assert result.best_step == max(scores, key=scores.__getitem__)
    assert result.validation["accuracy"] == max(scores.values())
    assert list((workdir / "tensorboard").iterdir())

    held = json.loads((workdir / "config.json").read_text())
    assert held["overrides"] == {"seed": 3} and "jax" in held["versions"]


def test_a_run_opened_again(finished):
    run = load_run(finished.workdir)
    again, result = run.evaluate("test"), finished.result
    assert again["confusion"] == result.test["confusion"]
    assert again["loss"] == pytest.approx(result.test["loss"], rel=1e-5)
    table = run.zoo.read("test", ("label",))
    whole = run.predict(table.weights)
    assert whole.shape == (TEST, 3) and np.allclose(whole.sum(1), 1, atol=1e-6)
    assert np.abs(run.predict(table.weights[5:8]) - whole[5:8]).max() < 1e-6
    accuracy = (whole.argmax(1) == table["label"]).mean()
    assert accuracy == pytest.approx(result.test["accuracy"])
    with pytest.raises(MetanetError, match=r"this run takes \[N, 17\]"):
        run.predict(table.weights[:, 1:])


def test_a_split_on_the_device_is_evaluated_by_one_call(finished, monkeypatch):
    """Kept on the host, it takes a call per pass; both cover every row once."""
    run = load_run(finished.workdir)
    experiment, tables = run.experiment, run.tables
    targets = {n: experiment.task.targets(run.zoo, t) for n, t in tables.items()}
    net = nnx.eval_shape(experiment.build)
    options = replace(experiment.config.train, eval_batch=20)
    experiment = replace(experiment, config=replace(experiment.config, train=options))
    for limit, count in ((10**9, 1), (0, 3)):
        monkeypatch.setattr(
            dense_module, "DeviceTable", partial(DeviceTable, limit=limit)
        )
        calls = list(make_source(experiment, tables, targets, net).evaluation("test"))
        assert len(calls) == count
        rows = np.concatenate([call.rows for call in calls])
        assert rows.tolist() == list(range(TEST))


def test_a_run_predicts_without_its_zoo(finished, tmp_path):
    weights = Zoo.open(shared_zoo()).read("test", ()).weights
    shutil.copytree(finished.workdir, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    held = json.loads(path.read_text())
    held["config"]["zoo"]["path"] = str(tmp_path / "gone")
    path.write_text(json.dumps(held))
    run = load_run(tmp_path / "run")
    assert (run.predict(weights) == load_run(finished.workdir).predict(weights)).all()
    with pytest.raises(MetanetError, match="gone: the zoo of .*run is gone or damaged"):
        run.evaluate("test")
    assert not (tmp_path / "gone").exists()


def test_a_finished_run_is_not_run_again(finished, monkeypatch):
    monkeypatch.setattr(Experiment, "of", None)
    workdir, chosen, result, _ = finished
    assert train(chosen, workdir, progress=False) == result
    with pytest.raises(MetanetError, match=r"config\.seed: 3, now 4"):
        train(replace(chosen, seed=4), workdir, progress=False)


def test_window_of_steps(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    window = StepWindow()
    clock[0] += 30  # compiles
    window.add({"loss": jnp.asarray(1.0)}, 16)
    for value in (2.0, 3.0):
        clock[0] += 4
        window.add({"loss": jnp.asarray(value)}, 16)
        with window.pause():
            clock[0] += 50
    assert len(window) == 3 and window.first_bad() is None
    assert window.close() == {"loss": 2.0, "networks_per_second": 2 * 16 / 8}
    for value in (1.0, np.nan, np.inf):
        window.add({"loss": jnp.asarray(value)}, 16)
    assert len(window) == 3 and window.first_bad() == 2
    fresh = StepWindow()
    fresh.add({"loss": jnp.asarray(1.0)}, 16)
    assert fresh.close() == {"loss": 1.0}  # nothing but the compiling step


def test_nan_stops_and_is_not_saved(tmp_path):
    wild = {**SGD, "learning_rate": 1e37}
    times = {"log_every": 50, "eval_every": 50, "checkpoint_every": 5}
    with pytest.raises(MetanetError, match="not finite at step") as error:
        train(config(optimizer=wild, train=times), tmp_path, progress=False)
    message = str(error.value)
    step = int(message.split("at step ")[1].split(";")[0])
    ids = message.split("batch: ")[1].split(";")[0].split(", ")
    assert [int(i) for i in ids] == DataOrder(TRAIN, 16, 3).batch(step - 1).tolist()
    saved = [p.name for p in (tmp_path / "checkpoints" / "latest").iterdir()]
    assert all(int(name.split(".")[0]) < step for name in saved)
    assert not (tmp_path / "result.json").exists()


def test_what_a_run_cannot_start_with(finished, tmp_path):
    with pytest.raises(MetanetError, match="6 networks per pass.*4 devices"):
        train(config(train={"batch_size": 6}), tmp_path / "a", progress=False)
    assert not (tmp_path / "a" / "config.json").exists()
    with pytest.raises(MetanetError, match="not a run's directory"):
        load_run(tmp_path)
    shutil.copytree(finished.workdir, tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "checkpoints")
    with pytest.raises(MetanetError, match="no checkpoint yet"):
        load_run(tmp_path / "b")
    assert not (tmp_path / "b" / "checkpoints").exists()
