"""Weight-space augmentations."""

from metanet.augment.augment import Augmentation, AugmentConfig, build_augmentation

__all__ = ["AugmentConfig", "Augmentation", "build_augmentation"]
