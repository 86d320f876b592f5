"""The table of ONNX operators, and the arguments that an operator gets.

An operator is a function of a `Call`, registered under its ONNX name:

    @operator("Gelu")
    def gelu(call: Call) -> jax.Array:
        return jax.nn.gelu(call.inputs[0], call.get("approximate", "none") == "tanh")

Operators of other domains are registered as ``"domain.Name"``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from metanet.registry import Registry

# Domains whose operators are known by their bare names.
_STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")


class Unsupported(Exception):
    """A use of an operator that cannot be evaluated; the caller adds file and node."""


class Call(NamedTuple):
    """One evaluation of an operator.

    Attributes:
        inputs: Arrays; None for an optional one that is left out. NumPy arrays are
            known at trace time.
        attributes: Python values by name.
        version: Version of the operator set.
        outputs: Number of results that are used.
        precision: Floating type of the whole computation where it is not the file's own
            (parameters of another type were given); else None.
    """

    inputs: list[Any]
    attributes: dict[str, Any]
    version: int
    outputs: int
    precision: np.dtype | None = None

    def get(self, name: str, default: Any = None) -> Any:
        """Returns an attribute."""
        return self.attributes.get(name, default)

    def input(self, position: int) -> Any:
        """Returns an input, or None if it is left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    def static(self, position: int, name: str) -> list[Any] | None:
        """Returns numbers that must be known at trace time.

        Args:
            position: Input that holds them.
            name: Attribute that holds them in earlier versions of the operator.

        Raises:
            Unsupported: when they depend on weights or inputs.
        """
        value = self.input(position)
        if value is None:
            attribute = self.attributes.get(name)
            if attribute is None or isinstance(attribute, list):
                return attribute
            return [attribute]
        if not isinstance(value, np.ndarray):
            raise Unsupported(f"{name} depends on weights or inputs")
        return value.ravel().tolist()


Result = jax.Array | np.ndarray
# Computes one result or several.
OperatorFn = Callable[[Call], Result | Sequence[Result]]


class Operator(NamedTuple):
    """Implementation of an operator.

    Attributes:
        evaluate: Computes the results.
        settings: Positions of inputs that configure the operator; they are no weights
            although a file may store them like weights.
        weights: Names of a layer's weights by position among its inputs; there, a
            stored tensor is a parameter even if it is one number throughout.
    """

    evaluate: OperatorFn
    settings: tuple[int, ...] = ()
    weights: Mapping[int, str] = MappingProxyType({})


OPERATORS: Registry[Operator] = Registry("ONNX operator")


def operator(
    *names: str,
    settings: tuple[int, ...] = (),
    weights: Mapping[int, str] = MappingProxyType({}),
) -> Callable[[OperatorFn], OperatorFn]:
    """Registers the implementation of one or more operators.

    Args:
        *names: ONNX's names, with the domain if it is not ONNX's own.
        settings: See `Operator`.
        weights: See `Operator`.

    Raises:
        ValueError: if a name is taken.
    """

    def register(function: OperatorFn) -> OperatorFn:
        for name in names:
            OPERATORS.register(name)(Operator(function, settings, weights))
        return function

    return register


def operator_name(node: Any) -> str:
    """Returns the name under which a node's operator is registered."""
    if node.domain in _STANDARD_DOMAINS:
        return node.op_type
    return f"{node.domain}.{node.op_type}"
