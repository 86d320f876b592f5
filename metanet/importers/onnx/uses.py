"""Uses of the stored tensors of an ONNX model: readers, positions, frequency tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from metanet.importers.onnx.stored import all_nodes

# Operators that move values of their first input, or copy them.
MOVES = frozenset(
    {
        "Cast",
        "Expand",
        "Flatten",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
_PRODUCTS = frozenset({"Mul", "Div", "MatMul", "Einsum"})
_FUNCTIONS = frozenset({"Neg", "Exp", "Reciprocal"})
_WAVES = frozenset({"Sin", "Cos"})

# Origins of values, each including those before it: constants and shapes; positions
# counted along an axis; integer inputs; weights and all other inputs.
_NUMBERS, _POSITIONS, _INTEGERS, _DATA = range(4)
# Values of the largest array that is tested for sines.
_MAX_TABLE = 1 << 24
# Operators whose results are counted.
_COUNTERS = frozenset({"CumSum", "NonZero", "Range"})


def is_count(array: np.ndarray) -> bool:
    """Returns True for whole numbers in equal steps, such as stored positions."""
    is_row = array.ndim > 0 and array.size == max(array.shape)
    if array.dtype.kind not in "fiu" or array.size < 3 or not is_row:
        return False
    values = array.ravel().astype(np.float64)
    steps = np.diff(values)
    return bool(steps[0] != 0 and (steps == steps[0]).all() and (values % 1 == 0).all())


def is_wave_table(array: np.ndarray) -> bool:
    """Returns True for sines and cosines of positions, which an exporter computed.

    Along the axis of the positions, x[t - 1] + x[t + 1] is 2 cos(f) x[t], with a frequency f
    of each column. No trained array is like that.
    """
    if array.dtype.kind not in "fV" or array.size > _MAX_TABLE:
        return False
    array = array.astype(np.float64)
    tolerance = 2e-3 * np.abs(array).max(initial=0)
    for axis, length in enumerate(array.shape):
        x = np.moveaxis(array, axis, 0).reshape(length, -1)
        if length < 4 or (length - 3) * x.shape[1] < 4:
            continue
        middle, sides = x[1:-1], x[2:] + x[:-2]
        power = (middle * middle).sum(0)
        factor = (middle * sides).sum(0) / np.where(power == 0, 1, power)
        fits = (np.abs(sides - factor * middle) <= tolerance).all()
        waves = (power > 0) & (np.abs(factor) < 1.99)
        if fits and waves.any() and (factor <= 2 + 1e-3).all():
            return True
    return False


def _is_linear(array: np.ndarray) -> bool:
    """Returns True for values in equal steps along an axis of at least four."""
    if array.dtype.kind != "f" or not 0 < array.size <= _MAX_TABLE:
        return False
    tolerance = 1e-4 * np.abs(array).max()
    return any(
        n > 3 and bool((np.abs(np.diff(array, 2, axis)) <= tolerance).all())
        for axis, n in enumerate(array.shape)
    )


class Reader(NamedTuple):
    """A node that reads a value, and the position among its inputs."""

    node: Any
    position: int


class Uses:
    """Readers and origins of the values of a model.

    Args:
        model: The model.
        stored: Its stored tensors by name.
    """

    def __init__(self, model: Any, stored: Mapping[str, np.ndarray]):
        self._readers: dict[str, list[Reader]] = defaultdict(list)
        self._stored = stored
        self._origins = {name: self._origin(array) for name, array in stored.items()}
        for info in model.graph.input:
            if info.name not in stored:
                self._origins[info.name] = _input_origin(info)
        for node in all_nodes(model.graph):
            for position, name in enumerate(node.input):
                self._readers[name].append(Reader(node, position))
            self._origins.update(dict.fromkeys(node.output, self._result(node)))

    @staticmethod
    def _origin(array: np.ndarray) -> int:
        if is_count(array):
            return _POSITIONS
        return _DATA if array.dtype.kind == "f" and array.size > 1 else _NUMBERS

    def _result(self, node: Any) -> int:
        origins = [self._origins.get(name, _DATA) for name in node.input if name]
        origin = max(origins, default=_NUMBERS)
        if node.op_type in ("Shape", "Size"):
            return _NUMBERS
        # Steps counted along an axis are positions, whatever mask they count.
        if node.op_type in _COUNTERS and origin <= _INTEGERS:
            return _POSITIONS
        return origin

    def readers(self, name: str) -> list[Reader]:
        """Returns the nodes that read a value."""
        return self._readers.get(name, [])

    def moved_readers(self, name: str) -> list[Reader]:
        """Returns the readers of a value, and of the value moved."""
        result: list[Reader] = []
        waiting, seen = [name], {name}
        while waiting:
            for reader in self.readers(waiting.pop()):
                if reader.node.op_type not in MOVES or reader.position:
                    result.append(reader)
                    continue
                new = set(reader.node.output) - seen
                seen |= new
                waiting += new
        return result

    def is_table(self, name: str) -> bool:
        """Returns True for frequencies and slopes: factors of positions, nothing else.

        So are products of frequencies with stored positions, of which only sines are taken.

        The positions are counted from constants and shapes; or they are integer inputs,
        and a sine or cosine is taken of the product. (A layer with an integer feature
        also multiplies it, but goes on otherwise.)
        """
        array = self._stored[name]
        if _is_linear(array) and self._ends_in_waves({name}):
            return True
        shape = array.shape
        if sum(n > 1 for n in shape) > 1:
            return False
        return self._is_factor({name})

    def _is_factor(self, names: Collection[str]) -> bool:
        readers = [r for name in names for r in self.moved_readers(name)]
        for node, position in readers:
            if node.op_type in _FUNCTIONS:
                if not self._is_factor(node.output):
                    return False
                continue
            if node.op_type not in _PRODUCTS or len(node.input) != 2:
                return False
            origin = self._origins.get(node.input[1 - position], _DATA)
            if origin == _NUMBERS and self._is_factor(node.output):
                continue
            waves = origin == _INTEGERS and self._ends_in_waves(node.output)
            if origin != _POSITIONS and not waves:
                return False
        return bool(readers)

    def _ends_in_waves(self, names: Collection[str]) -> bool:
        readers = [r for name in names for r in self.moved_readers(name)]
        for node, _ in readers:
            if node.op_type == "Concat":
                if not self._ends_in_waves(node.output):
                    return False
            elif node.op_type not in _WAVES:
                return False
        return bool(readers)

    def rows_read_by(self, name: str) -> int | None:
        """Returns the number of rows of the smallest table that a value indexes."""
        sizes = []
        for node, position in self.moved_readers(name):
            table = self._stored.get(node.input[0])
            if node.op_type == "Gather" and position == 1 and table is not None:
                axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
                sizes.append(table.shape[axis])
        return min(sizes, default=None)


def _input_origin(info: Any) -> int:
    from onnx import helper

    try:
        kind = info.type.tensor_type.elem_type
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind))
    except Exception:
        # onnx raises exceptions without a common class.
        return _DATA
    return _INTEGERS if dtype.kind in "iub" else _DATA
