"""Numerical verification that a symmetry leaves its network's function unchanged."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metanet.compiler import fast_compile_options
from metanet.errors import MetanetError
from metanet.symmetry.action import Element, act, factor_shape, invert
from metanet.symmetry.symmetry import PermutationGroup, ScalingGroup, Symmetry

_TOLERANCE = {np.float64: 1e-6, np.float32: 2e-3}


class SymmetryError(MetanetError):
    """Error for a discovered group that changes the function."""


def check(
    symmetry: Symmetry,
    apply_fn: Callable[..., Any],
    params: Any,
    *inputs: Any,
    seed: int = 0,
) -> float:
    """Applies random elements in float64 and compares outputs.

    Parameters and floating inputs are perturbed first, because the zeros and ones of an
    initialisation would hide differences. A program that only runs in float32 (a loop whose state
    has that type) is checked in float32, with a wider tolerance.

    Args:
        symmetry: The symmetry in question.
        apply_fn: ``apply_fn(params, *inputs)``.
        params: Pytree of arrays.
        *inputs: Example inputs.
        seed: Seed of the perturbation and the elements.

    Returns:
        The largest deviation, relative to the outputs' size.

    Raises:
        SymmetryError: for a group that changes the outputs (named in the message), and
            for outputs that are not finite, so that nothing can be compared.
    """
    with jax.enable_x64(True):
        probe = _Probe(symmetry, apply_fn, params, inputs, seed, np.float64)
        try:
            jax.eval_shape(apply_fn, probe.params, *probe.inputs)
        except TypeError:  # the program fixes float32 somewhere
            probe = None
        if probe is not None:
            return probe.largest_deviation()
    return _Probe(
        symmetry, apply_fn, params, inputs, seed, np.float32
    ).largest_deviation()


class _Probe:
    """Perturbed network, and its outputs after an element has acted.

    Args:
        symmetry: The symmetry.
        apply_fn: The network.
        params: Its parameters before the perturbation.
        inputs: Its inputs before the perturbation.
        seed: Seed of the perturbation and the elements.
        dtype: Type of the parameters and floating inputs.
    """

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

        def apply_after(element: Element, params: Any, *inputs: Any) -> Any:
            return apply_fn(act(symmetry, element, params), *inputs)

        self.run = jax.jit(apply_after, compiler_options=fast_compile_options())

    def generic(self, x: Any, level: float) -> Any:
        """Adds noise that leaves positive values (variances) positive."""
        if not jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating):
            return x
        values = np.asarray(x, self.dtype)
        noise = self.rng.normal(size=values.shape)
        if values.size and values.min() >= 0:
            noise = np.abs(noise)
        return (values + level * noise).astype(self.dtype)

    def element(self) -> Element:
        """Draws an element, no part of which is the identity."""
        return _element(
            [self.cycles(g) for g in self.symmetry.groups],
            [self.factors(f) for f in self.symmetry.scaling_groups],
        )

    def identity(self) -> Element:
        """Returns the identity, of host arrays."""
        return _element(
            [np.tile(np.arange(g.degree), (g.copies, 1)) for g in self.symmetry.groups],
            [
                np.full(factor_shape(self.symmetry, f), f.kind != "phase", self.dtype)
                for f in self.symmetry.scaling_groups
            ],
        )

    def cycles(self, group: PermutationGroup) -> np.ndarray:
        """Draws ``[copies, degree]`` cyclic permutations."""
        rows = []
        for _ in range(group.copies):
            order = self.rng.permutation(group.degree)
            row = np.empty_like(order)
            row[order] = np.roll(order, 1)
            rows.append(row)
        return np.stack(rows)

    def factors(self, scaling_group: ScalingGroup) -> np.ndarray:
        """Draws the factors ``[*parents, size]`` of a scaling group."""
        shape = factor_shape(self.symmetry, scaling_group)
        if scaling_group.kind == "positive":
            return np.exp(0.3 * self.rng.normal(size=shape)).astype(self.dtype)
        values = self.rng.integers(0, 2, shape)
        values.flat[self.rng.integers(math.prod(shape))] = 1
        if scaling_group.kind == "phase":
            return (values * self.rng.choice([-1, 1, 2], shape)).astype(self.dtype)
        return (1 - 2 * values).astype(self.dtype)

    def outputs(self, element: Element) -> np.ndarray:
        """Returns all outputs as one vector, next values of parameters moved back."""
        leaves = jax.tree.leaves(self.run(element, self.params, *self.inputs))
        if self.symmetry.state_outputs:
            flat, treedef = jax.tree.flatten(self.params)
            for output, leaf in self.symmetry.state_outputs:
                flat[leaf] = leaves[output]
            undo = jax.jit(self.undo, compiler_options=fast_compile_options())
            flat = jax.tree.leaves(undo(element, jax.tree.unflatten(treedef, flat)))
            for output, leaf in self.symmetry.state_outputs:
                leaves[output] = flat[leaf]
        return np.concatenate([np.asarray(x, np.float64).ravel() for x in leaves])

    def undo(self, element: Element, params: Any) -> Any:
        """Applies the inverse of an element."""
        return act(self.symmetry, invert(self.symmetry, element), params)

    def largest_deviation(self) -> float:
        """Returns the largest deviation over two random elements."""
        identity = self.identity()
        reference = self.outputs(identity)
        finite = np.isfinite(reference)
        if not finite.any():
            raise SymmetryError(
                "check: the outputs are not finite; give other parameters or inputs"
            )
        scale = np.abs(reference[finite]).max() + 1e-9

        def deviation(element: Element) -> float:
            outputs = self.outputs(element)
            if (np.isfinite(outputs) != finite).any():
                return math.inf
            return float(np.abs(outputs[finite] - reference[finite]).max() / scale)

        tolerance, worst = _TOLERANCE[self.dtype], 0.0
        for element in (self.element(), self.element()):
            change = deviation(element)
            if change > tolerance:
                self.blame(element, identity, deviation, tolerance)
                raise SymmetryError(
                    f"random elements change the outputs by {change:.1e}"
                )
            worst = max(worst, change)
        return worst

    def blame(
        self,
        element: Element,
        identity: Element,
        deviation: Callable[[Element], float],
        tolerance: float,
    ) -> None:
        """Raises an error for the group of an element that changes the outputs."""
        parts: list[tuple[str, Element]] = []
        for i, group in enumerate(self.symmetry.groups):
            only = _with(identity.permutations, i, element.permutations[i])
            axes = ", ".join(self.symmetry.axes_of(group.indices))
            name = f"permutations S{group.degree} of {axes}"
            parts.append((name, identity._replace(permutations=only)))
        for i, scaling_group in enumerate(self.symmetry.scaling_groups):
            only = _with(identity.factors, i, element.factors[i])
            axes = ", ".join(self.symmetry.axes_of((scaling_group.axis_index,)))
            name = f"{scaling_group.kind} group of {axes}"
            parts.append((name, identity._replace(factors=only)))
        for name, part in parts:
            change = deviation(part)
            if change > tolerance:
                raise SymmetryError(
                    f"{name}: changes the outputs by {change:.1e}, is not a symmetry"
                )


def _with(values: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    return (*values[:index], value, *values[index + 1 :])


def _element(permutations: list[Any], factors: list[Any]) -> Element:
    """Returns an element of host arrays, for which nothing is compiled."""
    return Element(tuple(permutations), tuple(factors))
