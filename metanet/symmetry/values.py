"""Abstract values: what the interpreter knows of an array of the traced program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from metanet.symmetry.indices import Axis, Indices, Occurrence

Chain = tuple[str, ...]


class Pieces(NamedTuple):
    """An array as the parts into which one of its axes is cut.

    Attributes:
        axis: The axis.
        starts: Where each part begins, and the axis's size.
        values: The parts, each with the axis.
    """

    axis: int
    starts: tuple[int, ...]
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Value:
    """An array, abstractly.

    Attributes:
        axes: Its axes.
        sites: Sites that the value carries, with the nonlinearities since.
        leaves: Parameter leaves that it is made of without any activation.
        constant: It depends on neither parameters nor inputs.
        zero: It is a constant of zeros.
        scalar: The number that fills a constant, if one does.
        shift: Per leaf the factor by which adding to the leaf adds to this value.
        index_of: For an array of indices into an axis (of the greatest entry, say): that
            axis. Whatever reads the array, and is not known to treat them as indices,
            pins the axis.
        wrapped: The indices are counted from the end of the axis.
        distinct: Whether entries differ from each other in general, so that which of
            them is the greatest does not depend on their order. Rectified and rounded
            ones may not, nor rows that may be all zero.
        pieces: For an array that is only read in pieces: these; nothing else holds.
    """

    axes: list[Axis]
    activations: dict[int, Chain] = field(default_factory=dict)
    leaves: frozenset[int] = frozenset()
    constant: bool = False
    zero: bool = False
    scalar: float | None = None
    shift: dict[int, float] = field(default_factory=dict)
    index_of: Axis | None = None
    wrapped: bool = False
    distinct: bool = False
    pieces: Pieces | None = None

    def with_axes(self, axes: list[Axis]) -> Value:
        """The same value with its indices arranged otherwise."""
        return replace(self, axes=axes)

    def through(self, name: str) -> Value:
        """The value after a nonlinearity."""
        return replace(
            self, activations={s: (*c, name) for s, c in self.activations.items()}
        )


def map_occurrences(
    indices: Indices, axes: list[Axis], function: Callable[[Occurrence], Occurrence]
) -> list[Axis]:
    """Applies a function to every occurrence of refined axes."""
    return [
        [[function(o) for o in segment] for segment in indices.normal(axis)]
        for axis in axes
    ]
