"""A zoo of random tiny networks with a learnable label, and experiments on it.

Nothing is fitted, and the symmetry is discovered once per process.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metanet.networks import Architecture, ParamSpec, create
from metanet.options import from_mapping
from metanet.training import Experiment, ExperimentConfig
from metanet.training.dense import Dataset, DenseReader
from metanet.training.experiment import Metanetwork, build_task
from metanet.training.io import RunInputs
from metanet.training.optimizer import build_optimizer
from metanet.training.sharding import DataParallel
from metanet.training.step import initial_state, make_train_step
from metanet.zoos import INR_COLUMNS, FitConfig, Zoo, ZooWriter

ARCHITECTURE = Architecture.of("siren", hidden=(4,), w0=5.0)
CLASSES = ("low", "middle", "high")
TRAIN, VALIDATION, TEST = 200, 48, 48
SPLITS = np.repeat(["train", "validation", "test"], [TRAIN, VALIDATION, TEST])
SHARD = 100
FIT = {
    "architecture": ARCHITECTURE.to_json(),
    "limit": len(SPLITS),
    "shard_size": SHARD,
}


def config(zoo: Path | None = None, **sections: Any) -> ExperimentConfig:
    """A tiny experiment; sections are merged into the defaults."""
    mapping: dict[str, Any] = {
        "seed": 3,
        "canonicalize": False,
        "zoo": {"path": str(zoo or shared_zoo()), "fit": FIT},
        "model": {"name": "flat_mlp", "dim": 8, "depth": 1},
        "task": {"name": "classification", "hidden": 8},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2},
        "train": {
            "steps": 8,
            "batch_size": 16,
            "log_every": 2,
            "eval_every": 4,
            "checkpoint_every": 4,
        },
    }
    for name, value in sections.items():
        merge = isinstance(value, dict) and "name" not in value
        mapping[name] = {**mapping.get(name, {}), **value} if merge else value
    return ExperimentConfig.from_mapping(mapping)


def write_zoo(path: Path) -> Path:
    """Random networks; the class is the tercile of the output bias."""
    fit = from_mapping(FitConfig, FIT, "fit")
    spec = ParamSpec.of(create(ARCHITECTURE, jax.random.key(0)).params)
    rng = np.random.default_rng(0)
    count = len(SPLITS)
    weights = rng.standard_normal((count, spec.size)).astype(np.float32)
    bias = np.concatenate(
        [
            np.full(size, name.endswith("bias") and size == 1)
            for name, size in zip(spec.paths, spec.sizes, strict=True)
        ]
    )
    assert bias.sum() == 1
    value = weights[:, bias][:, 0]
    labels = np.searchsorted(np.quantile(value, [1 / 3, 2 / 3]), value)
    writer = ZooWriter(
        path,
        {
            "kind": "inr",
            "config": fit.identity(),
            "architectures": {"0": ARCHITECTURE.to_json()},
            "leaves": {"0": spec.to_json()},
            "columns": INR_COLUMNS,
            "convention": "dws",
            "image_shape": [8, 8, 1],
            "class_names": list(CLASSES),
            "rows": count,
            "shard_size": SHARD,
        },
    )
    columns = {
        "id": np.arange(count),
        "architecture": np.full(count, "0"),
        "label": labels,
        "image": np.arange(count),
        "view": np.zeros(count, int),
        "split": SPLITS,
        "psnr": np.full(count, 20.0),
        "seed": np.zeros(count, int),
    }
    for shard, rows in writer.shards():
        part = {k: v[rows] for k, v in columns.items()}
        writer.write(shard, list(weights[rows]), part)
    writer.finish()
    return path


@functools.cache
def shared_zoo() -> Path:
    """The zoo of this process."""
    held = tempfile.TemporaryDirectory(prefix="metanet-tests-")
    _HELD.append(held)
    return write_zoo(Path(held.name) / "zoo")


_HELD: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def _discovered() -> Experiment:
    zoo = Zoo.open(shared_zoo())
    inputs = RunInputs(zoo.architectures, zoo.class_names)
    return Experiment.of(config(), inputs)


def experiment(chosen: ExperimentConfig) -> Experiment:
    """The experiment of a config on the shared zoo, without discovering again."""
    base = _discovered()
    task = build_task(chosen, base.task.class_names)
    return replace(base, config=chosen, task=task)


def without_discovery(monkeypatch) -> None:
    """Lets `train` and `load_run` use the discovered structure."""
    _discovered()
    monkeypatch.setattr(
        Experiment,
        "of",
        classmethod(lambda cls, chosen, inputs, progress=False: experiment(chosen)),
    )


def measured(built: Experiment, weights: np.ndarray) -> Metanetwork:
    """The untrained metanetwork with statistics of flat weights ``[N, P]``."""
    net = built.build()
    net.model.set_statistics(jax.jit(built.single.graphs)(jnp.asarray(weights)))
    return net


def run_steps(
    built: Experiment, rows: np.ndarray, devices: int = 1, each: Any = None
) -> tuple[Any, list[dict[str, float]]]:
    """Trains on index arrays ``rows [steps, C, M]``; the final state, the metrics."""
    parallel = DataParallel(devices)
    table = Zoo.open(shared_zoo()).read("train", ("label",))
    data = parallel.replicate(
        Dataset(jnp.asarray(table.weights), {"label": table["label"]})
    )
    optimizer = build_optimizer(built.config.optimizer, built.config.train.steps)
    graphdef, state = initial_state(measured(built, table.weights), optimizer)
    state = parallel.replicate(state)
    reader = DenseReader(built, parallel)
    step = make_train_step(reader, built.task, graphdef, optimizer, built.config)
    metrics = []
    for indices in rows:
        state, values = step(state, data, parallel.split(indices, axis=1))
        metrics.append({k: float(v) for k, v in values.items()})
        if each is not None:
            each(state)
    return state, metrics
