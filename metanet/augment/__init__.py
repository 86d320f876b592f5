"""Weight-space augmentations."""

from metanet.augment.augmentation import (
    AUGMENTATIONS,
    Augmentation,
    AugmentConfig,
    AugmentFn,
    build_augmentation,
)
from metanet.augment.noise import Noise, NoiseConfig
from metanet.augment.random_symmetry import RandomSymmetry, RandomSymmetryConfig

__all__ = [
    "AUGMENTATIONS",
    "AugmentConfig",
    "AugmentFn",
    "Augmentation",
    "Noise",
    "NoiseConfig",
    "RandomSymmetry",
    "RandomSymmetryConfig",
    "build_augmentation",
]
