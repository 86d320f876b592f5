"""Checks a zoo: every checksum, and the recorded quality of a sample of networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from metanet.errors import MetanetError
from metanet.networks import ParamSpec, abstract_network, to_targets
from metanet.zoos.fit import convention_of, psnr, reconstruct
from metanet.zoos.images import load_images
from metanet.zoos.population import PopulationConfig, standardized_images
from metanet.zoos.shards import ZooTable
from metanet.zoos.store import Zoo

# Tolerances: test images (ties between logits), and dB of PSNR.
_IMAGES, _DECIBELS = 1.5, 0.05
_EVAL_BATCH = 500


@dataclass(frozen=True)
class Verification:
    """Result of a successful check.

    Attributes:
        networks: Number of networks, all in intact shards.
        sample: Number that was evaluated again.
        measure: The compared column: "test_accuracy" or "psnr".
        worst: The largest difference.
        allowed: The tolerance.
    """

    networks: int
    sample: int
    measure: str
    worst: float
    allowed: float


class _Evaluation(NamedTuple):
    measure: str
    values: np.ndarray
    allowed: float


def verify(
    zoo: Zoo, data_root: str = "", sample: int = 24, seed: int = 0
) -> Verification:
    """Reads every shard, and evaluates a sample of the networks again.

    Args:
        zoo: The zoo.
        data_root: Folder of the image files, if the images need one.
        sample: Number of networks, drawn at random.
        seed: Seed of the draw.

    Raises:
        MetanetError: for damaged shards, missing images, and a network whose quality
            differs from the recorded one (naming its id).
    """
    table = zoo.read(skip_broken=True)
    rows = np.random.default_rng(seed).permutation(len(table))[:sample]
    drawn = table.take(np.sort(rows))
    is_population = zoo.info["kind"] == "population"
    evaluate = _evaluate_classifiers if is_population else _evaluate_inrs
    measure, values, allowed = evaluate(zoo, drawn, data_root)
    differences = np.abs(values - drawn[measure])
    worst = int(np.argmax(differences))
    if not differences[worst] <= allowed:
        raise MetanetError(
            f"{zoo.path}: {measure}: network {drawn['id'][worst]} has "
            f"{values[worst]:.4f}, recorded is {drawn[measure][worst]:.4f}"
        )
    return Verification(
        len(zoo), len(drawn), measure, float(differences[worst]), allowed
    )


def _evaluate_classifiers(zoo: Zoo, table: ZooTable, data_root: str) -> _Evaluation:
    recorded = zoo.info["config"]
    names = ("images", "train_images", "test_images", "seed")
    config = PopulationConfig(
        **{name: recorded[name] for name in names}, data_root=data_root
    )
    images = standardized_images(config, load_images(config.images, data_root or None))
    architectures, accuracies = zoo.architectures, []
    for row, key in enumerate(table["architecture"]):
        network = abstract_network(architectures[key])
        spec = ParamSpec.of(network.params)
        params = spec.unflatten(jnp.asarray(table.network(row)))
        correct = 0.0
        for start in range(0, len(images.test), _EVAL_BATCH):
            batch = slice(start, start + _EVAL_BATCH)
            logits = jnp.asarray(network.apply_fn(params, images.test[batch]))
            correct += float((logits.argmax(-1) == images.test_labels[batch]).sum())
        accuracies.append(correct / len(images.test))
    return _Evaluation(
        "test_accuracy", np.asarray(accuracies), _IMAGES / len(images.test)
    )


def _evaluate_inrs(zoo: Zoo, table: ZooTable, data_root: str) -> _Evaluation:
    images = load_images(zoo.info["config"]["images"], data_root or None).images
    targets = to_targets(images[table["image"]], "dws")
    rendered = reconstruct(zoo, table.weights, clip=False)
    values = psnr(rendered, targets, convention_of(zoo.architecture))
    return _Evaluation("psnr", values, _DECIBELS)
