"""Discovery: from a function and its parameters to the weight symmetries."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metanet.errors import MetanetError
from metanet.programs import outline, readers_of
from metanet.symmetry import (
    rules_control,
    rules_elementwise,
    rules_index,
    rules_linear,
    rules_shape,
)
from metanet.symmetry.dataflow import ActivationBuilder
from metanet.symmetry.degrees import exponent_variable, find_scaling_groups
from metanet.symmetry.groups import find_groups, name_linear, nesting
from metanet.symmetry.indices import Axis, Indices, Occurrence
from metanet.symmetry.interpreter import Interpreter
from metanet.symmetry.pieces import cut_points, in_pieces, partition
from metanet.symmetry.structure import Block, Index, Leaf, Position
from metanet.symmetry.symmetry import Symmetry
from metanet.symmetry.values import Pieces, Value

__all__ = [
    "discover",
    "rules_control",
    "rules_elementwise",
    "rules_index",
    "rules_linear",
    "rules_shape",
]


def discover(
    apply_fn: Callable[..., Any], params: Any, *inputs: Any, check: bool = True
) -> Symmetry:
    """Finds the weight symmetries of a network from its program.

    The jaxpr is interpreted abstractly, twice over the same atoms: the first pass
    unifies and refines indices, the second, seeing their final form, finds activations,
    uses of parameters and exponent equations.

    Args:
        apply_fn: ``apply_fn(params, *inputs)``, any JAX function.
        params: Pytree of arrays or `jax.ShapeDtypeStruct` (then ``check`` must be
            False).
        *inputs: Example inputs (or shapes). An output of the function whose path ends
            in that of a parameter, with its shape, is the parameter's next value
            (updated statistics of a batch): it is not pinned, but moves along.
        check: Prove the result numerically with random elements.

    Returns:
        The symmetry: static, hashable.

    Raises:
        MetanetError: when ``params`` holds anything but arrays.
        SymmetryError: when the numerical check fails (a defect of a rule).
    """
    flat, treedef = jax.tree_util.tree_flatten_with_path(params)
    for path, leaf in flat:
        if not hasattr(leaf, "dtype"):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise MetanetError(
                f"params: {name or 'the whole'} is a {type(leaf).__name__}, not an array. "
                "discover takes (apply_fn, params, *inputs); importers.from_module makes "
                "these of a module"
            )
    shapes = [jax.ShapeDtypeStruct(jnp.shape(x), x.dtype) for _, x in flat]
    closed, results = jax.make_jaxpr(
        lambda leaves, *args: apply_fn(jax.tree.unflatten(treedef, leaves), *args),
        return_shape=True,
    )(shapes, *inputs)
    leaves = tuple(
        Leaf(
            jax.tree_util.keystr(path, simple=True, separator="/"),
            tuple(x.shape),
            str(x.dtype),
        )
        for (path, _), x in zip(flat, shapes, strict=True)
    )
    state_outputs = _state_outputs(leaves, results)
    symmetry = _Discovery(
        closed, leaves, jax.tree.leaves(inputs), state_outputs
    ).symmetry()
    if check:
        from metanet.symmetry.verification import check as prove

        prove(symmetry, apply_fn, params, *inputs)
    return symmetry


def _state_outputs(leaves: Sequence[Leaf], results: Any) -> tuple[tuple[int, int], ...]:
    """Outputs at a path that ends in a leaf's, with its shape: its next value."""
    found = []
    outputs, _ = jax.tree_util.tree_flatten_with_path(results)
    for place, (path, result) in enumerate(outputs):
        name = "/" + jax.tree_util.keystr(path, simple=True, separator="/")
        for index, leaf in enumerate(leaves):
            if name.endswith("/" + leaf.path) and tuple(result.shape) == leaf.shape:
                found.append((place, index))
                break
    return tuple(found)


class _Parameter(NamedTuple):
    """The axes of a leaf, or of each of the pieces in which the program reads it.

    Attributes:
        shape: Shape of the leaf.
        axis: The axis that is cut; 0 where nothing is.
        starts: Where each piece begins, and the size of the axis.
        pieces: Axes of each piece.
    """

    shape: tuple[int, ...]
    axis: int
    starts: tuple[int, ...]
    pieces: list[list[Axis]]

    def segments(self, indices: Indices) -> Iterator[tuple[list[int], list[Axis]]]:
        """Per piece its axes in segments, and the number of the first one per axis.

        Segments are numbered through all pieces: two pieces have none in common.
        """
        first = [0] * len(self.shape)
        for piece in self.pieces:
            axes = [indices.normal(axis) for axis in piece]
            yield first, axes
            first = [n + len(a) for n, a in zip(first, axes, strict=True)]


class _Discovery:
    """The two passes and what they yield."""

    def __init__(
        self,
        closed: Any,
        leaves: tuple[Leaf, ...],
        inputs: Sequence[Any],
        state_outputs: tuple[tuple[int, int], ...],
    ):
        self.closed, self.leaves = closed, leaves
        self.indices = Indices()
        new = self.indices.new
        readers = readers_of(closed.jaxpr)
        self.parameters = [
            self._parameter(readers, variable, leaf.shape)
            for variable, leaf in zip(closed.jaxpr.invars, leaves, strict=False)
        ]
        self.state_outputs = tuple(
            (o, i) for o, i in state_outputs if len(self.parameters[i].pieces) == 1
        )
        self.input_axes: list[list[Axis]] = [
            [[[Occurrence(new(n, "an input of the network"))]] for n in jnp.shape(x)]
            for x in inputs
        ]

    def _parameter(
        self, readers: Any, variable: Any, shape: tuple[int, ...]
    ) -> _Parameter:
        new = self.indices.new
        for axis, size in enumerate(shape):
            starts = partition(cut_points(readers, variable, axis), size)
            if starts is None:
                continue
            sizes = [b - a for a, b in itertools.pairwise(starts)]
            pieces = [
                [
                    [[Occurrence(new(n if i == axis else m))]]
                    for i, m in enumerate(shape)
                ]
                for n in sizes
            ]
            return _Parameter(shape, axis, starts, pieces)
        whole: list[Axis] = [[[Occurrence(new(n))]] for n in shape]
        return _Parameter(shape, 0, (0, *shape[:1]), [whole])

    def symmetry(self) -> Symmetry:
        carries: dict[tuple[int, ...], list[Axis]] = {}
        first = Interpreter(self.indices, carries=carries)
        values = self._first_values(first)
        for output, like in self._outputs(self._run(first, values), values):
            if output.index_of is not None:
                self.indices.pin(output.index_of, "an index that is an output")
            for i, axis in enumerate(output.axes):
                why = "an output of the network"
                if like is None:
                    self.indices.pin(axis, why)
                else:
                    self.indices.align(axis, like.axes[i], why)
        while True:
            before = self._state_of_leaves()
            blocks = list(self._tiles())
            activations = ActivationBuilder(self.indices, blocks, self._vectors(blocks))
            second = Interpreter(self.indices, activations, carries)
            second.closed_over = not self.input_axes
            values = self._second_values(second, activations)
            outputs = self._run(second, values)
            # An early equation may meet what a later one refined, and refine further.
            if self._state_of_leaves() == before:
                break
        plain = []
        for output, like in self._outputs(outputs, values):
            if like is None:
                plain.append(output)
                second.mapped(output, second.without_exponents)
                continue
            second.end_shift(output, like)
            for a, b in zip(output.axes, like.axes, strict=True):
                aligned = self.indices.align(a, b, "a next value")
                if aligned is not None:
                    second.beside(aligned, not output.zero, True)
        activations.mark_outputs(plain)
        return self._assemble(second, activations, blocks, [*values, *outputs])

    def _outputs(
        self, outputs: Sequence[Value], values: Sequence[Value]
    ) -> Iterator[tuple[Value, Value | None]]:
        """Every output, and the parameter whose next value it is, if it is one."""
        mirrored = dict(self.state_outputs)
        for place, output in enumerate(outputs):
            yield output, values[mirrored[place]] if place in mirrored else None

    def _run(self, run: Interpreter, values: list[Value]) -> list[Value]:
        constants = [run.constant(c) for c in self.closed.consts]
        return run.run(self.closed.jaxpr, constants, values)

    def _first_values(self, run: Interpreter) -> list[Value]:
        params = [
            self._value(run, p, [Value(a, leaves=frozenset({i}), distinct=True)
                                 for a in p.pieces])
            for i, p in enumerate(self.parameters)
        ]  # fmt: skip
        # Inputs are taken to be generic, as parameters are; whole numbers are not.
        variables = self.closed.jaxpr.invars[len(self.leaves) :]
        return params + [
            Value(a, distinct=v.aval.dtype.kind == "f")
            for a, v in zip(self.input_axes, variables, strict=True)
        ]

    def _value(
        self, run: Interpreter, parameter: _Parameter, values: list[Value]
    ) -> Value:
        if len(values) == 1:
            return values[0]
        pieces = Pieces(parameter.axis, parameter.starts, tuple(values))
        return in_pieces(run, parameter.shape, pieces)

    def _tiles(self) -> Iterator[Block]:
        for index, parameter in enumerate(self.parameters):
            places = zip(
                parameter.starts, parameter.segments(self.indices), strict=False
            )
            for begin, (first, axes) in places:
                sizes = [[self.indices.segment_size(s) for s in a] for a in axes]
                starts = [[*itertools.accumulate(s, initial=0)] for s in sizes]
                if len(parameter.pieces) > 1:
                    starts[parameter.axis] = [n + begin for n in starts[parameter.axis]]
                for choice in itertools.product(*(range(len(a)) for a in axes)):
                    placed = [
                        (Position(i, first[i] + j, k), o.axis_index)
                        for i, j in enumerate(choice)
                        for k, o in enumerate(axes[i][j])
                    ]
                    yield Block(
                        leaf=index,
                        segments=tuple(first[i] + j for i, j in enumerate(choice)),
                        bounds=tuple(
                            (starts[i][j], starts[i][j + 1])
                            for i, j in enumerate(choice)
                        ),
                        positions=tuple(p for p, _ in placed),
                        indices=tuple(a for _, a in placed),
                    )

    def _state_of_leaves(self) -> tuple[Any, ...]:
        """What the passes have found about the parameters' axes so far."""
        return tuple(
            [
                (
                    o.axis_index,
                    o.axis_index in self.indices.pins,
                    self.indices.is_opaque(o.axis_index),
                )
                for s in self.indices.normal(axis)
                for o in s
            ]
            for parameter in self.parameters
            for piece in parameter.pieces
            for axis in piece
        )

    def _vectors(self, blocks: Sequence[Block]) -> dict[int, int]:
        counts = [sum(t.leaf == i for t in blocks) for i in range(len(self.leaves))]
        return {
            t.leaf: t.indices[0]
            for t in blocks
            if counts[t.leaf] == 1 == len(t.indices)
        }

    def _second_values(
        self, run: Interpreter, activations: ActivationBuilder
    ) -> list[Value]:
        values = []
        for index, parameter in enumerate(self.parameters):
            shift = {index: 1.0} if len(parameter.pieces) == 1 else {}
            parts = []
            for first, normal in parameter.segments(self.indices):
                axes: list[Axis] = [
                    [
                        [
                            self._tagged(o, index, Position(i, first[i] + j, k))
                            for k, o in enumerate(segment)
                        ]
                        for j, segment in enumerate(axis)
                    ]
                    for i, axis in enumerate(normal)
                ]
                leaf = frozenset({index})
                parts.append(Value(axes, leaves=leaf, shift=shift, distinct=True))
            values.append(self._value(run, parameter, parts))
        inputs = self._first_values(run)[len(self.leaves) :]
        return values + [
            replace(x, activations={activations.add_input(i): ()})
            for i, x in enumerate(inputs)
        ]

    def _tagged(self, o: Occurrence, leaf: int, position: Position) -> Occurrence:
        tags = frozenset({("p", leaf, position)})
        if self.indices.is_opaque(o.axis_index):
            return Occurrence(o.axis_index, tags)
        form = ((exponent_variable(leaf, position), Fraction(1)),)
        return Occurrence(o.axis_index, tags, form, form)

    def _assemble(
        self,
        run: Interpreter,
        activations: ActivationBuilder,
        blocks: Sequence[Block],
        ends: Sequence[Value],
    ) -> Symmetry:
        order = dict.fromkeys(a for t in blocks for a in t.indices)
        order |= dict.fromkeys(sorted(activations.atoms_in_use()))
        number = {axis_index: i for i, axis_index in enumerate(order)}
        tensors = [*run.tensors, *(a for v in ends for a in _axes_of(v))]
        nest = {
            number[b]: frozenset(number[a] for a in beside)
            for b, beside in nesting(self.indices, tensors, order).items()
        }
        pins = self.indices.pins
        indices = tuple(Index(self.indices.size(a), pins.get(a)) for a in order)
        numbered = tuple(
            Block(t.leaf, t.segments, t.bounds, t.positions,
                 tuple(number[a] for a in t.indices))
            for t in blocks
        )  # fmt: skip
        opaque = frozenset(number[a] for a in order if self.indices.is_opaque(a))
        in_tiles = {a for t in numbered for a in t.indices}
        free = {a: n for a, n in nest.items() if a in in_tiles}
        scaling_groups = find_scaling_groups(
            numbered,
            run.equations,
            run.phases,
            opaque,
            nest,
            activations.parameter_edges,
        )
        entrywise = {
            number[a] for a in map(self.indices.find, run.entrywise) if a in number
        }
        return Symmetry(
            leaves=self.leaves,
            indices=indices,
            blocks=numbered,
            groups=name_linear(find_groups(indices, free), scaling_groups, entrywise),
            scaling_groups=scaling_groups,
            activations=activations.finished(number),
            parameter_edges=tuple(activations.parameter_edges),
            identity_edges=tuple(activations.identity_edges),
            unknown=tuple(sorted(run.unknown.items())),
            notes=tuple(tuple(self.indices.notes.get(a, ())) for a in order),
            program=outline(self.closed.jaxpr),
            state_outputs=self.state_outputs,
        )


def _axes_of(value: Value) -> list[list[Axis]]:
    return (
        [value.axes] if value.pieces is None else [p.axes for p in value.pieces.values]
    )
