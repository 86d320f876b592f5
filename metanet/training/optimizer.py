"""Optimisers by their name in optax, schedules by name."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from metanet.errors import MetanetError, suggest
from metanet.options import NonNegativeFloat, NonNegativeInt, Options, Rate
from metanet.registry import Registry

SCHEDULES: Registry[Any] = Registry("schedule")


@SCHEDULES.register("cosine")
def _cosine(peak: float, warmup: int, steps: int) -> optax.Schedule:
    length = max(steps, warmup + 1)
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, length, 0.0)


@SCHEDULES.register("linear")
def _linear(peak: float, warmup: int, steps: int) -> optax.Schedule:
    down = optax.linear_schedule(peak, 0.0, max(steps - warmup, 1))
    return _after_warmup(peak, warmup, down)


@SCHEDULES.register("constant")
def _constant(peak: float, warmup: int, steps: int) -> optax.Schedule:
    return _after_warmup(peak, warmup, optax.constant_schedule(peak))


def _after_warmup(peak: float, warmup: int, then: optax.Schedule) -> optax.Schedule:
    if not warmup:
        return then
    up = optax.linear_schedule(0.0, peak, warmup)
    return optax.join_schedules([up, then], [warmup])


@dataclass(frozen=True)
class OptimizerConfig(Options):
    """Optimiser, schedule and parameter averaging.

    Attributes:
        name: Attribute path in optax ("adamw", "contrib.muon").
        learning_rate: Peak learning rate.
        weight_decay: Applied to matrices only, where the optimiser has it.
        schedule: "cosine", "linear" or "constant", after a linear warm-up.
        warmup_steps: Length of the warm-up.
        clip_norm: Largest norm of the gradient; 0 for no clipping.
        ema_decay: Decay of the averaged parameters that are evaluated; 0 for none.
    """

    name: str = "adamw"
    learning_rate: NonNegativeFloat = 1e-3
    weight_decay: NonNegativeFloat = 1e-2
    schedule: Annotated[str, SCHEDULES] = "cosine"
    warmup_steps: NonNegativeInt = 100
    clip_norm: NonNegativeFloat = 1.0
    ema_decay: Rate = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _optimizer_function(self.name)


def _optimizer_function(name: str) -> Callable[..., optax.GradientTransformation]:
    """Returns the function of optax that makes an optimiser.

    Raises:
        MetanetError: when optax has no optimiser of that name.
    """
    try:
        make: Any = operator.attrgetter(name)(optax)
    except AttributeError:
        make = None
    if _is_optimizer(make):
        return make
    known = [
        n
        for n in dir(optax)
        if n.islower() and n[0] != "_" and _is_optimizer(getattr(optax, n))
    ]
    raise MetanetError(
        f"name: optax has no optimiser {name!r}."
        f"{suggest(name, [*known, 'contrib.muon'])}"
    )


def _is_optimizer(make: Any) -> bool:
    """Returns True for a function that has a learning rate."""
    if not callable(make):
        return False
    try:
        return "learning_rate" in inspect.signature(make).parameters
    except (TypeError, ValueError):  # some built-in types have no signature
        return False


def build_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Returns the learning rate by step: linear warm-up, then the named schedule."""
    make = SCHEDULES[config.schedule]
    return make(config.learning_rate, config.warmup_steps, steps)


def build_optimizer(
    config: OptimizerConfig, steps: int
) -> optax.GradientTransformation:
    """Returns the optimiser of a config."""
    make = _optimizer_function(config.name)
    accepted = inspect.signature(make).parameters
    options: dict[str, Any] = {}
    if "weight_decay" in accepted:
        options["weight_decay"] = config.weight_decay
    if "mask" in accepted:
        options["mask"] = _matrices
    parts = [make(build_schedule(config, steps), **options)]
    if config.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    return optax.chain(*parts)


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda x: jnp.ndim(x) > 1, params)
