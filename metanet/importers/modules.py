"""Modules of Flax NNX, Flax Linen and Equinox as networks."""

from __future__ import annotations

from typing import Any

import jax
from flax import linen, nnx

from metanet.errors import MetanetError
from metanet.networks import Network, Params, functionalize


def from_module(module: Any, *inputs: Any, variables: Any = None) -> Network:
    """Turns a module into a function of its parameters.

    Args:
        module: A Flax NNX module, a Flax Linen module, or an Equinox module (or any
            other callable pytree). The mode is not changed: put a module that has
            dropout into evaluation mode before (``module.eval()``).
        *inputs: Example inputs of a call.
        variables: Variables of a Linen module; None initialises them.

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

    def apply_fn(params: Params, *args: Any) -> Any:
        weights = treedef.flatten_up_to(params)
        merged = [w if r is None else r for w, r in zip(weights, rest, strict=True)]
        return jax.tree.unflatten(treedef, merged)(*args)

    return Network(apply_fn, params, inputs)


def _is_weight(x: object) -> bool:
    return isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.numpy.inexact)
