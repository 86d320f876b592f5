"""Replays a network's program and captures the activations of its sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex_core

from metanet.errors import MetanetError
from metanet.programs import call_jaxpr, outline, scan_counts
from metanet.symmetry.structure import View
from metanet.symmetry.symmetry import Symmetry


def compute_activations(
    apply_fn: Callable[..., Any], symmetry: Symmetry, params: Any, *inputs: Any
) -> tuple[jax.Array | None, ...]:
    """The activations of every site at given inputs.

    Pure and differentiable in parameters and inputs; use `vmap` over networks. The
    program is traced anew, so a batch may have another size than at discovery.

    Args:
        apply_fn: The network that the symmetry was discovered of.
        symmetry: Its symmetry.
        params: Its parameters.
        *inputs: Inputs of the shapes at discovery, up to batch sizes.

    Returns:
        Per site ``[*unit sizes, *rest]``: where all its readers see it through the same
        nonlinearities, the activation after these, else the site's own value; ``rest``
        are the turns of every `scan` around it, outermost first, and the other axes in
        order. Of a `while` those of the last turn. None for inputs and where a value
        cannot be captured (inside branches).

    Raises:
        MetanetError: when the program is not the one of the symmetry.
    """
    leaves, treedef = jax.tree.flatten(params)
    closed = jax.make_jaxpr(
        lambda flat, *args: apply_fn(jax.tree.unflatten(treedef, flat), *args)
    )(leaves, *inputs)
    if outline(closed.jaxpr) != symmetry.program:
        raise MetanetError(
            "activations: the function's program is not the one that the symmetry was "
            "discovered from; discover it anew"
        )
    replay = _Replay(symmetry)
    _, found = replay.run(
        closed.jaxpr, closed.consts, [*leaves, *jax.tree.leaves(inputs)]
    )
    return tuple(found.get(i) for i in range(len(symmetry.activations)))


Found = dict[int, jax.Array]


class _Replay:
    """Runs a program and collects what the sites' views point at."""

    def __init__(self, symmetry: Symmetry):
        self.activations = symmetry.activations
        self.wanted: dict[tuple[int, ...], list[int]] = {}
        for index, activation in enumerate(symmetry.activations):
            if activation.view is not None:
                self.wanted.setdefault(activation.view.location[:-1], []).append(index)
        self.inside = {at[:i] for at in self.wanted for i in range(1, len(at))}

    def run(
        self,
        jaxpr: Any,
        constants: Any,
        arguments: Any,
        path: tuple[int, ...] = (),
        level: int = 0,
    ) -> tuple[list[Any], Found]:
        """The outputs of a jaxpr, and the activations ``[*units, *rest]`` inside it.

        ``path`` leads to the jaxpr, ``level`` is the number of scans around it.
        """
        env = dict(zip(jaxpr.constvars, constants, strict=True))
        env.update(zip(jaxpr.invars, arguments, strict=True))
        found: Found = {}

        def read(variable: Any) -> Any:
            if isinstance(variable, jex_core.Literal):
                return variable.val
            return env[variable]

        for number, eqn in enumerate(jaxpr.eqns):
            here = (*path, number)
            values = [read(v) for v in eqn.invars]
            inner = call_jaxpr(eqn)
            more: Found = {}
            if here not in self.inside:
                outputs = (
                    _whole_call(jaxpr, eqn, values) if inner else _bound(eqn, values)
                )
            elif inner is not None:
                outputs, more = self.run(inner[0], inner[1], values, here, level)
            elif eqn.primitive.name == "scan":
                outputs, more = self.scan(eqn, values, here, level)
            else:
                outputs, more = self.loop(eqn, values, here, level)
            found |= more
            for index in self.wanted.get(here, ()):
                view = self.activations[index].view
                assert view is not None
                pool = values if view.operand else outputs
                found[index] = _extract(pool[view.location[-1]], view)
            env.update(zip(eqn.outvars, outputs, strict=True))
        return [read(v) for v in jaxpr.outvars], found

    def scan(
        self, eqn: Any, values: list[Any], here: tuple[int, ...], level: int
    ) -> tuple[list[Any], Found]:
        """A loop with its activations, stacked over the turns."""
        params, body = eqn.params, eqn.params["jaxpr"]
        first, count = scan_counts(eqn)
        second = first + count

        def turn(state: Any, row: Any) -> Any:
            arguments = [*values[:first], *state, *row]
            outputs, found = self.run(
                body.jaxpr, body.consts, arguments, (*here, 0), level + 1
            )
            return outputs[:count], (outputs[count:], found)

        last, (rows, stacked) = jax.lax.scan(
            turn, values[first:second], values[second:],
            length=params["length"], reverse=params["reverse"],
        )  # fmt: skip
        return [*last, *rows], {i: self.placed(i, a, level) for i, a in stacked.items()}

    def placed(self, index: int, array: jax.Array, level: int) -> jax.Array:
        """Moves the turns of a loop behind the units, or to the unit that they are."""
        activation = self.activations[index]
        assert activation.view is not None
        turn, waiting = activation.view.turns[level], activation.view.turns[:level]
        units = [u for u in range(len(activation.units)) if u not in waiting]
        return jnp.moveaxis(array, 0, units.index(turn) if turn >= 0 else len(units))

    def loop(
        self, eqn: Any, values: list[Any], here: tuple[int, ...], level: int
    ) -> tuple[list[Any], Found]:
        """A `while` with the activations of its last turn."""
        params = eqn.params
        condition, body = params["cond_jaxpr"], params["body_jaxpr"]
        first = params["cond_nconsts"]
        second = first + params["body_nconsts"]

        def turn(state: Any) -> Any:
            return self.run(
                body.jaxpr, body.consts, [*values[first:second], *state], (*here, 0),
                level,
            )  # fmt: skip

        def proceed(held: Any) -> Any:
            arguments = [*values[:first], *held[0]]
            return jex_core.jaxpr_as_fun(condition)(*arguments)[0]

        state = [jnp.asarray(v) for v in values[second:]]
        _, shapes = jax.eval_shape(turn, state)
        start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return jax.lax.while_loop(proceed, lambda held: turn(held[0]), (state, start))


def _bound(eqn: Any, values: list[Any]) -> list[Any]:
    outputs = eqn.primitive.bind(*values, **eqn.params)
    return outputs if eqn.primitive.multiple_results else [outputs]


def _whole_call(jaxpr: Any, eqn: Any, values: list[Any]) -> list[Any]:
    """The results of a call, with the derivative that it may have of its own."""
    given = {
        variable: value
        for variable, value in zip(eqn.invars, values, strict=True)
        if not isinstance(variable, jex_core.Literal)
    }
    used = [v for v in eqn.outvars if not isinstance(v, jex_core.DropVar)]
    alone = jaxpr.replace(constvars=[], invars=[*given], outvars=used, eqns=[eqn])
    results = jex_core.jaxpr_as_fun(jex_core.ClosedJaxpr(alone, []))(*given.values())
    held = dict(zip(used, results, strict=True))
    return [held.get(v) for v in eqn.outvars]


def _extract(array: jax.Array, view: View) -> jax.Array:
    """Cuts the units out of an array and moves them to the front, in order.

    Units that are the turns of a loop are not there yet.
    """
    shape: list[int] = []
    places: dict[int, int] = {}
    cut = []
    for axis, size in zip(view.axes, array.shape, strict=True):
        if axis is None:
            cut.append(slice(None))
            shape.append(size)
            continue
        start, stop, factors = axis
        cut.append(slice(start, stop))
        for width, unit in factors:
            if unit >= 0:
                places[unit] = len(shape)
            shape.append(width)
    split = array[tuple(cut)].reshape(shape)
    front = [places[u] for u in sorted(places)]
    rest = [i for i in range(len(shape)) if i not in front]
    return split.transpose(front + rest)
