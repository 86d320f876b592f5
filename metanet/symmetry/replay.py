"""Replays a network's program and captures the activations of its sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core as jex_core

from metanet.errors import MetanetError
from metanet.symmetry.programs import call_jaxpr, outline
from metanet.symmetry.structure import View
from metanet.symmetry.symmetry import Symmetry


def activations(
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
        are the other axes in order. None for inputs and where a value cannot be
        captured (inside loops).

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
    wanted: dict[tuple[int, ...], list[int]] = {}
    for index, site in enumerate(symmetry.sites):
        if site.view is not None:
            wanted.setdefault(site.view.location[:-1], []).append(index)
    inside = {at[:i] for at in wanted for i in range(1, len(at))}
    found: dict[int, jax.Array] = {}

    def run(jaxpr: Any, constants: Any, arguments: Any, path: tuple[int, ...]):
        env = dict(zip(jaxpr.constvars, constants, strict=True))
        env.update(zip(jaxpr.invars, arguments, strict=True))

        def read(variable: Any) -> Any:
            if isinstance(variable, jex_core.Literal):
                return variable.val
            return env[variable]

        for number, eqn in enumerate(jaxpr.eqns):
            here = (*path, number)
            values = [read(v) for v in eqn.invars]
            inner = call_jaxpr(eqn)
            if inner is not None and here in inside:
                outputs = run(inner[0], inner[1], values, here)
            elif inner is not None:
                outputs = _whole_call(jaxpr, eqn, values)
            else:
                outputs = eqn.primitive.bind(*values, **eqn.params)
                if not eqn.primitive.multiple_results:
                    outputs = [outputs]
            for index in wanted.get(here, ()):
                view = symmetry.sites[index].view
                assert view is not None
                pool = values if view.operand else outputs
                units = len(symmetry.sites[index].units)
                found[index] = _extract(pool[view.location[-1]], view, units)
            env.update(zip(eqn.outvars, outputs, strict=True))
        return [read(v) for v in jaxpr.outvars]

    run(closed.jaxpr, closed.consts, [*leaves, *jax.tree.leaves(inputs)], ())
    return tuple(found.get(i) for i in range(len(symmetry.sites)))


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


def _extract(array: jax.Array, view: View, units: int) -> jax.Array:
    """Cuts the units out of an array and moves them to the front."""
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
    front = [places[u] for u in range(units)]
    rest = [i for i in range(len(shape)) if i not in front]
    return split.transpose(front + rest)
