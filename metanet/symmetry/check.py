"""Numerical proof that a symmetry leaves its network's function unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metanet.errors import MetanetError
from metanet.symmetry.elements import Element, act, identity, random
from metanet.symmetry.symmetry import Symmetry

_TOLERANCE = 1e-6


class SymmetryError(MetanetError):
    """A group or family that was found does change the function."""


def check(
    symmetry: Symmetry,
    apply_fn: Callable[..., Any],
    params: Any,
    *inputs: Any,
    seed: int = 0,
) -> float:
    """Acts with random elements in float64 and compares outputs.

    Parameters and floating inputs are perturbed first, so that zeros and ones of an
    initialisation hide nothing.

    Returns:
        The largest deviation, relative to the outputs' size.

    Raises:
        SymmetryError: naming the group or family that changes the outputs.
    """
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        moved = jax.tree.map(lambda x: _generic(rng, x, 0.1), params)
        given = jax.tree.map(lambda x: _generic(rng, x, 1.0), inputs)
        apply = jax.jit(apply_fn)
        reference = _flat(apply(moved, *given))
        transform = jax.jit(lambda e, p: act(symmetry, e, p))

        def deviation(element: Element) -> float:
            outputs = _flat(apply(transform(element, moved), *given))
            size = np.abs(reference).max() + 1e-9
            return float(np.abs(outputs - reference).max() / size)

        element = jax.tree.map(_double, random(symmetry, jax.random.key(seed)))
        worst = deviation(element)
        if worst <= _TOLERANCE:
            return worst
        plain = jax.tree.map(_double, identity(symmetry))
        for i, group in enumerate(symmetry.groups):
            only = _with(plain.permutations, i, element.permutations[i])
            if (found := deviation(plain._replace(permutations=only))) > _TOLERANCE:
                where = ", ".join(symmetry.axes_of(group.atoms))
                raise SymmetryError(
                    f"permutations S{group.degree} of {where} change the outputs by "
                    f"{found:.1e}: not a symmetry"
                )
        for i, family in enumerate(symmetry.families):
            only = _with(plain.factors, i, element.factors[i])
            if (found := deviation(plain._replace(factors=only))) > _TOLERANCE:
                where = ", ".join(symmetry.axes_of((family.atom,)))
                raise SymmetryError(
                    f"{family.kind} family of {where} changes the outputs by "
                    f"{found:.1e}: not a symmetry"
                )
        raise SymmetryError(f"random elements change the outputs by {worst:.1e}")


def _with(values: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    return (*values[:index], value, *values[index + 1 :])


def _double(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _generic(rng: np.random.Generator, x: Any, level: float) -> Any:
    """A float64 array with noise that keeps positive values (variances) positive."""
    if not jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating):
        return x
    held = np.asarray(x, np.float64)
    noise = rng.normal(size=held.shape)
    if held.size and held.min() >= 0:
        noise = np.abs(noise)
    return jnp.asarray(held + level * noise, jnp.float64)


def _flat(outputs: Any) -> np.ndarray:
    leaves = jax.tree.leaves(outputs)
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in leaves])
