"""Activations of a program, and the edges between them, recorded in the second pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, TypeVar

from jax.extend.core import JaxprEqn

from metanet.symmetry.indices import (
    Axis,
    Indices,
    Occurrence,
    ParamTag,
    Segment,
    UnitTag,
    activations_of,
    param_positions,
    unit_tags,
    units_of,
)
from metanet.symmetry.lookups import rows_beside
from metanet.symmetry.recorder import Attributes, NullDataflow, Trace, entrywise_axes
from metanet.symmetry.symmetry import (
    Activation,
    Block,
    IdentityEdge,
    ParameterEdge,
    Position,
    Role,
    View,
    ViewAxis,
)
from metanet.symmetry.values import Chain, Value, map_occurrences

# Kinds whose parameters index units even where the index is pinned.
_PRODUCTS = ("weight", "conv", "embedding")

# An index of an activation's array, and the unit that it is, or None.
_End = tuple[Occurrence, int | None]
# Pairs (source unit, target unit) that are the same index, no unit in two of them.
_Join = tuple[tuple[int, int], ...]
# Activations, and positions of leaves, of which an array does not consist.
_Absent = frozenset[int | ParamTag]
T = TypeVar("T")


@dataclass
class _Draft:
    """An activation while its units are being collected.

    Attributes:
        kind: See `Activation`.
        location: See `Activation`.
        units: Index of each unit.
        depth: Number of loops around it.
        result_view: Its units in the result of its equation.
        operand_view: Its units in the operand in which another activation first reads it.
    """

    kind: str
    location: tuple[int, ...]
    units: list[int] = field(default_factory=list)
    depth: int = 0
    result_view: View | None = None
    operand_view: View | None = None


@dataclass(frozen=True)
class _Connection:
    """The edges that lead to one new activation.

    Attributes:
        kind: Kind of the edges.
        value: The result of the equation, with the activations that it is made of.
        leaves: Parameters used, in order.
        attributes: Static facts of the edges.
        contracted: Axes summed over, with the tags of both operands.
        target: The new activation.
        ends: Indices of its part of the result, each with the unit that it is, or None.
        absent: Operands that are no part of the activation's array; see `_absent`.
    """

    kind: str
    value: Value
    leaves: tuple[int, ...]
    attributes: Attributes
    contracted: Sequence[Axis]
    target: int
    ends: Sequence[_End]
    absent: _Absent


class Dataflow(NullDataflow):
    """Records an activation for every parametrised or combining operation.

    Args:
        indices: Indices after the first pass.
        blocks: Blocks of all leaves.
        vectors: The index of each leaf that is a vector in one block.

    Attributes:
        parameter_edges: Edges recorded so far.
        identity_edges: Edges recorded so far.
        entrywise: Indices on whose single entries an equation acts.
    """

    def __init__(
        self, indices: Indices, blocks: Sequence[Block], vectors: dict[int, int]
    ):
        self.indices, self._vectors = indices, vectors
        self._blocks: dict[int, list[Block]] = {}
        for block in blocks:
            self._blocks.setdefault(block.leaf, []).append(block)
        self._param_indices = {indices.find(a) for b in blocks for a in b.indices}
        self._loop_units: dict[tuple[int, int], int] = {}
        self._drafts: list[_Draft] = []
        self.parameter_edges: list[ParameterEdge] = []
        self.identity_edges: list[IdentityEdge] = []
        self.entrywise: set[int] = set()

    # Activations that no operation makes.

    def add_input(self, number: int) -> int:
        """Adds an input; its units are those by which a parameter first indexes it."""
        self._drafts.append(_Draft("input", (-1, number)))
        return len(self._drafts) - 1

    def add_constant(self, trace: Trace, value: Value) -> Value:
        self._drafts.append(_Draft("input", (-2, *trace.location)))
        return replace(value, activations={len(self._drafts) - 1: ()})

    def add_state(self, trace: Trace, value: Value, init: Value, number: int) -> Value:
        """Makes the state of a loop an activation, with an identity edge from its start."""
        target = len(self._drafts)
        units: list[int] = []

        def tagged(o: Occurrence) -> Occurrence:
            is_param = o.axis_index in self._param_indices
            if not is_param or o.axis_index in self.indices.pins:
                return o
            units.append(o.axis_index)
            return o._replace(tags=frozenset({UnitTag(target, len(units) - 1)}))

        axes = map_occurrences(self.indices, value.axes, tagged)
        if not units:
            return replace(value, activations=init.activations)
        location = (*trace.location, number)
        self._drafts.append(_Draft("state", location, units, trace.depth + 1))
        for source, chain in init.activations.items():
            joins = self._agreeing_units(init.axes, source, axes, target)
            self._add_identity_edges(source, target, "init", chain, joins)
        return replace(value, axes=axes, activations={target: ()}, leaves=frozenset())

    def add_recurrence(self, before: Value, after: Value) -> None:
        for state in before.activations:
            if self._drafts[state].kind != "state":
                continue
            for source, chain in after.activations.items():
                if source == state:
                    continue
                joins = self._agreeing_units(after.axes, source, before.axes, state)
                self._add_identity_edges(source, state, "recurrence", chain, joins)

    def _agreeing_units(
        self, left: list[Axis], source: int, right: list[Axis], target: int
    ) -> list[_Join]:
        """Returns the units of two activations at the same positions of two arrays."""
        options = []
        for a, b in zip(left, right, strict=True):
            aligned = self.indices.align(a, b, "")
            for s, t in zip(*aligned, strict=True) if aligned else ():
                for o, p in zip(s, t, strict=True):
                    sources, targets = units_of(o, source), units_of(p, target)
                    options.append([*itertools.product(sources, targets)])
        return _joins(options)

    def _add_identity_edges(
        self,
        source: int,
        target: int,
        kind: str,
        chain: Chain,
        joins: Iterable[_Join],
    ) -> None:
        self.identity_edges += [
            IdentityEdge(source, target, kind, chain, join)
            for join in dict.fromkeys(joins)
        ]

    def mark_outputs(self, outputs: Sequence[Value]) -> None:
        """Marks hidden activations that reach an output as output."""
        for value in outputs:
            for activation in value.activations:
                if self._drafts[activation].kind == "hidden":
                    self._drafts[activation].kind = "output"

    # Results.

    def unit_of_vector(self, leaf: int) -> int | None:
        index = self._vectors.get(leaf)
        return None if index is None else self.indices.find(index)

    def unit_indices(self) -> set[int]:
        """Returns the representatives of the indices of all units."""
        return {self.indices.find(a) for draft in self._drafts for a in draft.units}

    def activations(self, number: dict[int, int]) -> tuple[Activation, ...]:
        """Returns the activations, with their indices renumbered."""
        chains: dict[int, set[Chain]] = {}
        for edge in (*self.parameter_edges, *self.identity_edges):
            if edge.source is not None:
                chains.setdefault(edge.source, set()).add(edge.chain)
        activations = []
        for i, draft in enumerate(self._drafts):
            units = tuple(number[self.indices.find(a)] for a in draft.units)
            # The array that all readers see, if they see the same; else the result.
            view = draft.result_view
            if len(chains.get(i, ())) == 1 and draft.operand_view is not None:
                view = draft.operand_view
            activations.append(Activation(draft.kind, units, draft.location, view))
        return tuple(activations)

    # Reads.

    def remaining(self, value: Value, axes: Sequence[Axis]) -> dict[int, Chain]:
        occurrences = (o for axis in axes for s in self.indices.normal(axis) for o in s)
        left = activations_of(occurrences)
        return {
            activation: chain
            for activation, chain in value.activations.items()
            if activation in left or not self._drafts[activation].units
        }

    def note_entrywise(
        self, trace: Trace, eqn: JaxprEqn, operands: Sequence[Value]
    ) -> None:
        for axis in entrywise_axes(trace, eqn, operands):
            for segment in self.indices.normal(axis):
                self.entrywise.update(o.axis_index for o in segment)

    def note_reads(self, trace: Trace, operands: Sequence[Value]) -> None:
        for number, value in enumerate(operands):
            for activation in value.activations:
                draft = self._drafts[activation]
                is_first = draft.operand_view is None and draft.depth == trace.depth
                if draft.kind in ("hidden", "state") and is_first:
                    draft.operand_view = self._view(
                        trace, value.axes, activation, number, operand=True
                    )

    def _view(
        self,
        trace: Trace,
        axes: list[Axis],
        activation: int,
        number: int,
        operand: bool,
    ) -> View | None:
        if not trace.capturable:
            return None
        count = len(self._drafts[activation].units)
        turns = tuple(self._loop_unit(activation, axis) for axis in trace.context)
        described = view_axes(self.indices, axes, activation, count, turns)
        if not described:
            return None
        return View((*trace.location, number), operand, described, turns)

    def _loop_unit(self, activation: int, loop: Axis) -> int:
        """Returns the unit of an activation that the index of a loop is, or -1."""
        axis = self.indices.normal(loop)
        if len(axis) != 1 or len(axis[0]) != 1:
            return -1
        return self._loop_units.get((activation, axis[0][0].axis_index), -1)

    # Operations.

    def connect(
        self,
        trace: Trace,
        kind: str,
        value: Value,
        contracted: Sequence[Axis],
        leaves: frozenset[int],
        attributes: Attributes = (),
    ) -> Value:
        """Makes activations of an operation's result, with edges from its operands.

        Args:
            trace: The interpreter.
            kind: Kind of the operation.
            value: Its result.
            contracted: Axes over which the operation sums.
            leaves: Parameters that it reads.
            attributes: Attributes of its parameter edges.

        Returns:
            The result, tagged with the units of the new activation.
        """
        inputs = [a for a in value.activations if self._drafts[a].kind == "input"]
        axes = [self.indices.normal(a) for a in value.axes]
        inner = self._with_input_units(contracted, inputs)
        if not inner:
            axes = self._with_input_units(axes, inputs)

        def is_unit(o: Occurrence) -> bool:
            if unit_tags(o):
                return True
            free = self.indices.find(o.axis_index) not in self.indices.pins
            by_parameter = bool(inner) or kind in _PRODUCTS or free
            return by_parameter and any(isinstance(t, ParamTag) for t in o.tags)

        rows, summed_rows = self._rows(trace, value, inner)
        inner += [[[self._loop_index(o, value, leaves)]] for o in summed_rows]
        unit_axes = [
            i for i, a in enumerate(axes) if any(is_unit(o) for s in a for o in s)
        ]
        untagged = [
            [[o._replace(tags=frozenset()) for o in s] for s in a] for a in axes
        ]
        activations: dict[int, Chain] = {}
        # Single entries of a concatenation are no units; they share an activation.
        recorded: set[tuple[int, ...]] = set()
        for choice in itertools.product(*(range(len(axes[i])) for i in unit_axes)):
            chosen = [(axes[i], j) for i, j in zip(unit_axes, choice, strict=True)]
            key = tuple(j if axis[j] else -1 for axis, j in chosen)
            if key in recorded:
                continue
            recorded.add(key)
            target = len(self._drafts)
            draft = _Draft("hidden", (*trace.location, 0), depth=trace.depth)
            self._drafts.append(draft)
            activations[target] = ()
            ends: list[_End] = []
            for i, j in zip(unit_axes, choice, strict=True):
                for k, o in enumerate(axes[i][j]):
                    if not is_unit(o):
                        ends.append((o, None))
                        continue
                    unit = len(draft.units)
                    ends.append((o, unit))
                    plain = untagged[i][j][k]
                    tags = plain.tags | {UnitTag(target, unit)}
                    untagged[i][j][k] = plain._replace(tags=tags)
                    draft.units.append(o.axis_index)
            for o in [*self._loops(trace), *rows]:
                o = self._loop_index(o, value, leaves)
                if o.tags:
                    unit = len(draft.units)
                    self._loop_units[target, self.indices.find(o.axis_index)] = unit
                    ends.append((o, unit))
                    draft.units.append(o.axis_index)
            order = tuple(sorted(leaves))
            absent: _Absent = frozenset().union(
                *(_absent(axis, number) for axis, number in chosen)
            )
            self._add_edges(
                _Connection(kind, value, order, attributes, inner, target, ends, absent)
            )
        for target in activations:
            view = self._view(trace, untagged, target, 0, operand=False)
            self._drafts[target].result_view = view
        return Value(untagged, activations)

    def _loops(self, trace: Trace) -> list[Occurrence]:
        """Returns the indices of the loops around an equation, except cut ones."""
        axes = [self.indices.normal(a) for a in trace.context]
        return [o for axis in axes if len(axis) == 1 for o in axis[0]]

    def _rows(
        self, trace: Trace, value: Value, contracted: Sequence[Axis]
    ) -> tuple[list[Occurrence], list[Occurrence]]:
        """Returns the rows that a result's entries belong to, and those summed over."""
        lookups = (*trace.lookups, *value.lookups)

        def members(axes: Sequence[Axis]) -> list[int]:
            normal = [self.indices.normal(a) for a in (*axes, *trace.context)]
            return [o.axis_index for a in normal for s in a for o in s]

        everywhere = members([*value.axes, *contracted])
        beside = rows_beside(self.indices, everywhere, lookups)
        inside = members(value.axes)
        outer = rows_beside(self.indices, inside, lookups)
        remaining = {o.axis_index for segment in outer for o in segment}
        occurrences = [o for segment in beside for o in segment]
        return (
            [o for o in occurrences if o.axis_index in remaining],
            [o for o in occurrences if o.axis_index not in remaining],
        )

    def _loop_index(
        self, o: Occurrence, value: Value, leaves: frozenset[int]
    ) -> Occurrence:
        """Tags the index of a loop over stacked parameters, one activation per turn."""
        root = self.indices.find(o.axis_index)
        tags = {t for t in o.tags if isinstance(t, ParamTag) and t.leaf in leaves}
        units = {
            UnitTag(a, self._loop_units[a, root])
            for a in value.activations
            if (a, root) in self._loop_units
        }
        return o._replace(tags=frozenset(tags | units))

    def _with_input_units(
        self, axes: Iterable[Axis], inputs: Sequence[int]
    ) -> list[Axis]:
        """Gives inputs a unit at each index that a parameter has too."""

        def tagged(o: Occurrence) -> Occurrence:
            is_param = any(isinstance(t, ParamTag) for t in o.tags)
            if not inputs or not is_param or unit_tags(o):
                return o
            units = {UnitTag(a, self._input_unit(a, o.axis_index)) for a in inputs}
            return o._replace(tags=o.tags | units)

        return map_occurrences(self.indices, list(axes), tagged)

    def _input_unit(self, activation: int, index: int) -> int:
        root, units = self.indices.find(index), self._drafts[activation].units
        for number, known in enumerate(units):
            if self.indices.find(known) == root:
                return number
        units.append(root)
        return len(units) - 1

    def _add_edges(self, connection: _Connection) -> None:
        value, leaves = connection.value, connection.leaves
        contracts = bool(connection.contracted)
        if contracts and not leaves:
            self._add_pairings(connection)
        joined: set[int] = set()
        in_result = activations_of(o for o, _ in connection.ends)
        for summed, absent in _contracted_segments(connection):
            in_sum = activations_of(summed)
            present = [a for a in value.activations if a not in absent]
            live = [
                a
                for a in present
                if a in in_sum or a in in_result or not self._drafts[a].units
            ]
            sources = [a for a in present if a in in_sum] or live
            for leaf in leaves:
                ends = (sources or [None]) if contracts else [None]
                self._add_parameter_edges(connection, leaf, ends, summed, absent)
            if contracts and leaves:
                continue
            for source in live:
                if source in joined:
                    continue
                joined.add(source)
                options = [
                    [(source_unit, unit) for source_unit in units_of(o, source)]
                    for o, unit in connection.ends
                    if unit is not None
                ]
                self._add_identity_edges(
                    source,
                    connection.target,
                    connection.kind,
                    value.activations[source],
                    _joins(options),
                )

    def _add_pairings(self, connection: _Connection) -> None:
        """Adds edges between contracted units of two activations (queries and keys)."""
        joins: dict[tuple[int, int], list[_Join]] = {}
        for summed, _ in _contracted_segments(connection):
            occurrences = [*summed, *(o for o, _ in connection.ends)]
            for a, b in itertools.combinations(sorted(activations_of(summed)), 2):
                options = [
                    [*itertools.product(units_of(o, a), units_of(o, b))]
                    for o in occurrences
                ]
                joins.setdefault((a, b), []).extend(_joins(options))
        for (a, b), of_pair in joins.items():
            chain = connection.value.activations[a]
            self._add_identity_edges(a, b, "pairing", chain, of_pair)

    def _add_parameter_edges(
        self,
        connection: _Connection,
        leaf: int,
        sources: Sequence[int | None],
        summed: Sequence[Occurrence],
        absent: _Absent,
    ) -> None:
        """Adds the edges of one leaf from each source.

        There are several per source where the leaf, or the source, reaches the target
        on several paths; see `_matchings`.

        Args:
            connection: The target and its indices.
            leaf: The leaf.
            sources: Activations read; None stands for a bias node.
            summed: The indices summed over.
            absent: See `_absent`.
        """
        ends: list[_End] = [*connection.ends, *((o, None) for o in summed)]
        positions = [param_positions(o, leaf) for o, _ in ends]
        edges: dict[ParameterEdge, None] = {}
        for block in self._blocks.get(leaf, ()):
            options = [
                [p for p in entry if p in block.positions] for entry in positions
            ]
            # Every index of the leaf must be one of the block's.
            is_other = any(
                entry and not inside
                for entry, inside in zip(positions, options, strict=True)
            )
            if is_other or any(ParamTag(leaf, p) in absent for p in block.positions):
                continue
            for source in sources:
                read = [[] if source is None else units_of(o, source) for o, _ in ends]
                edges |= {
                    self._parameter_edge(
                        connection, block, source, indexed, units
                    ): None
                    for indexed in _matchings(options, [_itself])
                    for units in _matchings(read, [_itself])
                }
        self.parameter_edges += edges

    def _parameter_edge(
        self,
        connection: _Connection,
        block: Block,
        source: int | None,
        indexed: Sequence[Position | None],
        units: Sequence[int | None],
    ) -> ParameterEdge:
        """Returns the edges of one block.

        Args:
            connection: The target and its indices.
            block: The block.
            source: The activation read, or None.
            indexed: Per index of the result, then per index summed over, the position of
                the block that it is.
            units: Likewise, the source's unit that it is.
        """
        targets = [unit for _, unit in connection.ends]
        targets += [None] * (len(units) - len(targets))

        def roles(position: Position) -> Iterator[Role]:
            for p, target_unit, unit in zip(indexed, targets, units, strict=True):
                if p == position and target_unit is not None:
                    yield Role("target", target_unit)
                if p == position and unit is not None:
                    yield Role("source", unit)

        return ParameterEdge(
            block.leaf,
            block.segments,
            source,
            connection.target,
            connection.kind,
            () if source is None else connection.value.activations[source],
            tuple(tuple(roles(p)) for p in block.positions),
            tuple(
                (unit, target_unit)
                for unit, target_unit in zip(units, targets, strict=True)
                if unit is not None and target_unit is not None
            ),
            connection.attributes,
        )


def _itself(option: Any) -> Any:
    return option


def _joins(options: Sequence[Sequence[tuple[int, int]]]) -> list[_Join]:
    """Returns the ways in which units of two activations are the same indices.

    There are several where an activation reaches another along several axes (an outer
    product with itself, a matrix plus its transpose).

    Args:
        options: Per index of an array the pairs of units that are this index.
    """
    chosen = _matchings(options, [itemgetter(0), itemgetter(1)])
    return [tuple(pair for pair in pairs if pair is not None) for pairs in chosen]


def _matchings(
    options: Sequence[Sequence[T]], keys: Sequence[Callable[[T], Any]]
) -> Iterator[tuple[T | None, ...]]:
    """Yields the largest choices of an option per entry of which no two share a key.

    Args:
        options: Options of each entry.
        keys: Functions of an option; two options share a key if one of them is equal.

    Yields:
        Per entry the option, None if all of its options share a key with chosen ones.
    """

    def clash(a: T, b: T) -> bool:
        return any(key(a) == key(b) for key in keys)

    def extend(chosen: tuple[T | None, ...]) -> Iterator[tuple[T | None, ...]]:
        taken = [c for c in chosen if c is not None]
        if len(chosen) < len(options):
            entry = options[len(chosen)]
            free = [o for o in entry if not any(clash(t, o) for t in taken)]
            for option in free:
                yield from extend((*chosen, option))
            later = [o for rest in options[len(chosen) + 1 :] for o in rest]
            # An entry goes without where others may take all that it could have.
            if all(any(clash(o, other) for other in later) for o in free):
                yield from extend((*chosen, None))
        elif all(
            c is not None or all(any(clash(t, o) for t in taken) for o in entry)
            for c, entry in zip(chosen, options, strict=True)
        ):
            yield chosen

    yield from extend(())


def _contracted_segments(
    connection: _Connection,
) -> Iterator[tuple[list[Occurrence], _Absent]]:
    """Yields a segment of every axis summed over, and the operands absent from it."""
    for choice in itertools.product(*map(enumerate, connection.contracted)):
        chosen = zip(connection.contracted, choice, strict=True)
        absent = [_absent(axis, number) for axis, (number, _) in chosen]
        yield [o for _, s in choice for o in s], connection.absent.union(*absent)


def _absent(axis: Axis, number: int) -> _Absent:
    """Returns the operands of a concatenation that are not in one of its segments.

    They are in other segments of the axis alone; what is in none (an array that is
    constant along the axis) may be part of all.
    """

    def operands(segments: Iterable[Segment]) -> _Absent:
        return frozenset(
            tag.activation if isinstance(tag, UnitTag) else tag
            for segment in segments
            for o in segment
            for tag in o.tags
        )

    return operands(axis) - operands([axis[number]])


def view_axes(
    indices: Indices,
    axes: Sequence[Axis],
    activation: int,
    count: int,
    turns: Sequence[int] = (),
) -> tuple[ViewAxis | None, ...] | None:
    """Describes an array's axes as `View.axes` does.

    Args:
        indices: Indices of the occurrences.
        axes: The array's axes, with tags of units.
        activation: The activation.
        count: Number of its units.
        turns: Units that are the turns of loops around the array.

    Returns:
        One entry per axis; None if the array lacks units, or has some twice.
    """
    described: list[ViewAxis | None] = []
    present = [u for u in turns if u >= 0]
    for axis in map(indices.normal, axes):
        entry = None
        for start, segment in zip(indices.starts(axis), axis, strict=True):
            units = tuple(next(iter(units_of(o, activation)), -1) for o in segment)
            if any(u >= 0 for u in units):
                entry = (indices.part_of(start, segment), units)
                present += [u for u in units if u >= 0]
        described.append(entry)
    return tuple(described) if sorted(present) == list(range(count)) else None
