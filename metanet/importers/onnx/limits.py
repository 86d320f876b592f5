"""Limits on what an ONNX file may ask for, checked before anything is computed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metanet.errors import MetanetError

# Nodes of a model after its functions are inlined. A node Constant takes a tenth of the
# time of another.
MAX_NODES = 10_000
_NODES_OF_CONSTANT = 0.1
# Depth of functions that call functions, and of graphs inside branches.
MAX_DEPTH = 10
# Values of one array (1 GiB of float64), and of all inputs together.
MAX_ELEMENTS = 1 << 27
MAX_INPUT_ELEMENTS = 1 << 26
# Bytes of all weights that a file fills with one number.
MAX_FILLED_BYTES = 1 << 30
# Bytes of all constants that a program computes, and multiplications for them.
_MAX_CONSTANT_BYTES = 1 << 29
_MAX_CONSTANT_WORK = 1 << 30


class TooLarge(Exception):
    """An array or computation beyond the limits; the caller adds file and node."""


class Budget:
    """Bytes and multiplications that constants may still take.

    Args:
        size: Bytes of all of them.
    """

    def __init__(self, size: int = _MAX_CONSTANT_BYTES):
        self._size, self._bytes, self._work = size, size, _MAX_CONSTANT_WORK

    def check(self, count: float, itemsize: int, work: float) -> None:
        """Refuses an array before it is computed.

        Args:
            count: Number of its values.
            itemsize: Bytes of each.
            work: Number of multiplications that compute it.

        Raises:
            TooLarge: when the array, or all constants together, would be too large.
        """
        if count > MAX_ELEMENTS:
            raise TooLarge(f"a constant of {count:,.0f} values")
        if count * itemsize > self._bytes:
            raise TooLarge(f"constants of more than {self._size >> 20:,} MiB together")
        if work > self._work:
            raise TooLarge("constants that take too long to compute")
        self._work -= int(work)

    def take(self, size: int) -> None:
        """Takes the bytes of an array from the budget."""
        self._bytes -= size


def subgraphs(node: Any) -> Iterator[Any]:
    """Yields the graphs inside a node (branches, bodies of loops)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def check_size(path: Path, model: Any) -> None:
    """Refuses models whose nodes, with functions inlined, are too many or too deep.

    Raises:
        MetanetError: naming the limit, or a function that calls itself.
    """
    bodies = {(f.domain, f.name): f.node for f in model.functions}
    counts: dict[tuple[str, str], float] = {}

    def nodes_of(name: tuple[str, str], callers: tuple[tuple[str, str], ...]) -> float:
        if name in callers:
            raise MetanetError(f"{path}: function {name[1]} calls itself")
        if name not in counts:
            counts[name] = count(bodies[name], (*callers, name), 0)
        return counts[name]

    def count(nodes: Any, callers: tuple[tuple[str, str], ...], depth: int) -> float:
        if len(callers) + depth > MAX_DEPTH:
            raise MetanetError(
                f"{path}: functions or branches nested more than {MAX_DEPTH} deep"
            )
        constants = sum(node.op_type == "Constant" for node in nodes)
        total = len(nodes) - constants * (1 - _NODES_OF_CONSTANT)
        # One visit for each function, however often it is called.
        for called, times in Counter((n.domain, n.op_type) for n in nodes).items():
            if called in bodies:
                total += times * nodes_of(called, callers)
        for node in nodes:
            for graph in subgraphs(node):
                total += count(graph.node, callers, depth + 1)
        if total > MAX_NODES:
            raise MetanetError(
                f"{path}: more than {MAX_NODES:,} nodes (with functions inlined)"
            )
        return total

    for name in bodies:
        nodes_of(name, ())
    count(model.graph.node, (), 0)


def broadcast_size(*shapes: tuple[int, ...]) -> int:
    """Returns an upper bound of the size of arrays broadcast against each other."""
    rank = max(map(len, shapes), default=0)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return math.prod(map(max, zip(*padded, strict=True)))
