"""Parameters and example inputs of an ONNX model."""

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
from metanet.importers.onnx.file import MAX_ELEMENTS
from metanet.importers.onnx.operators import OPERATORS, operator_name

# Sizes of axes that a file leaves open; the first axis is taken for the batch.
_OPEN_BATCH, _OPEN_OTHER = 2, 8


def split_tensors(
    path: Path,
    model: Any,
    stored: Mapping[str, np.ndarray],
    constants: Sequence[str],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Separates the stored tensors that are parameters from constants.

    Args:
        path: The file, for messages.
        model: The model.
        stored: Its tensors by name.
        constants: Shell patterns of names of tensors that are no parameters.

    Returns:
        Parameters and constants.

    Raises:
        MetanetError: for a pattern that fits no name.
    """
    settings = {
        name
        for node in all_nodes(model.graph)
        for position in _setting_positions(node)
        for name in node.input[position : position + 1]
    }
    for pattern in constants:
        if not fnmatch.filter(stored, pattern):
            raise MetanetError(f"{path}: no stored tensor is named like {pattern!r}")
    params, fixed = {}, {}
    for name, array in stored.items():
        is_weight = (
            array.dtype.kind in "fV"
            and array.ndim > 0
            and name not in settings
            and not _is_filler(name, array)
            and not any(fnmatch.fnmatchcase(name, pattern) for pattern in constants)
        )
        (params if is_weight else fixed)[name] = array
    _warn_of_merged_parameters(path, model, params)
    return params, fixed


def _setting_positions(node: Any) -> tuple[int, ...]:
    name = operator_name(node)
    return OPERATORS[name].settings if name in OPERATORS else ()


def _warn_of_merged_parameters(
    path: Path, model: Any, params: Mapping[str, np.ndarray]
) -> None:
    """Warns of parameters that count as tied because they were equal when exported."""
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


def _is_filler(name: str, array: np.ndarray) -> bool:
    """Returns True for one repeated number whose name is not a module's.

    Exporters store the factor of an attention and the zeros from which a recurrence
    starts like weights; parameters have the path of their module ("layer.0.bias").
    """
    if array.size == 0:
        return True
    has_module_name = "." in name or "/" in name
    return not has_module_name and bool((array == array.flat[0]).all())


def all_nodes(graph: Any) -> list[Any]:
    """Returns the nodes of a graph and of the graphs inside them."""
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
    """Draws example inputs: normal numbers, integers 0 and 1, masks of ones.

    Args:
        path: The file, for messages.
        model: The model.
        stored: Its tensors by name, which are no inputs.
        dims: Sizes of open axes by name.

    Raises:
        MetanetError: naming an input that is no array of numbers or too large, or an
            axis in ``dims`` that the file does not leave open.
    """
    from onnx import helper

    rng = np.random.default_rng(0)
    inputs = []
    infos = [i for i in model.graph.input if i.name not in stored]
    open_axes = sorted(
        {d.dim_param for i in infos for d in i.type.tensor_type.shape.dim} - {""}
    )
    for name in dims:
        if name not in open_axes:
            hint = "this file leaves none open"
            if open_axes:
                hint = f"those of this file are {', '.join(open_axes)}"
            raise MetanetError(f"{path}: no open axis is called {name!r}; {hint}")
    for info in infos:
        tensor = info.type.tensor_type
        if not info.type.HasField("tensor_type") or not tensor.HasField("shape"):
            raise MetanetError(f"{path}: input {info.name}: not an array of known rank")
        shape = []
        for axis, dim in enumerate(tensor.shape.dim):
            size = dim.dim_value or dims.get(dim.dim_param)
            shape.append(size or (_OPEN_BATCH if axis == 0 else _OPEN_OTHER))
        if min(shape, default=1) < 0 or math.prod(shape) > MAX_ELEMENTS:
            raise MetanetError(
                f"{path}: input {info.name}: shape {tuple(shape)} has more than "
                f"{MAX_ELEMENTS:,} values"
            )
        try:
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        except Exception:
            # onnx raises exceptions without a common class.
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
