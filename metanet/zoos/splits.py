"""Training, validation and test parts, drawn by source image and never by view."""

from __future__ import annotations

import numpy as np

from metanet.errors import MetanetError
from metanet.zoos.images import ImageSet

SPLITS = ("train", "validation", "test")
# Shares of sets without an official split.
_VALIDATION, _TEST = 0.1, 0.2
# Share of the official training images (55,000 / 5,000 / 10,000 of MNIST).
_OFFICIAL_VALIDATION = 1 / 12


def choose_images(
    dataset: ImageSet, limit: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws images and assigns them to splits, stratified by class.

    Args:
        dataset: The image set.
        limit: Number of images, with the set's proportions; 0 takes all.
        seed: Seed of the draw.

    Returns:
        Indices ``[n]`` of the images in a random order, and their splits ``[n]``.

    Raises:
        MetanetError: for fewer images than splits.
    """
    total = len(dataset.images)
    if limit < 0 or 0 < limit < 3:
        raise MetanetError(f"limit: {limit} images cannot be split in three parts")
    rng = np.random.default_rng([seed, 0x51])
    split = _assign_splits(dataset, rng)
    if limit == 0 or limit >= total:
        chosen = rng.permutation(total)
        return chosen, split[chosen]
    counts = {
        name: max(1, round(limit * np.mean(split == name)))
        for name in ("validation", "test")
    }
    counts["train"] = limit - sum(counts.values())
    parts = []
    for name in SPLITS:
        members = np.flatnonzero(split == name)
        parts.append(_interleave(members, dataset.labels, rng)[: counts[name]])
    chosen = rng.permutation(np.concatenate(parts))
    return chosen, split[chosen]


def _assign_splits(dataset: ImageSet, rng: np.random.Generator) -> np.ndarray:
    """Returns the split of every image, ``[N]``."""
    total = len(dataset.images)
    split = np.full(total, "train", dtype="<U10")
    if dataset.official_test is None:
        order = _interleave(np.arange(total), dataset.labels, rng)
        tests, validations = round(total * _TEST), round(total * _VALIDATION)
        split[order[:tests]] = "test"
        split[order[tests : tests + validations]] = "validation"
        return split
    split[dataset.official_test] = "test"
    train = np.flatnonzero(~dataset.official_test)
    order = _interleave(train, dataset.labels, rng)
    split[order[: round(len(train) * _OFFICIAL_VALIDATION)]] = "validation"
    return split


def _interleave(
    indices: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Returns a random order in which every prefix has the classes' proportions."""
    shuffled = rng.permutation(indices)
    rank = np.empty(len(shuffled))
    for label in np.unique(labels[shuffled]):
        members = np.flatnonzero(labels[shuffled] == label)
        rank[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return shuffled[np.argsort(rank, kind="stable")]
