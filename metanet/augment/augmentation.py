"""Augmentations of weights, by name.

An augmentation is a class below `Augmentation`, registered in `AUGMENTATIONS`. A config
lists augmentations with their options:

    augment: {"symmetry": {"permutation": True}, "noise": {"level": 0.05}}
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from metanet.errors import MetanetError
from metanet.networks import Params
from metanet.options import Options, from_mapping, to_mapping, within
from metanet.registry import Registry
from metanet.symmetry import Symmetry

# (key, params) -> params of one network; pure, for use under `jit` and `vmap`.
AugmentFn = Callable[[jax.Array, Params], Params]


class Augmentation(ABC):
    """Base class of augmentations, which are drawn anew for every network and step.

    Args:
        config: Options.
        symmetry: Symmetry of the networks.

    Attributes:
        Config: Class of the options.
    """

    Config: ClassVar[type[Options]]

    def __init__(self, config: Any, symmetry: Symmetry):
        self.config = config
        self.symmetry = symmetry

    @property
    def is_identity(self) -> bool:
        """True if the options switch the augmentation off."""
        return False

    @abstractmethod
    def __call__(self, key: jax.Array, params: Params) -> Params:
        """Returns augmented parameters of one network; a pure function."""


AUGMENTATIONS: Registry[type[Augmentation]] = Registry(
    "augmentation", requires=("Config", "is_identity")
)


# These apply first, in this order; others follow in alphabetical order. The order of a
# mapping cannot decide, because a `ConfigDict` sorts its fields.
_FIRST = ("symmetry", "noise")


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentations and their options, in the order in which they apply.

    Attributes:
        steps: Names in `AUGMENTATIONS` with options of the augmentation's ``Config``.
    """

    steps: tuple[tuple[str, Options], ...] = ()

    @classmethod
    def from_json(cls, mapping: Mapping[str, Mapping[str, Any]]) -> AugmentConfig:
        """Reads ``{name: {option: value}}``; the order of the names has no meaning.

        Registered augmentations that are not named have their default options.

        Raises:
            MetanetError: for unknown names and options, and values out of range.
        """
        # Every registered augmentation has a section, so that flags can set its options.
        names = dict.fromkeys((*_FIRST, *AUGMENTATIONS, *sorted(mapping)))
        sections = {name: mapping.get(name, {}) for name in names}
        steps = []
        for name, options in sections.items():
            if not isinstance(options, Mapping):
                raise MetanetError(f"{name}: expected a section, got {options!r}")
            augmentation = AUGMENTATIONS[name]
            try:
                steps.append((name, from_mapping(augmentation.Config, options)))
            except MetanetError as error:
                raise within(name, error) from error
        return cls(tuple(steps))

    def to_json(self) -> dict[str, Any]:
        """Returns the mapping that `from_json` reads."""
        return {name: to_mapping(options) for name, options in self.steps}


def build_augmentation(config: AugmentConfig, symmetry: Symmetry) -> AugmentFn | None:
    """Composes augmentations to one function; None if all are the identity.

    Args:
        config: The augmentations.
        symmetry: Symmetry of the networks.
    """
    steps = [AUGMENTATIONS[name](options, symmetry) for name, options in config.steps]
    if all(step.is_identity for step in steps):
        return None

    def augment(key: jax.Array, params: Params) -> Params:
        for position, step in enumerate(steps):
            if not step.is_identity:
                params = step(jax.random.fold_in(key, position), params)
        return params

    return augment
