"""Stored tensors of an ONNX model, wherever it stores them.

Initialisers, nodes Constant, and nodes ConstantOfShape that make a layer's weights all
become named arrays beside the graph, those of inner graphs (branches) included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from metanet.errors import MetanetError
from metanet.importers.onnx.file import read_tensor
from metanet.importers.onnx.limits import MAX_FILLED_BYTES, Budget, TooLarge, subgraphs
from metanet.importers.onnx.operators import OPERATORS, operator_name


def all_nodes(graph: Any) -> list[Any]:
    """Returns the nodes of a graph and of the graphs inside them."""

    def visit(graph: Any) -> Iterator[Any]:
        for node in graph.node:
            yield node
            for inner in subgraphs(node):
                yield from visit(inner)

    return list(visit(graph))


def weight_roles(node: Any) -> Mapping[int, str]:
    """Returns the names of a layer's weights by position among its inputs."""
    name = operator_name(node)
    return OPERATORS[name].weights if name in OPERATORS else {}


def replace_nodes(graph: Any, change: Callable[[Any], list[Any]]) -> None:
    """Replaces every node of a graph, and of the graphs inside, by a list of nodes."""
    nodes = [new for node in graph.node for new in change(node)]
    for node in nodes:
        for inner in subgraphs(node):
            replace_nodes(inner, change)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def rename_values(graph: Any, names: dict[str, str]) -> None:
    """Renames values in a graph and in the graphs inside it."""
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
        for inner in subgraphs(node):
            rename_values(inner, names)
    for output in graph.output:
        output.name = names.get(output.name, output.name)


def take_stored(path: Path, model: Any) -> dict[str, np.ndarray]:
    """Takes the stored tensors out of a model.

    Args:
        path: The file, for messages.
        model: The model; its initialisers and nodes Constant are removed.

    Returns:
        Arrays by name. Names that several branches use get a number.

    Raises:
        MetanetError: naming a tensor that cannot be read or is too large.
    """
    stored: dict[str, np.ndarray] = {}
    budget = Budget(MAX_FILLED_BYTES)
    _take(path, model.graph, stored)

    read_as_weights = {
        node.input[position]
        for node in all_nodes(model.graph)
        for position in weight_roles(node)
        if position < len(node.input)
    }

    def change(node: Any) -> list[Any]:
        if node.op_type != "ConstantOfShape" or node.output[0] not in read_as_weights:
            return [node]
        shape = stored.get(node.input[0])
        if shape is None:
            return [node]
        filler = np.zeros(1, np.float32)
        for attribute in node.attribute:
            filler = read_tensor(path, attribute.t)
        sizes = [int(n) for n in shape]
        try:
            budget.check(math.prod(sizes), filler.itemsize, 0)
            budget.take(math.prod(sizes) * filler.itemsize)
        except TooLarge as error:
            raise MetanetError(f"{path}: {node.output[0]}: {error}") from None
        stored[node.output[0]] = np.broadcast_to(filler.reshape(()), sizes)
        return []

    replace_nodes(model.graph, change)
    return stored


def _take(path: Path, graph: Any, stored: dict[str, np.ndarray]) -> None:
    if graph.sparse_initializer:
        raise MetanetError(
            f"{path}: sparse tensors are not supported; store dense ones"
        )
    names: dict[str, str] = {}

    def store(name: str, array: np.ndarray) -> None:
        new, number = name, 1
        while new in stored:
            new, number = f"{name}_{number}", number + 1
        if new != name:
            names[name] = new
        stored[new] = array

    for tensor in graph.initializer:
        store(tensor.name, read_tensor(path, tensor))
    del graph.initializer[:]
    nodes = []
    for node in graph.node:
        array = _constant(path, node)
        if array is None:
            nodes.append(type(node).FromString(node.SerializeToString()))
        else:
            store(node.output[0], array)
    del graph.node[:]
    graph.node.extend(nodes)
    if names:
        rename_values(graph, names)
    for node in graph.node:
        for inner in subgraphs(node):
            _take(path, inner, stored)


def _constant(path: Path, node: Any) -> np.ndarray | None:
    """Returns the value of a node Constant; None for another node, and for text."""
    from onnx import helper

    if node.op_type != "Constant" or len(node.attribute) != 1:
        return None
    (attribute,) = node.attribute
    if attribute.name == "value":
        return read_tensor(path, attribute.t)
    if attribute.name in ("value_float", "value_floats"):
        return np.asarray(helper.get_attribute_value(attribute), np.float32)
    if attribute.name in ("value_int", "value_ints"):
        return np.asarray(helper.get_attribute_value(attribute), np.int64)
    return None


def set_stored(model: Any, stored: dict[str, np.ndarray]) -> None:
    """Puts stored tensors back into a model, as initialisers."""
    from onnx import numpy_helper

    # Before version 4, initialisers were inputs as well.
    model.ir_version = max(model.ir_version, 4)
    for name, array in stored.items():
        tensor = numpy_helper.from_array(np.ascontiguousarray(array), name)
        tensor.dims[:] = array.shape
        model.graph.initializer.append(tensor)
