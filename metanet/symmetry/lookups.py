"""Rows that are looked up by index: the rest of the program has one row per position.

The hidden channels of an expert that a router selects are permuted with the expert's own
permutation: an array of gathered weights has no axis of experts, but each of its entries
belongs to one, that of its position in the array of indices. Such an array is therefore
recorded with the axis of experts beside its axes, as long as it has the positions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from metanet.programs import dtype_of, shape_of
from metanet.symmetry.indices import Axis, Indices, Segment
from metanet.symmetry.values import Lookup, Value

_MAX_ENTRIES = 4096
# Functions of integers that give equal results for equal operands and parameters.
_NUMBERED = frozenset(
    {
        *(
            "add",
            "sub",
            "mul",
            "lt",
            "le",
            "gt",
            "ge",
            "select_n",
            "clamp",
            "max",
            "min",
        ),
        *("broadcast_in_dim", "concatenate", "convert_element_type", "iota", "reshape"),
        *("slice", "squeeze", "transpose", "stop_gradient"),
    }
)


class ValueNumbers:
    """Numbers of arrays of integers; equal numbers are equal arrays."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def number(self, key: Hashable) -> int:
        """Returns the number of a description of an array."""
        return self._numbers.setdefault(key, len(self._numbers))

    def of_results(
        self, eqn: JaxprEqn, inputs: Sequence[Value], location: tuple[int, ...]
    ) -> list[int | None]:
        """Returns a number for each result of an equation that is an array of integers.

        Args:
            eqn: The equation.
            inputs: Its operands.
            location: Its path, different for every equation of the program.
        """
        operands = tuple(x.number for x in inputs)
        name = eqn.primitive.name
        described: Hashable = location
        if name in _NUMBERED and None not in operands:
            described = (name, str(eqn.params), operands)
        return [
            self.number((described, i)) if _is_whole(dtype_of(v)) else None
            for i, v in enumerate(eqn.outvars)
        ]


def _is_whole(dtype: np.dtype) -> bool:
    """Returns True for integers and booleans; random keys are neither."""
    return jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.bool_)


def is_index_array(array: np.ndarray) -> bool:
    """Returns True for arrays of integers that are small enough to be evaluated."""
    return array.dtype.kind in "iub" and array.size <= _MAX_ENTRIES


def constant_entries(eqn: JaxprEqn, inputs: Sequence[Value]) -> np.ndarray | None:
    """Returns the integers that an equation makes of constants, or None."""
    (variable, *others), arrays = eqn.outvars, [x.entries for x in inputs]
    is_small = math.prod(shape_of(variable)) <= _MAX_ENTRIES
    is_known = not others and is_small and all(a is not None for a in arrays)
    if eqn.primitive.name not in _NUMBERED or not is_known:
        return None
    with jax.ensure_compile_time_eval():
        result = np.asarray(eqn.primitive.bind(*arrays, **eqn.params))
    return result if is_index_array(result) else None


def all_lookups(values: Iterable[Value]) -> tuple[Lookup, ...]:
    """Returns the lookups of several values, each once."""
    lookups: dict[int, Lookup] = {}
    for value in values:
        parts = [value] if value.split is None else value.split.parts
        for part in parts:
            lookups |= {id(lookup): lookup for lookup in part.lookups}
    return tuple(lookups.values())


def rows_beside(
    indices: Indices, members: Collection[int], lookups: Iterable[Lookup]
) -> list[Segment]:
    """Returns the rows that the entries of an array belong to.

    Args:
        indices: The indices.
        members: Representatives of the indices of the array, in some segment of each axis.
        lookups: Lookups of the array.

    Returns:
        The indices of the rows, once for each array of indices. Those of other arrays
        stand beside them, so that the row is the same index twice.
    """
    present = list(members)
    rows: dict[tuple[int, tuple[int, ...]], Segment] = {}
    for lookup in lookups:
        segment = _only_segment(indices, lookup.rows)
        if segment is None or any(o.axis_index in indices.pins for o in segment):
            continue
        if all(_is_present(indices, axis, present) for axis in lookup.positions):
            key = (lookup.number, tuple(o.axis_index for o in segment))
            before = rows.setdefault(key, segment)
            rows[key] = [
                o._replace(tags=o.tags | p.tags)
                for o, p in zip(before, segment, strict=True)
            ]
    return list(rows.values())


def _is_present(indices: Indices, axis: Axis, present: Sequence[int]) -> bool:
    """Returns True if an array has all of the positions, once."""
    segment = _only_segment(indices, axis)
    return segment is not None and all(
        present.count(o.axis_index) == 1 for o in segment
    )


def _only_segment(indices: Indices, axis: Axis) -> Segment | None:
    """Returns the segment of an axis that no equation has cut."""
    segments = indices.normal(axis)
    return segments[0] if len(segments) == 1 else None
