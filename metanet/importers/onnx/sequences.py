"""ONNX operators on sequences of arrays, which are Python lists here."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from metanet.importers.onnx.operators import Call, operator

# Operators that take or return a sequence; onnx's reference does not fold them.
SEQUENCE_OPERATORS = frozenset(
    {
        "ConcatFromSequence",
        "SequenceAt",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceLength",
        "SplitToSequence",
    }
)


@operator("SplitToSequence", settings=(1,))
def _split_to_sequence(call: Call) -> list[Any]:
    x = call.inputs[0]
    axis = call.get("axis", 0) % np.ndim(x)
    sizes, length = call.static(1, "split"), np.shape(x)[axis]
    drops_axis = sizes is None and not call.get("keepdims", 1)
    if sizes is None:
        sizes = [1] * length
    elif np.ndim(call.inputs[1]) == 0:
        (size,) = sizes
        sizes = [min(size, length - start) for start in range(0, length, size)]
    bounds = np.cumsum([0, *sizes])
    if bounds[-1] != length:
        raise ValueError(f"sizes {sizes} of the parts of an axis of {length}")
    parts = []
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        cut: list[Any] = [slice(None)] * np.ndim(x)
        cut[axis] = int(start) if drops_axis else slice(int(start), int(stop))
        parts.append(x[tuple(cut)])
    return [parts]


@operator("SequenceConstruct")
def _sequence_construct(call: Call) -> list[Any]:
    return [list(call.inputs)]


@operator("SequenceEmpty")
def _sequence_empty(call: Call) -> list[Any]:
    return [[]]


def _position(call: Call, position: int, default: int) -> int:
    values = call.static(position, "position")
    return default if values is None else int(values[0])


@operator("SequenceAt", settings=(1,))
def _sequence_at(call: Call) -> list[Any]:
    return [call.inputs[0][_position(call, 1, 0)]]


@operator("SequenceLength")
def _sequence_length(call: Call) -> np.ndarray:
    return np.array(len(call.inputs[0]), np.int64)


@operator("SequenceInsert", settings=(2,))
def _sequence_insert(call: Call) -> list[Any]:
    parts = list(call.inputs[0])
    parts.insert(_position(call, 2, len(parts)), call.inputs[1])
    return [parts]


@operator("SequenceErase", settings=(1,))
def _sequence_erase(call: Call) -> list[Any]:
    parts = list(call.inputs[0])
    del parts[_position(call, 1, -1)]
    return [parts]


@operator("ConcatFromSequence")
def _concat_from_sequence(call: Call) -> list[Any]:
    parts, axis = call.inputs[0], call.attributes["axis"]
    xp = np if all(isinstance(part, np.ndarray) for part in parts) else jnp
    return [
        xp.stack(parts, axis)
        if call.get("new_axis", 0)
        else xp.concatenate(parts, axis)
    ]
