"""Small CNNs trained per hour, relative to a plain PyTorch loop, and INRs read per second.

    python experiments/bench_zoo.py --data-root DIR
    python experiments/bench_zoo.py --data-root DIR --runs 32 --repeats 3

Every network is that of the Small CNN Zoo (three 3x3 convolutions of 16 channels), trained
for 10 epochs on 10,000 MNIST images in batches of 64. The loop needs PyTorch, which is no
dependency of metanet (pip install torch), and is skipped without it. Both are timed
alternately; one JSON line contains the medians.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from metanet.errors import MetanetError
from metanet.networks import Architecture
from metanet.zoos import (
    FitConfig,
    Hyperparameters,
    PopulationConfig,
    Zoo,
    fit_inrs,
    load_images,
    train_population,
)

IMAGES, EPOCHS, BATCH = 10_000, 10, 64


def train_zoo(runs: int, data_root: str) -> float:
    """Returns seconds per network; the first call includes compilation."""
    config = PopulationConfig(
        images="mnist",
        data_root=data_root,
        train_images=IMAGES,
        test_images=1_000,
        runs=runs,
        epochs=(EPOCHS,),
        hyperparameters=Hyperparameters(
            optimizer=("sgd",),
            activation=("relu",),
            train_fraction=(1.0,),
            batch_size=(BATCH,),
        ),
        shard_runs=runs,
    )
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        train_population(config, out, progress=False)
        return (time.perf_counter() - start) / runs


def torch_loop(images: np.ndarray, labels: np.ndarray) -> Callable[[], float] | None:
    """Returns a function that measures seconds per network of a plain loop on one epoch.

    None without PyTorch.
    """
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        return None
    nn = torch.nn
    x, y = torch.tensor(images), torch.tensor(labels)

    def run() -> float:
        layers: list[Any] = []
        for inputs in (1, 16, 16):
            layers += [nn.Conv2d(inputs, 16, 3, 2), nn.ReLU()]
        net = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
        )
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        begin = time.perf_counter()
        order = torch.randperm(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            rows = order[start : start + BATCH]
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
        return (time.perf_counter() - begin) * EPOCHS

    return run


def read_speed(data_root: str, count: int = 4_096) -> float:
    """Returns INRs (2-32-32-1) read per second from Parquet into memory, checksums included."""
    architecture = Architecture.of("siren", hidden=(32, 32))
    config = FitConfig(
        images="mnist",
        data_root=data_root,
        limit=count,
        steps=1,
        architecture=architecture,
    )
    with tempfile.TemporaryDirectory() as out:
        fit_inrs(config, out, progress=False)
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            table = Zoo.open(Path(out)).read(columns=("label",))
            seconds.append(time.perf_counter() - start)
            assert table.weights.shape[0] == count
    return count / statistics.median(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", required=True, help="folder with MNIST")
    parser.add_argument("--runs", type=int, default=24, help="networks per timing")
    parser.add_argument("--repeats", type=int, default=3, help="timings of each")
    args = parser.parse_args()
    try:
        dataset = load_images("mnist", args.data_root)
        pixels = dataset.images[:IMAGES].transpose(0, 3, 1, 2).astype(np.float32) / 255
        loop = torch_loop(pixels, dataset.labels[:IMAGES].astype(np.int64))
        train_zoo(3, args.data_root)  # compiles
        zoo_seconds, loop_seconds = [], []
        for _ in range(args.repeats):
            zoo_seconds.append(train_zoo(args.runs, args.data_root))
            if loop is not None:
                loop_seconds.append(loop())
        zoo_median = statistics.median(zoo_seconds)
        loop_median = statistics.median(loop_seconds) if loop_seconds else None
        record = {
            "networks_per_hour": 3600 / zoo_median,
            "torch_networks_per_hour": 3600 / loop_median if loop_median else None,
            "ratio": loop_median / zoo_median if loop_median else None,
            "inrs_read_per_second": read_speed(args.data_root),
        }
    except MetanetError as error:
        print(f"bench_zoo: error: {error}", file=sys.stderr)
        return error.status
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
