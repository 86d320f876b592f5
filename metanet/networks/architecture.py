"""Architectures by name and options, as zoos and configs write them down."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer

from metanet.compiler import fast_compile_options
from metanet.errors import MetanetError, suggest
from metanet.networks.base import Network, functionalize
from metanet.networks.cnn import SmallCNN, VaryingCNN
from metanet.networks.inr import FourierMLP, Siren, TanhINR
from metanet.networks.mlp import MLP
from metanet.networks.resnet import ResNet
from metanet.networks.sequence import RowCNN, RowRNN
from metanet.networks.sets import PixelSet
from metanet.networks.vit import ViT
from metanet.registry import Registry


@dataclass(frozen=True)
class Architecture:
    """A network's name in `ARCHITECTURES` and its options; hashable.

    Options that are left out keep the module's defaults.
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, name: str, **options: Any) -> Architecture:
        """Builds an architecture; lists become tuples, options are sorted."""
        pairs = ((k, _frozen(v)) for k, v in sorted(options.items()))
        return cls(name, tuple(pairs))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Architecture:
        """Reads ``{"name": ..., "options": {...}}``.

        Raises:
            MetanetError: where the fields are not those.
        """
        if set(data) - {"name", "options"} or not isinstance(data.get("name"), str):
            raise MetanetError(
                f"architecture {dict(data)!r}: expected the fields name and options"
            )
        return cls.of(data["name"], **dict(data.get("options", {})))

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`."""
        options = {k: list(v) if isinstance(v, tuple) else v for k, v in self.options}
        return {"name": self.name, "options": options}

    def complete(self) -> Architecture:
        """The same architecture with every option written out."""
        module, _ = ARCHITECTURES[self.name]
        defaults = {name: p.default for name, p in _options(module).items()}
        return Architecture.of(self.name, **(defaults | dict(self.options)))

    def with_option(self, key: str, value: Any) -> Architecture:
        """The same architecture with one option set."""
        return Architecture.of(self.name, **{**dict(self.options), key: value})

    def option(self, key: str) -> Any:
        """The value of an option, or the module's default."""
        module, _ = ARCHITECTURES[self.name]
        given = dict(self.options)
        if key in given:
            return given[key]
        return _options(module)[key].default


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def _coordinates(arch: Architecture, side: int | None) -> tuple[jax.Array, ...]:
    return (jnp.zeros((4, arch.option("in_dim"))),)


def _images(arch: Architecture, side: int | None) -> tuple[jax.Array, ...]:
    module, _ = ARCHITECTURES[arch.name]
    side = arch.option("side") if "side" in _options(module) else side or 28
    return (jnp.zeros((2, side, side, arch.option("channels"))),)


Inputs = Callable[[Architecture, int | None], tuple[jax.Array, ...]]
ARCHITECTURES: Registry[tuple[Callable[..., nnx.Module], Inputs]] = Registry(
    "architecture"
)
for _name, _module, _inputs in (
    ("mlp", MLP, _coordinates),
    ("siren", Siren, _coordinates),
    ("fourier_mlp", FourierMLP, _coordinates),
    ("tanh_inr", TanhINR, _coordinates),
    ("small_cnn", SmallCNN, _images),
    ("varying_cnn", VaryingCNN, _images),
    ("resnet", ResNet, _images),
    ("vit", ViT, _images),
    ("row_cnn", RowCNN, _images),
    ("row_rnn", RowRNN, _images),
    ("pixel_set", PixelSet, _images),
):
    ARCHITECTURES.register(_name)((_module, _inputs))


def _options(module: Callable[..., nnx.Module]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(module.__init__).parameters
    named = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return {n: p for n, p in parameters.items() if p.kind is named and n != "self"}


def _alike(value: Any, default: Any) -> bool:
    """Same type as the default; numbers are positive where the default is."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(_alike(v, default[0]) for v in value)
    if isinstance(default, float | int) and not isinstance(default, bool):
        kinds = (int, float) if isinstance(default, float) else (int,)
        right = isinstance(value, kinds) and not isinstance(value, bool)
        return right and (value > 0 if default > 0 else value >= 0)
    return isinstance(value, type(default))


def build_module(arch: Architecture, rngs: nnx.Rngs, **extra: Any) -> nnx.Module:
    """The NNX module of an architecture.

    Args:
        arch: Name and options.
        rngs: Initialisation.
        **extra: Keyword-only arguments of the module that are not options (``sine``).

    Raises:
        MetanetError: for an unknown name or option, or an option of a wrong type or
            value.
    """
    module, _ = ARCHITECTURES[arch.name]
    known = _options(module)
    for key, value in arch.options:
        if key not in known:
            raise MetanetError(
                f"architecture {arch.name}: unknown option {key!r}."
                f"{suggest(key, known)}"
            )
        if not _alike(value, known[key].default):
            raise MetanetError(
                f"architecture {arch.name}: option {key} must be like "
                f"{known[key].default!r}, got {value!r}"
            )
    return module(**dict(arch.options), **extra, rngs=rngs)


def create(arch: Architecture, key: jax.Array, side: int | None = None) -> Network:
    """A freshly initialised network of an architecture, with example inputs.

    Args:
        arch: The architecture.
        key: Of the initialisation.
        side: Height and width of example images, where the architecture leaves it open
            (a CNN with global pooling reads images of any size); None: 28.
    """
    graphdef, initialise = _initialiser(arch)
    module = nnx.merge(graphdef, initialise(key))
    return functionalize(module, *ARCHITECTURES[arch.name][1](arch, side))


def abstract_network(arch: Architecture, side: int | None = None) -> Network:
    """A network of an architecture without values: shapes stand for its parameters.

    That is all that discovery and layouts need; unlike `create` it compiles nothing.

    Args:
        arch: The architecture.
        side: See `create`.
    """
    module = nnx.eval_shape(lambda: build_module(arch, nnx.Rngs(0)))
    return functionalize(module, *ARCHITECTURES[arch.name][1](arch, side))


@lru_cache(maxsize=256)
def _initialiser(arch: Architecture) -> tuple[Any, Callable[[jax.Array], Any]]:
    """What a module consists of, and a program that draws its variables."""
    draw = lambda key: nnx.state(build_module(arch, nnx.Rngs(key)))
    compiled = jax.jit(draw, compiler_options=fast_compile_options())
    # Within a larger program, options belong to that.
    choose = lambda key: (draw if isinstance(key, Tracer) else compiled)(key)
    module = nnx.eval_shape(lambda: build_module(arch, nnx.Rngs(0)))
    return nnx.graphdef(module), choose
