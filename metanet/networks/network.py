"""Networks as pure functions of their parameters, and parameters as flat vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

# Any pytree of arrays.
Params = Any


class Network(NamedTuple):
    """A network as a function of its parameters.

    Attributes:
        apply_fn: ``apply_fn(params, *inputs) -> output``; pure.
        params: Pytree of arrays (nested dicts with string or integer keys).
        inputs: Example inputs, used for tracing.
    """

    apply_fn: Callable[..., Any]
    params: Params
    inputs: tuple[Any, ...]


def functionalize(module: nnx.Module, *inputs: Any) -> Network:
    """Splits an NNX module into a pure function and a nested dict of parameters.

    Parameters and batch statistics become leaves; the function keeps the streams of
    random numbers.

    Args:
        module: The module.
        *inputs: Example inputs of a call.
    """
    graphdef, params, rest = nnx.split(
        module, nnx.filterlib.Any(nnx.Param, nnx.BatchStat), ...
    )

    def apply_fn(pure: Mapping[str, Any], *args: Any) -> Any:
        # Copies: a call must not change the variables of another (random counters).
        state, other = jax.tree.map(lambda x: x, (params, rest))
        nnx.replace_by_pure_dict(state, dict(pure))
        return nnx.merge(graphdef, state, other)(*args)

    return Network(apply_fn, nnx.to_pure_dict(params), inputs)


def with_real_params(network: Network) -> Network:
    """Returns the network as a function of real numbers.

    Complex leaves ``[*shape]`` become ``[*shape, 2]``, real and imaginary parts, which
    metanetworks can read.

    Args:
        network: The network.
    """
    leaves, treedef = jax.tree.flatten(network.params)
    is_complex = [jnp.iscomplexobj(x) for x in leaves]
    real = [
        jnp.stack([jnp.real(x), jnp.imag(x)], -1) if c else x
        for x, c in zip(leaves, is_complex, strict=True)
    ]

    def apply_fn(params: Params, *inputs: Any) -> Any:
        original = [
            jax.lax.complex(x[..., 0], x[..., 1]) if c else x
            for x, c in zip(treedef.flatten_up_to(params), is_complex, strict=True)
        ]
        return network.apply_fn(jax.tree.unflatten(treedef, original), *inputs)

    return network._replace(apply_fn=apply_fn, params=jax.tree.unflatten(treedef, real))


@dataclass(frozen=True)
class ParamSpec:
    """Paths and shapes of a parameter pytree, and its layout as one flat vector.

    The vector is the concatenation of the raveled leaves in flattening order.

    Attributes:
        paths: Path of each leaf, its keys joined by ``/``.
        shapes: Shape of each leaf.
        treedef: Structure of the pytree.
    """

    paths: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    treedef: Any  # jax.tree_util.PyTreeDef, which has no static type

    @classmethod
    def of(cls, params: Params) -> ParamSpec:
        """Reads the spec off a pytree of arrays (or of shape structs)."""
        leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
        paths = tuple(
            jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves
        )
        return cls(paths, tuple(tuple(leaf.shape) for _, leaf in leaves), treedef)

    def to_json(self) -> list[dict[str, Any]]:
        """Returns path and shape of every leaf."""
        return [
            {"path": path, "shape": list(shape)}
            for path, shape in zip(self.paths, self.shapes, strict=True)
        ]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values per leaf."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """Length of the flat vector."""
        return sum(self.sizes)

    def flatten(self, params: Params) -> jax.Array:
        """Joins leaves ``[..., *shape]`` to a vector ``[..., size]``."""
        leaves = self.treedef.flatten_up_to(params)
        flat = [
            jnp.reshape(x, (*jnp.shape(x)[: jnp.ndim(x) - len(s)], math.prod(s)))
            for x, s in zip(leaves, self.shapes, strict=True)
        ]
        return jnp.concatenate(flat, axis=-1)

    def arrays(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """Splits a vector ``[size]`` into the leaves by path (views)."""
        leaves = jax.tree_util.tree_leaves(self.unflatten(vector))
        return dict(zip(self.paths, leaves, strict=True))

    def unflatten(self, vector: jax.Array | np.ndarray) -> Params:
        """Splits a vector ``[..., size]`` into leaves ``[..., *shape]`` (views)."""
        leaves, start = [], 0
        for shape, size in zip(self.shapes, self.sizes, strict=True):
            part = vector[..., start : start + size]
            leaves.append(part.reshape(*vector.shape[:-1], *shape))
            start += size
        return jax.tree_util.tree_unflatten(self.treedef, leaves)
