"""Entries that differ with probability one, so that argmax and sort move with the units.

A permutation of units moves the position of the greatest entry, a rank or a one-hot code
along with the units only if no two entries are equal: a tie is broken by position, which
the permutation changes. Parameters and inputs are taken to be drawn from a continuous
distribution. Two facts about the entries along an index then pass through a program:

* they are *independent through a leaf*: with all other leaves and inputs fixed, they are
  either all 0, or independent of each other and each continuously distributed (the
  second, where no entry is 0 with probability one);
* they are *distinct*: no two are equal, with probability one.

Both hold for a leaf, and pass through injective functions, through sums and products with
values that do not depend on the leaf, and through linear maps by such values. Whatever is
not listed here loses them: rounding, rectification, a product with a function of itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn
from jax.lax import GatherScatterMode

from metanet.programs import dtype_of, shape_of, traits_of
from metanet.symmetry.indices import Axis, Indices, Occurrence
from metanet.symmetry.values import Value

Sources = frozenset[int]
_NONE: Sources = frozenset()


class _Facts(NamedTuple):
    """Facts about the entries of a value.

    Attributes:
        along: Per axis and occurrence (in order), the leaves and inputs through which
            entries along the index are independent, and their distinctness; None if
            nothing is known.
        sources: Leaves and inputs through which each entry is 0 or has a continuous
            distribution.
        nonzero: No entry is 0, with probability one.
    """

    along: list[list[tuple[Sources, bool]]] | None = None
    sources: Sources = _NONE
    nonzero: bool = False


Operation = Callable[[Indices, JaxprEqn, Sequence[Value], Value], _Facts]


def generic_value(value: Value, source: int, dtype: np.dtype) -> Value:
    """Returns a leaf or an input with the facts about its entries.

    Integers may be equal, and so may numbers of fewer than 32 bits, which are often
    rounded to the same.

    Args:
        value: The value.
        source: Number of the leaf; a negative number for an input.
        dtype: Type of its entries.
    """
    value = replace(value, depends=frozenset({source}))
    if not _is_precise(dtype):
        return value
    sources = frozenset({source})
    axes = [
        [[o._replace(sources=sources, distinct=True) for o in s] for s in axis]
        for axis in value.axes
    ]
    return replace(value, axes=axes, sources=sources, nonzero=True)


def is_distinct(indices: Indices, value: Value, axis: int) -> bool:
    """Returns True if no two entries along an axis are equal, with probability one."""
    occurrences = _occurrences(indices, value, [axis])
    if len(occurrences) == 1:
        return occurrences[0].distinct
    # Two joint values differ in one index, and so in a part of a leaf that only one reads.
    return value.nonzero and all(o.sources for o in occurrences)


def after_named_activation(x: Value, result: Value) -> Value:
    """Returns the result of a function that takes every value at single points alone."""
    if not (x.nonzero and x.sources):
        return result
    return replace(result, sources=x.sources, nonzero=True)


def dependencies(value: Value) -> Sources:
    """Returns the leaves and inputs that a value depends on."""
    if value.split is None:
        return value.depends
    return frozenset().union(*(part.depends for part in value.split.parts))


def with_facts(
    indices: Indices, eqn: JaxprEqn, inputs: Sequence[Value], outputs: Sequence[Value]
) -> list[Value]:
    """Returns the results of an equation with the facts about their entries.

    Args:
        indices: The indices.
        eqn: The equation; one that evaluates another jaxpr has results with facts.
        inputs: Its operands.
        outputs: Its results by the rule of the primitive.
    """
    depends = frozenset().union(*(dependencies(x) for x in inputs))
    # Results of a loop's body have facts; a loop without turns returns what it was given.
    evaluates = eqn.primitive.name == "scan" and eqn.params["length"] > 0
    results = []
    for value, variable in zip(outputs, eqn.outvars, strict=True):
        is_extreme = value.constant and any(x.extreme for x in inputs)
        value = replace(value, depends=depends, extreme=is_extreme)
        # The parts of a value in parts have facts of their own.
        if value.split is None and not evaluates:
            facts = _facts(indices, eqn, inputs, value)
            dtype = dtype_of(variable)
            if not _is_precise(dtype):
                is_number = jnp.issubdtype(dtype, jnp.inexact)
                facts = _Facts(nonzero=facts.nonzero and is_number)
            value = _apply(indices, value, facts)
        results.append(value)
    return results


def _facts(
    indices: Indices, eqn: JaxprEqn, inputs: Sequence[Value], value: Value
) -> _Facts:
    """Returns the facts about a result; none for an equation that is not listed."""
    name = eqn.primitive.name
    traits = traits_of(name)
    if any(x.split is not None or x.extreme for x in inputs):
        return _Facts()
    if name == "gather" and _fills_rows(eqn, inputs[1]):
        return _Facts()
    if name in _OPERATIONS:
        return _OPERATIONS[name](indices, eqn, inputs, value)
    if traits.injective:
        return _injective(indices, eqn, inputs, value)
    if traits.analytic:
        return _analytic(indices, eqn, inputs, value)
    chosen = inputs[1:] if name == "select_n" else inputs
    is_choice = name in ("select_n", "max", "min")
    return _Facts(nonzero=traits.never_zero or (is_choice and _all_nonzero(chosen)))


def _fills_rows(eqn: JaxprEqn, index: Value) -> bool:
    """Returns True if a gather may put equal numbers in place of rows that do not exist."""
    if eqn.params["mode"] != GatherScatterMode.FILL_OR_DROP:
        return False
    if index.entries is None:
        # A fill value is asked for where indices may be too large.
        fill = eqn.params["fill_value"]
        return fill is not None and not np.isnan(fill)
    sizes = np.asarray(shape_of(eqn.invars[0]))
    numbers = eqn.params["dimension_numbers"]
    last = (sizes - np.asarray(eqn.params["slice_sizes"]))[
        list(numbers.start_index_map)
    ]
    return bool(((index.entries < 0) | (index.entries > last)).any())


def _apply(indices: Indices, value: Value, facts: _Facts) -> Value:
    """Returns a value with facts in place of those that its rule left."""
    if facts.along is None and not any(
        o.sources or o.distinct for axis in value.axes for s in axis for o in s
    ):
        return replace(value, sources=facts.sources, nonzero=facts.nonzero)
    axes = [indices.normal(axis) for axis in value.axes]
    along = facts.along or [[(_NONE, False)] * len(_flat(axis)) for axis in axes]
    new = []
    for axis, row in zip(axes, along, strict=True):
        entries = iter(row)
        pairs = [[(o, next(entries)) for o in segment] for segment in axis]
        new.append(
            [[o._replace(sources=f, distinct=d) for o, (f, d) in s] for s in pairs]
        )
    return replace(value, axes=new, sources=facts.sources, nonzero=facts.nonzero)


def _injective(
    indices: Indices, eqn: JaxprEqn, inputs: Sequence[Value], value: Value
) -> _Facts:
    """Returns the facts of the first operand; the others only select its entries."""
    x, *others = inputs
    traits = traits_of(eqn.primitive.name)
    lost = frozenset().union(*(dependencies(y) for y in others))
    # Other functions than linear ones may map 0 to another number.
    through = x.sources - lost if x.nonzero or traits.linear else _NONE
    along = [
        [(o.sources & through, o.distinct) for o in _flat(indices.normal(axis))]
        for axis in value.axes
    ]
    is_live = x.nonzero and (traits.linear or bool(through))
    return _Facts(along, through, traits.never_zero or is_live)


def _analytic(
    indices: Indices, eqn: JaxprEqn, inputs: Sequence[Value], value: Value
) -> _Facts:
    """Returns the facts of a function that takes every value at single points alone.

    It may map different entries to the same (x and -x to a square), unless they are
    independent.
    """
    (x,) = inputs
    through = _if(x.nonzero, x.sources)
    along = [
        [(s := o.sources & through, bool(s)) for o in _flat(indices.normal(axis))]
        for axis in value.axes
    ]
    traits = traits_of(eqn.primitive.name)
    is_live = x.nonzero and (bool(through) or eqn.primitive.name in _MODULI)
    return _Facts(along, through, traits.never_zero or is_live)


def _integer_power(
    indices: Indices, eqn: JaxprEqn, inputs: Sequence[Value], value: Value
) -> _Facts:
    exponent = eqn.params["y"]
    if exponent == 0:
        return _Facts(nonzero=True)
    rule = _injective if exponent % 2 else _analytic
    return rule(indices, eqn, inputs, value)


def _sum(
    indices: Indices, eqn: JaxprEqn, inputs: Sequence[Value], value: Value
) -> _Facts:
    x, y = inputs
    along: list[list[tuple[Sources, bool]]] = []
    for pairs in _operand_pairs(indices, inputs, value):
        row = []
        for a, b in pairs:
            from_x, from_y = _independent(a, y), _independent(b, x)
            sources = _if(x.nonzero, from_x) | _if(y.nonzero, from_y)
            distinct = (_differs(a) and (_is_same(b) or from_y)) or (
                _differs(b) and (_is_same(a) or from_x)
            )
            row.append((sources, bool(distinct or sources)))
        along.append(row)
    from_x, from_y = x.sources - y.depends, y.sources - x.depends
    sources = _if(x.nonzero, from_x) | _if(y.nonzero, from_y)
    # A summand that is not 0 is not compensated by one that is 0 or independent of it.
    nonzero = _if(x.nonzero, from_y) | _if(y.nonzero, from_x) | sources
    return _Facts(along, sources, bool(nonzero))


def _product(
    indices: Indices, eqn: JaxprEqn, inputs: Sequence[Value], value: Value
) -> _Facts:
    x, y = inputs
    if eqn.primitive.name == "div":
        # Its reciprocal is multiplied, which is 0 for no number.
        y = replace(y, nonzero=y.nonzero or not y.constant)
    along: list[list[tuple[Sources, bool]]] = []
    for pairs in _operand_pairs(indices, inputs, value):
        row = []
        for a, b in pairs:
            from_x, from_y = _independent(a, y), _independent(b, x)
            sources = _if(y.nonzero or _is_same(b), from_x) | _if(
                x.nonzero or _is_same(a), from_y
            )
            # Distinct entries times independent ones are distinct: no two are 0.
            distinct = (_differs(a) and y.nonzero and (_is_same(b) or from_y)) or (
                _differs(b) and x.nonzero and (_is_same(a) or from_x)
            )
            is_live = x.nonzero and y.nonzero and bool(sources)
            row.append((sources, bool(distinct) or is_live))
        along.append(row)
    sources = (x.sources - y.depends) | (y.sources - x.depends)
    return _Facts(along, sources, x.nonzero and y.nonzero)


def _contraction(
    indices: Indices, eqn: JaxprEqn, inputs: Sequence[Value], value: Value
) -> _Facts:
    """Returns the facts of a dot_general.

    A sum of independent entries, with weights that do not depend on them, is continuously
    distributed unless the weights are all 0.
    """
    contracted, batch = eqn.params["dimension_numbers"]
    sources: Sources = _NONE
    nonzero, free, shared = False, [], []
    for k, (x, other) in enumerate([(inputs[0], inputs[1]), (inputs[1], inputs[0])]):
        summed = _occurrences(indices, x, contracted[k])
        weights = _occurrences(indices, other, contracted[1 - k])
        live = x.nonzero and (other.nonzero or any(o.distinct for o in weights))
        through = (_common(summed) & x.sources if summed else x.sources) - other.depends
        is_scaled = not summed and other.nonzero
        for i, axis in enumerate(x.axes):
            occurrences = _flat(indices.normal(axis))
            if i not in (*contracted[k], *batch[k]):
                rows = [
                    (o.sources & through, is_scaled and o.distinct) for o in occurrences
                ]
                free.append([(s, bool(s and live) or d) for s, d in rows])
        # Along a shared index, the weights of some entries may be 0.
        shared.append(
            [
                [
                    _if(live, o.sources & through)
                    for o in _flat(indices.normal(x.axes[i]))
                ]
                for i in batch[k]
            ]
        )
        sources |= x.sources & through
        nonzero = nonzero or bool(live and x.sources & through)
    both = [
        [(a | b, bool(a | b)) for a, b in zip(p, q, strict=False)]
        for p, q in zip(*shared, strict=True)
    ]
    along = [*both, *free]
    counts = [len(_flat(indices.normal(axis))) for axis in value.axes]
    if [len(row) for row in along] != counts:
        return _Facts()
    return _Facts(along, sources, nonzero)


def _reduced_sum(
    indices: Indices, eqn: JaxprEqn, inputs: Sequence[Value], value: Value
) -> _Facts:
    (x,) = inputs
    summed = _occurrences(indices, x, eqn.params["axes"])
    if not summed:
        return _injective(indices, eqn, inputs, value)
    through = _common(summed) & x.sources
    along = [
        [(s := o.sources & through, bool(s) and x.nonzero) for o in _flat(axis)]
        for axis in map(indices.normal, value.axes)
    ]
    return _Facts(along, through, bool(through) and x.nonzero)


def _concatenation(
    indices: Indices, eqn: JaxprEqn, inputs: Sequence[Value], value: Value
) -> _Facts:
    """Returns the facts that hold for every part; none along the joined axis."""
    along: list[list[tuple[Sources, bool]]] = []
    for i, axis in enumerate(value.axes):
        count = len(_flat(indices.normal(axis)))
        rows = [_flat(indices.normal(x.axes[i])) for x in inputs]
        if i == eqn.params["dimension"] or any(len(row) != count for row in rows):
            along.append([(_NONE, False)] * count)
            continue
        along.append(
            [(_common(o), all(p.distinct for p in o)) for o in zip(*rows, strict=True)]
        )
    sources = frozenset.intersection(*(x.sources for x in inputs))
    return _Facts(along, sources, _all_nonzero(inputs))


# Functions that are 0 at 0 alone.
_MODULI = frozenset({"abs", "square", "integer_pow"})
_OPERATIONS: dict[str, Operation] = {
    **dict.fromkeys(("add", "sub", "add_any"), _sum),
    **dict.fromkeys(("mul", "div"), _product),
    "integer_pow": _integer_power,
    "dot_general": _contraction,
    "reduce_sum": _reduced_sum,
    "concatenate": _concatenation,
}

# An occurrence in an operand; None if the operand's axes are not those of the result, and
# True if the operand is constant along the index.
_Operand = Occurrence | Literal[True] | None


def _operand_pairs(
    indices: Indices, inputs: Sequence[Value], value: Value
) -> Iterator[list[tuple[_Operand, _Operand]]]:
    """Yields, per axis of a result, the occurrences of both operands at each of its."""
    for i, axis in enumerate(map(indices.normal, value.axes)):
        left, right = (_operands(indices, x, i, axis, len(value.axes)) for x in inputs)
        yield [*zip(left, right, strict=True)]


def _operands(
    indices: Indices, x: Value, i: int, axis: Axis, rank: int
) -> list[_Operand]:
    count = len(_flat(axis))
    if len(x.axes) != rank:
        return [True] * count
    mine = indices.normal(x.axes[i])
    if indices.axis_size(mine) == 1:
        return [True] * count
    if [len(segment) for segment in mine] != [len(segment) for segment in axis]:
        return [None] * count
    return [True if indices.is_uniform(o.axis_index) else o for o in _flat(mine)]


def _independent(operand: _Operand, other: Value) -> Sources:
    """Returns leaves through which entries are independent of each other and a value."""
    if isinstance(operand, Occurrence):
        return operand.sources - other.depends
    return _NONE


def _if(condition: bool, sources: Sources) -> Sources:
    return sources if condition else _NONE


def _differs(operand: _Operand) -> bool:
    return isinstance(operand, Occurrence) and operand.distinct


def _is_same(operand: _Operand) -> bool:
    return operand is True


def _occurrences(indices: Indices, x: Value, axes: Collection[int]) -> list[Occurrence]:
    return [o for i in axes for o in _flat(indices.normal(x.axes[i]))]


def _flat(axis: Axis) -> list[Occurrence]:
    return [o for segment in axis for o in segment]


def _common(occurrences: Iterable[Occurrence]) -> Sources:
    return frozenset.intersection(*(o.sources for o in occurrences))


def _all_nonzero(values: Iterable[Value]) -> bool:
    return all(x.nonzero for x in values)


def _is_precise(dtype: np.dtype) -> bool:
    """Returns True for types in which different numbers are seldom rounded to the same."""
    return jnp.issubdtype(dtype, jnp.inexact) and dtype.itemsize >= 4
