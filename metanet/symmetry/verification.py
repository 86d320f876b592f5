"""Numerical proof that a symmetry leaves its network's function unchanged."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metanet.compiler import fast_compile_options
from metanet.errors import MetanetError
from metanet.symmetry.elements import Element, act, factor_shape, invert
from metanet.symmetry.structure import PermutationGroup, ScalingGroup
from metanet.symmetry.symmetry import Symmetry

_TOLERANCE = {np.float64: 1e-6, np.float32: 2e-3}


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
    initialisation hide nothing. A program that only runs in float32 (a loop whose state
    has that type) is checked in float32, with a wider tolerance.

    Args:
        symmetry: What is to be proved.
        apply_fn: ``apply_fn(params, *inputs)``.
        params: Pytree of arrays.
        *inputs: Example inputs.
        seed: Of the perturbation and the elements.

    Returns:
        The largest deviation, relative to the outputs' size.

    Raises:
        SymmetryError: naming the group or family that changes the outputs, or saying
            that the outputs are not finite, so that nothing can be compared.
    """
    with jax.enable_x64(True):
        probe = _Probe(symmetry, apply_fn, params, inputs, seed, np.float64)
        try:
            jax.eval_shape(apply_fn, probe.params, *probe.inputs)
        except TypeError:  # the program fixes float32 somewhere
            probe = None
        if probe is not None:
            return probe.worst()
    return _Probe(symmetry, apply_fn, params, inputs, seed, np.float32).worst()


class _Probe:
    """A perturbed network, and its outputs after an element has acted."""

    def __init__(
        self,
        symmetry: Symmetry,
        apply_fn: Callable[..., Any],
        params: Any,
        inputs: tuple[Any, ...],
        seed: int,
        dtype: type,
    ):
        self.symmetry, self.dtype = symmetry, dtype
        self.rng = np.random.default_rng(seed)
        self.params = jax.tree.map(lambda x: self.generic(x, 0.1), params)
        self.inputs = jax.tree.map(lambda x: self.generic(x, 1.0), inputs)
        self.run = jax.jit(
            lambda e, p, *x: apply_fn(act(symmetry, e, p), *x),
            compiler_options=fast_compile_options(),
        )

    def generic(self, x: Any, level: float) -> Any:
        """An array with noise that keeps positive values (variances) positive."""
        if not jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating):
            return x
        held = np.asarray(x, self.dtype)
        noise = self.rng.normal(size=held.shape)
        if held.size and held.min() >= 0:
            noise = np.abs(noise)
        return (held + level * noise).astype(self.dtype)

    def element(self) -> Element:
        """A random element, no part of which is the identity."""
        return _element(
            [self.cycles(g) for g in self.symmetry.groups],
            [self.factors(f) for f in self.symmetry.scaling_groups],
        )

    def identity(self) -> Element:
        return _element(
            [np.tile(np.arange(g.degree), (g.copies, 1)) for g in self.symmetry.groups],
            [
                np.full(factor_shape(self.symmetry, f), f.kind != "phase", self.dtype)
                for f in self.symmetry.scaling_groups
            ],
        )

    def cycles(self, group: PermutationGroup) -> np.ndarray:
        rows = []
        for _ in range(group.copies):
            order = self.rng.permutation(group.degree)
            row = np.empty_like(order)
            row[order] = np.roll(order, 1)
            rows.append(row)
        return np.stack(rows)

    def factors(self, scaling_group: ScalingGroup) -> np.ndarray:
        shape = factor_shape(self.symmetry, scaling_group)
        if scaling_group.kind == "positive":
            return np.exp(0.3 * self.rng.normal(size=shape)).astype(self.dtype)
        values = self.rng.integers(0, 2, shape)
        values.flat[self.rng.integers(math.prod(shape))] = 1
        if scaling_group.kind == "phase":
            return (values * self.rng.choice([-1, 1, 2], shape)).astype(self.dtype)
        return (1 - 2 * values).astype(self.dtype)

    def outputs(self, element: Element) -> np.ndarray:
        """All outputs as one vector, next values of parameters moved back."""
        leaves = jax.tree.leaves(self.run(element, self.params, *self.inputs))
        if self.symmetry.state_outputs:
            flat, treedef = jax.tree.flatten(self.params)
            for output, leaf in self.symmetry.state_outputs:
                flat[leaf] = leaves[output]
            back = jax.jit(
                lambda e, p: act(self.symmetry, invert(self.symmetry, e), p),
                compiler_options=fast_compile_options(),
            )
            flat = jax.tree.leaves(back(element, jax.tree.unflatten(treedef, flat)))
            for output, leaf in self.symmetry.state_outputs:
                leaves[output] = flat[leaf]
        return np.concatenate([np.asarray(x, np.float64).ravel() for x in leaves])

    def worst(self) -> float:
        """The largest deviation over two random elements."""
        plain = self.identity()
        reference = self.outputs(plain)
        seen = np.isfinite(reference)
        if not seen.any():
            raise SymmetryError(
                "check: the outputs are not finite; give other parameters or inputs"
            )
        scale = np.abs(reference[seen]).max() + 1e-9

        def deviation(element: Element) -> float:
            outputs = self.outputs(element)
            if (np.isfinite(outputs) != seen).any():
                return math.inf
            return float(np.abs(outputs[seen] - reference[seen]).max() / scale)

        tolerance, worst = _TOLERANCE[self.dtype], 0.0
        for element in (self.element(), self.element()):
            found = deviation(element)
            if found > tolerance:
                self.blame(element, plain, deviation, tolerance)
                raise SymmetryError(
                    f"random elements change the outputs by {found:.1e}"
                )
            worst = max(worst, found)
        return worst

    def blame(
        self,
        element: Element,
        plain: Element,
        deviation: Callable[[Element], float],
        tolerance: float,
    ) -> None:
        """Raises for the group or family of an element that changes the outputs."""
        parts: list[tuple[str, Element]] = []
        for i, group in enumerate(self.symmetry.groups):
            only = _with(plain.permutations, i, element.permutations[i])
            where = ", ".join(self.symmetry.axes_of(group.indices))
            name = f"permutations S{group.degree} of {where}"
            parts.append((name, plain._replace(permutations=only)))
        for i, scaling_group in enumerate(self.symmetry.scaling_groups):
            only = _with(plain.factors, i, element.factors[i])
            where = ", ".join(self.symmetry.axes_of((scaling_group.axis_index,)))
            parts.append(
                (
                    f"{scaling_group.kind} family of {where}",
                    plain._replace(factors=only),
                )
            )
        for name, part in parts:
            if (found := deviation(part)) > tolerance:
                raise SymmetryError(
                    f"{name}: changes the outputs by {found:.1e}, is not a symmetry"
                )


def _with(values: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    return (*values[:index], value, *values[index + 1 :])


def _element(permutations: list[Any], factors: list[Any]) -> Element:
    """An element of host arrays: nothing is compiled to draw it."""
    return Element(tuple(permutations), tuple(factors))
