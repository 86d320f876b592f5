"""The stored tensors of an ONNX model that are parameters, and their names."""

from __future__ import annotations

import ast
import fnmatch
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metanet.errors import MetanetError
from metanet.importers.onnx.operators import OPERATORS, operator_name
from metanet.importers.onnx.stored import all_nodes, weight_roles
from metanet.importers.onnx.uses import Uses, is_count, is_wave_table

# Names that exporters give to tensors which have none: a number, or these words with a
# number ("onnx::MatMul_123", "val_7", "/fc/Constant_2_output_0", "p2o.helper.constant.5").
_GENERATED_WORDS = frozenset(
    {
        "",
        "const",
        "constfoldopt",
        "constant",
        "constantofshape",
        "constscalar",
        "liftedtensor",
        "onnx",
        "output",
        "reshape",
        "tensor",
        "tensorconstant",
        "tocopy",
        "transpose",
        "val",
    }
)
# Words for stored tensors by the operator that reads them, beside the weights of layers.
_ROLES = {
    "Add": "bias",
    "Div": "scale",
    "Gather": "weight",
    "MatMul": "weight",
    "Mul": "scale",
    "Sub": "bias",
}


def split_tensors(
    path: Path,
    model: Any,
    stored: Mapping[str, np.ndarray],
    constants: Sequence[str],
) -> dict[str, str]:
    """Finds the stored tensors that are parameters, and names them.

    Parameters are floating-point arrays with at least one axis, unless they configure an
    operator, hold one number throughout (and are neither a layer's weights nor have a
    module's name), are sines of positions or read only as factors of positions, or fit one
    of ``constants``.

    Args:
        path: The file, for messages.
        model: The model.
        stored: Its tensors by name.
        constants: Shell patterns of names of tensors that are no parameters.

    Returns:
        Names of parameters by names of tensors.

    Raises:
        MetanetError: for a pattern that fits no name.
    """
    uses = Uses(model, stored)
    nodes = all_nodes(model.graph)
    settings = {
        name
        for node in nodes
        for position in _setting_positions(node)
        for name in node.input[position : position + 1]
    }
    weights = {
        name
        for node in nodes
        for position in weight_roles(node)
        for name in node.input[position : position + 1]
    }
    chosen = [
        name
        for name, array in stored.items()
        if array.dtype.kind in "fV"
        and array.ndim > 0
        and array.size > 0
        and name not in settings
        and (name in weights or not _is_filler(name, array))
        and not is_count(array)
        and not is_wave_table(array)
        and not uses.is_table(name)
    ]
    names = _parameter_names(chosen, stored, uses)
    known = {names.get(name, name) for name in stored}
    for pattern in constants:
        if not fnmatch.filter(known, pattern):
            raise MetanetError(f"{path}: no stored tensor is named like {pattern!r}")
    names = {
        name: new
        for name, new in names.items()
        if not any(fnmatch.fnmatchcase(new, pattern) for pattern in constants)
    }
    _warn_of_merged_parameters(path, {n: stored[n] for n in names}, names, uses)
    return names


def _setting_positions(node: Any) -> tuple[int, ...]:
    name = operator_name(node)
    return OPERATORS[name].settings if name in OPERATORS else ()


def _warn_of_merged_parameters(
    path: Path,
    params: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    uses: Uses,
) -> None:
    """Warns of parameters that count as tied because they were equal when exported."""
    merged = [
        names[name]
        for name, array in params.items()
        if len(uses.readers(name)) > 1 and _is_uniform(array)
    ]
    if merged:
        warnings.warn(
            f"{path}: {', '.join(merged)}: read by several operators, and one number "
            "throughout. Exporters store equal arrays (gains of 1, biases of 0) once; "
            "they count as tied. Export trained or randomised weights instead.",
            stacklevel=6,
        )


def _is_uniform(array: np.ndarray) -> bool:
    return bool((array == array.flat[0]).all())


def _is_filler(name: str, array: np.ndarray) -> bool:
    """Returns True for one repeated number whose name is not a module's.

    Exporters store the factor of an attention and the zeros from which a recurrence
    starts like weights; parameters have the path of their module ("layer.0.bias").
    """
    has_module_name = ("." in name or "/" in name) and not _is_generated(name)
    return not has_module_name and _is_uniform(array)


def _is_generated(name: str) -> bool:
    """Returns True for names that an exporter made up."""
    if "onnx::" in name or re.search(r"_output(_\d+)?$", name):
        return True
    parts = [re.sub(r"[^a-z]", "", part) for part in re.split("[./]", name.lower())]
    words = [part for part in parts if part]
    return not words or words[-1] in _GENERATED_WORDS


def _parameter_names(
    chosen: Sequence[str], stored: Mapping[str, np.ndarray], uses: Uses
) -> dict[str, str]:
    """Names parameters; exporters' own names give way to module and role."""
    names = {name: name for name in chosen if not _is_generated(name)}
    taken = set(stored)
    for name in chosen:
        if name in names:
            continue
        stem, number = _name_by_use(name, uses), 1
        new = stem
        while new in taken:
            new, number = f"{stem}_{number}", number + 1
        taken.add(new)
        names[name] = new
    return {name: names[name] for name in chosen}


def _name_by_use(name: str, uses: Uses) -> str:
    """Returns "module.role" of the first node that reads a tensor."""
    readers = uses.moved_readers(name)
    if not readers:
        return name
    node, position = readers[0]
    role = weight_roles(node).get(position) or _ROLES.get(node.op_type, "value")
    return f"{_module_of(node)}.{role}"


def _module_of(node: Any) -> str:
    """Returns the path of the module that made a node, or else the node's name.

    PyTorch's exporters write it into the node's metadata (``['', 'layer1', 'linear']``)
    or into its name (``/layer1/layer1.0/conv/Conv``).
    """
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            try:
                scopes = ast.literal_eval(entry.value)
            except (SyntaxError, ValueError):
                continue
            if len(scopes) > 1 and scopes[-2]:
                return str(scopes[-2])
    name = node.name.partition(";")[0]
    path: list[str] = []
    for part in name.split("/")[1:-1]:
        # Members of a sequence repeat its path.
        if path and part.startswith(path[-1] + "."):
            path.pop()
        path.append(part)
    return ".".join(path) or name.strip("/") or node.output[0] or node.op_type
