r"""Training speed on mixed architectures and on weights in a file, relative to one architecture.

    python experiments/bench_feeds.py
    python experiments/bench_feeds.py --images mnist --data-root DIR --zoos DIR \
        --models product_gmn,deep_sets

Trains alternately on the zoos of configs/predict_accuracy.py, which are made in ``--zoos``
if they do not exist (``--runs diverse=1500`` for one of another size):

    uniform            networks of one architecture
    packed             the same networks in packed batches
    varying, diverse   packed batches of these zoos
    file               as uniform, with the weights in a mapped file instead of memory

One JSON line per model: medians of parameters and edges of input networks per second, time
per parameter and per edge relative to uniform, number of traces of the step, and seconds
before the first step.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metanet.cli.train import load_config
from metanet.errors import MetanetError
from metanet.graphs import Topology, edge_blocks
from metanet.training import Experiment, ExperimentConfig
from metanet.training.loop import run_inputs
from metanet.training.optimizer import build_optimizer
from metanet.training.selection import select
from metanet.training.sources import make_source
from metanet.training.step import initial_state, make_train_step
from metanet.zoos import open_or_make

CONFIG = Path(__file__).parent.parent / "configs" / "predict_accuracy.py"
ZOOS = ("small_cnn", "varying", "diverse")


class Training:
    """State of a run that takes single training steps.

    Args:
        config: The experiment.
        mixed: Selects packed batches.
    """

    def __init__(self, config: ExperimentConfig, mixed: bool):
        begin = time.perf_counter()
        zoo = open_or_make(config.zoo.path, config.zoo.recipe)
        tables = select(zoo, config.data, ("test_accuracy",))
        experiment = Experiment.of(config, run_inputs(zoo, tables), progress=True)
        optimizer = build_optimizer(config.optimizer, config.train.steps)
        net, task = experiment.build(), experiment.task
        targets = {split: task.targets(zoo, t) for split, t in tables.items()}
        source = make_source(experiment, tables, targets, net, mixed=mixed)
        net.model.set_statistics(source.sample())
        graphdef, state = initial_state(net, optimizer)
        self.state = source.replicate(state)
        self.step = make_train_step(source.reader, task, graphdef, optimizer, config)
        train = tables["train"]
        edges = {
            key: _edges(network.topology) for key, network in experiment.inputs.items()
        }
        num_edges = [edges[key] for key in train["architecture"]]
        sizes = np.stack([train.sizes, num_edges], axis=1)  # parameters, edges
        self.sizes = dict(zip(train["id"].tolist(), sizes, strict=True))
        self.batches: Any = source.batches([0, 0])
        self._step()
        self.start = time.perf_counter() - begin

    def speed(self, seconds: float) -> np.ndarray:
        """Returns parameters and edges of input networks per second ``[2]``."""
        self._step()
        begin, count = time.perf_counter(), np.zeros(2)
        while time.perf_counter() - begin < seconds:
            for _ in range(5):
                batch = next(self.batches)
                self.state, _ = self.step(self.state, batch.data, batch.items)
                count += sum(self.sizes[int(i)] for i in batch.ids)
            jax.block_until_ready(self.state.step)
        return count / (time.perf_counter() - begin)

    def _step(self) -> None:
        batch = next(self.batches)
        self.state, _ = self.step(self.state, batch.data, batch.items)
        jax.block_until_ready(self.state.step)


def _edges(topology: Topology) -> int:
    return sum(math.prod(group.shape) for group in edge_blocks(topology))


def measure(args: argparse.Namespace, model: str) -> dict[str, Any]:
    """Returns the record of a model."""
    cases: dict[str, tuple[str, tuple[str, ...], bool]] = {
        "uniform": ("small_cnn", (), False),
        "packed": ("small_cnn", (), True),
        "varying": ("varying", (), True),
        "diverse": ("diverse", (), True),
        "file": ("small_cnn", ("--config.data.memory=1e-6",), False),
    }
    runs: dict[str, Training] = {}
    for name, (zoo, changes, mixed) in cases.items():
        where = ",where=activation=relu" if zoo == "small_cnn" else ""
        settings = (
            f"images={args.images},data_root={args.data_root},model={model}{where}"
        )
        settings += f",runs={dict(args.runs).get(zoo, 0)}"
        path = f"--config.zoo.path={args.zoos}/{args.images}-{zoo}"
        config, _ = load_config(f"{CONFIG}:{zoo},{settings}", [path, *changes])
        runs[name] = Training(ExperimentConfig.from_mapping(config.to_dict()), mixed)
    measured: dict[str, list[np.ndarray]] = {name: [] for name in cases}
    for _ in range(args.repeats):
        for name, run in runs.items():
            measured[name].append(run.speed(args.seconds))
    for run in runs.values():
        with closing(run.batches):
            pass
    speeds = {name: np.median(values, axis=0) for name, values in measured.items()}
    steps: dict[str, Any] = {name: run.step for name, run in runs.items()}
    return {
        "model": model,
        **{
            f"{unit}_per_second": {name: round(v[i]) for name, v in speeds.items()}
            for i, unit in enumerate(("parameters", "edges"))
        },
        **{
            f"times_per_{unit}": {
                n: speeds["uniform"][i] / v[i] for n, v in speeds.items()
            }
            for i, unit in enumerate(("parameter", "edge"))
        },
        "traces": {name: step._cache_size() for name, step in steps.items()},
        "start": {name: round(run.start, 1) for name, run in runs.items()},
    }


def _runs(text: str) -> tuple[str, int]:
    """Parses ``ZOO=N``."""
    zoo, _, runs = text.partition("=")
    if zoo not in ZOOS:
        raise argparse.ArgumentTypeError(f"{zoo!r} is none of {', '.join(ZOOS)}")
    return zoo, int(runs)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", default="digits", help="image set (default: digits)"
    )
    parser.add_argument("--data-root", default="", help="folder of the image files")
    parser.add_argument("--zoos", default="zoos", help="folder of the zoos")
    parser.add_argument(
        "--runs",
        type=_runs,
        action="append",
        default=[],
        metavar="ZOO=N",
        help="training runs of a zoo; may be repeated (default: those of its config)",
    )
    parser.add_argument(
        "--models", default="product_gmn,gmn,ng_gnn,deep_sets", help="comma-separated"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds per timing")
    parser.add_argument("--repeats", type=int, default=5, help="timings per case")
    args = parser.parse_args()
    try:
        for model in args.models.split(","):
            print(json.dumps(measure(args, model)), flush=True)
    except MetanetError as error:
        print(f"bench_feeds: error: {error}", file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
