"""Augmentations of weights: function-preserving ones from the symmetry, and noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from metanet import symmetry as sym
from metanet.networks import Params
from metanet.options import NonNegativeFloat, Options


@dataclass(frozen=True)
class AugmentConfig(Options):
    """What is drawn anew for every network at every training step.

    Attributes:
        permutation: A random element of the permutation groups.
        sign: Random signs (tanh, sine).
        phase: Random phase shifts (sine).
        scale: Random positive factors (ReLU).
        noise: Gaussian noise, in units of each array's standard deviation.
    """

    permutation: bool = False
    sign: bool = False
    phase: bool = False
    scale: bool = False
    noise: NonNegativeFloat = 0.0


Augmentation = Callable[[jax.Array, Params], Params]


def build_augmentation(
    config: AugmentConfig, symmetry: sym.Symmetry
) -> Augmentation | None:
    """A pure function ``(key, params) -> params`` for one network; None if all is off.

    Function-preserving parts act before noise is added. Use under `jit` and `vmap`.
    """
    moves = config.permutation or config.sign or config.phase or config.scale
    if not moves and config.noise == 0.0:
        return None

    def augment(key: jax.Array, params: Params) -> Params:
        key_element, key_noise = jax.random.split(key)
        if moves:
            element = sym.random_element(
                symmetry,
                key_element,
                permutations=config.permutation,
                signs=config.sign,
                scales=config.scale,
                phases=config.phase,
            )
            params = sym.act(symmetry, element, params)
        if config.noise:
            params = _add_noise(key_noise, params, config.noise)
        return params

    return augment


def _add_noise(key: jax.Array, params: Params, level: float) -> Any:
    leaves, treedef = jax.tree.flatten(params)
    noisy = [
        x + level * jnp.std(x) * jax.random.normal(jax.random.fold_in(key, i), x.shape)
        for i, x in enumerate(leaves)
    ]
    return jax.tree.unflatten(treedef, noisy)
