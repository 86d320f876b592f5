"""Discovery: from a function and its parameters to the weight symmetries."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Var

from metanet.errors import MetanetError
from metanet.programs import Readers, dtype_of, outline, readers_of
from metanet.symmetry.dataflow import Dataflow
from metanet.symmetry.distinctness import generic_value
from metanet.symmetry.groups import find_groups, name_linear, nesting
from metanet.symmetry.indices import Axis, ExponentVar, Indices, Occurrence, ParamTag
from metanet.symmetry.interpreter import Interpreter, LoopStates
from metanet.symmetry.recorder import NullDataflow, Trace
from metanet.symmetry.scaling import find_scaling_groups
from metanet.symmetry.split_values import partition, read_intervals
from metanet.symmetry.symmetry import Block, Index, Leaf, Position, Symmetry
from metanet.symmetry.values import Value
from metanet.symmetry.verification import verify


def discover(
    apply_fn: Callable[..., Any], params: Any, *inputs: Any, check: bool = True
) -> Symmetry:
    """Finds the weight symmetries of a network from its program.

    The jaxpr is interpreted abstractly, twice over the same indices: the first pass
    unifies and refines indices, the second, with their final form, records activations,
    edges and exponent equations.

    Args:
        apply_fn: ``apply_fn(params, *inputs)``, any JAX function.
        params: Pytree of arrays or `jax.ShapeDtypeStruct` (then ``check`` must be
            False).
        *inputs: Example inputs (or shapes). An output of the function whose path ends
            in that of a parameter, with its shape, is the parameter's next value
            (updated statistics of a batch): it is not pinned, but moves along.
        check: Verify the result numerically with random elements. `metanet.symmetry.check`
            does this and more, and returns what it found.

    Returns:
        The symmetry: static, hashable.

    Raises:
        MetanetError: if ``params`` contains anything but arrays.
        SymmetryError: if the numerical check fails (a defect of a rule).
    """
    flat, treedef = jax.tree_util.tree_flatten_with_path(params)
    for path, leaf in flat:
        if not hasattr(leaf, "dtype"):
            name = leaf_path(path)
            raise MetanetError(
                f"params: {name or 'the whole'} is a {type(leaf).__name__}, not an array. "
                "discover takes (apply_fn, params, *inputs); importers.from_module makes "
                "these of a module"
            )
    shapes = [jax.ShapeDtypeStruct(jnp.shape(x), x.dtype) for _, x in flat]

    def flat_apply(leaves: Sequence[Any], *args: Any) -> Any:
        return apply_fn(jax.tree.unflatten(treedef, leaves), *args)

    closed, results = jax.make_jaxpr(flat_apply, return_shape=True)(shapes, *inputs)
    leaves = tuple(
        Leaf(leaf_path(path), tuple(x.shape), str(x.dtype))
        for (path, _), x in zip(flat, shapes, strict=True)
    )
    state_outputs = _state_outputs(leaves, results)
    discovery = _Discovery(closed, leaves, jax.tree.leaves(inputs), state_outputs)
    symmetry = discovery.run()
    if check:
        verify(symmetry, closed, params, inputs)
    return symmetry


def leaf_path(path: Any) -> str:
    """Returns a pytree path as text, "layers/0/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _state_outputs(leaves: Sequence[Leaf], results: Any) -> tuple[tuple[int, int], ...]:
    """Returns pairs of an output and the leaf whose next value it is.

    The path of such an output ends in that of the leaf, and it has the leaf's shape.
    """
    pairs = []
    outputs, _ = jax.tree_util.tree_flatten_with_path(results)
    for output, (path, result) in enumerate(outputs):
        name = "/" + leaf_path(path)
        for index, leaf in enumerate(leaves):
            if name.endswith("/" + leaf.path) and tuple(result.shape) == leaf.shape:
                pairs.append((output, index))
                break
    return tuple(pairs)


class _Parameter(NamedTuple):
    """The axes of a leaf, or of each part of one that the program reads in parts.

    Attributes:
        shape: Shape of the leaf.
        axis: The axis that is cut; 0 if none is.
        starts: First entry of each part, and the size of the axis.
        parts: Axes of each part.
    """

    shape: tuple[int, ...]
    axis: int
    starts: tuple[int, ...]
    parts: list[list[Axis]]

    def segments(self, indices: Indices) -> Iterator[tuple[list[int], list[Axis]]]:
        """Yields the axes of each part, after the number of the first segment per axis.

        Segments are numbered through all parts: two parts have none in common.
        """
        first = [0] * len(self.shape)
        for part in self.parts:
            axes = [indices.normal(axis) for axis in part]
            yield first, axes
            first = [n + len(a) for n, a in zip(first, axes, strict=True)]


class _Discovery:
    """The two passes over a program and their result.

    Args:
        closed: The program; its first inputs are the leaves.
        leaves: The parameters.
        inputs: Example inputs.
        state_outputs: See `Symmetry.state_outputs`.
    """

    def __init__(
        self,
        closed: ClosedJaxpr,
        leaves: tuple[Leaf, ...],
        inputs: Sequence[Any],
        state_outputs: tuple[tuple[int, int], ...],
    ):
        self.closed, self.leaves = closed, leaves
        self.indices = Indices()
        readers = readers_of(closed.jaxpr)
        self.parameters = [
            self._parameter(readers, variable, leaf.shape)
            for variable, leaf in zip(closed.jaxpr.invars, leaves, strict=False)
        ]
        self.state_outputs = tuple(
            (output, leaf)
            for output, leaf in state_outputs
            if len(self.parameters[leaf].parts) == 1
        )
        self.input_axes: list[list[Axis]] = [
            [self._new_axis(n, "an input of the network") for n in jnp.shape(x)]
            for x in inputs
        ]

    def _new_axis(self, size: int, pin: str | None = None) -> Axis:
        return [[Occurrence(self.indices.new(size, pin))]]

    def _parameter(
        self, readers: Readers, variable: Var, shape: tuple[int, ...]
    ) -> _Parameter:
        for axis, size in enumerate(shape):
            starts = partition(read_intervals(readers, variable, axis), size)
            if starts is None:
                continue
            sizes = [stop - start for start, stop in itertools.pairwise(starts)]
            parts = [
                [self._new_axis(n if i == axis else m) for i, m in enumerate(shape)]
                for n in sizes
            ]
            return _Parameter(shape, axis, starts, parts)
        whole = [self._new_axis(n) for n in shape]
        return _Parameter(shape, 0, (0, *shape[:1]), [whole])

    def run(self) -> Symmetry:
        """Returns the symmetry of the program."""
        loop_states: LoopStates = {}
        self._first_pass(loop_states)
        while True:
            before = self._state_of_leaves()
            blocks = list(self._blocks())
            dataflow = Dataflow(self.indices, blocks, self._vectors(blocks))
            trace = Interpreter(self.indices, dataflow, loop_states)
            trace.closed_over = not self.input_axes
            values = self._tagged_values(trace, dataflow)
            outputs = self._interpret(trace, values)
            # An early equation may meet an index that a later one refined, and refine
            # it further.
            if self._state_of_leaves() == before:
                break
        plain = []
        for output, parameter in self._outputs(outputs, values):
            if parameter is None:
                plain.append(output)
                trace.forbid_exponents(output)
                continue
            trace.forbid_phase(output, parameter)
            for a, b in zip(output.axes, parameter.axes, strict=True):
                aligned = self.indices.align(a, b, "a next value")
                if aligned is not None:
                    trace.joined_axis(aligned, not output.zero, True)
        dataflow.mark_outputs(plain)
        return self._assemble(trace, dataflow, blocks, [*values, *outputs])

    def _first_pass(self, loop_states: LoopStates) -> None:
        """Unifies and refines the indices."""
        trace = Interpreter(self.indices, NullDataflow(), loop_states)
        values = self._plain_values(trace)
        for output, parameter in self._outputs(self._interpret(trace, values), values):
            if output.index_of is not None:
                self.indices.pin(output.index_of, "an index that is an output")
            for i, axis in enumerate(output.axes):
                why = "an output of the network"
                if parameter is None:
                    self.indices.pin(axis, why)
                else:
                    self.indices.align(axis, parameter.axes[i], why)

    def _outputs(
        self, outputs: Sequence[Value], values: Sequence[Value]
    ) -> Iterator[tuple[Value, Value | None]]:
        """Yields every output, and the parameter whose next value it is, or None."""
        leaf_of = dict(self.state_outputs)
        for number, output in enumerate(outputs):
            yield output, values[leaf_of[number]] if number in leaf_of else None

    def _interpret(self, trace: Interpreter, values: list[Value]) -> list[Value]:
        constants = [trace.constant(c) for c in self.closed.consts]
        return trace.run(self.closed.jaxpr, constants, values)

    def _plain_values(self, trace: Trace) -> list[Value]:
        """Returns parameters and inputs without tags."""
        params = []
        for i, parameter in enumerate(self.parameters):
            leaves = frozenset({i})
            parts = [
                self._leaf_value(Value(a, leaves=leaves), i) for a in parameter.parts
            ]
            params.append(self._value(trace, parameter, parts))
        return [*params, *self._input_values()]

    def _input_values(self) -> list[Value]:
        variables = self.closed.jaxpr.invars[len(self.leaves) :]
        return [
            generic_value(Value(axes), -1 - number, dtype_of(variable))
            for number, (axes, variable) in enumerate(
                zip(self.input_axes, variables, strict=True)
            )
        ]

    def _leaf_value(self, value: Value, leaf: int) -> Value:
        return generic_value(value, leaf, dtype_of(self.closed.jaxpr.invars[leaf]))

    def _tagged_values(self, trace: Trace, dataflow: Dataflow) -> list[Value]:
        """Returns parameters and inputs with tags, exponents and activations."""
        params = []
        for index, parameter in enumerate(self.parameters):
            leaves = frozenset({index})
            variable = self.closed.jaxpr.invars[index]
            is_real = jnp.issubdtype(dtype_of(variable), jnp.floating)
            shift = {index: 1.0} if len(parameter.parts) == 1 and is_real else {}
            parts = []
            for first, axes in parameter.segments(self.indices):
                tagged: list[Axis] = [
                    [
                        [
                            self._tagged(trace, o, index, Position(i, first[i] + j, k))
                            for k, o in enumerate(segment)
                        ]
                        for j, segment in enumerate(axis)
                    ]
                    for i, axis in enumerate(axes)
                ]
                part = Value(tagged, leaves=leaves, shift=shift)
                parts.append(self._leaf_value(part, index))
            params.append(self._value(trace, parameter, parts))
        inputs = [
            replace(x, activations={dataflow.add_input(i): ()})
            for i, x in enumerate(self._input_values())
        ]
        return params + inputs

    def _tagged(
        self, trace: Trace, o: Occurrence, leaf: int, position: Position
    ) -> Occurrence:
        tags = frozenset({ParamTag(leaf, position)})
        dtype = dtype_of(self.closed.jaxpr.invars[leaf])
        is_number = jnp.issubdtype(dtype, jnp.inexact)
        is_empty = 0 in self.leaves[leaf].shape  # has no blocks to scale
        if is_empty or self.indices.is_unstructured(o.axis_index):
            return o._replace(tags=tags)
        form = ((ExponentVar(leaf, position), Fraction(1)),)
        if not is_number:
            trace.require("real", form)
            trace.require("sign", form)
            return o._replace(tags=tags)
        return o._replace(tags=tags, real=form, sign=form)

    def _value(self, trace: Trace, parameter: _Parameter, parts: list[Value]) -> Value:
        if len(parts) == 1:
            return parts[0]
        return trace.split_value(
            parameter.shape, parameter.axis, parameter.starts, parts
        )

    def _blocks(self) -> Iterator[Block]:
        """Yields the blocks of all leaves, with indices of the union-find."""
        for index, parameter in enumerate(self.parameters):
            parts = parameter.segments(self.indices)
            for begin, (first, axes) in zip(parameter.starts, parts, strict=False):
                starts = [self.indices.starts(axis) for axis in axes]
                if len(parameter.parts) > 1:
                    starts[parameter.axis] = [n + begin for n in starts[parameter.axis]]
                for choice in itertools.product(*(range(len(a)) for a in axes)):
                    chosen = [*enumerate(choice)]
                    factors = [
                        (Position(i, first[i] + j, k), o.axis_index)
                        for i, j in chosen
                        for k, o in enumerate(axes[i][j])
                    ]
                    yield Block(
                        leaf=index,
                        segments=tuple(first[i] + j for i, j in chosen),
                        parts=tuple(
                            self.indices.part_of(starts[i][j], axes[i][j])
                            for i, j in chosen
                        ),
                        positions=tuple(position for position, _ in factors),
                        indices=tuple(axis_index for _, axis_index in factors),
                    )

    def _state_of_leaves(self) -> tuple[Any, ...]:
        """Returns all that the passes know about the parameters' axes so far."""
        return tuple(
            [
                (
                    o.axis_index,
                    o.axis_index in self.indices.pins,
                    self.indices.is_unstructured(o.axis_index),
                )
                for s in self.indices.normal(axis)
                for o in s
            ]
            for parameter in self.parameters
            for part in parameter.parts
            for axis in part
        )

    def _vectors(self, blocks: Sequence[Block]) -> dict[int, int]:
        """Returns the index of each leaf that is a vector in one block."""
        counts = [sum(b.leaf == i for b in blocks) for i in range(len(self.leaves))]
        return {
            b.leaf: b.indices[0]
            for b in blocks
            if counts[b.leaf] == 1 and len(b.indices) == 1
        }

    def _assemble(
        self,
        trace: Trace,
        dataflow: Dataflow,
        blocks: Sequence[Block],
        ends: Sequence[Value],
    ) -> Symmetry:
        """Numbers the indices and finds the groups.

        Args:
            trace: The second pass.
            dataflow: Its activations and edges.
            blocks: Blocks of all leaves, with indices of the union-find.
            ends: Parameters, inputs and outputs.
        """
        order = dict.fromkeys(a for b in blocks for a in b.indices)
        order |= dict.fromkeys(sorted(dataflow.unit_indices()))
        number = {axis_index: i for i, axis_index in enumerate(order)}
        tensors = [*trace.tensors, *((axes, ()) for v in ends for axes in _axes_of(v))]
        nest = {
            number[b]: frozenset(number[a] for a in parents)
            for b, parents in nesting(self.indices, tensors, order).items()
        }
        pins = self.indices.pins
        indices = tuple(Index(self.indices.size(a), pins.get(a)) for a in order)
        numbered = tuple(
            replace(b, indices=tuple(number[a] for a in b.indices)) for b in blocks
        )
        unstructured = {number[a] for a in order if self.indices.is_unstructured(a)}
        in_blocks = {a for b in numbered for a in b.indices}
        free = {a: parents for a, parents in nest.items() if a in in_blocks}
        scaling_groups = find_scaling_groups(
            numbered,
            trace.equations,
            trace.phases,
            unstructured,
            nest,
            dataflow.parameter_edges,
        )
        entrywise = {
            number[a] for a in map(self.indices.find, dataflow.entrywise) if a in number
        }
        groups = name_linear(find_groups(indices, free), scaling_groups, entrywise)
        return Symmetry(
            leaves=self.leaves,
            indices=indices,
            blocks=numbered,
            groups=groups,
            scaling_groups=scaling_groups,
            activations=dataflow.activations(number),
            parameter_edges=tuple(dataflow.parameter_edges),
            identity_edges=tuple(dataflow.identity_edges),
            unknown=tuple(sorted(trace.unknown.items())),
            notes=tuple(tuple(self.indices.notes.get(a, ())) for a in order),
            program=outline(self.closed.jaxpr),
            state_outputs=self.state_outputs,
        )


def _axes_of(value: Value) -> list[list[Axis]]:
    parts = [value] if value.split is None else value.split.parts
    return [part.axes for part in parts]
