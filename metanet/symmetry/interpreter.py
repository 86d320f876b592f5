"""Abstract interpretation of a jaxpr: reads the equations and calls their rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jax.extend import core as jex_core
from jax.extend.core import Jaxpr, JaxprEqn, Var

from metanet.programs import (
    CONTINUOUS_ACTIVATIONS,
    NAMED_ACTIVATIONS,
    Readers,
    call_jaxpr,
    live_equations,
    readers_of,
    shape_of,
    source_line,
)
from metanet.symmetry.distinctness import after_named_activation, with_facts
from metanet.symmetry.indices import Axis, Indices
from metanet.symmetry.lookups import ValueNumbers, all_lookups, constant_entries
from metanet.symmetry.recorder import RULES, NullDataflow, Trace
from metanet.symmetry.rules import load_rules
from metanet.symmetry.split_values import read_split
from metanet.symmetry.values import Value

# Before any rule of a user, which may replace one of these.
load_rules()

LoopStates = dict[tuple[int, ...], list[Axis]]


class Interpreter(Trace):
    """One pass over a program.

    Args:
        indices: Indices, shared by both passes.
        dataflow: Recorder of activations and edges.
        loop_states: Axes of the states of loops, shared by both passes.
    """

    def __init__(
        self, indices: Indices, dataflow: NullDataflow, loop_states: LoopStates
    ):
        super().__init__(indices, dataflow)
        self._loop_states = loop_states
        self._line = ""
        self._numbers = ValueNumbers()
        self._path: list[int] = []
        self._readers: list[Readers] = []

    @property
    def readers(self) -> Readers:
        return self._readers[-1]

    @property
    def location(self) -> tuple[int, ...]:
        return tuple(self._path)

    def run(
        self,
        jaxpr: Jaxpr,
        constants: Sequence[Value],
        inputs: Sequence[Value],
        branch: int | None = None,
    ) -> list[Value]:
        """Applies the rules to the equations of a jaxpr, in order."""
        if branch is not None:
            self._path.append(branch)
        env: dict[Var, Value] = dict(zip(jaxpr.constvars, constants, strict=True))
        env.update(zip(jaxpr.invars, inputs, strict=True))

        def read(variable: Any) -> Value:
            if isinstance(variable, jex_core.Literal):
                number = self._numbers.number(("literal", str(variable)))
                return replace(self.constant(variable.val), number=number)
            if variable not in env and 0 in shape_of(variable):
                # No equation is read for an array without entries.
                return self.constant(np.zeros(shape_of(variable)))
            return env[variable]

        self._readers.append(readers_of(jaxpr))
        for index, eqn in live_equations(jaxpr):
            self._path.append(index)
            # Equations of a cached inner function have no user's line; the line of the
            # call is used for them.
            outer, self._line = self._line, source_line(eqn) or self._line
            self.why = eqn.primitive.name + (f" at {self._line}" if self._line else "")
            results = self._apply(eqn, [read(v) for v in eqn.invars])
            for variable, value in zip(eqn.outvars, results, strict=True):
                env[variable] = value
                if not value.constant:
                    self.lookups = value.lookups
                    self.record(value.axes)
            self._path.pop()
            self._line = outer
        self._readers.pop()
        if branch is not None:
            self._path.pop()
        return [read(v) for v in jaxpr.outvars]

    def _apply(self, eqn: JaxprEqn, values: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        inner = call_jaxpr(eqn)
        if inner is not None:
            jaxpr, constants = inner
            function = eqn.params.get("name", "").lstrip("_")
            return self._call(
                jaxpr, [self.constant(c) for c in constants], values, function
            )
        if name in RULES and any(v.split is not None for v in values):
            return read_split(self, eqn, values)
        return self.apply_rule(eqn, values)

    def _call(
        self, jaxpr: Jaxpr, constants: list[Value], values: list[Value], function: str
    ) -> list[Value]:
        """Reads a called function; a named activation is one nonlinearity."""
        if function not in NAMED_ACTIVATIONS or self._inside_activation:
            return self.run(jaxpr, constants, values)
        with self.named_activation():
            outputs = self.run(jaxpr, constants, values)
        if function in CONTINUOUS_ACTIVATIONS and len(values) == len(outputs) == 1:
            outputs = [after_named_activation(values[0], outputs[0])]
        return [self.chain(o, function) for o in outputs]

    def apply_rule(self, eqn: JaxprEqn, values: list[Value]) -> list[Value]:
        self.dataflow.note_entrywise(self, eqn, values)
        self._treated_as_index = False
        self.lookups = all_lookups(values)
        entry = RULES.get(eqn.primitive.name)
        if entry is None:
            outputs = self.unknown_primitive(eqn, values)
        else:
            outputs = entry.rule(self, eqn, values)
        if not self._treated_as_index:
            self._pin_indexed(values, outputs)
        outputs = with_facts(self.indices, eqn, values, outputs)
        numbers = self._numbers.of_results(eqn, values, self.location)
        # Only of equations with one result; others leave nothing known about theirs.
        entries = constant_entries(eqn, values)
        return [
            replace(
                y, number=number, entries=entries, lookups=all_lookups([*values, y])
            )
            for y, number in zip(outputs, numbers, strict=True)
        ]

    def _pin_indexed(self, values: list[Value], outputs: list[Value]) -> None:
        """Pins the axes that operands index, unless the results still index them."""
        for value in values:
            index = None if value.constant else value.index_of
            if index is not None and all(o.index_of != index for o in outputs):
                self.indices.pin(index, f"an index used as a number: {self.why}")

    def state_axes(self, number: int, shape: Sequence[int]) -> list[Axis]:
        key = (*self.location, number)
        if key not in self._loop_states:
            self._loop_states[key] = [self.fresh(n) for n in shape]
        return self._loop_states[key]
