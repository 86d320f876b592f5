"""The second pass's collection of sites, uses of parameters and joins."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from metanet.symmetry.indices import Axis, Indices, Occurrence
from metanet.symmetry.structure import (
    Activation,
    Block,
    IdentityEdge,
    ParameterEdge,
    Position,
    Role,
    View,
)
from metanet.symmetry.tags import joined_units, positions, sites_of
from metanet.symmetry.values import Chain, Value, map_occurrences
from metanet.symmetry.views import view_axes

if TYPE_CHECKING:
    from metanet.symmetry.interpreter import Interpreter

_PRODUCTS = ("weight", "conv", "embedding")


@dataclass
class _Activation:
    kind: str
    location: tuple[int, ...]
    units: list[int] = field(default_factory=list)
    depth: int = 0  # loops around it
    own: View | None = None  # where it is made
    view: View | None = None  # where another site first reads it


class ActivationBuilder:
    """Makes a site for every parametrised or combining operation, and its edges.

    Args:
        atoms: Atoms after the first pass.
        tiles: Tiles of all leaves.
        vectors: Atom of each leaf that has one free axis and no other.
    """

    def __init__(
        self, indices: Indices, blocks: Sequence[Block], vectors: dict[int, int]
    ):
        self.indices, self._tiles, self._vectors = indices, blocks, vectors
        self._indexing = {indices.find(a) for t in blocks for a in t.indices}
        self._loop_units: dict[tuple[int, int], int] = {}
        self._sites: list[_Activation] = []
        self.parameter_edges: list[ParameterEdge] = []
        self.identity_edges: list[IdentityEdge] = []

    def add_input(self, index: int) -> int:
        """A site for an input; its units are found at its first use by a parameter."""
        self._sites.append(_Activation("input", (-1, index)))
        return len(self._sites) - 1

    def add_constant(self, run: Interpreter, value: Value) -> Value:
        """Makes a constant that parameters read (a grid of coordinates) an input."""
        key = tuple(run.location)
        self._sites.append(_Activation("input", (-2, *key)))
        return replace(value, activations={len(self._sites) - 1: ()})

    def add_state(
        self, run: Interpreter, value: Value, init: Value, place: int
    ) -> Value:
        """Makes the state of a loop a site, whose units are the parameters' indices."""
        activation, units = len(self._sites), []

        def tagged(o: Occurrence) -> Occurrence:
            if o.axis_index not in self._indexing or o.axis_index in self.indices.pins:
                return o
            units.append(o.axis_index)
            return o._replace(tags=frozenset({("s", activation, len(units) - 1)}))

        axes = map_occurrences(self.indices, value.axes, tagged)
        if not units:
            return replace(value, activations=init.activations)
        self._sites.append(
            _Activation("state", (*run.location, place), units, run.depth + 1)
        )
        new = replace(
            value, axes=axes, activations={activation: ()}, leaves=frozenset()
        )
        for source, chain in init.activations.items():
            pairs = self._agreement(init.axes, source, axes, activation)
            self.identity_edges.append(
                IdentityEdge(source, activation, "init", chain, pairs)
            )
        return new

    def recur(self, before: Value, after: Value) -> None:
        """The value that a turn of a loop leaves is the next turn's state."""
        for state in before.activations:
            if self._sites[state].kind != "state":
                continue
            for source, chain in after.activations.items():
                if source != state:
                    pairs = self._agreement(after.axes, source, before.axes, state)
                    self.identity_edges.append(
                        IdentityEdge(source, state, "recurrence", chain, pairs)
                    )

    def _agreement(
        self, left: list[Axis], source: int, right: list[Axis], target: int
    ) -> tuple[tuple[int, int], ...]:
        """Pairs of units of two sites that stand at the same place of two arrays."""
        pairs = []
        for a, b in zip(left, right, strict=True):
            aligned = self.indices.align(a, b, "")
            for s, t in zip(*aligned, strict=True) if aligned else ():
                for o, p in zip(s, t, strict=True):
                    first = [q[2] for q in o.tags if q[:2] == ("s", source)]
                    second = [q[2] for q in p.tags if q[:2] == ("s", target)]
                    pairs += [(i, j) for i in first for j in second]
        return tuple(dict.fromkeys(pairs))

    def mark_outputs(self, outputs: Sequence[Value]) -> None:
        """Sites that reach an output are output sites."""
        for value in outputs:
            for activation in value.activations:
                if self._sites[activation].kind == "hidden":
                    self._sites[activation].kind = "output"

    def unit_of_vector(self, leaf: int) -> int | None:
        """The atom of a leaf that is a vector over a free index, or None."""
        axis_index = self._vectors.get(leaf)
        return None if axis_index is None else self.indices.find(axis_index)

    def finished(self, number: dict[int, int]) -> tuple[Activation, ...]:
        """The sites, with atoms renumbered."""
        chains: dict[int, set[Chain]] = {}
        for edge in (*self.parameter_edges, *self.identity_edges):
            if edge.source is not None:
                chains.setdefault(edge.source, set()).add(edge.chain)
        activations = []
        for index, activation in enumerate(self._sites):
            units = tuple(number[self.indices.find(a)] for a in activation.units)
            # What all readers see, where they see the same; else the value itself.
            alike = len(chains.get(index, ())) == 1
            view = (
                activation.view
                if alike and activation.view is not None
                else activation.own
            )
            activations.append(
                Activation(activation.kind, units, activation.location, view)
            )
        return tuple(activations)

    def atoms_in_use(self) -> set[int]:
        """Representatives of all unit atoms."""
        return {self.indices.find(a) for s in self._sites for a in s.units}

    def remaining(
        self, run: Interpreter, value: Value, axes: list[Axis]
    ) -> dict[int, Chain]:
        """Sites of a value of which a slice still holds units."""
        left = {
            t[1]
            for axis in axes
            for s in run.indices.normal(axis)
            for o in s
            for t in o.tags
            if t[0] == "s"
        }
        return {
            activation: chain
            for activation, chain in value.activations.items()
            if activation in left or not self._sites[activation].units
        }

    def note_reads(self, run: Interpreter, operands: Sequence[Value]) -> None:
        """Remembers where the activations of sites are first read by another."""
        for index, value in enumerate(operands):
            for activation in value.activations:
                held = self._sites[activation]
                first = held.view is None and held.depth == run.depth
                if held.kind in ("hidden", "state") and first:
                    held.view = self._view(run, value.axes, activation, index, True)

    def _view(
        self,
        run: Interpreter,
        axes: list[Axis],
        activation: int,
        index: int,
        operand: bool,
    ) -> View | None:
        if not run.capturable:
            return None
        units = len(self._sites[activation].units)
        turns = tuple(self._turn(activation, axis) for axis in run.context)
        found = view_axes(self.indices, axes, activation, units, turns)
        return View((*run.location, index), operand, found, turns) if found else None

    def _turn(self, activation: int, loop: Axis) -> int:
        """The unit of a site that the index of a loop is, or -1."""
        axis = self.indices.normal(loop)
        single = len(axis) == 1 == len(axis[0])
        return (
            self._loop_units.get((activation, axis[0][0].axis_index), -1)
            if single
            else -1
        )

    def connect(
        self,
        run: Interpreter,
        kind: str,
        value: Value,
        contracted: Sequence[Axis],
        leaves: frozenset[int],
        attributes: tuple[tuple[str, tuple[int, ...]], ...] = (),
    ) -> Value:
        """Makes the sites that a value consists of, and their edges.

        Args:
            run: The pass; its equation locates the sites.
            kind: "weight", "conv", "bias", "scale", "residual", "gate", ...
            value: The result, with the tags of its operands.
            contracted: Axes summed over, with the tags of both operands.
            leaves: Parameters used; none makes joins only.
            attributes: Static facts of the uses.

        Returns:
            The value, carrying the new sites in place of those before.
        """
        normal = self.indices.normal
        axes = [normal(a) for a in value.axes]
        inner = [normal(c) for c in contracted]
        inputs = [s for s in value.activations if self._sites[s].kind == "input"]
        inner = [[[self._tag(o, inputs) for o in g] for g in c] for c in inner]
        if not inner:
            axes = [[[self._tag(o, inputs) for o in g] for g in c] for c in axes]

        def is_unit(o: Occurrence) -> bool:
            if any(t[0] == "s" for t in o.tags):
                return True
            free = self.indices.find(o.axis_index) not in self.indices.pins
            made = bool(inner) or kind in _PRODUCTS or free
            return made and any(t[0] == "p" for t in o.tags)

        carrying = [
            i for i, a in enumerate(axes) if any(is_unit(o) for s in a for o in s)
        ]
        bare = [[[o._replace(tags=frozenset()) for o in s] for s in a] for a in axes]
        activations: dict[int, Chain] = {}
        for choice in itertools.product(*(range(len(axes[i])) for i in carrying)):
            activation = len(self._sites)
            self._sites.append(
                _Activation("hidden", (*run.location, 0), depth=run.depth)
            )
            activations[activation] = ()
            ends: list[tuple[Occurrence, int | None]] = []
            units = self._sites[activation].units
            for i, j in zip(carrying, choice, strict=True):
                for k, o in enumerate(axes[i][j]):
                    if not is_unit(o):
                        ends.append((o, None))
                        continue
                    ends.append((o, len(units)))
                    tag = ("s", activation, len(units))
                    bare[i][j][k] = bare[i][j][k]._replace(
                        tags=bare[i][j][k].tags | {tag}
                    )
                    units.append(o.axis_index)
            for o in self._loops(run):
                o = self._loop_index(o, value, leaves)
                if o.tags:
                    self._loop_units[activation, self.indices.find(o.axis_index)] = len(
                        units
                    )
                    ends.append((o, len(units)))
                    units.append(o.axis_index)
            ends += [
                (o, None)
                for i, a in enumerate(axes)
                if i not in carrying
                for s in a
                for o in s
            ]
            self._edges(kind, value, inner, leaves, attributes, activation, ends)
        for activation in activations:
            self._sites[activation].own = self._view(run, bare, activation, 0, False)
        return Value(bare, activations)

    def _loops(self, run: Interpreter) -> list[Occurrence]:
        """Indices of the loops around an equation, but for those that are cut up."""
        axes = [self.indices.normal(a) for a in run.context]
        return [o for axis in axes if len(axis) == 1 for o in axis[0]]

    def _loop_index(
        self, o: Occurrence, value: Value, leaves: frozenset[int]
    ) -> Occurrence:
        """The index of a loop over stacked parameters, where a site is one per turn."""
        root = self.indices.find(o.axis_index)
        own = {t for t in o.tags if t[0] == "p" and t[1] in leaves}
        read = {
            ("s", s, self._loop_units[s, root])
            for s in value.activations
            if (s, root) in self._loop_units
        }
        return o._replace(tags=frozenset(own | read))

    def _tag(self, o: Occurrence, inputs: Sequence[int]) -> Occurrence:
        """Gives an input a unit where a parameter indexes it."""
        kinds = {t[0] for t in o.tags}
        if not inputs or "p" not in kinds or "s" in kinds:
            return o
        tags = {
            ("s", activation, self._input_unit(activation, o.axis_index))
            for activation in inputs
        }
        return o._replace(tags=o.tags | tags)

    def _input_unit(self, activation: int, axis_index: int) -> int:
        root, units = self.indices.find(axis_index), self._sites[activation].units
        for place, held in enumerate(units):
            if self.indices.find(held) == root:
                return place
        units.append(root)
        return len(units) - 1

    def _edges(
        self,
        kind: str,
        value: Value,
        inner: Sequence[Axis],
        leaves: frozenset[int],
        attributes: tuple[tuple[str, tuple[int, ...]], ...],
        activation: int,
        ends: list[tuple[Occurrence, int | None]],
    ) -> None:
        done: set[int] = set()
        for choice in itertools.product(*inner):
            summed = [o for segment in choice for o in segment]
            reached = sites_of(summed)
            beside = sites_of(o for o, _ in ends)
            live = [
                s
                for s in value.activations
                if s in reached or s in beside or not self._sites[s].units
            ]
            sources = [s for s in value.activations if s in reached] or live
            for leaf in sorted(leaves):
                self._uses(
                    kind, value, leaf, attributes, activation, ends, summed,
                    (sources or [None]) if inner else [None], bool(inner),
                )  # fmt: skip
            if not leaves and inner:
                self._pair(value, reached, summed + [o for o, _ in ends])
            if not leaves or not inner:
                for source in live:
                    if source not in done:
                        done.add(source)
                        pairs = joined_units(source, ends)
                        chain = value.activations[source]
                        self.identity_edges.append(
                            IdentityEdge(source, activation, kind, chain, pairs)
                        )

    def _uses(
        self,
        kind: str,
        value: Value,
        leaf: int,
        attributes: tuple[tuple[str, tuple[int, ...]], ...],
        activation: int,
        ends: list[tuple[Occurrence, int | None]],
        summed: list[Occurrence],
        sources: Sequence[int | None],
        product: bool,
    ) -> None:
        roles: dict[Position, list[tuple[str, int, int]]] = {}
        segments: dict[int, int] = {}
        for o, unit in ends:
            for position in positions(o, leaf):
                held = roles.setdefault(position, [])
                if unit is not None:
                    segments[position.axis] = position.segment
                    held.append(("target", activation, unit))
                if product:
                    held += [("source", t[1], t[2]) for t in o.tags if t[0] == "s"]
        for o in summed:
            for position in positions(o, leaf):
                segments[position.axis] = position.segment
                held = roles.setdefault(position, [])
                held += [("source", t[1], t[2]) for t in o.tags if t[0] == "s"]
        for source in sources:
            chain = () if source is None else value.activations[source]
            join = () if source is None else joined_units(source, ends)
            for block in self._tiles_of(leaf, segments):
                listed = tuple(
                    tuple(
                        Role(end, unit)
                        for end, of, unit in dict.fromkeys(roles.get(position, ()))
                        if end == "target" or of == source
                    )
                    for position in block.positions
                )
                self.parameter_edges.append(
                    ParameterEdge(
                        leaf,
                        block.segments,
                        source,
                        activation,
                        kind,
                        chain,
                        listed,
                        join,
                        attributes,
                    )
                )

    def _pair(
        self, value: Value, reached: set[int], occurrences: list[Occurrence]
    ) -> None:
        """Query-key pairing: contracted units of two sites, matched one to one."""
        for a, b in itertools.combinations(sorted(reached), 2):
            units = [{t[1]: t[2] for t in o.tags if t[0] == "s"} for o in occurrences]
            pairs = tuple((u[a], u[b]) for u in units if a in u and b in u)
            self.identity_edges.append(
                IdentityEdge(a, b, "pairing", value.activations[a], pairs)
            )

    def _tiles_of(self, leaf: int, segments: dict[int, int]) -> Iterator[Block]:
        """Tiles of a leaf that agree with the given segments per axis."""
        for block in self._tiles:
            if block.leaf == leaf and all(
                block.segments[axis] == s for axis, s in segments.items()
            ):
                yield block
