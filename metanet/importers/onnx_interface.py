"""What of an ONNX file are parameters, and what its inputs look like."""

from __future__ import annotations

import fnmatch
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metanet.errors import MetanetError
from metanet.importers.onnx_file import MAX_ELEMENTS

# Sizes that a file leaves open: the first axis is the batch.
_OPEN_BATCH, _OPEN_OTHER = 2, 8
# Inputs that say how an operator works, and are no weights though they are stored.
_SETTINGS = {
    "Clip": (1, 2), "OneHot": (2,), "Pad": (2,), "Range": (0, 1, 2), "Resize": (1, 2),
    "Upsample": (1,),
}  # fmt: skip


def split_tensors(
    path: Path,
    model: Any,
    stored: Mapping[str, np.ndarray],
    constants: Sequence[str],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The stored tensors that are parameters, and those that are not.

    Args:
        path: The file, for messages.
        model: The model.
        stored: Its tensors by name.
        constants: Shell patterns of names of tensors that are no parameters.

    Raises:
        MetanetError: for a pattern that no name fits.
    """
    settings = {
        name
        for node in all_nodes(model.graph)
        for place in _SETTINGS.get(node.op_type, ())
        for name in node.input[place : place + 1]
    }
    for pattern in constants:
        if not fnmatch.filter(stored, pattern):
            raise MetanetError(f"{path}: no stored tensor is named like {pattern!r}")
    params, fixed = {}, {}
    for name, array in stored.items():
        named = any(fnmatch.fnmatchcase(name, pattern) for pattern in constants)
        weight = (
            array.dtype.kind in "fV" and array.ndim > 0 and not _filler(name, array)
        )
        weight = weight and not named and name not in settings
        (params if weight else fixed)[name] = array
    _warn_of_merged(path, model, params)
    return params, fixed


def _warn_of_merged(path: Path, model: Any, params: Mapping[str, np.ndarray]) -> None:
    """Tells of parameters that count as tied because they were equal when exported."""
    readers = Counter(name for node in all_nodes(model.graph) for name in {*node.input})
    merged = [
        name
        for name, array in params.items()
        if readers[name] > 1 and array.size and (array == array.flat[0]).all()
    ]
    if merged:
        warnings.warn(
            f"{path}: {', '.join(merged)}: read by several operators, and one number "
            "throughout. Exporters store equal arrays (gains of 1, biases of 0) once; "
            "they count as tied. Export trained or randomised weights instead.",
            stacklevel=4,
        )


def _filler(name: str, array: np.ndarray) -> bool:
    """Whether a stored tensor is one number, and no module's parameter by its name.

    Exporters store the factor of an attention and the zeros from which a recurrence
    starts like weights; parameters have the path of their module ("layer.0.bias").
    """
    path = "." in name or "/" in name
    return not path and bool((array == array.flat[0]).all()) if array.size else True


def all_nodes(graph: Any) -> list[Any]:
    """The nodes of a graph and of the graphs inside them."""
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                nodes += all_nodes(attribute.g)
    return nodes


def example_inputs(
    path: Path, model: Any, stored: Mapping[str, Any], dims: Mapping[str, int]
) -> tuple[jax.Array, ...]:
    """Normal numbers, integers 0 and 1, masks of ones, in the shapes of the inputs.

    Raises:
        MetanetError: naming an input that is no array of numbers or too large, or an
            axis in ``dims`` that the file does not leave open.
    """
    from onnx import helper

    rng = np.random.default_rng(0)
    inputs = []
    infos = [i for i in model.graph.input if i.name not in stored]
    open_ = sorted(
        {d.dim_param for i in infos for d in i.type.tensor_type.shape.dim} - {""}
    )
    for name in dims:
        if name not in open_:
            known = (
                f"those of this file are {', '.join(open_)}"
                if open_
                else ("this file leaves none open")
            )
            raise MetanetError(f"{path}: no open axis is called {name!r}; {known}")
    for info in infos:
        tensor = info.type.tensor_type
        if not info.type.HasField("tensor_type") or not tensor.HasField("shape"):
            raise MetanetError(f"{path}: input {info.name}: not an array of known rank")
        shape = []
        for place, dim in enumerate(tensor.shape.dim):
            size = dim.dim_value or dims.get(dim.dim_param)
            shape.append(size or (_OPEN_OTHER if place else _OPEN_BATCH))
        if min(shape, default=1) < 0 or math.prod(shape) > MAX_ELEMENTS:
            raise MetanetError(
                f"{path}: input {info.name}: shape {tuple(shape)} has more than "
                f"{MAX_ELEMENTS:,} values"
            )
        try:
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        except Exception:
            raise MetanetError(f"{path}: input {info.name}: unknown type") from None
        if dtype.kind not in "fiubV":
            raise MetanetError(f"{path}: input {info.name}: holds no numbers")
        if "mask" in info.name.lower() or dtype.kind == "b":
            value = np.ones(shape, dtype)
        elif dtype.kind in "iu":
            value = rng.integers(0, 2, shape).astype(dtype)
        else:
            value = rng.normal(size=shape).astype(dtype)
        inputs.append(jnp.asarray(value.astype(jax.dtypes.canonicalize_dtype(dtype))))
    return tuple(inputs)
