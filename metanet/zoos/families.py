"""Distributions of architectures from which zoos draw.

A family is a function that draws an architecture, registered with the names of the
options that hold its widths:

    @FAMILIES.register("narrow_mlp")
    @family(widths=("hidden",))
    def narrow_mlp(rng: np.random.Generator, images: ImageShape) -> Architecture:
        return Architecture.of("my_mlp", hidden=(int(rng.integers(4, 9)),))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from metanet.networks import Architecture
from metanet.registry import Registry

T = TypeVar("T")

# Draws after which a family is taken to have no further architecture.
_ATTEMPTS = 20


class ImageShape(NamedTuple):
    """Images that the networks of a zoo classify.

    Attributes:
        side: Height and width in pixels.
        channels: 1 (grey) or 3.
        classes: Number of classes.
    """

    side: int
    channels: int
    classes: int


DrawFn = Callable[[np.random.Generator, ImageShape], Architecture]


@dataclass(frozen=True)
class Family:
    """A distribution of architectures.

    Attributes:
        draw: Draws an architecture for images.
        widths: Options of its architectures that hold numbers of channels or units.
        fixed_activation: Activation of architectures that have no option ``activation``.
    """

    draw: DrawFn
    widths: tuple[str, ...]
    fixed_activation: str | None = None

    def width(self, architecture: Architecture) -> int:
        """Returns the largest number of channels or units of a layer."""
        sizes: list[int] = []
        for name in self.widths:
            value = architecture.option(name)
            sizes.extend(value if isinstance(value, tuple) else (value,))
        return max(sizes)

    def default_activation(self, architecture: Architecture) -> str:
        """Returns the activation of an architecture whose runs draw none.

        Raises:
            ValueError: if the architecture has no option ``activation``, and the family
                states none.
        """
        activation = architecture.all_options().get("activation")
        if activation is not None:
            return activation
        if self.fixed_activation is None:
            raise ValueError(
                f"architecture {architecture.name} has no option activation; its family "
                "must state fixed_activation"
            )
        return self.fixed_activation


FAMILIES: Registry[Family] = Registry("architecture family", requires=("draw", "width"))


def family(
    *, widths: tuple[str, ...], fixed_activation: str | None = None
) -> Callable[[DrawFn], Family]:
    """Returns a decorator that makes a function a `Family`; see there for arguments."""

    def make(draw: DrawFn) -> Family:
        return Family(draw, widths, fixed_activation)

    return make


def _pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def _between(rng: np.random.Generator, low: int, high: int) -> int:
    return int(rng.integers(low, high + 1))


def _image_options(images: ImageShape) -> dict[str, int]:
    return {"channels": images.channels, "classes": images.classes}


@FAMILIES.register("small_cnn")
@family(widths=("widths",))
def small_cnn(rng: np.random.Generator, images: ImageShape) -> Architecture:
    """Returns the network of the Small CNN Zoo: three 3x3 convolutions of 16."""
    padding = "SAME" if images.side < 15 else "VALID"
    return Architecture.of("small_cnn", padding=padding, **_image_options(images))


@FAMILIES.register("cnn")
@family(widths=("widths",))
def cnn(rng: np.random.Generator, images: ImageShape) -> Architecture:
    """Draws 2-D CNNs: 1 to 4 layers of 8 to 32 channels, kernels 3 or 5, three norms."""
    depth = _between(rng, 1, 4)
    return Architecture.of(
        "varying_cnn",
        widths=tuple(_pick(rng, (8, 12, 16, 24, 32)) for _ in range(depth)),
        kernels=(_pick(rng, (3, 3, 5)),) * depth,
        norm=_pick(rng, ("none", "batch", "layer")),
        activation=_pick(rng, ("relu", "relu", "gelu")),
        **_image_options(images),
    )


@FAMILIES.register("row_cnn")
@family(widths=("widths",))
def row_cnn(rng: np.random.Generator, images: ImageShape) -> Architecture:
    """Draws 1-D CNNs over rows: 1 to 3 layers of 8 to 32 channels."""
    depth = _between(rng, 1, 3)
    return Architecture.of(
        "row_cnn",
        side=images.side,
        widths=tuple(_pick(rng, (8, 12, 16, 24, 32)) for _ in range(depth)),
        kernels=(_pick(rng, (3, 5)),) * depth,
        norm=_pick(rng, ("none", "batch", "layer")),
        **_image_options(images),
    )


@FAMILIES.register("pixel_set")
@family(widths=("widths", "after"))
def pixel_set(rng: np.random.Generator, images: ImageShape) -> Architecture:
    """Draws DeepSets over pixels: 1 or 2 layers before the mean, 1 or 2 after it."""
    width = _pick(rng, (16, 24, 32, 48))
    return Architecture.of(
        "pixel_set",
        widths=(width,) * _between(rng, 1, 2),
        after=(width,) * _between(rng, 1, 2),
        **_image_options(images),
    )


@FAMILIES.register("resnet")
@family(widths=("widths",), fixed_activation="relu")
def resnet(rng: np.random.Generator, images: ImageShape) -> Architecture:
    """Draws ResNets of 1 or 2 stages, a basic block each, 4 to 12 channels first."""
    stages, first = _between(rng, 1, 2), _pick(rng, (4, 6, 8, 12))
    return Architecture.of(
        "resnet",
        widths=tuple(first * 2**i for i in range(stages)),
        blocks=(1,) * stages,
        **_image_options(images),
    )


@FAMILIES.register("vit")
@family(widths=("dim", "hidden"), fixed_activation="gelu")
def vit(rng: np.random.Generator, images: ImageShape) -> Architecture:
    """Draws ViTs of about 16 patches, width 8 to 24, 1 or 2 blocks, 1 to 4 heads."""
    dim = _pick(rng, (8, 16, 24))
    return Architecture.of(
        "vit",
        side=images.side,
        patch=images.side // 4,
        dim=dim,
        depth=_between(rng, 1, 2),
        heads=_pick(rng, (1, 2, 4)),
        hidden=dim * _pick(rng, (1, 2)),
        **_image_options(images),
    )


@FAMILIES.register("wild_park")
@family(widths=("widths",))
def wild_park(rng: np.random.Generator, images: ImageShape) -> Architecture:
    """Draws CNNs as in the CNN Wild Park (Kofinas et al. 2024).

    2 to 5 layers of 4 to 32 channels, kernels 3 to 7, and shortcuts from any earlier
    layer of equal width.
    """
    depth = _between(rng, 2, 5)
    widths = tuple(_pick(rng, (4, 8, 16, 32)) for _ in range(depth))
    residual = []
    for layer in range(depth):
        sources = [i for i in range(layer) if widths[i] == widths[layer]]
        has_shortcut = bool(sources) and rng.random() < 0.5
        residual.append(1 + _pick(rng, sources) if has_shortcut else 0)
    return Architecture.of(
        "varying_cnn",
        widths=widths,
        kernels=tuple(_pick(rng, (3, 5, 7)) for _ in range(depth)),
        residual=tuple(residual),
        activation=_pick(rng, ("relu", "gelu", "tanh", "sigmoid", "leaky_relu")),
        **_image_options(images),
    )


@FAMILIES.register("row_rnn")
@family(widths=("widths",), fixed_activation="tanh")
def row_rnn(rng: np.random.Generator, images: ImageShape) -> Architecture:
    """Draws recurrent networks over rows: three cells, 8 to 32 units, 1 or 2 layers."""
    return Architecture.of(
        "row_rnn",
        side=images.side,
        cell=_pick(rng, ("simple", "gru", "lstm")),
        widths=(_pick(rng, (8, 16, 24, 32)),) * _between(rng, 1, 2),
        **_image_options(images),
    )


class DrawnArchitecture(NamedTuple):
    """An architecture and the name of the family that it was drawn from."""

    family: str
    architecture: Architecture


def draw_architectures(
    families: Sequence[str], count: int, images: ImageShape, seed: int
) -> list[DrawnArchitecture]:
    """Draws different architectures, from the families in turn.

    Args:
        families: Names in `FAMILIES`.
        count: Number of architectures; fewer are returned if the families have fewer.
        images: Images that the architectures read.
        seed: Seed of the draws.

    Raises:
        MetanetError: for an unknown family.
    """
    drawn: dict[Architecture, str] = {}
    for number in range(count):
        name = families[number % len(families)]
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([seed, 0xA2C, number, attempt])
            architecture = FAMILIES[name].draw(rng, images)
            if architecture not in drawn:
                drawn[architecture] = name
                break
    return [DrawnArchitecture(name, a) for a, name in drawn.items()]
