"""Reads and checks ONNX files; sizes are bounded before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from metanet.errors import MetanetError
from metanet.importers.files import MAX_BYTES
from metanet.importers.onnx.limits import MAX_ELEMENTS, check_size, subgraphs


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
        check_size(path, model)
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


def _tensors(nodes: Any, initializers: Any) -> Iterator[Any]:
    """Yields the stored tensors of a graph and of the graphs inside it."""
    yield from initializers
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for graph in subgraphs(node):
            yield from _tensors(graph.node, graph.initializer)


def _check_external(path: Path, model: Any) -> None:
    """Checks that data files lie beside the model and are complete."""
    total = 0
    tensors = list(_tensors(model.graph.node, model.graph.initializer))
    for function in model.functions:
        tensors += _tensors(function.node, ())
    for tensor in tensors:
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
        size = data_path.stat().st_size
        start = int(entries.get("offset", 0))
        end = start + int(entries.get("length", size - start))
        if end > size:
            raise MetanetError(f"{path}: {tensor.name}: {name} is truncated")
        total += end - start
        if total > MAX_BYTES:
            raise MetanetError(
                f"{path}: its data files hold more than {MAX_BYTES >> 30} GiB"
            )


def read_tensor(path: Path | str, tensor: Any) -> np.ndarray:
    """Returns the values of a stored tensor.

    Raises:
        MetanetError: naming the tensor, when its data do not fit its shape.
    """
    from onnx import numpy_helper

    try:
        if any(n < 0 for n in tensor.dims) or math.prod(tensor.dims) > 2 * MAX_ELEMENTS:
            raise ValueError(f"shape {tuple(tensor.dims)}")
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:
        # onnx raises exceptions without a common class.
        raise MetanetError(
            f"{path}: tensor {tensor.name or 'without a name'}: its data do not fit its "
            f"shape or type ({error})"
        ) from None
