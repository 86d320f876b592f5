"""Quantised ONNX models as models of floating-point weights.

Stored integers become the floating-point weights that they stand for, and layers of
integers (`ConvInteger`, `QLinearMatMul`, ...) become layers of floats between the roundings of
their activations. Values that ONNX stores as integers are whole numbers of a floating type
here, which later operators take as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from metanet.errors import MetanetError
from metanet.importers.onnx.operators import Call, Unsupported, operator
from metanet.importers.onnx.stored import (
    all_nodes,
    rename_values,
    replace_nodes,
)

# (model under change, quantised node) -> nodes that replace it.
Rewrite = Callable[["_Rewriting", Any], list[Any]]

_Array = TypeVar("_Array", np.ndarray, jax.Array)

_SUFFIXES = ("_quantized", "_quant", "_q")


def dequantize(path: Path, model: Any, stored: dict[str, np.ndarray]) -> None:
    """Replaces quantised weights of a model, and the layers that read them.

    Args:
        path: The file, for messages.
        model: The model, which is changed.
        stored: Its stored tensors by name, which are changed.

    Raises:
        MetanetError: naming a quantised node that cannot be replaced.
    """
    rewriting = _Rewriting(model, stored)

    def change(node: Any) -> list[Any]:
        rewrite = _REWRITES.get(node.op_type)
        if rewrite is None:
            return [node]
        try:
            return rewrite(rewriting, node)
        except Unsupported as error:
            raise MetanetError(
                f"{path}: node {node.op_type} {node.name}: {error}"
            ) from None

    def drop(node: Any) -> list[Any]:
        return [] if set(node.output) & rewriting.dropped else [node]

    replace_nodes(model.graph, change)
    replace_nodes(model.graph, drop)
    rename_values(model.graph, rewriting.names)
    read = {name for node in all_nodes(model.graph) for name in node.input}
    for name in rewriting.readers.keys() - read:
        stored.pop(name, None)


class _Rewriting:
    """A model under change, and its stored tensors."""

    def __init__(self, model: Any, stored: dict[str, np.ndarray]):
        self.stored = stored
        self.names: dict[str, str] = {}
        # Results that nothing reads any more.
        self.dropped: set[str] = set()
        self.producers = {
            n: node for node in all_nodes(model.graph) for n in node.output
        }
        self.readers: dict[str, list[Any]] = {}
        for node in all_nodes(model.graph):
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self._taken = {n for node in all_nodes(model.graph) for n in node.output} | set(
            stored
        )

    def new_name(self, stem: str) -> str:
        """Returns a name that nothing has yet."""
        name, number = stem, 1
        while name in self._taken:
            name, number = f"{stem}_{number}", number + 1
        self._taken.add(name)
        return name

    def array(self, node: Any, position: int) -> np.ndarray | None:
        """Returns a stored input of a node; None if it is left out.

        Raises:
            Unsupported: if the input is computed.
        """
        if position >= len(node.input) or not node.input[position]:
            return None
        name = node.input[position]
        if name not in self.stored:
            raise Unsupported(
                f"{name} is computed, not stored; export the model before quantisation"
            )
        return self.stored[name]

    def weights(self, node: Any, positions: Sequence[int], axis: int) -> np.ndarray:
        """Returns weights as floats.

        Args:
            node: The node that reads them.
            positions: Positions of weights, scale (or -1) and zero point.
            axis: Axis along which scale and zero point vary if they are not single.
        """
        quantized, scale, zero = (
            None if p < 0 else self.array(node, p) for p in positions
        )
        assert quantized is not None
        result = quantized.astype(np.float32)
        if zero is not None:
            result = result - _along(zero.astype(np.float32), quantized.shape, axis)
        if scale is not None:
            result = result * _along(scale, quantized.shape, axis)
        return result.astype(np.float32 if scale is None else scale.dtype)

    def scale_of(self, node: Any, channels: int) -> np.ndarray | None:
        """Takes the scale of a layer's weights out of the product that applies it.

        onnxruntime's quantiser writes ``Cast(layer) * (x_scale * w_scale)``.

        Returns:
            The scale, single or by channel; None if it is applied in another way.
        """

        def only_reader(name: str, operator: str) -> Any:
            readers = self.readers.get(name, [])
            fits = len(readers) == 1 and readers[0].op_type == operator
            return readers[0] if fits else None

        cast = only_reader(node.output[0], "Cast")
        product = cast and only_reader(cast.output[0], "Mul")
        if product is None:
            return None
        (scales,) = {*product.input} - {cast.output[0]} or {""}
        both = self.producers.get(scales)
        if both is None or both.op_type != "Mul" or len(self.readers[scales]) != 1:
            return None
        for position, name in enumerate(both.input):
            scale = self.stored.get(name)
            if scale is None or scale.size not in (1, channels) or scale.ndim > 1:
                continue
            if len(self.readers[name]) == 1 and both.input[1 - position]:
                self.names[scales] = both.input[1 - position]
                self.dropped.add(scales)
                return scale
        return None

    def store(self, name: str, array: np.ndarray) -> str:
        """Stores the floats of a quantised tensor and returns their name."""
        stem = name
        for suffix in _SUFFIXES:
            stem = stem.removesuffix(suffix)
        new = self.new_name(stem)
        self.stored[new] = array
        return new


def _along(values: _Array, shape: Sequence[int], axis: int) -> _Array:
    """Returns scales or zero points that broadcast against a quantised array.

    Args:
        values: One number, one for each entry of an axis, or one for each block of it.
        shape: Shape of the quantised array.
        axis: The axis.
    """
    if values.size == 1:
        return values.reshape(())
    if values.ndim == len(shape) > 1:
        return values.repeat(shape[axis] // values.shape[axis], axis)
    sizes = [1] * len(shape)
    sizes[axis] = -1
    return values.reshape(sizes)


def _node(
    operator: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    like: Any,
    **attributes: Any,
) -> Any:
    """Makes a node with the name and scope of another."""
    from onnx import helper

    new = helper.make_node(operator, inputs, outputs, like.name, **attributes)
    new.metadata_props.extend(like.metadata_props)
    return new


def _layer(
    operator: str, inputs: Sequence[str], outputs: Sequence[str], like: Any
) -> Any:
    """Makes a layer with the attributes of its quantised form."""
    new = _node(operator, inputs, outputs, like)
    new.attribute.extend(like.attribute)
    return new


def _input(node: Any, position: int) -> str:
    return node.input[position] if position < len(node.input) else ""


def _dequantize_linear(rewriting: _Rewriting, node: Any) -> list[Any]:
    if not all(name in rewriting.stored for name in node.input if name):
        return [node]
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    array = rewriting.weights(node, (0, 1, 2), axis)
    rewriting.names[node.output[0]] = rewriting.store(node.input[0], array)
    return []


def _integer_layer(operator: str, axis: int) -> Rewrite:
    """Returns a rewrite of a layer of integers as one of floats.

    Args:
        operator: The layer of floats.
        axis: Axis of the output channels in the weights.
    """

    def rewrite(rewriting: _Rewriting, node: Any) -> list[Any]:
        array = rewriting.weights(node, (1, -1, 3), axis)
        nodes, x = [], _input(node, 0)
        for name in filter(None, (x, _input(node, 2))):
            new = rewriting.new_name(f"{name}_float")
            nodes.append(_node("Cast", [name], [new], node, to=_FLOAT))
        centred = nodes[0].output[0]
        if len(nodes) == 2:
            centred = rewriting.new_name(f"{x}_centred")
            values = [new.output[0] for new in nodes]
            nodes.append(_node("Sub", values, [centred], node))
        scale = rewriting.scale_of(node, array.shape[axis])
        if scale is not None:
            array = array * _along(scale, array.shape, axis)
        weights = rewriting.store(node.input[1], array)
        return [*nodes, _layer(operator, [centred, weights], node.output, node)]

    return rewrite


def _quantized_layer(operator: str, axis: int) -> Rewrite:
    """Returns a rewrite of a layer that rounds its results to integers."""

    def rewrite(rewriting: _Rewriting, node: Any) -> list[Any]:
        x, x_scale, x_zero = node.input[:3]
        result = rewriting.new_name(f"{node.output[0]}_float")
        values = rewriting.new_name(f"{x}_float")
        nodes = [_node("DequantizeLinear", [x, x_scale, x_zero], [values], node)]
        inputs = [values]
        if node.input[3] in rewriting.stored:
            array = rewriting.weights(node, (3, 4, 5), axis)
            inputs.append(rewriting.store(node.input[3], array))
        else:
            inputs.append(rewriting.new_name(f"{node.input[3]}_float"))
            nodes.append(_node("DequantizeLinear", node.input[3:6], inputs[1:], node))
        bias = rewriting.array(node, 8)
        if bias is not None:
            scales = rewriting.array(node, 1), rewriting.array(node, 4)
            assert scales[0] is not None and scales[1] is not None
            inputs.append(
                rewriting.store(node.input[8], bias * (scales[0] * scales[1]))
            )
        nodes.append(_layer(operator, inputs, [result], node))
        rounded = [result, *node.input[6:8]]
        return [*nodes, _node("QuantizeLinear", rounded, node.output, node)]

    return rewrite


def _dynamic_lstm(rewriting: _Rewriting, node: Any) -> list[Any]:
    """Reads onnxruntime's LSTM; its activations are not rounded here."""
    new = []
    for position, scale, zero in ((1, 8, 9), (2, 10, 11)):
        factors = [rewriting.array(node, p) for p in (position, scale, zero)]
        quantized, scales, zeros = (np.asarray(x, np.float32) for x in factors)
        # Weights [directions, inputs, gates]; scales by direction, or also by gate.
        directions = quantized.shape[0]
        scales, zeros = (x.reshape(directions, 1, -1) for x in (scales, zeros))
        array = np.swapaxes((quantized - zeros) * scales, 1, 2)
        new.append(rewriting.store(node.input[position], array))
    inputs = [node.input[0], *new, *node.input[3:8]]
    return [_layer("LSTM", inputs, node.output, node)]


_FLOAT = 1  # onnx.TensorProto.FLOAT
_REWRITES: dict[str, Rewrite] = {
    "ConvInteger": _integer_layer("Conv", 0),
    "DequantizeLinear": _dequantize_linear,
    "DynamicQuantizeLSTM": _dynamic_lstm,
    "MatMulInteger": _integer_layer("MatMul", -1),
    "QLinearConv": _quantized_layer("Conv", 0),
    "QLinearMatMul": _quantized_layer("MatMul", -1),
}


def _whole_range(dtype: Any) -> tuple[int, int]:
    """Returns the smallest and largest number of an integer type."""
    if np.dtype(dtype) not in (np.uint8, np.int8, np.uint16, np.int16):
        raise Unsupported(f"quantisation to {np.dtype(dtype)}")
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


@operator("QuantizeLinear", settings=(1, 2))
def _quantize_linear(call: Call) -> jax.Array:
    x, scale = call.inputs[:2]
    zero, axis = call.input(2), call.get("axis", 1)
    if zero is None and call.get("output_dtype", 0):
        raise Unsupported("output_dtype")
    low, high = _whole_range(np.uint8 if zero is None else zero.dtype)
    rounded = jnp.round(x / _along(jnp.asarray(scale), x.shape, axis).astype(x.dtype))
    if zero is not None:
        rounded = rounded + _along(jnp.asarray(zero), x.shape, axis).astype(x.dtype)
    return jnp.clip(rounded, low, high)


@operator("DequantizeLinear", settings=(1, 2))
def _dequantize(call: Call) -> jax.Array:
    x, scale = call.inputs[:2]
    zero, axis = call.input(2), call.get("axis", 1)
    dtype = call.precision or scale.dtype
    values = jnp.asarray(x).astype(dtype)
    if zero is not None:
        values = values - _along(jnp.asarray(zero), x.shape, axis).astype(dtype)
    return values * _along(jnp.asarray(scale), x.shape, axis).astype(dtype)


@operator("DynamicQuantizeLinear")
def _dynamic_quantize(call: Call) -> tuple[jax.Array, jax.Array, jax.Array]:
    (x,) = call.inputs
    low, high = jnp.minimum(jnp.min(x), 0), jnp.maximum(jnp.max(x), 0)
    scale = (high - low) / 255
    safe = jnp.where(scale == 0, 1, scale)
    zero = jnp.clip(jnp.round(-low / safe), 0, 255)
    return jnp.clip(jnp.round(x / safe) + zero, 0, 255), scale, zero
