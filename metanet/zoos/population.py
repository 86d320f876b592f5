"""Zoos of classifiers: configuration, drawn runs, training, stored columns."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metanet.compiler import on_cpu
from metanet.errors import MetanetError
from metanet.networks import Architecture, ParamSpec, abstract_network
from metanet.options import AtLeast, NonEmpty, NonNegativeInt, Options, PositiveInt
from metanet.progress import Tracker, track
from metanet.registry import ModuleName
from metanet.tuning import CLASSIFIER_BATCH_ACCELERATOR
from metanet.zoos.cores import map_on_cores
from metanet.zoos.families import (
    FAMILIES,
    DrawnArchitecture,
    ImageShape,
    draw_architectures,
)
from metanet.zoos.hyperparameters import SETTING_COLUMNS, Hyperparameters, Settings
from metanet.zoos.images import ImageSet, load_images
from metanet.zoos.program import (
    Images,
    RunOutputs,
    RunProgram,
    compiled_runs,
    run_inputs,
    used_images,
)
from metanet.zoos.splits import choose_images
from metanet.zoos.store import Zoo, ZooWriter

# Weights from which a network counts as diverged; useful ones are far smaller.
_DIVERGED = 1e6
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

FamilyName = Annotated[str, FAMILIES]


@dataclass(frozen=True)
class PopulationConfig(Options):
    """A zoo of classifiers trained on grey images.

    Attributes:
        imports: Modules outside the package that register image sets, families or
            architectures.
        images: Image set, see `load_images`; colours are averaged.
        data_root: Folder of image files; "" if the set needs none.
        download: Fetch missing image files.
        train_images: Training images that runs choose from; 0 takes all.
        test_images: Test images on which accuracy is measured; 0 takes all.
        families: Names of architecture distributions, taken in turn.
        architectures: Number of different architectures.
        runs: Number of training runs, divided evenly over the architectures.
        epochs: Epochs after which a checkpoint is stored, ascending; the last ends the
            run.
        hyperparameters: Ranges of everything else.
        seed: Seed of architectures, settings, initialisations, data order and splits.
        shard_runs: Runs per file of the zoo.
    """

    imports: tuple[ModuleName, ...] = ()
    images: str = "digits"
    data_root: str = ""
    download: bool = False
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
        """Returns the fields that decide the zoo's content, not those of data access."""
        fields = json.loads(json.dumps(asdict(self)))  # lists, as in zoo.json
        del fields["imports"], fields["data_root"], fields["download"]
        fields["grey"] = True  # recorded by zoos from when colour was an option
        return fields


class _RunPlan(NamedTuple):
    """One run of a zoo before it is trained.

    Attributes:
        number: Number of the run, from 0.
        architecture_id: Key of its architecture in the zoo.
        family: Name of the family.
        base: The architecture before an activation was drawn; runs of one base share a
            program.
        architecture: The architecture with the activation.
        activations: Activations that runs of the base draw from.
        settings: Drawn settings.
        split: Split of the zoo.
    """

    number: int
    architecture_id: str
    family: str
    base: Architecture
    architecture: Architecture
    activations: tuple[str, ...]
    settings: Settings
    split: str


def _plan_runs(
    config: PopulationConfig, architectures: Sequence[DrawnArchitecture]
) -> list[_RunPlan]:
    count = config.runs
    splits = _draw_splits(count, config.seed)
    plans = []
    for number in range(count):
        # Runs of an architecture are adjacent, so that a shard compiles few programs.
        index = number * len(architectures) // count
        family, base = architectures[index]
        activations = _activations(config, family, base)
        rng = np.random.default_rng([config.seed, 0x5E7, number])
        settings = config.hyperparameters.draw(rng, activations)
        architecture, architecture_id = base, str(index)
        if len(activations) > 1:
            architecture = base.with_option("activation", settings.activation)
            architecture_id = f"{index}-{settings.activation}"
        plans.append(
            _RunPlan(
                number,
                architecture_id,
                family,
                base,
                architecture,
                activations,
                settings,
                str(splits[number]),
            )
        )
    return plans


def _draw_splits(count: int, seed: int) -> np.ndarray:
    """Draws a split for every run, in fixed shares; no split is empty."""
    order = np.random.default_rng([seed, 0x59]).permutation(count)
    tests = max(1, round(count * _SPLIT_SHARES["test"]))
    validations = max(1, round(count * _SPLIT_SHARES["validation"]))
    split = np.full(count, "train", dtype="<U10")
    split[order[:tests]] = "test"
    split[order[tests : tests + validations]] = "validation"
    return split


def _activations(
    config: PopulationConfig, family: str, architecture: Architecture
) -> tuple[str, ...]:
    """Returns the activations that runs of an architecture draw from."""
    has_option = "activation" in architecture.all_options()
    if has_option and config.hyperparameters.activation:
        return config.hyperparameters.activation
    return (FAMILIES[family].default_activation(architecture),)


def train_population(
    config: PopulationConfig, out: str | Path, *, progress: bool = True
) -> Zoo:
    """Trains a zoo of classifiers, or finishes one that was interrupted.

    Several processes may work on one directory; each takes other shards.

    Args:
        config: Images, architectures and settings.
        out: Directory of the zoo; its completed shards are verified and reused.
        progress: Show a progress bar.

    Raises:
        MetanetError: for unusable images, or a directory that holds another zoo.
    """
    dataset = load_images(
        config.images, config.data_root or None, download=config.download
    )
    images = standardized_images(config, dataset)
    side, channels = images.train.shape[2:]
    shape = ImageShape(side, channels, len(dataset.class_names))
    architectures = draw_architectures(
        config.families, config.architectures, shape, config.seed
    )
    plans = _plan_runs(config, architectures)
    writer = ZooWriter(out, _description(config, dataset, plans, side))
    per_run = len(config.epochs)
    done = writer.done // per_run
    title = f"training on {config.images}"
    with track(len(plans), title, unit="networks", show=progress, done=done) as tracker:
        for shard, rows in writer.shards():
            part = plans[rows[0] // per_run : rows[-1] // per_run + 1]
            results = train_shard(config, part, images, tracker)
            weights = [w for result in results for w in np.asarray(result.weights)]
            columns = _columns(config, part, results, len(images.train))
            writer.write(shard, weights, {"id": rows, **columns})
    return writer.finish()


def standardized_images(config: PopulationConfig, dataset: ImageSet) -> Images:
    """Draws and standardises the images of both parts.

    Raises:
        MetanetError: for images that are not square.
    """
    pixels = dataset.images
    if pixels.shape[1] != pixels.shape[2]:
        raise MetanetError(
            f"{config.images}: images of {pixels.shape[1]} x {pixels.shape[2]} pixels; "
            "networks of a zoo read squares"
        )
    chosen, split = choose_images(dataset, 0, config.seed)
    test_index = chosen[split == "test"][: config.test_images or None]
    train_index = chosen[split != "test"][: config.train_images or None]
    train, test = _grey(pixels[train_index]), _grey(pixels[test_index])
    mean, deviation = train.mean(), max(float(train.std()), 1e-6)
    return Images(
        jnp.asarray((train - mean) / deviation),
        jnp.asarray(dataset.labels[train_index], jnp.int32),
        jnp.asarray((test - mean) / deviation),
        jnp.asarray(dataset.labels[test_index], jnp.int32),
    )


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Averages the colours of bytes, in [0, 1]."""
    return (pixels.astype(np.float32) / np.float32(255)).mean(-1, keepdims=True)


def train_shard(
    config: PopulationConfig, plans: list[_RunPlan], images: Images, tracker: Tracker
) -> list[RunOutputs]:
    """Trains the runs of a shard, on CPU one per core at a time."""
    root = jax.random.key(config.seed)
    size = 1 if on_cpu() else CLASSIFIER_BATCH_ACCELERATOR
    groups = [list(g) for _, g in itertools.groupby(plans, key=lambda plan: plan.base)]
    batches = [g[i : i + size] for g in groups for i in range(0, len(g), size)]

    def train(batch: list[_RunPlan]) -> list[RunOutputs]:
        # A short batch repeats its runs, so that one program serves all.
        padded = [batch[i % len(batch)] for i in range(size)]
        numbers = jnp.asarray([plan.number for plan in padded])
        keys = jax.vmap(lambda number: jax.random.fold_in(root, number))(numbers)
        activations = batch[0].activations
        settings = [plan.settings for plan in padded]
        inputs = run_inputs(keys, settings, activations, len(images.train))
        program = RunProgram(
            batch[0].base,
            activations,
            config.epochs,
            max(config.hyperparameters.batch_size),
            has_dropout=config.hyperparameters.dropout[1] > 0,
        )
        outputs = jax.device_get(compiled_runs(program)(inputs, images))
        return [jax.tree.map(lambda x, i=i: x[i], outputs) for i in range(len(batch))]

    results: list[RunOutputs] = []
    for batch_results in map_on_cores(train, batches):
        results += batch_results
        tracker.advance(len(batch_results))
    return results


def _columns(
    config: PopulationConfig,
    plans: list[_RunPlan],
    results: list[RunOutputs],
    train_images: int,
) -> dict[str, list[Any]]:
    """Returns the columns of a shard, a row per run and checkpoint."""
    rows: list[dict[str, Any]] = []
    for plan, result in zip(plans, results, strict=True):
        used = used_images(plan.settings, train_images)
        per_epoch = used // min(plan.settings.batch_size, used)
        for checkpoint, epoch in enumerate(config.epochs):
            measures = {n: float(getattr(result, n)[checkpoint]) for n in _MEASURES}
            is_bounded = (np.abs(result.weights[checkpoint]) < _DIVERGED).all()
            rows.append(
                {
                    "architecture": plan.architecture_id,
                    "split": plan.split,
                    "run": plan.number,
                    "epoch": epoch,
                    "step": epoch * per_epoch,
                    "family": plan.family,
                    "width": FAMILIES[plan.family].width(plan.architecture),
                    **measures,
                    "final_train_accuracy": float(result.train_accuracy[-1]),
                    "final_test_accuracy": float(result.test_accuracy[-1]),
                    "diverged": not is_bounded,
                    **asdict(plan.settings),
                }
            )
    return {name: [row[name] for row in rows] for name in rows[0]}


def _description(
    config: PopulationConfig, dataset: ImageSet, plans: list[_RunPlan], side: int
) -> dict[str, Any]:
    architectures = {plan.architecture_id: plan.architecture for plan in plans}
    leaves = {
        key: ParamSpec.of(abstract_network(architecture).params).to_json()
        for key, architecture in architectures.items()
    }
    return {
        "kind": "population",
        "config": config.identity(),
        "architectures": {key: a.to_json() for key, a in architectures.items()},
        "leaves": leaves,
        "columns": _COLUMNS,
        "class_names": list(dataset.class_names),
        "image_side": side,
        "rows": config.runs * len(config.epochs),
        "shard_size": config.shard_runs * len(config.epochs),
    }
