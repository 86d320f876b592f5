"""Random elements of the symmetry group, which preserve the function."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from metanet.augment.augmentation import AUGMENTATIONS, Augmentation
from metanet.networks import Params
from metanet.options import Options
from metanet.symmetry import act, random_element


@dataclass(frozen=True)
class RandomSymmetryConfig(Options):
    """Options of `RandomSymmetry`.

    Attributes:
        permutation: Draw permutations.
        sign: Draw signs (tanh, sine).
        phase: Draw phase shifts (sine).
        scale: Draw positive factors (ReLU).
    """

    permutation: bool = False
    sign: bool = False
    phase: bool = False
    scale: bool = False


@AUGMENTATIONS.register("symmetry")
class RandomSymmetry(Augmentation):
    """Acts on a network with a random element of its symmetry group."""

    Config = RandomSymmetryConfig
    config: RandomSymmetryConfig

    @property
    def is_identity(self) -> bool:
        """True if no part of the group is chosen."""
        return self.config == RandomSymmetryConfig()

    def __call__(self, key: jax.Array, params: Params) -> Params:
        """Returns the parameters under the action of a random element."""
        element = random_element(
            self.symmetry,
            key,
            permutations=self.config.permutation,
            signs=self.config.sign,
            scales=self.config.scale,
            phases=self.config.phase,
        )
        return act(self.symmetry, element, params)
