"""Checks a zoo: every checksum, and for a sample what was recorded of the networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from metanet.errors import MetanetError
from metanet.networks import ParamSpec, abstract_network, to_targets
from metanet.zoos.fit import convention_of, reconstruct
from metanet.zoos.images import load_images
from metanet.zoos.population import PopulationConfig, prepare
from metanet.zoos.shards import ZooTable
from metanet.zoos.store import Zoo

# Accuracies may differ by as many images (ties between logits), PSNR by as many dB.
_IMAGES, _DECIBELS = 1.5, 0.05


@dataclass(frozen=True)
class Verification:
    """What was checked.

    Attributes:
        networks: Number of networks whose shards are whole.
        sample: Number that was evaluated again.
        measure: What was compared: "test_accuracy" or "psnr".
        worst: The largest difference found.
        allowed: The largest that counts as equal.
    """

    networks: int
    sample: int
    measure: str
    worst: float
    allowed: float


def verify(
    zoo: Zoo, data_root: str = "", sample: int = 24, seed: int = 0
) -> Verification:
    """Reads every shard, and evaluates a sample of the networks again.

    Args:
        zoo: The zoo.
        data_root: Folder of the image files, where the images need one.
        sample: Number of networks, drawn at random.
        seed: Of the draw.

    Raises:
        MetanetError: for damaged shards, missing images, and a network that is not as
            good as recorded (naming its id).
    """
    table = zoo.read(skip_broken=True)
    drawn = np.random.default_rng(seed).permutation(len(table))[:sample]
    chosen = table.take(np.sort(drawn))
    evaluate = _accuracies if zoo.info["kind"] == "population" else _psnr
    measure, found, allowed = evaluate(zoo, chosen, data_root)
    gaps = np.abs(found - chosen[measure])
    worst = int(np.argmax(gaps))
    if not gaps[worst] <= allowed:
        raise MetanetError(
            f"{zoo.path}: {measure}: network {chosen['id'][worst]} has "
            f"{found[worst]:.4f}, recorded is {chosen[measure][worst]:.4f}"
        )
    return Verification(len(zoo), len(chosen), measure, float(gaps[worst]), allowed)


def _accuracies(
    zoo: Zoo, table: ZooTable, data_root: str
) -> tuple[str, np.ndarray, float]:
    held: dict[str, Any] = zoo.info["config"]
    known = {
        k: held[k] for k in ("images", "grey", "train_images", "test_images", "seed")
    }
    config = PopulationConfig(**known, data_root=data_root)
    images = prepare(config, load_images(config.images, data_root or None))
    architectures, found = zoo.architectures, []
    for place, key in enumerate(table["architecture"]):
        network = abstract_network(architectures[key])
        spec = ParamSpec.of(network.params)
        params = spec.unflatten(jnp.asarray(table.network(place)))
        right = 0.0
        for start in range(0, len(images.test), 500):
            logits = jnp.asarray(
                network.apply_fn(params, images.test[start : start + 500])
            )
            truth = images.test_labels[start : start + 500]
            right += float((logits.argmax(-1) == truth).sum())
        found.append(right / len(images.test))
    return "test_accuracy", np.asarray(found), _IMAGES / len(images.test)


def _psnr(zoo: Zoo, table: ZooTable, data_root: str) -> tuple[str, np.ndarray, float]:
    images = load_images(zoo.info["config"]["images"], data_root or None).images
    convention = convention_of(zoo.architecture)
    wanted = to_targets(images[table["image"]], "dws")
    drawn = reconstruct(zoo, table.weights, clip=False)
    span = 1.0 if convention == "dws" else 2.0
    error = np.square((drawn - wanted) * span).mean((1, 2, 3))
    return "psnr", 10 * np.log10(span**2 / np.maximum(error, 1e-12)), _DECIBELS
