"""Numerical verification that a symmetry leaves its network's function unchanged.

A group is a symmetry if its elements leave the outputs unchanged for almost all parameters
and inputs, in exact arithmetic. Three things follow.

*Precision.* The program is evaluated in double precision, also where it computes in fewer
bits (`metanet.programs.DoublePrecision`). The rounding that remains is measured: a group is
refused if it changes an output by more than a multiple of what a relative change of all
parameters and inputs by one unit of rounding does.

*Ties.* Operations that pick by position (argmax, top-k, a sort of several arrays) prefer the
first of equal entries, and a permutation changes which is first. Ties that come from equal
or zero rows of an input are a null set, as ties of generic values are: a router by top-k
has the permutations of its experts. Ties of positive measure (entries cut off at zero,
rounded, or converted to fewer bits) are counterexamples. A program without such operations
has nothing that depends on the order of equal entries, and so is also evaluated with zero,
equal and very large rows. For one with them, generic parameters and inputs are drawn
several times, also with one sign per leaf, which cuts off whole layers, and what is computed
in 16 bits or fewer is evaluated in very wide steps.

*Inputs.* Integers are also drawn from all values that the program can look up with them
(tokens of a vocabulary); values that it looks nothing up with stay those of the example.
Inputs can hide a group nonetheless. So every group is also broken on purpose: it acts on
one axis of a parameter alone, and the outputs must move. If they do not, then the group is
not refused but reported as not provable on these inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from metanet.compiler import fast_compile_options
from metanet.errors import MetanetError
from metanet.programs import DoublePrecision, double_dtype, lookup_sizes
from metanet.symmetry.action import Element, act, factor_shape, invert
from metanet.symmetry.symmetry import (
    Block,
    PermutationGroup,
    Position,
    ScalingGroup,
    Symmetry,
)

# Multiple of the measured rounding that still counts as rounding. It covers sums of some
# thousand terms in another order; elements of a symmetry change outputs by less than ten.
_ROUNDINGS = 2.0**8

# Draws of generic values for programs that pick by position.
_DRAWS = 4
_STEP_DRAWS = 16

# Floating-point operations from which on a program is worth optimising, and derivatives
# take the place of outputs for every group that is broken.
_MANY_OPERATIONS = 1e6

# First-order change, relative to the outputs' size, that is no rounding.
_LEAST_CHANGE = 1e-8


class SymmetryError(MetanetError):
    """Error for a discovered group that changes the function."""


@dataclass(frozen=True)
class GroupCheck:
    """Numerical evidence for one group.

    Attributes:
        name: Kind of the group and its axes.
        deviation: Change of the outputs under an element, relative to their size; for a
            program of many operations, under an element of all groups together.
        breaking: Change of the outputs, relative to their size, when an element acts on
            one axis of a parameter alone; the smallest of all axes. For a program of many
            operations, its estimate by derivatives where these are not 0.
        hidden: Axes ("path[axis]") for which the outputs do not move then: the inputs
            cannot tell whether the group acts on them rightly.
    """

    name: str
    deviation: float
    breaking: float
    hidden: tuple[str, ...]

    @property
    def provable(self) -> bool:
        """True if breaking the group on any of its axes moves the outputs."""
        return not self.hidden


@dataclass(frozen=True)
class CheckResult:
    """Result of `check`.

    Attributes:
        deviation: Largest change of the outputs under an element, relative to their size.
        rounding: Change of the outputs, relative to their size, when all parameters and
            inputs change by a unit of rounding.
        groups: Evidence per group of more than one element.
    """

    deviation: float
    rounding: float
    groups: tuple[GroupCheck, ...]

    @property
    def unproven(self) -> tuple[GroupCheck, ...]:
        """Groups that are not provable on the inputs."""
        return tuple(g for g in self.groups if not g.provable)

    def __str__(self) -> str:
        lines = [
            f"{len(self.groups)} groups change the outputs by {self.deviation:.0e} at most, "
            f"a unit of rounding by {self.rounding:.0e}"
        ]
        for group in self.unproven:
            axes = ", ".join(group.hidden)
            lines.append(
                f"  not provable on these inputs: {group.name} (hidden: {axes})"
            )
        return "\n".join(lines)


def check(
    symmetry: Symmetry,
    apply_fn: Callable[..., Any],
    params: Any,
    *inputs: Any,
    seed: int = 0,
) -> CheckResult:
    """Applies random elements and compares outputs; breaks every group on purpose.

    Parameters and inputs are perturbed first, because the zeros and ones of an
    initialisation would hide differences. The module's text says what is compared.

    Args:
        symmetry: The symmetry in question.
        apply_fn: ``apply_fn(params, *inputs)``.
        params: Pytree of arrays.
        *inputs: Example inputs.
        seed: Seed of the perturbation and the elements.

    Returns:
        The deviations, and the groups that these inputs cannot prove.

    Raises:
        SymmetryError: for a group that changes the outputs (named in the message), and
            for outputs that are not finite, so that nothing can be compared.
    """
    closed = jax.make_jaxpr(apply_fn)(params, *inputs)
    with jax.enable_x64(True):
        proof = _Proof(symmetry, closed, params, inputs, seed)
        deviation = proof.largest_deviation()
        rounding = proof.first.relative(proof.first.rounding())
        return CheckResult(deviation, rounding, tuple(proof.group_checks()))


def verify(symmetry: Symmetry, closed: ClosedJaxpr, params: Any, inputs: Any) -> None:
    """Applies random elements and compares outputs, without breaking the groups.

    Args:
        symmetry: The symmetry in question.
        closed: The program, a function of the leaves of parameters and inputs.
        params: Pytree of arrays.
        inputs: Pytree of example inputs.

    Raises:
        SymmetryError: see `check`.
    """
    with jax.enable_x64(True):
        _Proof(symmetry, closed, params, inputs, 0).largest_deviation()


# Change of a leaf.
_Change = Callable[[np.ndarray], np.ndarray]


class _Probe(NamedTuple):
    """Parameters and inputs at which outputs are compared.

    Attributes:
        params: Leaves of the parameters.
        inputs: Leaves of the inputs.
        name: Description that ends a message; empty for generic values.
    """

    params: list[Any]
    inputs: list[Any]
    name: str = ""


class _Function:
    """Outputs of a network after an element has acted on its parameters.

    Args:
        symmetry: The symmetry.
        closed: The program.
        steps: See `DoublePrecision`.
    """

    def __init__(self, symmetry: Symmetry, closed: ClosedJaxpr, steps: bool = False):
        self.interpreter = DoublePrecision(steps)
        self.identity = _identity(symmetry)
        constants = [_host(c) for c in closed.consts]

        def outputs(
            element: Element, params: list[Any], inputs: list[Any]
        ) -> list[Any]:
            moved = act(symmetry, element, params)
            arguments = [*moved, *inputs]
            results = self.interpreter.evaluate(closed.jaxpr, constants, arguments)
            if symmetry.state_outputs:
                # Next values of parameters have moved along, and are moved back.
                for output, leaf in symmetry.state_outputs:
                    moved[leaf] = results[output]
                moved = act(symmetry, invert(symmetry, element), moved)
                for output, leaf in symmetry.state_outputs:
                    results[output] = moved[leaf]
            return [_vector(x) for x in results if not _is_key(x)]

        self._outputs = outputs
        self._compiled: jax.stages.Compiled | None = None
        self.is_heavy = False

    def __call__(self, element: Element, probe: _Probe) -> list[np.ndarray]:
        """Returns the outputs as vectors of real numbers."""
        arguments = (element, probe.params, probe.inputs)
        if self._compiled is None:
            lowered = jax.jit(self._outputs).lower(*arguments)
            operations = (lowered.cost_analysis() or {}).get("flops", 0.0)
            self.is_heavy = operations > _MANY_OPERATIONS
            options: Any = None if self.is_heavy else fast_compile_options()
            self._compiled = lowered.compile(options)
        return [np.asarray(x) for x in self._compiled(*arguments)]

    def gradients(
        self, probe: _Probe, weights: Sequence[np.ndarray]
    ) -> dict[int, np.ndarray]:
        """Returns the gradients of a weighted sum of the outputs.

        Args:
            probe: Parameters and inputs.
            weights: Weights of each output.

        Returns:
            Gradients of the real leaves by number; none of a program that has no
            derivative (a loop until a condition holds).
        """
        numbers = {
            i: x
            for i, x in enumerate(probe.params)
            if jnp.issubdtype(x.dtype, jnp.floating)
        }

        def weighted_sum(numbers: dict[int, Any], inputs: list[Any]) -> jax.Array:
            params = [numbers.get(i, x) for i, x in enumerate(probe.params)]
            outputs = self._outputs(self.identity, params, inputs)
            return jnp.stack(
                [jnp.vdot(w, x) for w, x in zip(weights, outputs, strict=True)]
            ).sum()

        try:
            # Run once: compiling takes longer.
            options = fast_compile_options()
            gradient = jax.jit(jax.grad(weighted_sum), compiler_options=options)
            return gradient(numbers, probe.inputs)
        except (NotImplementedError, ValueError):
            return {}


class _Proof:
    """Comparison of a network's outputs before and after elements have acted.

    Args:
        symmetry: The symmetry.
        closed: The program, a function of the leaves of parameters and inputs.
        params: Its parameters before the perturbation.
        inputs: Its inputs before the perturbation.
        seed: Seed of the perturbation and the elements.
    """

    def __init__(
        self,
        symmetry: Symmetry,
        closed: ClosedJaxpr,
        params: Any,
        inputs: Any,
        seed: int,
    ):
        self.symmetry, self.closed = symmetry, closed
        self.rng = np.random.default_rng(seed)
        leaves = [*jax.tree.leaves(params), *jax.tree.leaves(inputs)]
        leaves = [_of_type(x, a) for x, a in zip(leaves, closed.in_avals, strict=True)]
        count = len(leaves) - len(jax.tree.leaves(inputs))
        self.params, self.inputs = leaves[:count], leaves[count:]
        self.lookups = lookup_sizes(closed)[count:]
        self.function = _Function(symmetry, closed)
        self.first = _Comparison(self.function, self.generic_probe(), self.rng)

    # Parameters and inputs.

    def generic_probe(
        self, params: float = 0.1, inputs: float = 1.0, name: str = ""
    ) -> _Probe:
        """Returns perturbed parameters and inputs.

        Args:
            params: Standard deviation of the noise on the parameters.
            inputs: Standard deviation of the noise on the inputs.
            name: Description of the probe.
        """
        return _Probe(
            [self.generic(x, params) for x in self.params],
            [self.generic(x, inputs) for x in self.inputs],
            name,
        )

    def generic(self, x: Any, level: float) -> Any:
        """Adds noise that leaves positive values (variances) positive."""
        if not _is_inexact(x):
            return x
        noise = self.rng.normal(size=x.shape)
        if np.iscomplexobj(x):
            return x + level * (noise + 1j * self.rng.normal(size=x.shape))
        if x.size and x.min() >= 0:
            noise = np.abs(noise)
        return x + level * noise

    def lookup_probe(self) -> _Probe | None:
        """Returns integers from all that the program can look up; None without any."""
        probe = self.generic_probe(name="on other integers")
        inputs = [
            self.drawn(x, size)
            for x, size in zip(probe.inputs, self.lookups, strict=True)
        ]
        if all(a is b for a, b in zip(inputs, probe.inputs, strict=True)):
            return None
        return probe._replace(inputs=inputs)

    def drawn(self, x: Any, size: int | None) -> Any:
        """Draws an integer or boolean input anew, if its range is known."""
        if jnp.issubdtype(x.dtype, jnp.bool_):
            return self.rng.integers(0, 2, x.shape).astype(x.dtype)
        if size is None or size < 2 or not jnp.issubdtype(x.dtype, jnp.integer):
            return x
        return self.rng.integers(0, size, x.shape).astype(x.dtype)

    def row_probe(self) -> _Probe:
        """Returns inputs some of whose rows are zero, equal or very large."""
        probe = self.generic_probe(name="on zero, equal and very large rows")
        inputs = [
            x if size is None and not _is_inexact(x) else _special_rows(x)
            for x, size in zip(probe.inputs, self.lookups, strict=True)
        ]
        return probe._replace(inputs=inputs)

    def signed_probe(self) -> _Probe:
        """Returns parameters of one sign per leaf, which cut off whole layers at zero.

        They are divided by the longest axis, so that nothing saturates.
        """
        probe = self.generic_probe(name="of one sign")

        def one_sign(x: Any) -> Any:
            if not _is_inexact(x) or np.iscomplexobj(x) or not x.size or x.min() >= 0:
                return x
            return self.rng.choice([-1.0, 1.0]) * np.abs(x) / max(x.shape, default=1)

        return probe._replace(
            params=[one_sign(x) for x in probe.params],
            inputs=[np.abs(x) if _is_inexact(x) else x for x in probe.inputs],
        )

    def further_probes(self) -> Iterator[_Probe]:
        """Yields probes after the first, at which no right symmetry changes the outputs."""
        lookup = self.lookup_probe()
        if lookup is not None:
            yield lookup
        if not self.function.interpreter.orders:
            yield self.row_probe()
            return
        for _ in range(_DRAWS):
            yield self.drawn_probe()
            yield self.signed_probe()

    def drawn_probe(self, name: str = "") -> _Probe:
        """Returns generic parameters and inputs of some size."""
        level = float(np.exp(self.rng.normal()))
        return self.generic_probe(level, level, name)

    # Elements.

    def element(self, exact: bool = False) -> Element:
        """Draws an element, no part of which is the identity.

        Args:
            exact: Factors are powers of two, which commute with rounding, and phases,
                which do not, are left out.
        """
        return _element(
            [self.cycles(g) for g in self.symmetry.groups],
            [self.factors(f, exact) for f in self.symmetry.scaling_groups],
        )

    def cycles(self, group: PermutationGroup) -> np.ndarray:
        """Draws ``[copies, degree]`` cyclic permutations."""
        rows = [self.cycle(group.degree) for _ in range(group.copies)]
        return np.reshape(rows, (group.copies, group.degree)).astype(np.int64)

    def cycle(self, degree: int) -> np.ndarray:
        """Draws a cyclic permutation."""
        order = self.rng.permutation(degree)
        row = np.empty_like(order)
        row[order] = np.roll(order, 1)
        return row

    def signs(self, shape: tuple[int, ...]) -> np.ndarray:
        """Draws signs, at least one of which is negative."""
        values = 1.0 - 2 * self.rng.integers(0, 2, shape)
        if values.size:
            values.flat[self.rng.integers(values.size)] = -1
        return values

    def factors(self, scaling_group: ScalingGroup, exact: bool) -> np.ndarray:
        """Draws the factors ``[*parents, size]`` of a scaling group."""
        shape = factor_shape(self.symmetry, scaling_group)
        if scaling_group.kind in ("positive", "nonzero"):
            if not exact:
                return np.exp(0.3 * self.rng.normal(size=shape))
            whole = math.lcm(*(e.power.denominator for e in scaling_group.exponents))
            return 2.0 ** (whole * self.rng.choice([-1, 1], shape))
        signs = self.signs(shape)
        if scaling_group.kind == "sign":
            return signs
        turns = self.rng.choice([-1.0, 1.0, 2.0], shape)
        return np.where((signs < 0) & (not exact), turns, 0.0)

    # Proof.

    def largest_deviation(self) -> float:
        """Returns the largest deviation over random elements, relative to the outputs."""
        if not self.first.finite:
            raise SymmetryError(
                "check: the outputs are not finite; give other parameters or inputs"
            )
        worst = self.compare(self.first, self.element(), self.element())
        for probe in self.further_probes():
            comparison = _Comparison(self.function, probe, self.rng)
            worst = max(worst, self.compare(comparison, self.element()))
        interpreter = self.function.interpreter
        if interpreter.orders and interpreter.coarse:
            steps = _Function(self.symmetry, self.closed, steps=True)
            for _ in range(_STEP_DRAWS):
                probe = self.drawn_probe("where 16 bits round to few")
                self.compare(
                    _Comparison(steps, probe, self.rng), self.element(exact=True)
                )
        return worst

    def compare(self, comparison: _Comparison, *elements: Element) -> float:
        """Returns the largest relative deviation under elements.

        Raises:
            SymmetryError: if it is more than rounding.
        """
        worst = 0.0
        for element in elements:
            change = comparison.change(element)
            if not comparison.is_rounding(change):
                raise SymmetryError(self.blame(comparison, element, change))
            worst = max(worst, comparison.relative(change))
        return worst

    def blame(
        self, comparison: _Comparison, element: Element, change: list[float]
    ) -> str:
        """Returns an error's text that names the group that changes the outputs."""
        where = comparison.probe.name and f" {comparison.probe.name}"
        for name, part in self.parts(element):
            part_change = comparison.change(part)
            if not comparison.is_rounding(part_change):
                size = comparison.relative(part_change)
                return f"{name}: changes the outputs by {size:.1e}{where}, is not a symmetry"
        size = comparison.relative(change)
        return f"random elements change the outputs by {size:.1e}{where}"

    def parts(self, element: Element) -> Iterator[tuple[str, Element]]:
        """Yields for each group its name and an element of it alone."""
        identity = self.function.identity
        for i, group in enumerate(self.symmetry.groups):
            only = _with(identity.permutations, i, element.permutations[i])
            axes = ", ".join(self.symmetry.axes_of(group.indices))
            name = f"permutations S{group.degree} of {axes}"
            yield name, identity._replace(permutations=only)
        for i, scaling_group in enumerate(self.symmetry.scaling_groups):
            only = _with(identity.factors, i, element.factors[i])
            axes = ", ".join(self.symmetry.axes_of((scaling_group.axis_index,)))
            name = f"{scaling_group.kind} group of {axes}"
            yield name, identity._replace(factors=only)

    # Groups that are broken on purpose.

    @cached_property
    def further_draws(self) -> list[_Comparison]:
        """Comparisons at other values, for leaves that the first do not show."""
        probes = [self.lookup_probe(), *(self.drawn_probe() for _ in range(_DRAWS))]
        return [
            _Comparison(self.function, p, self.rng) for p in probes if p is not None
        ]

    def moved(self, leaf: int, change: _Change) -> float:
        """Returns the relative change of the outputs when one leaf changes, or 0."""
        moved = self.first.moved(leaf, change)
        if not moved:
            moves = (c.moved(leaf, change) for c in self.further_draws)
            moved = next(filter(None, moves), 0.0)
        return moved

    def group_checks(self) -> Iterator[GroupCheck]:
        """Yields the evidence for each group of more than one element."""
        sizes = [i.size for i in self.symmetry.indices]
        breaks = [
            *(
                _breaks_of_permutations(self.symmetry, g, self.cycle(g.degree))
                for g in self.symmetry.groups
            ),
            *(
                _breaks_of_factors(self.symmetry, f, self.signs((sizes[f.axis_index],)))
                for f in self.symmetry.scaling_groups
            ),
        ]
        is_heavy = self.function.is_heavy
        first_order = self.first.first_order() if is_heavy else _nothing
        elements = self.element()
        whole = self.first.change(elements)
        parts = self.parts(elements)
        for (name, element), changes in zip(parts, breaks, strict=True):
            if not changes:
                continue
            alone = whole if is_heavy else self.first.change(element)
            smallest, hidden = math.inf, []
            for axis, leaf, change in changes:
                moved = first_order(leaf, change) or self.moved(leaf, change)
                smallest = min(smallest, moved)
                if not moved:
                    hidden.append(axis)
            deviation = self.first.relative(alone)
            yield GroupCheck(name, deviation, smallest, tuple(hidden))


class _Comparison:
    """Changes of a function's outputs at one probe.

    Args:
        function: The function.
        probe: Parameters and inputs.
        rng: Source of perturbations by a unit of rounding.

    Attributes:
        finite: Some output is finite.
    """

    def __init__(self, function: _Function, probe: _Probe, rng: np.random.Generator):
        self.function, self.probe, self.rng = function, probe, rng
        self._reference = function(function.identity, probe)
        finite = [x[np.isfinite(x)] for x in self._reference]
        finite = np.concatenate([np.empty(0), *finite])
        self.finite = finite.size > 0
        self._size = float(np.abs(finite).max(initial=0.0))
        self._rounding: list[float] | None = None

    def change(self, element: Element) -> list[float]:
        """Returns the largest change of each output under an element."""
        return self._distances(self.function(element, self.probe))

    def relative(self, change: list[float]) -> float:
        """Returns the largest change relative to the size of all outputs."""
        largest = max(change)
        return largest / self._size if self._size else largest

    def is_rounding(self, change: list[float]) -> bool:
        """Returns whether rounding explains the changes of all outputs."""
        floor = _ROUNDINGS * self.function.interpreter.unit * self._size
        if max(change) <= floor:
            return True
        rounding = self.rounding()
        return all(
            c <= floor + _ROUNDINGS * r for c, r in zip(change, rounding, strict=True)
        )

    def rounding(self) -> list[float]:
        """Returns the largest change of each output by a unit of rounding."""
        if self._rounding is None:
            changes = [
                self._distances(self.function(self.function.identity, self._nudged()))
                for _ in range(3)
            ]
            self._rounding = [max(c) for c in zip(*changes, strict=True)]
        return self._rounding

    def _nudged(self) -> _Probe:
        """Changes all values of the probe by a unit of rounding."""
        unit = self.function.interpreter.unit

        def nudge(x: Any) -> Any:
            if not _is_inexact(x):
                return x
            return x * (1 + unit * self.rng.choice([-1.0, 1.0], x.shape))

        return self.probe._replace(
            params=[nudge(x) for x in self.probe.params],
            inputs=[nudge(x) for x in self.probe.inputs],
        )

    def moved(self, leaf: int, change: _Change) -> float:
        """Returns the relative change when one leaf changes; 0 if it is rounding."""
        params = list(self.probe.params)
        params[leaf] = change(params[leaf])
        probe = self.probe._replace(params=params)
        moved = self._distances(self.function(self.function.identity, probe))
        return 0.0 if self.is_rounding(moved) else self.relative(moved)

    def first_order(self) -> Callable[[int, _Change], float]:
        """Returns a function that estimates the relative change when one leaf changes.

        It is the first-order change of a random sum of the outputs; 0 if that is rounding
        or not finite.
        """
        weights = [
            np.where(np.isfinite(x), self.rng.normal(size=x.shape), 0.0)
            for x in self._reference
        ]
        gradients = self.function.gradients(self.probe, weights)

        def estimate(leaf: int, change: _Change) -> float:
            if leaf not in gradients or not self._size:
                return 0.0
            values = self.probe.params[leaf]
            moved = abs(float(np.vdot(gradients[leaf], change(values) - values)))
            relative = moved / self._size
            return relative if _LEAST_CHANGE < relative < math.inf else 0.0

        return estimate

    def _distances(self, outputs: list[np.ndarray]) -> list[float]:
        return [
            self._distance(a, b) for a, b in zip(self._reference, outputs, strict=True)
        ]

    def _distance(self, reference: np.ndarray, output: np.ndarray) -> float:
        finite = np.isfinite(reference)
        generic = not self.probe.name
        if generic and (np.isfinite(output) != finite).any():
            return math.inf
        finite &= np.isfinite(output)
        return float(np.abs(output[finite] - reference[finite]).max(initial=0.0))


def _nothing(leaf: int, change: _Change) -> float:
    return 0.0


def _is_inexact(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _host(x: Any) -> Any:
    """Returns an array of the host in double precision, keys as they are."""
    return x if _is_key(x) else np.asarray(x, double_dtype(x.dtype))


def _of_type(x: Any, aval: Any) -> Any:
    """Returns an array of the host of the type in which the program reads it."""
    return x if _is_key(aval) else np.asarray(x, double_dtype(aval.dtype))


def _vector(x: jax.Array) -> jax.Array:
    if jnp.iscomplexobj(x):
        x = jnp.stack([x.real, x.imag])
    return x.astype(np.float64).ravel()


def _special_rows(x: Any) -> Any:
    """Makes the second half of the rows zero, two of the others equal, and one large."""
    axis = next((i for i, n in enumerate(x.shape) if n > 1), None)
    if axis is None:
        return x
    rows = np.moveaxis(x.copy(), axis, 0)
    half = (len(rows) + 1) // 2
    rows[half:] = 0
    if half > 1:
        rows[1] = rows[0]
    if half > 2 and _is_inexact(x):
        rows[2] *= 100
    return np.moveaxis(rows, 0, axis)


def _with(values: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    return (*values[:index], value, *values[index + 1 :])


def _identity(symmetry: Symmetry) -> Element:
    """Returns the identity, of arrays of the host, for which nothing is compiled."""
    permutations = [
        np.tile(np.arange(g.degree), (g.copies, 1)) for g in symmetry.groups
    ]
    factors = [
        np.full(factor_shape(symmetry, f), float(f.kind != "phase"))
        for f in symmetry.scaling_groups
    ]
    return _element(permutations, factors)


def _element(permutations: list[Any], factors: list[Any]) -> Element:
    return Element(tuple(permutations), tuple(factors))


# Axis, number of the leaf, and the change of the leaf when a group acts on the axis alone.
_Break = tuple[str, int, _Change]
# Blocks of a leaf, and the numbers of the positions at which each is changed.
_Places = list[tuple[Block, tuple[int, ...]]]


def _breaks_of_permutations(
    symmetry: Symmetry, group: PermutationGroup, cycle: np.ndarray
) -> list[_Break]:
    """Returns the changes when a permutation acts on one axis of a parameter alone."""
    if group.degree < 2:
        return []
    axes: dict[tuple[int, tuple[int, ...], int], _Places] = {}
    for block in symmetry.blocks:
        if symmetry.leaves[block.leaf].dtype.startswith("key<"):
            continue  # NumPy has no random keys
        places = [
            [i for i, a in enumerate(block.indices) if a == index]
            for index in group.indices
        ]
        for occurrence, moved in enumerate(zip(*places, strict=True)):
            key = (
                block.leaf,
                tuple(block.positions[i].axis for i in moved),
                occurrence,
            )
            axes.setdefault(key, []).append((block, moved))

    def permuted(units: np.ndarray) -> np.ndarray:
        return units[..., cycle]

    return [
        _break(symmetry, leaf, sorted(set(numbers)), blocks, permuted, len(axes) == 1)
        for (leaf, numbers, _), blocks in axes.items()
    ]


def _breaks_of_factors(
    symmetry: Symmetry, scaling_group: ScalingGroup, signs: np.ndarray
) -> list[_Break]:
    """Returns the changes when factors act on one axis of a parameter alone."""
    if not signs.size:
        return []
    changes: list[tuple[int, Position, _Change]] = []
    for e in scaling_group.exponents:
        if scaling_group.kind in ("positive", "nonzero"):
            factors = 1.5 ** (float(e.power) * signs)
        elif e.power.numerator % 2:
            factors = signs
        else:
            continue
        changes.append((e.leaf, e.position, lambda units, f=factors: units * f))
    for s in scaling_group.shifts:
        shift = s.amount * (signs < 0)
        changes.append((s.leaf, s.position, lambda units, s=shift: units + s))
    breaks = []
    for leaf, position, change in changes:
        blocks: _Places = [
            (block, (block.positions.index(position),))
            for block in symmetry.blocks
            if block.leaf == leaf and position in block.positions
        ]
        alone = len(changes) == 1
        breaks.append(_break(symmetry, leaf, [position.axis], blocks, change, alone))
    return breaks


def _break(
    symmetry: Symmetry,
    leaf: int,
    axes: Sequence[int],
    blocks: _Places,
    change: _Change,
    alone: bool,
) -> _Break:
    """Returns the change of a leaf whose units in some blocks change.

    Args:
        symmetry: The symmetry.
        leaf: Number of the leaf.
        axes: Its axes that the group acts on.
        blocks: The blocks, and the positions of the units in them.
        change: The change of units ``[..., degree]``.
        alone: The group acts on no other axis, so that the change alone is an element of
            it; the entries are changed in another way instead.
    """

    def changed_leaf(values: np.ndarray) -> np.ndarray:
        values = values.copy()
        for block, moved in blocks:
            entries = np.ix_(*(part.entries() for part in block.parts))
            part = values[entries]
            sizes = [symmetry.indices[a].size for a in block.indices]
            last = tuple(range(-len(moved), 0))
            turned = np.moveaxis(part.reshape(sizes), moved, last)
            units = turned.reshape(*turned.shape[: -len(moved)], -1)
            new = _changed_units(units) if alone else change(units)
            turned = new.astype(values.dtype).reshape(turned.shape)
            values[entries] = np.moveaxis(turned, last, moved).reshape(part.shape)
        return values

    name = ", ".join(f"{symmetry.leaves[leaf].path}[{axis}]" for axis in axes)
    return name, leaf, changed_leaf


def _changed_units(units: np.ndarray) -> np.ndarray:
    """Changes every entry of the units by another factor."""
    return units * np.linspace(1.5, 2.5, units.size).reshape(units.shape)
