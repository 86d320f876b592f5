"""Constraints and helpers that rules call, and the table of rules.

A rule is a function ``rule(trace, eqn, inputs) -> outputs`` from abstract values to
abstract values. It states which indices of operands and results are the same (by aligning
axes), which are cut or multiplied (by refining them), and which cannot be permuted (by
pinning them); and what becomes of exponents. A rule for a primitive that acts elementwise
on one array and has no scale symmetry is::

    @register_rule("my_primitive", elementwise=True)
    def my_rule(trace, eqn, inputs):
        return [trace.nonlinear(inputs[0], "my_primitive")]

A rule that replaces an index by a new one (a reversal, a window) takes the axes of its
result from `Trace.replaced_axes`, so that the two are never mistaken for each other. A
primitive without a rule pins all that it touches: a symmetry may be missed, never
invented.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn

from metanet.programs import Readers, declare_traits, shape_of, traits_of
from metanet.symmetry.indices import ZERO, Axis, Form, Indices, Occurrence, add_forms
from metanet.symmetry.lookups import is_index_array
from metanet.symmetry.values import (
    Chain,
    Lookup,
    SplitValue,
    Value,
    map_occurrences,
)

Rule = Callable[["Trace", JaxprEqn, list[Value]], list[Value]]
EntrywiseAxes = Callable[["Trace", JaxprEqn, Sequence[Value]], Iterable[Axis]]
Attributes = tuple[tuple[str, tuple[int, ...]], ...]


class RegisteredRule(NamedTuple):
    """A rule, and the axes of operands along which it acts on single entries.

    Attributes:
        rule: The rule.
        entrywise: Returns the axes; None stands for no axis if the primitive has the
            trait ``linear``, else for all axes of all operands.
    """

    rule: Rule
    entrywise: EntrywiseAxes | None = None


# Numbers to which a float32 of size 1 is added with a loss of most of its digits.
_LARGE = 1e5
# Bounds on constants of which equal slices are told apart, and on the number of these.
_MAX_CONSTANT, _MAX_CLASSES = 1 << 16, 64

RULES: dict[str, RegisteredRule] = {}


def register_rule(
    *primitives: str,
    elementwise: bool = False,
    linear: bool = False,
    entrywise: EntrywiseAxes | None = None,
) -> Callable[[Rule], Rule]:
    """Registers a rule and traits for primitives, replacing any rule before.

    Args:
        *primitives: Names of JAX primitives, as `jax.make_jaxpr` prints them.
        elementwise: See `metanet.programs.Traits`: an array that is only read part by
            part (a fused projection) stays split through the primitive.
        linear: See `metanet.programs.Traits`: groups along any axis may be part of a
            group of matrices.
        entrywise: For primitives that are linear along some axes, ``entrywise(trace,
            eqn, inputs)`` returns the axes of operands along which they are not.

    Returns:
        A decorator for the rule.
    """

    def enter(rule: Rule) -> Rule:
        declare_traits(*primitives, elementwise=elementwise, linear=linear)
        for name in primitives:
            RULES[name] = RegisteredRule(rule, entrywise)
        return rule

    return enter


def entrywise_axes(
    trace: Trace, eqn: JaxprEqn, operands: Sequence[Value]
) -> Iterable[Axis]:
    """Returns the axes along which an equation acts on single entries.

    If no equation acts on the single entries along an index (no nonlinearity, no constant
    or parameter multiplied or added entry by entry), the permutations and scalings of the
    index are part of a continuous group: any invertible matrix can be inserted on one
    side, and its inverse on the other (the rank of a low-rank adapter, the channels in
    which queries meet keys). Source: Kunin et al. 2021 for the invariances; here they are
    named, not acted with.
    """
    name = eqn.primitive.name
    if traits_of(name).linear or any(x.split is not None for x in operands):
        return ()
    if name in RULES and (function := RULES[name].entrywise) is not None:
        return function(trace, eqn, operands)
    return [axis for x in operands for axis in x.axes]


class NullDataflow:
    """Recorder of activations and edges that records nothing.

    The first pass over a program uses it: indices are not final there, so that
    activations have no units yet. `metanet.symmetry.dataflow.Dataflow` overrides every
    method for the second pass.
    """

    def connect(
        self,
        trace: Trace,
        kind: str,
        value: Value,
        contracted: Sequence[Axis],
        leaves: frozenset[int],
        attributes: Attributes = (),
    ) -> Value:
        """Makes the activations that a value consists of, and their edges.

        Args:
            trace: The pass; its equation locates the activations.
            kind: "weight", "conv", "bias", "scale", "residual", "gate", ...
            value: The result, with the tags of its operands.
            contracted: Axes summed over, with the tags of both operands.
            leaves: Parameters used; without any, only identity edges are made.
            attributes: Static facts of the edges.

        Returns:
            The value, made of the new activations instead of those before.
        """
        return value

    def add_constant(self, trace: Trace, value: Value) -> Value:
        """Makes a constant that parameters read (a grid of coordinates) an input."""
        return value

    def add_state(self, trace: Trace, value: Value, init: Value, number: int) -> Value:
        """Makes a loop's state an activation whose units are indices of parameters."""
        return value

    def add_recurrence(self, before: Value, after: Value) -> None:
        """Adds edges from the value at the end of a loop's body to the next state."""

    def note_reads(self, trace: Trace, operands: Sequence[Value]) -> None:
        """Notes the arrays in which activations are first read by others."""

    def note_entrywise(
        self, trace: Trace, eqn: JaxprEqn, operands: Sequence[Value]
    ) -> None:
        """Notes the indices on whose single entries an equation acts."""

    def remaining(self, value: Value, axes: Sequence[Axis]) -> dict[int, Chain]:
        """Returns the activations of a value of which a slice still has units."""
        return value.activations

    def unit_of_vector(self, leaf: int) -> int | None:
        """Returns the index of a leaf that is a vector over a free index, or None."""
        return None


class Trace(ABC):
    """State of a pass over a program, and the helpers that rules call.

    Attributes:
        indices: Indices, shared by both passes.
        dataflow: Recorder of activations and edges.
        tensors: Axes that occur together in some array, and the lookups of the array,
            for the nesting rule.
        lookups: Lookups of the operands of the equation being read.
        equations: ("real" or "sign", form that must be 0).
        unknown: Primitives without a rule -> description of their first equation.
        phases: Per bias leaf the factor c of ``sin(c (h + b))``; 0: ruled out.
        context: Indices of the loops around the equation being read.
        closed_over: True if the program has no inputs, so that it reads constants.
        capturable: True if a replay passes the equation (it does not enter branches).
        depth: Number of loops around the equation being read.
        why: Description of the equation being read.
    """

    def __init__(self, indices: Indices, dataflow: NullDataflow):
        self.indices, self.dataflow = indices, dataflow
        self.tensors: list[tuple[list[Axis], tuple[Lookup, ...]]] = []
        self.lookups: tuple[Lookup, ...] = ()
        self.equations: list[tuple[str, Form]] = []
        self.unknown: dict[str, str] = {}
        self.phases: dict[int, float] = {}
        self.context: list[Axis] = []
        self.closed_over = False
        self.capturable = True
        self.depth = 0
        self.why = ""
        self._inside_activation = False
        self._treated_as_index = False

    # Implemented by the interpreter.

    @property
    @abstractmethod
    def readers(self) -> Readers:
        """Readers of every variable of the current jaxpr."""

    @property
    @abstractmethod
    def location(self) -> tuple[int, ...]:
        """Path of the equation being read."""

    @abstractmethod
    def run(
        self,
        jaxpr: Jaxpr,
        constants: Sequence[Value],
        inputs: Sequence[Value],
        branch: int | None = None,
    ) -> list[Value]:
        """Reads a jaxpr and returns the abstract values of its outputs.

        Args:
            jaxpr: The jaxpr.
            constants: Values of its constants.
            inputs: Values of its inputs.
            branch: Number that distinguishes the jaxprs of one equation (the branches of
                a `cond`).
        """

    @abstractmethod
    def apply_rule(self, eqn: JaxprEqn, values: list[Value]) -> list[Value]:
        """Returns the results of an equation by the rule of its primitive."""

    @abstractmethod
    def state_axes(self, number: int, shape: Sequence[int]) -> list[Axis]:
        """Returns the axes of a loop's state, over the same indices in both passes."""

    # New values.

    def fresh(self, size: int, pin: str | None = None, uniform: bool = False) -> Axis:
        """Returns an axis of one new index."""
        return [[Occurrence(self.indices.new(size, pin, uniform))]]

    def constant(self, array: Any) -> Value:
        """Returns the value of a constant: uniform, or pinned, along each axis."""
        dtype = getattr(array, "dtype", None)
        rank = np.ndim(array)
        is_key = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
        if is_key:
            array = jax.random.key_data(array)
        entries = np.asarray(array)
        axes = []
        for axis, size in enumerate(entries.shape[:rank]):
            same = entries.size == 0 or bool((entries == entries.take([0], axis)).all())
            why = None if same else "a constant that varies along the axis"
            classes = None if same else _equal_slices(entries, axis)
            if classes is None:
                axes.append(self.fresh(size, why, uniform=same))
            else:
                axes.append(self.indices.classes_axis(classes, why or ""))
        first = entries.flat[0] if entries.size else 0
        filled = entries.dtype.kind in "biufc" and bool((entries == first).all())
        is_number = filled and entries.dtype.kind != "c" and np.isfinite(first)
        return Value(
            axes,
            constant=True,
            zero=filled and first == 0,
            nonzero=bool((entries != 0).all()),
            extreme=entries.dtype.kind in "iufc"
            and not float(np.abs(entries).max(initial=0)) < _LARGE,
            scalar=float(first) if is_number else None,
            entries=entries if is_index_array(entries) and not is_key else None,
        )

    def split_value(
        self,
        shape: Sequence[int],
        axis: int,
        starts: Sequence[int],
        parts: Sequence[Value],
    ) -> Value:
        """Returns an array of which only the parts along an axis are known."""
        split = SplitValue(axis, tuple(starts), tuple(parts))
        return Value([self.fresh(n, uniform=True) for n in shape], split=split)

    # Records.

    def record(self, axes: Sequence[Axis]) -> None:
        """Notes that indices occur together; the index of a loop occurs beside all.

        An equation that ends one index and makes another of its kind (a contraction, a
        reversal) must record both together: should they turn out to be the same index,
        it occurs twice, and nothing may depend on it (see `groups.nesting`).
        """
        self.tensors.append(([*axes, *self.context], self.lookups))

    def mark_index_use(self) -> None:
        """Marks the equation as one that treats an array of integers as indices."""
        self._treated_as_index = True

    # Constraints on indices.

    def pinned_axis(self, axis: Axis, why: str) -> Axis:
        """Pins an axis and forbids exponents along it."""
        self.indices.pin(axis, why)
        return map_occurrences(self.indices, [axis], self.without_exponents)[0]

    def replaced_axes(
        self, value: Value, touched: Collection[int], shape: Sequence[int]
    ) -> list[Axis]:
        """Returns an operand's axes, some of them replaced by new ones.

        Both the old and the new ones are pinned; the order along them matters.

        Args:
            value: The operand.
            touched: Its axes that are replaced.
            shape: Shape of the result.
        """
        axes = list(value.axes)
        for i in touched:
            self.pinned_axis(axes[i], self.why)
            axes[i] = self.fresh(shape[i], self.why)
        self.record([*axes, *(value.axes[i] for i in touched)])
        return axes

    def common_axes(self, operands: Sequence[Sequence[Axis]]) -> list[Axis]:
        """Returns the axes that operands share, along which nothing may scale.

        Args:
            operands: The axes of each operand, all of the same sizes.
        """
        first, *others = (
            map_occurrences(self.indices, axes, self.without_exponents)
            for axes in operands
        )
        for axes in others:
            for i, axis in enumerate(axes):
                aligned = self.indices.align(first[i], axis, self.why)
                if aligned is not None:
                    first[i] = self.joined_axis(aligned, True, True)
        return first

    def function_of(self, values: Sequence[Value], axes: list[Axis]) -> Value:
        """Returns a value over other axes that is made of several values."""
        activations: dict[int, Chain] = {}
        for value in values:
            activations |= value.activations
        return Value(
            axes,
            activations,
            frozenset().union(*(v.leaves for v in values)),
            constant=all(v.constant for v in values),
        )

    def joined_axis(
        self, aligned: tuple[Axis, Axis], left_live: bool, right_live: bool
    ) -> Axis:
        """Returns an axis of an array that contains two others, which must scale alike.

        Args:
            aligned: The axis in both, aligned.
            left_live, right_live: False for an array of zeros.
        """

        def join(a: Occurrence, b: Occurrence) -> Occurrence:
            if left_live and right_live:
                self.require_equal(a, b)
            uniform = self.indices.is_uniform(a.axis_index)
            source = b if uniform or not left_live else a
            axis_index = b.axis_index if uniform else a.axis_index
            return source._replace(axis_index=axis_index, tags=a.tags | b.tags)

        return zip_occurrences(aligned, join)

    def factored_axis(self, axis: Axis, sizes: Sequence[int]) -> list[Axis] | None:
        """Factors an axis into a product of axes of given sizes, major first.

        Parts of a concatenation that have the same position in a factor are unified.

        Returns:
            The axes; None if the axis does not factor so: then it is pinned.
        """
        wide = [n for n in sizes if n != 1]
        contents = self.indices.factor_axis(axis, wide, self.why)
        if contents is None:
            return None
        factors = []
        for first, *others in contents:
            for other in others:
                aligned = self.indices.align(first, other, self.why)
                if aligned is None:
                    return None
                first = self.joined_axis(aligned, True, True)
            factors.append(first)
        rest = iter(factors)
        return [next(rest) if n != 1 else self.fresh(1) for n in sizes]

    # Constraints on exponents.

    def require(self, which: Literal["real", "sign"], form: Form) -> None:
        """Adds the equation ``form = 0`` to those of scales or of signs."""
        if form:
            self.equations.append((which, form))

    def require_equal(self, a: Occurrence, b: Occurrence) -> None:
        """Requires two occurrences to scale alike."""
        self.require("real", add_forms(a.real, b.real, -1))
        self.require("sign", add_forms(a.sign, b.sign, -1))

    def without_exponents(self, occurrence: Occurrence) -> Occurrence:
        """Requires the exponents of an occurrence to be 0."""
        self.require("real", occurrence.real)
        self.require("sign", occurrence.sign)
        return occurrence._replace(real=ZERO, sign=ZERO)

    def without_sign(self, occurrence: Occurrence) -> Occurrence:
        """Requires the sign of an occurrence to be 0 (functions like relu)."""
        self.require("sign", occurrence.sign)
        return occurrence._replace(sign=ZERO)

    def without_scale(self, occurrence: Occurrence) -> Occurrence:
        """Requires the scale of an occurrence to be 0 (odd functions)."""
        self.require("real", occurrence.real)
        return occurrence._replace(real=ZERO)

    def forbid_exponents(self, *values: Value) -> None:
        """Requires the exponents along all axes of values to be 0."""
        for value in values:
            self.map_indices(value, self.without_exponents)

    def forbid_phase(self, *values: Value) -> None:
        """Rules out phase symmetry for biases that reach these values."""
        for value in values:
            for leaf in value.shift:
                self.phases[leaf] = 0.0

    # Values after an equation.

    def map_indices(
        self, value: Value, function: Callable[[Occurrence], Occurrence]
    ) -> Value:
        """Returns the value with a function applied to all occurrences.

        The values change, so that phases are ruled out and constants forgotten.
        """
        self.forbid_phase(value)
        axes = map_occurrences(self.indices, value.axes, function)
        return replace(
            value, axes=axes, zero=False, scalar=None, shift={}, index_of=None
        )

    def nonlinear(self, value: Value, name: str) -> Value:
        """Returns the result of an elementwise function without scale or sign symmetry."""
        return self.chain(self.map_indices(value, self.without_exponents), name)

    def chain(self, value: Value, name: str) -> Value:
        """Appends a nonlinearity to the chains of the value's activations."""
        if self._inside_activation:
            return value
        if value.split is None:
            return value.through(name)
        parts = tuple(part.through(name) for part in value.split.parts)
        return replace(value, split=value.split._replace(parts=parts))

    @contextmanager
    def named_activation(self) -> Iterator[None]:
        """Suppresses nonlinearities inside a named one, which counts as a whole."""
        before, self._inside_activation = self._inside_activation, True
        yield
        self._inside_activation = before

    @contextmanager
    def not_capturable(self) -> Iterator[None]:
        """Marks equations that a replay does not pass, or sees in parts only."""
        before, self.capturable = self.capturable, False
        yield
        self.capturable = before

    @contextmanager
    def inside_loop(self, index: Axis) -> Iterator[None]:
        """Makes an index of a loop occur beside those of all equations inside."""
        self.context.append(index)
        yield
        self.context.pop()

    def unknown_primitive(self, eqn: JaxprEqn, values: list[Value]) -> list[Value]:
        """Pins everything that a primitive without a rule touches."""
        self.unknown.setdefault(eqn.primitive.name, self.why)
        return self.pin_all(eqn, values)

    def pin_all(self, eqn: JaxprEqn, values: list[Value]) -> list[Value]:
        """Pins all operands and results of an equation."""
        for value in values:
            self.forbid_phase(value)
            for axis in value.axes:
                self.pinned_axis(axis, self.why)
        return [
            self.function_of(
                values, [self.fresh(n, self.why) for n in shape_of(variable)]
            ).through(eqn.primitive.name)
            for variable in eqn.outvars
        ]


def _equal_slices(entries: np.ndarray, axis: int) -> np.ndarray | None:
    """Returns numbers of classes of equal slices; None if there are too many to tell."""
    size = entries.shape[axis]
    is_known = entries.dtype.kind in "bf" and entries.size <= _MAX_CONSTANT
    if not is_known:
        return None
    rows = np.moveaxis(entries, axis, 0).reshape(size, -1)
    classes = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    return classes if len(np.unique(classes)) <= min(size - 1, _MAX_CLASSES) else None


def zip_occurrences(
    aligned: tuple[Axis, Axis],
    function: Callable[[Occurrence, Occurrence], Occurrence],
) -> Axis:
    """Applies a function to the pairs of occurrences of two aligned axes."""
    left, right = aligned
    return [
        [function(a, b) for a, b in zip(s, t, strict=True)]
        for s, t in zip(left, right, strict=True)
    ]
