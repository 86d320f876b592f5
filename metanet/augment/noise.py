"""Gaussian noise on weights."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from metanet.augment.augmentation import AUGMENTATIONS, Augmentation
from metanet.networks import Params
from metanet.options import NonNegativeFloat, Options


@dataclass(frozen=True)
class NoiseConfig(Options):
    """Options of `Noise`.

    Attributes:
        level: Standard deviation, in units of that of each array.
    """

    level: NonNegativeFloat = 0.0


@AUGMENTATIONS.register("noise")
class Noise(Augmentation):
    """Adds independent Gaussian noise to every weight."""

    Config = NoiseConfig
    config: NoiseConfig

    @property
    def is_identity(self) -> bool:
        """True at level 0."""
        return self.config.level == 0

    def __call__(self, key: jax.Array, params: Params) -> Params:
        """Returns ``x + level std(x) n`` for each array ``x``, ``n`` standard normal."""
        level = self.config.level
        leaves, treedef = jax.tree.flatten(params)
        noisy = [
            x
            + level
            * jnp.std(x)
            * jax.random.normal(jax.random.fold_in(key, i), x.shape)
            for i, x in enumerate(leaves)
        ]
        return jax.tree.unflatten(treedef, noisy)
