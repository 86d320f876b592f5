"""Weight-space augmentations."""

from metanet.augment.augment import AugmentConfig, Augmentation, build_augmentation

__all__ = ["AugmentConfig", "Augmentation", "build_augmentation"]
