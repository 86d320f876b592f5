"""Architectures: networks by name and options, as zoos and configs write them down.

The options of an architecture are the parameters of its constructor up to ``*``; they
all have defaults. Keyword-only parameters (``rngs``) are no options.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer

from metanet.compiler import fast_compile_options
from metanet.errors import MetanetError, suggest
from metanet.networks.network import Network, functionalize
from metanet.registry import Registry

# Side of example images for architectures that read images of any size.
_DEFAULT_SIDE = 28


class InputNetwork(nnx.Module):
    """Base class of the architectures that zoos and configs can name."""

    @classmethod
    def example_inputs(
        cls, options: Mapping[str, Any], side: int | None
    ) -> tuple[jax.Array, ...]:
        """Returns inputs of the right shapes.

        Args:
            options: Every option of the architecture.
            side: Height and width of images; None for the architecture's own choice.
        """
        raise NotImplementedError


class CoordinateNetwork(InputNetwork):
    """Base class of networks that read coordinates ``[..., in_dim]``."""

    @classmethod
    def example_inputs(
        cls, options: Mapping[str, Any], side: int | None
    ) -> tuple[jax.Array, ...]:
        """Returns four points."""
        return (jnp.zeros((4, options["in_dim"])),)


class ImageNetwork(InputNetwork):
    """Base class of networks that read images ``[batch, side, side, channels]``."""

    @classmethod
    def example_inputs(
        cls, options: Mapping[str, Any], side: int | None
    ) -> tuple[jax.Array, ...]:
        """Returns two images; an option ``side`` takes precedence over the argument."""
        side = options.get("side") or side or _DEFAULT_SIDE
        return (jnp.zeros((2, side, side, options["channels"])),)


ARCHITECTURES: Registry[type[InputNetwork]] = Registry("architecture")


@dataclass(frozen=True)
class Architecture:
    """A network's name in `ARCHITECTURES` and its options; hashable.

    Options that are left out keep the defaults of the constructor.

    Raises:
        MetanetError: for an unknown name or option, or an option of a wrong type or
            value.
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        defaults = self._defaults()
        for key, value in self.options:
            if key not in defaults:
                raise MetanetError(
                    f"architecture {self.name}: unknown option {key!r}."
                    f"{suggest(key, defaults)}"
                )
            if not _matches(value, defaults[key]):
                raise MetanetError(
                    f"architecture {self.name}: option {key} must be like "
                    f"{defaults[key]!r}, got {value!r}"
                )

    @classmethod
    def of(cls, name: str, **options: object) -> Architecture:
        """Builds an architecture; lists become tuples, options are sorted."""
        pairs = ((key, _frozen(value)) for key, value in sorted(options.items()))
        return cls(name, tuple(pairs))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Architecture:
        """Reads ``{"name": ..., "options": {...}}``.

        Raises:
            MetanetError: for other fields.
        """
        if set(data) - {"name", "options"} or not isinstance(data.get("name"), str):
            raise MetanetError(
                f"architecture {dict(data)!r}: expected the fields name and options"
            )
        return cls.of(data["name"], **dict(data.get("options", {})))

    def to_json(self) -> dict[str, Any]:
        """Returns the mapping that `from_json` reads."""
        options = {k: list(v) if isinstance(v, tuple) else v for k, v in self.options}
        return {"name": self.name, "options": options}

    def complete(self) -> Architecture:
        """Returns the same architecture with every option written out."""
        return Architecture.of(self.name, **self.all_options())

    def with_option(self, key: str, value: object) -> Architecture:
        """Returns the same architecture with one option set."""
        return Architecture.of(self.name, **{**dict(self.options), key: value})

    def all_options(self) -> dict[str, Any]:
        """Returns every option with its value or default."""
        return {**self._defaults(), **dict(self.options)}

    def option(self, key: str) -> Any:
        """Returns the value of an option, or its default.

        Raises:
            KeyError: when the architecture has no such option.
        """
        return self.all_options()[key]

    def _defaults(self) -> dict[str, Any]:
        return _default_options(ARCHITECTURES[self.name])


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list | tuple) else value


@cache
def _default_options(module: type[InputNetwork]) -> dict[str, Any]:
    parameters = inspect.signature(module.__init__).parameters
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.kind is kind and name != "self"
    }


def _matches(value: object, default: object) -> bool:
    """Compares types; a number must be positive if the default is, else not negative."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_matches(v, default[0]) for v in value)
    if isinstance(default, float | int) and not isinstance(default, bool):
        numeric = (int, float) if isinstance(default, float) else (int,)
        if not isinstance(value, numeric) or isinstance(value, bool):
            return False
        return value > 0 if default > 0 else value >= 0
    return isinstance(value, type(default))


def build_module(
    architecture: Architecture, rngs: nnx.Rngs, **extra: object
) -> InputNetwork:
    """Constructs the NNX module of an architecture.

    Args:
        architecture: Name and options.
        rngs: Random numbers of the initialisation.
        **extra: Keyword-only arguments of the constructor (``sine``).

    Raises:
        MetanetError: for options that contradict one another.
    """
    module = cast(Callable[..., InputNetwork], ARCHITECTURES[architecture.name])
    return module(**dict(architecture.options), **extra, rngs=rngs)


def create(
    architecture: Architecture, key: jax.Array, side: int | None = None
) -> Network:
    """Initialises a network of an architecture, with example inputs.

    Args:
        architecture: The architecture.
        key: Random key of the initialisation.
        side: Height and width of example images, for architectures that read images of
            any size; None: 28.
    """
    initializer = _initializer(architecture)
    module = nnx.merge(initializer.graphdef, initializer.draw(key))
    return functionalize(module, *_example_inputs(architecture, side))


def abstract_network(architecture: Architecture, side: int | None = None) -> Network:
    """Builds a network with shapes in place of parameters, as `jax.eval_shape` does.

    Discovery and layouts need no more, and unlike `create` it compiles nothing.

    Args:
        architecture: The architecture.
        side: See `create`.
    """
    module = nnx.eval_shape(lambda: build_module(architecture, nnx.Rngs(0)))
    return functionalize(module, *_example_inputs(architecture, side))


def _example_inputs(
    architecture: Architecture, side: int | None
) -> tuple[jax.Array, ...]:
    module = ARCHITECTURES[architecture.name]
    return module.example_inputs(architecture.all_options(), side)


class _Initializer(NamedTuple):
    """Structure of a module and a function that draws its variables."""

    graphdef: nnx.GraphDef[InputNetwork]
    draw: Callable[[jax.Array], nnx.State]


@lru_cache(maxsize=256)
def _initializer(architecture: Architecture) -> _Initializer:
    def draw(key: jax.Array) -> nnx.State:
        return nnx.state(build_module(architecture, nnx.Rngs(key)))

    compiled = jax.jit(draw, compiler_options=fast_compile_options())

    def draw_or_trace(key: jax.Array) -> nnx.State:
        # Compiler options belong to the outermost program.
        return draw(key) if isinstance(key, Tracer) else compiled(key)

    module = nnx.eval_shape(lambda: build_module(architecture, nnx.Rngs(0)))
    return _Initializer(nnx.graphdef(module), draw_or_trace)
