"""Abstract values: the interpreter's knowledge of an array of the traced program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from metanet.symmetry.indices import Axis, Indices, Occurrence

Chain = tuple[str, ...]


class SplitValue(NamedTuple):
    """An array as the parts into which one of its axes is cut.

    Attributes:
        axis: The axis.
        starts: First entry of each part, and the axis's size.
        parts: The parts, each with the axis.
    """

    axis: int
    starts: tuple[int, ...]
    parts: tuple[Value, ...]


class Lookup(NamedTuple):
    """Rows that an array of indices selects.

    Attributes:
        number: Number of the array of indices; equal arrays have equal numbers.
        rows: The axis of the rows.
        positions: The axes of the array of indices.
    """

    number: int
    rows: Axis
    positions: tuple[Axis, ...]


@dataclass(frozen=True)
class Value:
    """An array, abstractly.

    Attributes:
        axes: Its axes.
        activations: Activations that the value is made of, each with the nonlinearities
            applied since.
        leaves: Parameter leaves that it is made of without any activation.
        constant: It depends on neither parameters nor inputs.
        zero: It is a constant of zeros.
        scalar: The number that fills a constant; None if its entries differ.
        shift: Per leaf the factor by which adding to the leaf adds to this value.
        index_of: The axis that an array of integers indexes (of the greatest entry, say).
            Equations that do not treat the array as indices pin the axis.
        from_end: The indices are counted from the end of the axis.
        depends: Leaves and inputs (these as negative numbers) that it depends on.
        sources: Leaves and inputs through which each entry is 0 or has a continuous
            distribution, see `metanet.symmetry.distinctness`.
        nonzero: No entry is 0, with probability one.
        extreme: A constant of which some entries are infinite, or so large that other
            numbers are rounded away when they are added.
        number: For an array of integers, a number that equal arrays share.
        entries: The entries of a constant array of few integers.
        lookups: The rows that its entries belong to, see `metanet.symmetry.lookups`.
        split: The parts of an array that is only read part by part; then the other
            attributes say nothing.
    """

    axes: list[Axis]
    activations: dict[int, Chain] = field(default_factory=dict)
    leaves: frozenset[int] = frozenset()
    constant: bool = False
    zero: bool = False
    scalar: float | None = None
    shift: dict[int, float] = field(default_factory=dict)
    index_of: Axis | None = None
    from_end: bool = False
    depends: frozenset[int] = frozenset()
    sources: frozenset[int] = frozenset()
    nonzero: bool = False
    extreme: bool = False
    number: int | None = None
    entries: np.ndarray | None = field(default=None, compare=False)
    lookups: tuple[Lookup, ...] = ()
    split: SplitValue | None = None

    def with_axes(self, axes: list[Axis]) -> Value:
        """Returns the value with its indices in other axes."""
        return replace(self, axes=axes)

    def through(self, name: str) -> Value:
        """Returns the value after a nonlinearity."""
        chains = {a: (*chain, name) for a, chain in self.activations.items()}
        return replace(self, activations=chains)


def map_occurrences(
    indices: Indices, axes: Sequence[Axis], function: Callable[[Occurrence], Occurrence]
) -> list[Axis]:
    """Applies a function to every occurrence of refined axes."""
    return [
        [[function(o) for o in segment] for segment in indices.normal(axis)]
        for axis in axes
    ]
