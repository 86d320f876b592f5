"""Replay of a network's program that captures its activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex_core
from jax.extend.core import Jaxpr, JaxprEqn

from metanet.errors import MetanetError
from metanet.programs import call_jaxpr, outline, scan_counts
from metanet.symmetry.symmetry import Symmetry, View


def compute_activations(
    apply_fn: Callable[..., Any], symmetry: Symmetry, params: Any, *inputs: Any
) -> tuple[jax.Array | None, ...]:
    """Computes the activations of a network at inputs.

    Pure and differentiable in parameters and inputs; use `vmap` over networks. The
    program is traced anew, so a batch may have another size than at discovery.

    Args:
        apply_fn: The network whose symmetry was discovered.
        symmetry: Its symmetry.
        params: Its parameters.
        *inputs: Inputs of the shapes at discovery, up to batch sizes.

    Returns:
        An array ``[*unit sizes, *rest]`` per activation. If all its readers apply the
        same nonlinearities, it is the value after these, else the value before; ``rest``
        are the iterations of every `scan` around it, outermost first, and the other axes
        in order. In a `while` it is the value of the last iteration. None for inputs and
        values that cannot be captured (inside branches).

    Raises:
        MetanetError: if the program is not the one of the symmetry.
    """
    leaves, treedef = jax.tree.flatten(params)

    def flat_apply(leaves: Sequence[Any], *args: Any) -> Any:
        return apply_fn(jax.tree.unflatten(treedef, leaves), *args)

    closed = jax.make_jaxpr(flat_apply)(leaves, *inputs)
    if outline(closed.jaxpr) != symmetry.program:
        raise MetanetError(
            "activations: the function's program is not the one that the symmetry was "
            "discovered from; discover it anew"
        )
    replay = _Replay(symmetry)
    arguments = [*leaves, *jax.tree.leaves(inputs)]
    _, captured = replay.run(closed.jaxpr, closed.consts, arguments)
    return tuple(captured.get(i) for i in range(len(symmetry.activations)))


# Number of the activation -> ``[*units, *rest]``.
Captured = dict[int, jax.Array]
# State of a `while`, and its activations.
_Carry = tuple[list[Any], Captured]


class _Replay:
    """Runs a program and collects the arrays that the activations' views describe."""

    def __init__(self, symmetry: Symmetry):
        self.activations = symmetry.activations
        self.views_at: dict[tuple[int, ...], list[int]] = {}
        for index, activation in enumerate(symmetry.activations):
            if activation.view is not None:
                self.views_at.setdefault(activation.view.location[:-1], []).append(
                    index
                )
        self.inside = {path[:i] for path in self.views_at for i in range(1, len(path))}

    def run(
        self,
        jaxpr: Jaxpr,
        constants: Any,
        arguments: Any,
        path: tuple[int, ...] = (),
        level: int = 0,
    ) -> tuple[list[Any], Captured]:
        """Returns the outputs of a jaxpr and the activations inside it.

        Args:
            jaxpr: The jaxpr.
            constants: Its constants.
            arguments: Its inputs.
            path: Path of equations that leads to it.
            level: Number of scans around it.
        """
        env = dict(zip(jaxpr.constvars, constants, strict=True))
        env.update(zip(jaxpr.invars, arguments, strict=True))
        captured: Captured = {}

        def read(variable: Any) -> Any:
            if isinstance(variable, jex_core.Literal):
                return variable.val
            return env[variable]

        for number, eqn in enumerate(jaxpr.eqns):
            here = (*path, number)
            values = [read(v) for v in eqn.invars]
            inner = call_jaxpr(eqn)
            more: Captured = {}
            if here not in self.inside and inner is not None:
                outputs = _bind_call(jaxpr, eqn, values)
            elif here not in self.inside:
                outputs = _bind(eqn, values)
            elif inner is not None:
                outputs, more = self.run(inner[0], inner[1], values, here, level)
            elif eqn.primitive.name == "scan":
                outputs, more = self.scan(eqn, values, here, level)
            else:
                outputs, more = self.loop(eqn, values, here, level)
            captured |= more
            for index in self.views_at.get(here, ()):
                view = self.activations[index].view
                assert view is not None
                arrays = values if view.operand else outputs
                captured[index] = _extract(arrays[view.location[-1]], view)
            env.update(zip(eqn.outvars, outputs, strict=True))
        return [read(v) for v in jaxpr.outvars], captured

    def scan(
        self, eqn: JaxprEqn, values: list[Any], here: tuple[int, ...], level: int
    ) -> tuple[list[Any], Captured]:
        """Runs a scan; stacks its activations over the iterations."""
        params, body = eqn.params, eqn.params["jaxpr"]
        first, count = scan_counts(eqn)
        second = first + count

        def iteration(state: Any, row: Any) -> Any:
            arguments = [*values[:first], *state, *row]
            outputs, captured = self.run(
                body.jaxpr, body.consts, arguments, (*here, 0), level + 1
            )
            return outputs[:count], (outputs[count:], captured)

        last, (rows, stacked) = jax.lax.scan(
            iteration,
            values[first:second],
            values[second:],
            length=params["length"],
            reverse=params["reverse"],
        )
        captured = {i: self.move_loop_axis(i, a, level) for i, a in stacked.items()}
        return [*last, *rows], captured

    def move_loop_axis(self, index: int, array: jax.Array, level: int) -> jax.Array:
        """Moves the iterations of a loop behind the units, or to the unit they are."""
        activation = self.activations[index]
        assert activation.view is not None
        turns = activation.view.turns
        # Units that are iterations of outer loops have no axis yet.
        units = [u for u in range(len(activation.units)) if u not in turns[:level]]
        unit = turns[level]
        return jnp.moveaxis(array, 0, units.index(unit) if unit >= 0 else len(units))

    def loop(
        self, eqn: JaxprEqn, values: list[Any], here: tuple[int, ...], level: int
    ) -> tuple[list[Any], Captured]:
        """Runs a `while`; returns the activations of its last iteration."""
        params = eqn.params
        condition, body = params["cond_jaxpr"], params["body_jaxpr"]
        first = params["cond_nconsts"]
        second = first + params["body_nconsts"]

        def iteration(carry: _Carry) -> _Carry:
            arguments = [*values[first:second], *carry[0]]
            return self.run(body.jaxpr, body.consts, arguments, (*here, 0), level)

        def proceed(carry: _Carry) -> Any:
            arguments = [*values[:first], *carry[0]]
            return jex_core.jaxpr_as_fun(condition)(*arguments)[0]

        state = [jnp.asarray(v) for v in values[second:]]
        _, shapes = jax.eval_shape(iteration, (state, {}))
        start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return jax.lax.while_loop(proceed, iteration, (state, start))


def _bind(eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    outputs = eqn.primitive.bind(*values, **eqn.params)
    return outputs if eqn.primitive.multiple_results else [outputs]


def _bind_call(jaxpr: Jaxpr, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    """Returns the results of a call, with its custom derivative if it has one."""
    arguments = {
        variable: value
        for variable, value in zip(eqn.invars, values, strict=True)
        if not isinstance(variable, jex_core.Literal)
    }
    used = [v for v in eqn.outvars if not isinstance(v, jex_core.DropVar)]
    alone = jaxpr.replace(constvars=[], invars=[*arguments], outvars=used, eqns=[eqn])
    results = jex_core.jaxpr_as_fun(jex_core.ClosedJaxpr(alone, []))(
        *arguments.values()
    )
    by_variable = dict(zip(used, results, strict=True))
    return [by_variable.get(v) for v in eqn.outvars]


def _extract(array: jax.Array, view: View) -> jax.Array:
    """Cuts the units out of an array and moves them to the front, in order.

    Units that are the iterations of a loop have no axis yet.
    """
    shape: list[int] = []
    axis_of: dict[int, int] = {}
    for i, (axis, size) in enumerate(zip(view.axes, array.shape, strict=True)):
        if axis is None:
            shape.append(size)
            continue
        part, units = axis
        array = part.select(array, i - array.ndim)
        for width, unit in zip(part.sizes, units, strict=True):
            if unit >= 0:
                axis_of[unit] = len(shape)
            shape.append(width)
    split = array.reshape(shape)
    front = [axis_of[u] for u in sorted(axis_of)]
    rest = [i for i in range(len(shape)) if i not in front]
    return split.transpose(front + rest)
