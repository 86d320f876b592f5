"""Modules of Flax NNX, Flax Linen and Equinox as networks."""

from __future__ import annotations

from typing import Any

import jax
from flax import linen, nnx

from metanet.errors import MetanetError
from metanet.networks import Network, functionalize


def from_module(module: Any, *inputs: Any, variables: Any = None) -> Network:
    """A module as a function of its parameters.

    Args:
        module: A Flax NNX module, a Flax Linen module, or an Equinox module (or any
            other callable pytree). The mode is left as it is: put a module that has
            dropout into evaluation mode before (``module.eval()``).
        *inputs: Example inputs of a call.
        variables: Of a Linen module; initialised anew when None.

    Returns:
        Parameters are the NNX module's parameters and batch statistics, the Linen
        module's collections, or the floating arrays of a callable pytree.

    Raises:
        MetanetError: for anything else.
    """
    if isinstance(module, nnx.Module):
        return functionalize(module, *inputs)
    if isinstance(module, linen.Module):
        if variables is None:
            variables = module.init(jax.random.key(0), *inputs)
        return Network(module.apply, variables, inputs)
    if any(t.__module__.startswith("torch.") for t in type(module).__mro__):
        raise MetanetError(
            f"{type(module).__name__}: a PyTorch module; export it with torch.onnx.export "
            "and load the file"
        )
    leaves, treedef = jax.tree.flatten(module)
    if not callable(module) or not any(map(_is_weight, leaves)):
        raise MetanetError(
            f"{type(module).__name__}: not a Flax or Equinox module, nor a callable "
            "pytree with arrays"
        )
    # Everything but the floating arrays is part of the program.
    rest = [None if _is_weight(x) else x for x in leaves]
    params = jax.tree.unflatten(treedef, [x if _is_weight(x) else None for x in leaves])

    def apply_fn(params: Any, *args: Any) -> Any:
        given = treedef.flatten_up_to(params)
        merged = [g if r is None else r for g, r in zip(given, rest, strict=True)]
        return jax.tree.unflatten(treedef, merged)(*args)

    return Network(apply_fn, params, inputs)


def _is_weight(x: Any) -> bool:
    return isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.numpy.inexact)
