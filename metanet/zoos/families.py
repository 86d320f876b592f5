"""Distributions of architectures from which zoos draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from metanet.networks import Architecture
from metanet.registry import Registry


class ImageShape(NamedTuple):
    """What an architecture must fit.

    Attributes:
        side: Height and width in pixels.
        channels: 1 (grey) or 3.
        classes: Number of classes.
    """

    side: int
    channels: int
    classes: int


Draw = Callable[[np.random.Generator, ImageShape], Architecture]
FAMILIES: Registry[Draw] = Registry("architecture family")


def _pick(rng: np.random.Generator, choices):
    return choices[int(rng.integers(len(choices)))]


def _between(rng: np.random.Generator, low: int, high: int) -> int:
    return int(rng.integers(low, high + 1))


def _common(images: ImageShape) -> dict[str, int]:
    return {"channels": images.channels, "classes": images.classes}


@FAMILIES.register("small_cnn")
def _small_cnn(rng: np.random.Generator, images: ImageShape) -> Architecture:
    """The network of the Small CNN Zoo: three 3x3 convolutions of 16, one shape."""
    padding = "SAME" if images.side < 15 else "VALID"
    return Architecture.of("small_cnn", padding=padding, **_common(images))


@FAMILIES.register("cnn")
def _cnn(rng: np.random.Generator, images: ImageShape) -> Architecture:
    """2-D CNNs: 1 to 4 layers of 8 to 32 channels, kernels 3 or 5, three norms."""
    depth = _between(rng, 1, 4)
    return Architecture.of(
        "varying_cnn",
        widths=tuple(_pick(rng, (8, 12, 16, 24, 32)) for _ in range(depth)),
        kernels=(_pick(rng, (3, 3, 5)),) * depth,
        norm=_pick(rng, ("none", "batch", "layer")),
        activation=_pick(rng, ("relu", "relu", "gelu")),
        **_common(images),
    )


@FAMILIES.register("row_cnn")
def _row_cnn(rng: np.random.Generator, images: ImageShape) -> Architecture:
    """1-D CNNs over rows: 1 to 3 layers of 8 to 32 channels."""
    depth = _between(rng, 1, 3)
    return Architecture.of(
        "row_cnn",
        side=images.side,
        widths=tuple(_pick(rng, (8, 12, 16, 24, 32)) for _ in range(depth)),
        kernels=(_pick(rng, (3, 5)),) * depth,
        norm=_pick(rng, ("none", "batch", "layer")),
        **_common(images),
    )


@FAMILIES.register("pixel_set")
def _pixel_set(rng: np.random.Generator, images: ImageShape) -> Architecture:
    """DeepSets over pixels: 1 or 2 layers before the mean, 1 or 2 after it."""
    width = _pick(rng, (16, 24, 32, 48))
    return Architecture.of(
        "pixel_set",
        widths=(width,) * _between(rng, 1, 2),
        after=(width,) * _between(rng, 1, 2),
        **_common(images),
    )


@FAMILIES.register("resnet")
def _resnet(rng: np.random.Generator, images: ImageShape) -> Architecture:
    """ResNets of 1 or 2 stages, a basic block each, 4 to 12 channels at first."""
    stages, first = _between(rng, 1, 2), _pick(rng, (4, 6, 8, 12))
    return Architecture.of(
        "resnet",
        widths=tuple(first * 2**i for i in range(stages)),
        blocks=(1,) * stages,
        **_common(images),
    )


@FAMILIES.register("vit")
def _vit(rng: np.random.Generator, images: ImageShape) -> Architecture:
    """Small ViTs: 16 patches or so, width 8 to 24, 1 or 2 blocks, 1 to 4 heads."""
    dim = _pick(rng, (8, 16, 24))
    return Architecture.of(
        "vit",
        side=images.side,
        patch=images.side // 4,
        dim=dim,
        depth=_between(rng, 1, 2),
        heads=_pick(rng, (1, 2, 4)),
        hidden=dim * _pick(rng, (1, 2)),
        **_common(images),
    )


@FAMILIES.register("wild_park")
def _wild_park(rng: np.random.Generator, images: ImageShape) -> Architecture:
    """CNNs as in the CNN Wild Park (Kofinas et al. 2024): 2 to 5 layers of 4 to 32
    channels, kernels 3 to 7, shortcuts from any earlier layer of equal width."""
    depth = _between(rng, 2, 5)
    widths = tuple(_pick(rng, (4, 8, 16, 32)) for _ in range(depth))
    residual = []
    for layer in range(depth):
        fitting = [i for i in range(layer) if widths[i] == widths[layer]]
        joined = bool(fitting) and rng.random() < 0.5
        residual.append(1 + _pick(rng, fitting) if joined else 0)
    return Architecture.of(
        "varying_cnn",
        widths=widths,
        kernels=tuple(_pick(rng, (3, 5, 7)) for _ in range(depth)),
        residual=tuple(residual),
        activation=_pick(rng, ("relu", "gelu", "tanh", "sigmoid", "leaky_relu")),
        **_common(images),
    )


@FAMILIES.register("row_rnn")
def _row_rnn(rng: np.random.Generator, images: ImageShape) -> Architecture:
    """Recurrent networks over rows: three cells, 8 to 32 units, 1 or 2 layers."""
    return Architecture.of(
        "row_rnn",
        side=images.side,
        cell=_pick(rng, ("simple", "gru", "lstm")),
        widths=(_pick(rng, (8, 16, 24, 32)),) * _between(rng, 1, 2),
        **_common(images),
    )


def draw_architectures(
    families: tuple[str, ...], count: int, images: ImageShape, seed: int
) -> list[tuple[str, Architecture]]:
    """Different architectures with their families' names, the families in turn.

    A family that has fewer gives what it has, so that fewer than ``count`` may come.

    Raises:
        MetanetError: for an unknown family.
    """
    found: dict[Architecture, str] = {}
    draws = [(name, FAMILIES[name]) for name in families]
    for number in range(count):
        name, draw = draws[number % len(draws)]
        for attempt in range(20):
            rng = np.random.default_rng([seed, 0xA2C, number, attempt])
            drawn = draw(rng, images)
            if drawn not in found:
                found[drawn] = name
                break
    return [(name, architecture) for architecture, name in found.items()]


def width_of(architecture: Architecture) -> int:
    """The largest number of channels or units of a layer."""
    known = {"widths", "hidden", "dim", "after"}
    sizes = []
    for key, value in architecture.complete().options:
        if key in known:
            sizes += list(value) if isinstance(value, tuple) else [value]
    return max(sizes)
