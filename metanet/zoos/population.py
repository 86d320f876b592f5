"""A zoo of classifiers: what it consists of, and training all of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from metanet.compiler import on_cpu
from metanet.errors import MetanetError
from metanet.networks import Architecture, ParamSpec, abstract_network
from metanet.options import AtLeast, NonEmpty, NonNegativeInt, Options, PositiveInt
from metanet.progress import Tracker, track
from metanet.registry import ModuleName
from metanet.zoos import families
from metanet.zoos.cores import map_on_cores
from metanet.zoos.hyperparameters import SETTING_COLUMNS, Hyperparameters, Settings
from metanet.zoos.images import ImageSet, load_images
from metanet.zoos.program import (
    Images,
    RunOutputs,
    compiled_runs,
    run_inputs,
    used_images,
)
from metanet.zoos.splits import choose_images
from metanet.zoos.store import Zoo, ZooWriter

# Runs that an accelerator trains at once; a CPU trains one per core.
_ACCELERATOR_RUNS = 64
# Weights at which a network counts as diverged; nothing that classifies comes near.
_LARGEST = 1e6
_SPLIT_SHARES = {"train": 0.6, "validation": 0.1, "test": 0.3}
_MEASURES = ("train_accuracy", "train_loss", "test_accuracy", "test_loss")
_COLUMNS: dict[str, str] = {
    "run": "int64",
    "epoch": "int32",
    "step": "int32",
    "family": "string",
    "width": "int32",
    **dict.fromkeys(_MEASURES, "float32"),
    "final_train_accuracy": "float32",
    "final_test_accuracy": "float32",
    "diverged": "bool",
    **SETTING_COLUMNS,
}


FamilyName = Annotated[str, families.FAMILIES]


@dataclass(frozen=True)
class PopulationConfig(Options):
    """A zoo of classifiers trained on images.

    Attributes:
        imports: Modules outside the package that register image sets, families or
            architectures.
        images: Image set, see `load_images`.
        data_root: Folder of image files; "" if the set needs none.
        download: Fetch missing image files.
        grey: Average the colours.
        train_images: Training images that runs choose from; 0 takes all.
        test_images: Test images on which accuracy is measured; 0 takes all.
        families: Names of architecture distributions, taken in turn.
        architectures: Number of different architectures.
        runs: Number of training runs, divided evenly over the architectures.
        epochs: After which a checkpoint is stored, ascending; the last ends the run.
        hyperparameters: Ranges of everything else.
        seed: Of architectures, settings, initialisations, data order and splits.
        shard_runs: Runs per file of the zoo.
    """

    imports: tuple[ModuleName, ...] = ()
    images: str = "digits"
    data_root: str = ""
    download: bool = False
    grey: bool = True
    train_images: NonNegativeInt = 0
    test_images: NonNegativeInt = 2_000
    families: Annotated[tuple[FamilyName, ...], NonEmpty()] = ("small_cnn",)
    architectures: PositiveInt = 1
    runs: Annotated[int, AtLeast(3)] = 100
    epochs: tuple[NonNegativeInt, ...] = (0, 1, 2, 3, 4, 6, 8, 9, 10)
    hyperparameters: Hyperparameters = field(default_factory=Hyperparameters)
    seed: NonNegativeInt = 0
    shard_runs: PositiveInt = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.epochs or not (np.diff(self.epochs) > 0).all():
            raise MetanetError(
                f"epochs: expected ascending numbers from 0, got {self.epochs}"
            )

    def identity(self) -> dict[str, Any]:
        """What decides the zoo's content: all fields but those of data access."""
        out = json.loads(json.dumps(asdict(self)))  # as zoo.json holds it
        del out["imports"], out["data_root"], out["download"]
        return out


@dataclass(frozen=True)
class _Run:
    """A run of the zoo.

    Attributes:
        number: From 0.
        key: Id of its architecture.
        family: Name of the distribution that this is from.
        base: The architecture before an activation was drawn; runs of one base share a
            program.
        architecture: With the activation.
        settings, split: As drawn.
    """

    number: int
    key: str
    family: str
    base: Architecture
    architecture: Architecture
    settings: Settings
    split: str


def _runs(
    config: PopulationConfig, architectures: list[tuple[str, Architecture]]
) -> list[_Run]:
    count = config.runs
    splits = _splits(count, config.seed)
    out = []
    for number in range(count):
        # Runs of an architecture lie together, so that a shard compiles few programs.
        place = number * len(architectures) // count
        family, base = architectures[place]
        names = _activations(config, base)
        rng = np.random.default_rng([config.seed, 0x5E7, number])
        settings = config.hyperparameters.draw(rng, names)
        full, key = base, str(place)
        if len(names) > 1:
            full = base.with_option("activation", settings.activation)
            key = f"{place}-{settings.activation}"
        split = str(splits[number])
        out.append(_Run(number, key, family, base, full, settings, split))
    return out


def _splits(count: int, seed: int) -> np.ndarray:
    """A split for every run, in the fixed shares; no split is empty."""
    order = np.random.default_rng([seed, 0x59]).permutation(count)
    tests = max(1, round(count * _SPLIT_SHARES["test"]))
    validations = max(1, round(count * _SPLIT_SHARES["validation"]))
    split = np.full(count, "train", dtype="<U10")
    split[order[:tests]] = "test"
    split[order[tests : tests + validations]] = "validation"
    return split


def _activations(
    config: PopulationConfig, architecture: Architecture
) -> tuple[str, ...]:
    """Activations that runs of an architecture draw from; its own where it is fixed."""
    options = dict(architecture.complete().options)
    if "activation" not in options:
        return (_FIXED.get(architecture.name, "relu"),)
    return config.hyperparameters.activation or (options["activation"],)


_FIXED = {"vit": "gelu", "row_rnn": "tanh"}


def train_population(
    config: PopulationConfig, out: str | Path, *, progress: bool = True
) -> Zoo:
    """Trains a zoo of classifiers, or finishes one that was interrupted.

    Several processes may work on one directory; each takes other shards.

    Args:
        config: What to train.
        out: Directory of the zoo; completed shards in it are verified and kept.
        progress: Show a progress bar.

    Raises:
        MetanetError: for unusable images, or a directory that holds another zoo.
    """
    dataset = load_images(config.images, config.data_root or None, config.download)
    images = prepare(config, dataset)
    side, channels = images.train.shape[2:]
    shape = families.ImageShape(side, channels, len(dataset.class_names))
    drawn = families.draw_architectures(
        config.families, config.architectures, shape, config.seed
    )
    runs = _runs(config, drawn)
    writer = ZooWriter(out, _description(config, dataset, runs, side))
    per_run = len(config.epochs)
    done = writer.done // per_run
    with track(
        len(runs), f"training on {config.images}", unit="networks", show=progress,
        done=done,
    ) as bar:  # fmt: skip
        for shard, rows in writer.shards():
            part = runs[rows[0] // per_run : rows[-1] // per_run + 1]
            results = _train(config, part, images, bar)
            weights = [w for r in results for w in np.asarray(r.weights)]
            columns = _columns(config, part, results, len(images.train))
            writer.write(shard, weights, {"id": rows, **columns})
    return writer.finish()


def prepare(config: PopulationConfig, dataset: ImageSet) -> Images:
    """Standardised images of both parts."""
    pixels = dataset.images
    if pixels.shape[1] != pixels.shape[2]:
        raise MetanetError(
            f"{config.images}: images of {pixels.shape[1]} x {pixels.shape[2]} pixels; "
            "networks of a zoo read squares"
        )
    chosen, split = choose_images(dataset, 0, config.seed)
    test = chosen[split == "test"][: config.test_images or None]
    train = chosen[split != "test"][: config.train_images or None]

    def read(index: np.ndarray) -> np.ndarray:
        x = pixels[index].astype(np.float32) / np.float32(255)
        return x.mean(-1, keepdims=True) if config.grey else x

    seen = read(train)
    mean, deviation = seen.mean(), max(float(seen.std()), 1e-6)
    scale = lambda x: jnp.asarray((x - mean) / deviation)
    labels = lambda index: jnp.asarray(dataset.labels[index], jnp.int32)
    return Images(scale(seen), labels(train), scale(read(test)), labels(test))


def _train(
    config: PopulationConfig, runs: list[_Run], images: Images, bar: Tracker
) -> list[RunOutputs]:
    """Trains the runs of a shard, on CPU one per core at a time."""
    root = jax.random.key(config.seed)
    size = 1 if on_cpu() else _ACCELERATOR_RUNS
    groups = itertools.groupby(runs, key=lambda r: r.base)
    calls = [part for _, group in groups for part in _batched(list(group), size)]

    def call(part: Sequence[_Run]) -> list[RunOutputs]:
        # A short call repeats its runs, so that one program serves all.
        padded = [part[i % len(part)] for i in range(size)]
        names = _activations(config, part[0].base)
        keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(
            jnp.asarray([r.number for r in padded])
        )
        settings = [r.settings for r in padded]
        inputs = run_inputs(keys, settings, names, len(images.train))
        program = compiled_runs(
            part[0].base,
            names,
            config.epochs,
            max(config.hyperparameters.batch_size),
            config.hyperparameters.dropout[1] > 0,
        )
        found = jax.device_get(program(inputs, images))
        return [jax.tree.map(lambda x, i=i: x[i], found) for i in range(len(part))]

    out: list[RunOutputs] = []
    for part in map_on_cores(call, calls):
        out += part
        bar.advance(len(part))
    return out


def _batched(runs: list[_Run], size: int) -> list[list[_Run]]:
    return [runs[i : i + size] for i in range(0, len(runs), size)]


def _columns(
    config: PopulationConfig, runs: list[_Run], results: list[RunOutputs], images: int
) -> dict[str, Any]:
    """The columns of a shard, a row per run and checkpoint."""
    rows: list[dict[str, Any]] = []
    for run, result in zip(runs, results, strict=True):
        used = used_images(run.settings, images)
        per_epoch = used // min(run.settings.batch_size, used)
        for place, epoch in enumerate(config.epochs):
            measured = {n: float(getattr(result, n)[place]) for n in _MEASURES}
            rows.append(
                {
                    "architecture": run.key,
                    "split": run.split,
                    "run": run.number,
                    "epoch": epoch,
                    "step": epoch * per_epoch,
                    "family": run.family,
                    "width": families.width_of(run.architecture),
                    **measured,
                    "final_train_accuracy": float(result.train_accuracy[-1]),
                    "final_test_accuracy": float(result.test_accuracy[-1]),
                    "diverged": not (np.abs(result.weights[place]) < _LARGEST).all(),
                    **asdict(run.settings),
                }
            )
    return {name: [row[name] for row in rows] for name in rows[0]}


def _description(
    config: PopulationConfig,
    dataset: ImageSet,
    runs: list[_Run],
    side: int,
) -> dict[str, Any]:
    by_id = {run.key: run.architecture for run in runs}
    layout = lambda a: ParamSpec.of(abstract_network(a).params).to_json()
    return {
        "kind": "population",
        "config": config.identity(),
        "architectures": {k: a.to_json() for k, a in by_id.items()},
        "leaves": {k: layout(a) for k, a in by_id.items()},
        "columns": _COLUMNS,
        "class_names": list(dataset.class_names),
        "image_side": side,
        "rows": config.runs * len(config.epochs),
        "shard_size": config.shard_runs * len(config.epochs),
    }
