"""Update rules of the programs that make zoos.

Both are written out because optax would need the learning rate and the rule at compile
time, and in the order of operations that the checksums of stored zoos depend on.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from metanet.networks import Params


class Moments(NamedTuple):
    """Running means of the gradient and of its square, each like the parameters."""

    mean: Params
    square: Params

    @classmethod
    def zeros_like(cls, params: Params) -> Moments:
        """Returns the moments before the first step."""
        zeros = jax.tree.map(jnp.zeros_like, params)
        return cls(zeros, zeros)


def adam_step(
    params: Params,
    gradient: Params,
    moments: Moments,
    step: jax.Array,
    learning_rate: jax.Array,
) -> tuple[Params, Moments]:
    """Applies a step of Adam (Kingma & Ba 2015).

    Args:
        params: The parameters.
        gradient: Their gradient.
        moments: Moments before the step.
        step: Number of the step from 0, float32.
        learning_rate: Learning rate of the step.
    """
    mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments.mean, gradient)
    square = jax.tree.map(
        lambda v, g: 0.999 * v + 0.001 * (g * g), moments.square, gradient
    )
    rate = learning_rate / (1 - 0.9 ** (step + 1))
    correction = 1 / (1 - 0.999 ** (step + 1))

    def move(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        return p - rate * m / (jnp.sqrt(v * correction) + 1e-8)

    return jax.tree.map(move, params, mean, square), Moments(mean, square)


class UpdateRule(NamedTuple):
    """A rule and its settings as arrays, so that one program serves all of them.

    Attributes:
        optimizer: Index into `OPTIMIZERS`.
        learning_rate: Learning rate.
        weight_decay: Factor of the l2 penalty on arrays of two or more axes.
        momentum: Decay of the mean in "sgd".
    """

    optimizer: jax.Array
    learning_rate: jax.Array
    weight_decay: jax.Array
    momentum: jax.Array


def update_step(
    params: Params,
    gradient: Params,
    moments: Moments,
    rule: UpdateRule,
    step: jax.Array,
) -> tuple[Params, Moments]:
    """Applies a step of SGD with momentum, Adam or RMSProp.

    Args:
        params: The parameters.
        gradient: Their gradient.
        moments: Moments before the step.
        rule: The rule.
        step: Number of the step from 0.
    """
    is_sgd, is_adam = rule.optimizer == 0, rule.optimizer == 1
    mean_decay = jnp.where(is_sgd, rule.momentum, jnp.where(is_adam, 0.9, 0.0))
    mean_gain = jnp.where(is_adam, 0.1, 1.0)
    square_decay = jnp.where(is_adam, 0.999, 0.9)
    count = step + 1.0
    mean_correction = jnp.where(is_adam, 1 / (1 - 0.9**count), 1.0)
    square_correction = jnp.where(is_adam, 1 / (1 - 0.999**count), 1.0)

    def move(
        p: jax.Array, g: jax.Array, m: jax.Array, v: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        if p.ndim > 1:
            g = g + 2 * rule.weight_decay * p
        m = mean_decay * m + mean_gain * g
        v = square_decay * v + (1 - square_decay) * g * g
        scale = jnp.where(is_sgd, 1.0, 1 / (jnp.sqrt(v * square_correction) + 1e-7))
        return p - rule.learning_rate * mean_correction * m * scale, m, v

    moved = jax.tree.map(move, params, gradient, *moments)
    outer, inner = jax.tree.structure(params), jax.tree.structure((0, 0, 0))
    params, mean, square = jax.tree.transpose(outer, inner, moved)
    return params, Moments(mean, square)
