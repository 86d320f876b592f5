"""Activations of a program, and the edges between them, recorded in the second pass."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from jax.extend.core import JaxprEqn

from metanet.symmetry.indices import (
    Axis,
    Indices,
    Occurrence,
    ParamTag,
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
        ends: Indices of its array, each with the unit that it is, or None.
    """

    kind: str
    value: Value
    leaves: tuple[int, ...]
    attributes: Attributes
    contracted: Sequence[Axis]
    target: int
    ends: Sequence[_End]

    def joined_units(self, source: int) -> tuple[tuple[int, int], ...]:
        """Returns pairs of a source's and the target's unit that are the same index."""
        return tuple(
            (source_unit, unit)
            for o, unit in self.ends
            if unit is not None
            for source_unit in units_of(o, source)
        )


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
            pairs = self._agreeing_units(init.axes, source, axes, target)
            edge = IdentityEdge(source, target, "init", chain, pairs)
            self.identity_edges.append(edge)
        return replace(value, axes=axes, activations={target: ()}, leaves=frozenset())

    def add_recurrence(self, before: Value, after: Value) -> None:
        for state in before.activations:
            if self._drafts[state].kind != "state":
                continue
            for source, chain in after.activations.items():
                if source == state:
                    continue
                pairs = self._agreeing_units(after.axes, source, before.axes, state)
                edge = IdentityEdge(source, state, "recurrence", chain, pairs)
                self.identity_edges.append(edge)

    def _agreeing_units(
        self, left: list[Axis], source: int, right: list[Axis], target: int
    ) -> tuple[tuple[int, int], ...]:
        """Returns pairs of units of two activations at the same position of two arrays."""
        pairs = []
        for a, b in zip(left, right, strict=True):
            aligned = self.indices.align(a, b, "")
            for s, t in zip(*aligned, strict=True) if aligned else ():
                for o, p in zip(s, t, strict=True):
                    targets = units_of(p, target)
                    pairs += [(i, j) for i in units_of(o, source) for j in targets]
        return tuple(dict.fromkeys(pairs))

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
        others = [i for i in range(len(axes)) if i not in unit_axes]
        untagged = [
            [[o._replace(tags=frozenset()) for o in s] for s in a] for a in axes
        ]
        activations: dict[int, Chain] = {}
        # Single entries of a concatenation are no units; they share an activation.
        targets: dict[tuple[int, ...], int] = {}
        for choice in itertools.product(*(range(len(axes[i])) for i in unit_axes)):
            chosen = zip(unit_axes, choice, strict=True)
            key = tuple(j if axes[i][j] else -1 for i, j in chosen)
            target = targets.setdefault(key, len(self._drafts))
            draft = _Draft("hidden", (*trace.location, 0), depth=trace.depth)
            if target == len(self._drafts):
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
            ends += [(o, None) for i in others for s in axes[i] for o in s]
            order = tuple(sorted(leaves))
            self._add_edges(
                _Connection(kind, value, order, attributes, inner, target, ends)
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
        joined: set[int] = set()
        outer = [o for o, _ in connection.ends]
        for choice in itertools.product(*connection.contracted):
            summed = [o for segment in choice for o in segment]
            in_sum, in_result = activations_of(summed), activations_of(outer)
            live = [
                a
                for a in value.activations
                if a in in_sum or a in in_result or not self._drafts[a].units
            ]
            sources = [a for a in value.activations if a in in_sum] or live
            for leaf in leaves:
                self._add_parameter_edges(
                    connection,
                    leaf,
                    (sources or [None]) if contracts else [None],
                    summed,
                )
            if contracts and not leaves:
                self._add_pairing(value, in_sum, summed + outer)
            if contracts and leaves:
                continue
            for source in live:
                if source in joined:
                    continue
                joined.add(source)
                self.identity_edges.append(
                    IdentityEdge(
                        source,
                        connection.target,
                        connection.kind,
                        value.activations[source],
                        connection.joined_units(source),
                    )
                )

    def _add_parameter_edges(
        self,
        connection: _Connection,
        leaf: int,
        sources: Sequence[int | None],
        summed: Sequence[Occurrence],
    ) -> None:
        """Adds the edges of one leaf from each source.

        Args:
            connection: The target and its indices.
            leaf: The leaf.
            sources: Activations read; None stands for a bias node.
            summed: The indices summed over.
        """
        roles: dict[Position, list[tuple[str, UnitTag]]] = {}
        # An index that several segments share is in those that all indices agree on.
        segments: dict[int, set[int]] = {}

        def narrow(positions: Sequence[Position]) -> None:
            for axis in {p.axis for p in positions}:
                possible = {p.segment for p in positions if p.axis == axis}
                segments[axis] = segments.get(axis, possible) & possible

        for o, unit in connection.ends:
            positions = param_positions(o, leaf)
            if unit is not None:
                narrow(positions)
            for position in positions:
                entries = roles.setdefault(position, [])
                if unit is not None:
                    entries.append(("target", UnitTag(connection.target, unit)))
                if connection.contracted:
                    entries += [("source", tag) for tag in unit_tags(o)]
        for o in summed:
            positions = param_positions(o, leaf)
            narrow(positions)
            for position in positions:
                entries = roles.setdefault(position, [])
                entries += [("source", tag) for tag in unit_tags(o)]

        def roles_at(position: Position, source: int | None) -> tuple[Role, ...]:
            return tuple(
                Role(end, tag.unit)
                for end, tag in dict.fromkeys(roles.get(position, ()))
                if end == "target" or tag.activation == source
            )

        for source in sources:
            chain: Chain = ()
            join: tuple[tuple[int, int], ...] = ()
            if source is not None:
                chain = connection.value.activations[source]
                join = connection.joined_units(source)
            for block in self._blocks_of(leaf, segments):
                self.parameter_edges.append(
                    ParameterEdge(
                        leaf,
                        block.segments,
                        source,
                        connection.target,
                        connection.kind,
                        chain,
                        tuple(roles_at(p, source) for p in block.positions),
                        join,
                        connection.attributes,
                    )
                )

    def _add_pairing(
        self, value: Value, activations: set[int], occurrences: list[Occurrence]
    ) -> None:
        """Adds edges between contracted units of two activations (queries and keys)."""
        units = [{t.activation: t.unit for t in unit_tags(o)} for o in occurrences]
        for a, b in itertools.combinations(sorted(activations), 2):
            pairs = tuple((u[a], u[b]) for u in units if a in u and b in u)
            edge = IdentityEdge(a, b, "pairing", value.activations[a], pairs)
            self.identity_edges.append(edge)

    def _blocks_of(self, leaf: int, segments: dict[int, set[int]]) -> Iterator[Block]:
        """Yields the blocks of a leaf in possible segments of some of its axes."""
        for block in self._blocks.get(leaf, ()):
            if all(block.segments[axis] in s for axis, s in segments.items()):
                yield block


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
