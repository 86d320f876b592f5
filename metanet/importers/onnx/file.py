"""Reads and checks ONNX files; sizes are bounded before anything is allocated."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from metanet.errors import MetanetError
from metanet.importers.files import MAX_BYTES

# No array of a program may hold more values (1 GiB of float32).
MAX_ELEMENTS = 1 << 28


def read_model(path: Path) -> Any:
    """Reads and checks an ONNX file; local functions are inlined.

    Args:
        path: An existing file.

    Returns:
        The ``onnx.ModelProto``, with external data loaded.

    Raises:
        MetanetError: onnx is not installed; the file is damaged, cyclic, too large, or
            misses external data.
    """
    try:
        import onnx
        from onnx import external_data_helper as external
        from onnx import inliner
    except ImportError:
        raise MetanetError(
            f"{path}: reading ONNX needs the package onnx: pip install 'metanet-jax[onnx]'"
        ) from None
    try:
        model = onnx.load(str(path), load_external_data=False)
        if not model.graph.node:
            raise MetanetError(f"{path}: not an ONNX model, or one without operators")
        _check_functions(path, model)
        _check_external(path, model)
        external.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
        if model.functions:
            model = inliner.inline_local_functions(model)
        return model
    except MetanetError:
        raise
    except OSError as error:
        raise MetanetError(f"{path}: {error.strerror or error}") from None
    except Exception as error:
        # protobuf, onnx's checker and numpy raise exceptions without a common class.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise MetanetError(f"{path}: not a valid ONNX model ({reason})") from None


def _check_functions(path: Path, model: Any) -> None:
    """Refuses functions that call themselves, whose inlining would not end."""
    bodies = {(f.domain, f.name): f.node for f in model.functions}
    done: set[tuple[str, str]] = set()

    def visit(name: tuple[str, str], callers: tuple[tuple[str, str], ...]) -> None:
        if name in callers:
            raise MetanetError(f"{path}: function {name[1]} calls itself")
        if name in done:
            return
        for node in bodies[name]:
            called = (node.domain, node.op_type)
            if called in bodies:
                visit(called, (*callers, name))
        done.add(name)

    for name in bodies:
        visit(name, ())


def _check_external(path: Path, model: Any) -> None:
    """Checks that data files lie beside the model and are complete."""
    for tensor in model.graph.initializer:
        if not tensor.external_data:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name = entries.get("location", "")
        data_path = (path.parent / name).resolve()
        if not name or path.parent.resolve() not in data_path.parents:
            raise MetanetError(
                f"{path}: {tensor.name}: external data outside the model's directory"
            )
        if not data_path.is_file():
            raise MetanetError(
                f"{path}: {tensor.name}: its data file {name} is missing"
            )
        end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
        if end > data_path.stat().st_size or end > MAX_BYTES:
            raise MetanetError(f"{path}: {tensor.name}: {name} is truncated")


def read_tensor(path: Path | str, tensor: Any) -> np.ndarray:
    """Returns the values of a stored tensor.

    Raises:
        MetanetError: naming the tensor, when its data do not fit its shape.
    """
    from onnx import numpy_helper

    try:
        if any(n < 0 for n in tensor.dims) or math.prod(tensor.dims) > MAX_ELEMENTS:
            raise ValueError(f"shape {tuple(tensor.dims)}")
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:
        # onnx raises exceptions without a common class.
        raise MetanetError(
            f"{path}: tensor {tensor.name or 'without a name'}: its data do not fit its "
            f"shape or type ({error})"
        ) from None
