"""Abstract interpretation of a jaxpr, and the registry of rules.

A rule is a function ``rule(run, eqn, inputs) -> outputs`` from abstract values to
abstract values. It says which indices of operands and results are the same (by aligning
axes), which are cut or multiplied (by refining them), and which cannot be permuted (by
pinning them). In the second pass it also says what becomes of exponents. A rule for a
primitive that acts elementwise on one array and has no scale symmetry is::

    @register_rule("my_primitive")
    def _my_rule(run, eqn, inputs):
        return [run.nonlinear(inputs[0], "my_primitive")]

A rule that makes a new index in place of an old one (a reversal, a window) takes the
axes of its result from `Interpreter.replaced_axes`, so that the two are never taken for
one. A primitive without a rule pins all that it touches: a symmetry may be missed, never
invented.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core

from metanet.programs import (
    NAMED_ACTIVATIONS,
    call_jaxpr,
    live_equations,
    readers_of,
    source_line,
)
from metanet.symmetry.basis import entrywise
from metanet.symmetry.indices import ZERO, Axis, Form, Indices, Occurrence, add_forms
from metanet.symmetry.pieces import read_pieces
from metanet.symmetry.values import Value, map_occurrences

if TYPE_CHECKING:
    from metanet.symmetry.dataflow import ActivationBuilder

Rule = Callable[["Interpreter", Any, list[Value]], list[Value]]
RULES: dict[str, Rule] = {}


def register_rule(*primitives: str) -> Callable[[Rule], Rule]:
    """Registers a rule for primitives, replacing any before (see the module's example).

    Args:
        *primitives: Names of JAX primitives, as `jax.make_jaxpr` prints them.
    """

    def enter(rule: Rule) -> Rule:
        for name in primitives:
            RULES[name] = rule
        return rule

    return enter


class Interpreter:
    """One pass over a program.

    Attributes:
        atoms: Shared by both passes.
        sites: Collects sites and edges in the second pass; None in the first.
        tensors: Axes that stand together somewhere, for the nesting rule.
        equations: ("real" or "sign", form that must be 0).
        unknown: Primitives without a rule.
        phases: Per bias leaf the factor c of ``sin(c (h + b))``; 0: ruled out.
        entrywise: Atoms whose single entries an equation acts on (second pass).
        context: Indices of the loops around the equation being read.
        closed_over: Whether the program has no inputs, so that it reads constants.
        capturable: Whether a replay passes the equation (it does not enter branches).
        depth: Number of loops around the equation being read.
        why: Description of the equation being read.
    """

    def __init__(
        self,
        indices: Indices,
        activations: ActivationBuilder | None = None,
        carries: dict[tuple[int, ...], list[Axis]] | None = None,
    ):
        self.indices, self.activations = indices, activations
        self._carries = {} if carries is None else carries
        self.tensors: list[list[Axis]] = []
        self.equations: list[tuple[str, Form]] = []
        self.unknown: dict[str, str] = {}
        self.phases: dict[int, float] = {}
        self.entrywise: set[int] = set()
        self.context: list[Axis] = []
        self.closed_over = False
        self.capturable = True
        self.depth = 0
        self.why = ""
        self._line = ""
        self._path: list[int] = []
        self._readers: list[dict[Any, list[Any]]] = []
        self._mute = 0
        self._indexed = False

    # Running a program.

    def run(
        self,
        jaxpr: Any,
        constants: Sequence[Value],
        inputs: Sequence[Value],
        branch: int | None = None,
    ) -> list[Value]:
        """Reads a jaxpr; returns the abstract values of its outputs.

        ``branch`` tells the jaxprs of one equation apart (the branches of a `cond`).
        """
        if branch is not None:
            self._path.append(branch)
        env: dict[Any, Value] = dict(zip(jaxpr.constvars, constants, strict=True))
        env.update(zip(jaxpr.invars, inputs, strict=True))

        def read(variable: Any) -> Value:
            if isinstance(variable, jex_core.Literal):
                return self.constant(variable.val)
            return env[variable]

        self._readers.append(readers_of(jaxpr))
        for index, eqn in live_equations(jaxpr):
            self._path.append(index)
            # Equations of a cached inner function know no user's line: the call's holds.
            outer, self._line = self._line, source_line(eqn) or self._line
            self.why = eqn.primitive.name + (f" at {self._line}" if self._line else "")
            values = [read(v) for v in eqn.invars]
            for variable, value in zip(
                eqn.outvars, self._apply(eqn, values), strict=True
            ):
                env[variable] = value
                self.record(value.axes)
            self._path.pop()
            self._line = outer
        self._readers.pop()
        if branch is not None:
            self._path.pop()
        return [read(v) for v in jaxpr.outvars]

    def record(self, axes: list[Axis]) -> None:
        """Notes which atoms stand together; the index of a loop stands beside all.

        An equation that ends one index and makes another of its kind (a contraction, a
        reversal) must record both together: should they turn out to be the same atom,
        it stands there twice, and nothing may depend on it (see `groups.nesting`).
        """
        self.tensors.append([*axes, *self.context])

    @property
    def readers(self) -> dict[Any, list[Any]]:
        """The readers of every variable of the current jaxpr."""
        return self._readers[-1]

    def _apply(self, eqn: Any, values: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        inner = call_jaxpr(eqn)
        if inner is not None:
            jaxpr, constants = inner
            named = eqn.params.get("name", "")
            return self._call(
                jaxpr, [self.constant(c) for c in constants], values, named
            )
        if name in RULES and any(v.pieces is not None for v in values):
            return read_pieces(self, eqn, values)
        return self.apply_rule(eqn, values)

    def apply_rule(self, eqn: Any, values: list[Value]) -> list[Value]:
        """The results of an equation by the rule of its primitive."""
        if self.activations is not None:
            self.entrywise |= entrywise(self, eqn, values)
        rule = RULES.get(eqn.primitive.name, Interpreter.unknown_primitive)
        self._indexed = False
        outputs = rule(self, eqn, values)
        if not self._indexed:
            self._pin_indexed(values, outputs)
        return outputs

    def used_as_index(self) -> None:
        """Says that the rule being run has treated an array of indices as such."""
        self._indexed = True

    def _pin_indexed(self, values: list[Value], outputs: list[Value]) -> None:
        """Pins the axes that arrays of indices belong to, unless results still do."""
        for value in values:
            index = None if value.constant else value.index_of
            if index is not None and all(o.index_of != index for o in outputs):
                self.indices.pin(index, f"an index used as a number: {self.why}")

    def _call(
        self, jaxpr: Any, constants: list[Value], values: list[Value], named: str
    ) -> list[Value]:
        """Reads a called function; a named activation is one link of the chain."""
        activation = named.lstrip("_") in NAMED_ACTIVATIONS and not self._mute
        self._mute += activation
        outputs = self.run(jaxpr, constants, values)
        self._mute -= activation
        if activation:
            outputs = [self.chain(o, named.lstrip("_")) for o in outputs]
        return outputs

    @property
    def location(self) -> tuple[int, ...]:
        """Path of the equation being read."""
        return tuple(self._path)

    # Values.

    def fresh(self, size: int, pin: str | None = None, uniform: bool = False) -> Axis:
        """An axis of one new atom."""
        return [[Occurrence(self.indices.new(size, pin, uniform))]]

    def constant(self, array: Any) -> Value:
        """The abstract value of a constant: uniform, or pinned, along each axis."""
        dtype = getattr(array, "dtype", None)
        if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.extended):
            shape = np.shape(array)
            return Value([self.fresh(n, uniform=True) for n in shape], constant=True)
        held = np.asarray(array)
        axes = []
        for axis, size in enumerate(held.shape):
            same = held.size == 0 or bool((held == held.take([0], axis)).all())
            why = None if same else "a constant that varies along the axis"
            axes.append(self.fresh(size, why, uniform=same))
        first = held.flat[0] if held.size else 0
        filled = held.dtype.kind in "biuf" and bool((held == first).all())
        return Value(
            axes,
            constant=True,
            zero=filled and first == 0,
            scalar=float(first) if filled and np.isfinite(first) else None,
        )

    def carried(self, place: int, shape: Sequence[int]) -> list[Axis]:
        """Axes of a loop's state, the same atoms in both passes."""
        key = (*self.location, place)
        if key not in self._carries:
            self._carries[key] = [self.fresh(n) for n in shape]
        return self._carries[key]

    # What rules are made of.

    def pinned_axis(self, axis: Axis, why: str) -> Axis:
        """Pins an axis and forbids exponents along it."""
        self.indices.pin(axis, why)
        return map_occurrences(self.indices, [axis], self.without_exponents)[0]

    def replaced_axes(
        self, value: Value, touched: Collection[int], shape: Sequence[int]
    ) -> list[Axis]:
        """Axes of a result of which some are made anew from those of an operand.

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

    def require(self, which: str, form: Form) -> None:
        """Adds the equation ``form = 0``; ``which`` is "real" or "sign"."""
        if form:
            self.equations.append((which, form))

    def require_equal(self, a: Occurrence, b: Occurrence) -> None:
        """Two occurrences must scale alike."""
        self.require("real", add_forms(a.real, b.real, -1))
        self.require("sign", add_forms(a.sign, b.sign, -1))

    def beside(
        self, aligned: tuple[Axis, Axis], left_live: bool, right_live: bool
    ) -> Axis:
        """An axis of an array that holds two others, which must scale alike.

        Args:
            aligned: The axis in both, aligned.
            left_live, right_live: False for an array of zeros.
        """

        def join(a: Occurrence, b: Occurrence) -> Occurrence:
            if left_live and right_live:
                self.require_equal(a, b)
            uniform = self.indices.is_uniform(a.axis_index)
            kept = b if uniform or not left_live else a
            axis_index = b.axis_index if uniform else a.axis_index
            return kept._replace(axis_index=axis_index, tags=a.tags | b.tags)

        left, right = aligned
        return [
            [join(a, b) for a, b in zip(s, t, strict=True)]
            for s, t in zip(left, right, strict=True)
        ]

    def without_exponents(self, occurrence: Occurrence) -> Occurrence:
        """Forces the exponents of an occurrence to 0."""
        self.require("real", occurrence.real)
        self.require("sign", occurrence.sign)
        return occurrence._replace(real=ZERO, sign=ZERO)

    def without_sign(self, occurrence: Occurrence) -> Occurrence:
        """Forces the sign of an occurrence to 0 (functions like relu)."""
        self.require("sign", occurrence.sign)
        return occurrence._replace(sign=ZERO)

    def without_scale(self, occurrence: Occurrence) -> Occurrence:
        """Forces the scale of an occurrence to 0 (odd functions)."""
        self.require("real", occurrence.real)
        return occurrence._replace(real=ZERO)

    def mapped(
        self, value: Value, function: Callable[[Occurrence], Occurrence]
    ) -> Value:
        """The value with a function applied to all occurrences; no shift survives."""
        self.end_shift(value)
        axes = map_occurrences(self.indices, value.axes, function)
        return replace(
            value, axes=axes, zero=False, scalar=None, shift={}, index_of=None
        )

    def nonlinear(self, value: Value, name: str) -> Value:
        """An elementwise function without scale or sign symmetry."""
        return self.chain(self.mapped(value, self.without_exponents), name)

    def chain(self, value: Value, name: str) -> Value:
        """Appends a nonlinearity to the chains of the value's sites."""
        return value if self._mute else value.through(name)

    def end_shift(self, *values: Value) -> None:
        """The values are used in a way in which adding to a bias does not commute."""
        for value in values:
            for leaf in value.shift:
                self.phases[leaf] = 0.0

    def unknown_primitive(self, eqn: Any, values: list[Value]) -> list[Value]:
        """Pins everything that a primitive without a rule touches."""
        self.unknown.setdefault(eqn.primitive.name, self.why)
        return self.opaque(eqn, values)

    def opaque(self, eqn: Any, values: list[Value]) -> list[Value]:
        """Pins all operands and results of an equation."""
        activations: dict[int, tuple[str, ...]] = {}
        leaves: frozenset[int] = frozenset()
        for value in values:
            self.end_shift(value)
            for axis in value.axes:
                self.pinned_axis(axis, self.why)
            activations |= {
                s: (*c, eqn.primitive.name) for s, c in value.activations.items()
            }
            leaves |= value.leaves
        constant = all(v.constant for v in values)
        return [
            Value(
                [self.fresh(n, self.why) for n in variable.aval.shape],
                activations,
                leaves,
                constant,
            )
            for variable in eqn.outvars
        ]
