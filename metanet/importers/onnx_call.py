"""What an ONNX operator gets, and the table of operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from metanet.errors import MetanetError


class Unsupported(Exception):
    """A use of an operator that cannot be evaluated; the caller adds file and node."""


class Call(NamedTuple):
    """One evaluation of an operator.

    Attributes:
        inputs: Arrays; None for an optional one that is left out. Numpy arrays are
            known at trace time.
        attributes: By name, as Python values.
        version: Of the operator set.
        outputs: How many results are asked for.
    """

    inputs: list[Any]
    attributes: dict[str, Any]
    version: int
    outputs: int

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def input(self, place: int) -> Any:
        """An input, or None where it is left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def static(self, place: int, name: str) -> list[Any] | None:
        """Numbers that must be known at trace time: an input, or once an attribute."""
        value = self.input(place)
        if value is None:
            held = self.attributes.get(name)
            return held if held is None or isinstance(held, list) else [held]
        if not isinstance(value, np.ndarray):
            raise Unsupported(f"{name} depends on weights or inputs")
        return value.ravel().tolist()


Operator = Callable[[Call], Any]
OPERATORS: dict[str, Operator] = {}


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Registers the implementation of operators."""

    def enter(function: Operator) -> Operator:
        for name in names:
            if name in OPERATORS:
                raise MetanetError(f"operator {name} is registered twice")
            OPERATORS[name] = function
        return function

    return enter
