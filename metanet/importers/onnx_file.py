"""ONNX files: read, checked and bounded before anything of them is used."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from metanet.errors import MetanetError
from metanet.importers.arrays import MAX_BYTES

# No array of a program may hold more values (1 GiB of float32).
MAX_ELEMENTS = 1 << 28


def read_model(path: Path) -> Any:
    """Reads and checks an ONNX file; local functions are inlined.

    Returns:
        The ``onnx.ModelProto``, with external data loaded.

    Raises:
        MetanetError: onnx is not installed; the file is missing, damaged, cyclic, too
            large, or misses external data.
    """
    try:
        import onnx
        from onnx import external_data_helper as external
        from onnx import inliner
    except ImportError:
        raise MetanetError(
            f"{path}: reading ONNX needs the package onnx: pip install 'metanet-jax[onnx]'"
        ) from None
    if not path.is_file():
        what = "is a directory, not a file" if path.is_dir() else "no such file"
        raise MetanetError(f"{path}: {what}")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise MetanetError(f"{path}: larger than {MAX_BYTES >> 30} GiB")
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
        # protobuf, the checker and numpy each have exception types of their own.
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise MetanetError(f"{path}: not a valid ONNX model ({reason})") from None


def _check_functions(path: Path, model: Any) -> None:
    """Refuses functions that call themselves: inlining would not end."""
    bodies = {(f.domain, f.name): f.node for f in model.functions}
    done: set[tuple[str, str]] = set()

    def visit(name: tuple[str, str], above: tuple[tuple[str, str], ...]) -> None:
        if name in above:
            raise MetanetError(f"{path}: function {name[1]} calls itself")
        if name in done:
            return
        for node in bodies[name]:
            called = (node.domain, node.op_type)
            if called in bodies:
                visit(called, (*above, name))
        done.add(name)

    for name in bodies:
        visit(name, ())


def _check_external(path: Path, model: Any) -> None:
    """Every tensor in a file of its own must lie beside the model and be complete."""
    for tensor in model.graph.initializer:
        if not tensor.external_data:
            continue
        facts = {entry.key: entry.value for entry in tensor.external_data}
        name = facts.get("location", "")
        where = (path.parent / name).resolve()
        if not name or path.parent.resolve() not in where.parents:
            raise MetanetError(
                f"{path}: {tensor.name}: external data outside the model's directory"
            )
        if not where.is_file():
            raise MetanetError(
                f"{path}: {tensor.name}: its data file {name} is missing"
            )
        end = int(facts.get("offset", 0)) + int(facts.get("length", 0))
        if end > where.stat().st_size or end > MAX_BYTES:
            raise MetanetError(f"{path}: {tensor.name}: {name} is truncated")


def read_tensor(path: Path | str, tensor: Any) -> np.ndarray:
    """The values of a stored tensor.

    Raises:
        MetanetError: naming the tensor, when its data do not fit its shape.
    """
    from onnx import numpy_helper

    try:
        if any(n < 0 for n in tensor.dims) or math.prod(tensor.dims) > MAX_ELEMENTS:
            raise ValueError(f"shape {tuple(tensor.dims)}")
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:
        raise MetanetError(
            f"{path}: tensor {tensor.name or 'without a name'}: its data do not fit its "
            f"shape or type ({error})"
        ) from None
