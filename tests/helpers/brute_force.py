"""Discovered groups compared with all pairs of permutations of two units of 4.

The program of a `Program` has two sets of 4 units. Every pair of permutations acts on its
parameters, and the pairs that leave the outputs unchanged, for many parameters and
inputs, are the true group. Of discovery's group every generator is tried in the same
way, and counted are the pairs that it contains. Inputs are made to have ties where a
network meets them: saturated units, equal rows, zeros, values of low precision, integers
over their whole range.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from helpers.permutation_chain import Permutation, PermutationChain
from metanet import symmetry as sym
from metanet.compiler import fast_compile_options
from metanet.symmetry.action import factor_shape

UNITS = 4
PERMUTATIONS = np.array(list(itertools.permutations(range(UNITS))))
_ELEMENTS, _CASES, _ROUNDS = 24, 32, 8
Arrays = dict[str, np.ndarray]
Transform = Callable[[Arrays, np.ndarray, np.ndarray], Arrays]
Pair = tuple[np.ndarray, np.ndarray]
Status = Literal["equal", "smaller", "false", "refused", "crash"]


class Slot(NamedTuple):
    """Place of units in a parameter.

    Attributes:
        leaf: Name of the parameter.
        axis: Axis of the part that the units are.
        part: Part of the parameter that moves.
        shape: Shape to which the part is reshaped before; None for its own.
        order: Unit at each place along the axis.
        weights: Constants by which the program multiplies the units after the parameter.
    """

    leaf: str
    axis: int
    part: tuple[Any, ...] = ()
    shape: tuple[int, ...] | None = None
    order: tuple[int, ...] = tuple(range(UNITS))
    weights: tuple[float, ...] = (1.0,) * UNITS

    def permute(self, params: Arrays, permutation: np.ndarray) -> None:
        """Permutes the units of parameters ``[cases, ...]`` in place."""
        leaf = params[self.leaf]
        part = leaf[(slice(None), *self.part)]
        shape = part.shape if self.shape is None else (len(leaf), *self.shape)
        order, weights = np.array(self.order), np.array(self.weights)
        source = np.argsort(order)[permutation[order]]
        moved = part.reshape(shape).take(source, axis=self.axis + 1)
        ratio = (weights[source] / weights).reshape(
            [-1 if i == self.axis + 1 else 1 for i in range(len(shape))]
        )
        if (ratio != 1).any():
            moved = moved * ratio
        leaf[(slice(None), *self.part)] = moved.reshape(part.shape)


class Program(NamedTuple):
    """Small program with two sets of 4 units.

    Attributes:
        apply_fn: The program.
        params: Its parameters, by name.
        inputs: Example inputs; integers take all values up to the greatest here.
        first, second: Places of the units in the parameters.
        transform: Action of two permutations on parameters ``[cases, ...]``; None for
            the permutation of the places.
        tolerance: Relative change of the outputs that rounding may cause.
        ordered: True if the program orders units. They are equal where all inputs are zero,
            and differences of rows where these are equal: such inputs are left out.
        looped: True if parameters are tried one after the other: an operation of the
            program has no batch over parameters, or a slow one.
    """

    apply_fn: Callable[..., Any]
    params: dict[str, jax.Array]
    inputs: tuple[jax.Array, ...]
    first: tuple[Slot, ...]
    second: tuple[Slot, ...] = ()
    transform: Transform | None = None
    tolerance: float = 1e-8
    ordered: bool = False
    looped: bool = False

    def act(self, params: Arrays, first: np.ndarray, second: np.ndarray) -> Arrays:
        """Permutes the units of parameters ``[cases, ...]``."""
        if self.transform is not None:
            return self.transform(params, first, second)
        params = {name: leaf.copy() for name, leaf in params.items()}
        for slots, permutation in ((self.first, first), (self.second, second)):
            for slot in slots:
                slot.permute(params, permutation)
        return params

    def pairs(self) -> Iterator[Pair]:
        """Yields all pairs of permutations of the units."""
        second = PERMUTATIONS if self.second or self.transform else PERMUTATIONS[:1]
        yield from itertools.product(PERMUTATIONS, second)


class Result(NamedTuple):
    """Comparison of a program's groups.

    Attributes:
        status: "equal", "smaller" (discovery misses pairs), "false" (it claims a
            symmetry that changes the outputs), "refused" (its own check refuses a right
            symmetry) or "crash".
        order: Number of pairs that leave the outputs unchanged.
        found: Number of them that discovery's group contains.
        outside: True if discovery's group has permutations beside the pairs.
        seconds: Time of discovery from shapes, without the check.
        message: Description of the first fault.
    """

    status: Status
    order: int
    found: int
    outside: bool
    seconds: float
    message: str = ""


# Kinds of inputs without zeros or equal rows.
_GENERIC = (0, 1, 2, 6, 7, 9)


def fair_values(rng: np.random.Generator, mode: int, x: Any) -> Any:
    """Draws an input like an example, of one of several kinds.

    Args:
        rng: Random numbers.
        mode: Number of the kind.
        x: The example.
    """
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.key(int(rng.integers(1 << 30)))
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        high = int(np.max(np.asarray(x), initial=0)) + 1
        values = rng.integers(0, high, x.shape)
        if mode == 3 and x.ndim:
            values[:] = values[:1]
        return values.astype(x.dtype)
    values = rng.normal(size=x.shape)
    if mode in (1, 2):
        values *= {1: 3.0, 2: 0.1}[mode]
    elif mode == 3 and x.ndim:
        values[1:] = values[:1]
    elif mode == 4:
        values *= rng.integers(0, 2, x.shape)
    elif mode == 5:
        values = np.round(2 * values) / 2
    elif mode == 6:
        values = np.abs(values)
    elif mode == 7:
        values = -np.abs(values)
    elif mode == 8 and x.ndim:
        values[::2] = 0
    elif mode == 9:
        values = values.astype(jnp.bfloat16).astype(np.float64)
    if (np.asarray(x) >= 0).all():
        values = np.abs(values)
    return values


def draw_parameters(
    rng: np.random.Generator, params: dict[str, Any], count: int
) -> Arrays:
    """Draws parameters ``[count, ...]`` like the example's in type and sign."""
    drawn = {}
    for name, leaf in params.items():
        leaf = np.asarray(leaf)
        shape = (count, *leaf.shape)
        if leaf.dtype == bool:
            drawn[name] = rng.integers(0, 2, shape).astype(bool)
        elif leaf.dtype.kind in "iu":
            low, high = leaf.min(initial=0), leaf.max(initial=0)
            drawn[name] = rng.integers(low, high + 1, shape).astype(leaf.dtype)
        else:
            values = 0.7 * rng.normal(size=shape)
            positive = leaf.size and (leaf >= 0).all()
            drawn[name] = np.abs(values) + 0.1 if positive else values
    return drawn


class Cases:
    """Parameters and inputs on which elements are tried.

    Args:
        apply_fn: The program.
        params: Example parameters.
        inputs: Example inputs.
        rounds: Number of batches of cases.
        ordered: See `Program.ordered`.
        tolerance: See `Program.tolerance`.
        looped: See `Program.looped`.
        seed: Seed of parameters and inputs.
        run: The program over ``[elements, cases]`` parameters and ``[cases]`` inputs;
            None compiles it.
    """

    def __init__(
        self,
        apply_fn: Callable[..., Any],
        params: dict[str, Any],
        inputs: tuple[Any, ...],
        rounds: int,
        *,
        ordered: bool,
        tolerance: float,
        looped: bool = False,
        seed: int = 0,
        run: Callable[..., Any] | None = None,
    ):
        rng = np.random.default_rng(seed)
        modes = _GENERIC if ordered else range(10)
        self.tolerance = tolerance
        self.params = [draw_parameters(rng, params, _CASES) for _ in range(rounds)]
        self.inputs = []
        for _ in range(rounds):
            rows = [
                tuple(fair_values(rng, modes[i % len(modes)], x) for x in inputs)
                for i in range(_CASES)
            ]
            self.inputs.append(
                tuple(jnp.stack([row[i] for row in rows]) for i in range(len(inputs)))
            )
        if run is None:
            over_both = _in_a_loop(apply_fn) if looped else _batched(apply_fn)
            run = jax.jit(over_both, compiler_options=fast_compile_options())
        self._run = run
        self._references: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def deviations(self, changed: Sequence[Arrays], index: int) -> np.ndarray:
        """Returns the change of the outputs per element, 0 within rounding.

        Args:
            changed: Parameters ``[cases, ...]`` after each element.
            index: Number of the batch of cases.
        """
        reference, limit = self._reference(index)
        result = []
        for start in range(0, len(changed), _ELEMENTS):
            outputs = self._outputs(changed[start : start + _ELEMENTS], index)
            same = (outputs == reference) | (np.isnan(outputs) & np.isnan(reference))
            with np.errstate(invalid="ignore"):
                change = np.where(same, 0, np.abs(outputs - reference))
            change = np.where(np.isnan(change), math.inf, change)
            change = np.where(change > limit, change, 0)
            result.append(change.max((1, 2), initial=0))
        return np.concatenate(result)

    def _outputs(self, changed: Sequence[Arrays], index: int) -> np.ndarray:
        """Returns ``[elements, cases, outputs]``."""
        count = len(changed)
        padded = [*changed, *[changed[0]] * (_ELEMENTS - count)]
        stacked = {name: np.stack([p[name] for p in padded]) for name in changed[0]}
        leaves = jax.tree.leaves(self._run(stacked, *self.inputs[index]))
        flat = []
        for leaf in leaves:
            array = np.asarray(leaf)[:count].reshape(count, _CASES, -1)
            parts = [array.real, array.imag] if np.iscomplexobj(array) else [array]
            flat += [part.astype(np.float64) for part in parts]
        return np.concatenate(flat, 2)

    def _reference(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the outputs and the change that rounding may cause, per case.

        A sum in another order changes its last bits, and what follows may amplify that;
        parameters changed in their last bits measure by how much.
        """
        if index not in self._references:
            rng = np.random.default_rng(index)
            params = self.params[index]

            def disturb(leaf: np.ndarray) -> np.ndarray:
                if leaf.dtype.kind not in "fc":
                    return leaf
                return leaf * (1 + 1e-13 * rng.normal(size=leaf.shape))

            disturbed = [
                {name: disturb(leaf) for name, leaf in params.items()} for _ in range(3)
            ]
            outputs = self._outputs([params, *disturbed], index)
            with np.errstate(invalid="ignore"):
                changes = np.nan_to_num(np.abs(outputs[1:] - outputs[0]))
                size = np.abs(outputs[0])
            size = np.where(np.isfinite(size), size, 0).max(1, keepdims=True, initial=0)
            rounding = 1e4 * changes.max((0, 2), initial=0)[:, None]
            limit = self.tolerance * (1 + size) + rounding
            self._references[index] = outputs[0], limit
        return self._references[index]


def _batched(apply_fn: Callable[..., Any]) -> Callable[..., Any]:
    def over_both(params: Any, *inputs: Any) -> Any:
        return jax.vmap(lambda p: jax.vmap(apply_fn)(p, *inputs))(params)

    return over_both


def _in_a_loop(apply_fn: Callable[..., Any]) -> Callable[..., Any]:
    def over_both(params: Any, *inputs: Any) -> Any:
        def over_cases(params: Any) -> Any:
            return jax.lax.map(lambda case: apply_fn(*case), (params, *inputs))

        return jax.lax.map(over_cases, params)

    return over_both


def permutation_elements(symmetry: sym.Symmetry) -> Iterator[tuple[str, sym.Element]]:
    """Yields generators of the permutations: a swap and a cycle per copy of a group."""
    plain = _identity(symmetry)
    for i, group in enumerate(symmetry.groups):
        if group.degree < 2:
            continue
        swap = [1, 0, *range(2, group.degree)]
        cycle = np.roll(np.arange(group.degree), 1)
        axes = ", ".join(symmetry.axes_of(group.indices))
        for copy, row in itertools.product(range(group.copies), (swap, cycle)):
            permutation = np.array(plain.permutations[i])
            permutation[copy] = row
            name = f"permutations S{group.degree} of {axes}"
            yield (
                name,
                plain._replace(
                    permutations=_replaced(plain.permutations, i, permutation)
                ),
            )


def scaling_elements(
    symmetry: sym.Symmetry, *, exact: bool = False
) -> Iterator[tuple[str, sym.Element]]:
    """Yields two elements of every group of scales, signs or phases.

    Args:
        symmetry: The symmetry.
        exact: Scales are powers of 4, which change no rounding.
    """
    rng = np.random.default_rng(0)
    plain = _identity(symmetry)
    for i, group in enumerate(symmetry.scaling_groups):
        shape = factor_shape(symmetry, group)
        name = (
            f"{group.kind} group of {', '.join(symmetry.axes_of((group.axis_index,)))}"
        )
        for turn in range(2):
            if group.kind in ("positive", "nonzero"):
                values = np.exp(0.5 * rng.normal(size=shape))
                values = rng.choice([0.25, 4.0], shape) if exact else values
            else:
                values = rng.integers(0, 2, shape).astype(np.float64)
                values.flat[turn % max(values.size, 1)] = 1.0
                values = (
                    values * rng.choice([-1.0, 1.0, 2.0], shape)
                    if group.kind == "phase"
                    else 1 - 2 * values
                )
            yield name, plain._replace(factors=_replaced(plain.factors, i, values))


def _identity(symmetry: sym.Symmetry) -> sym.Element:
    return jax.tree.map(np.asarray, sym.identity(symmetry))


def _replaced(values: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    return (*values[:index], value, *values[index + 1 :])


class Entries(NamedTuple):
    """Action of an element on all entries of the parameters, one after the other.

    Attributes:
        source: Number of the entry that moves to each.
        factor: Its factor.
        shift: Term added.
    """

    source: np.ndarray
    factor: np.ndarray
    shift: np.ndarray


class Actions:
    """Elements of a discovered symmetry as maps of parameters' entries.

    An element moves entries, multiplies them and adds to them: its values on counters,
    ones and zeros say all about it. (Integers are rounded, and acted on as they are.)

    Args:
        symmetry: The symmetry.
        params: Example parameters.
        compiled: True for many elements of one symmetry.
    """

    def __init__(
        self, symmetry: sym.Symmetry, params: dict[str, Any], *, compiled: bool = True
    ):
        self._names = list(params)
        self._shapes = [np.shape(params[name]) for name in self._names]
        self._sizes = [math.prod(shape) for shape in self._shapes]
        self._exact = all(
            np.asarray(leaf).dtype.kind in "fc" for leaf in params.values()
        )
        total = sum(self._sizes)
        rows = [np.arange(1.0, total + 1), np.ones(total), np.zeros(total)]
        self._samples = self._unflatten(np.stack(rows))

        def apply(element: sym.Element, params: Any) -> Any:
            return sym.act(symmetry, element, params)

        self._act = jax.vmap(apply, (None, 0))
        if compiled:
            self._act = jax.jit(self._act, compiler_options=fast_compile_options())

    def _unflatten(self, rows: np.ndarray) -> Arrays:
        starts = np.cumsum(self._sizes)[:-1]
        parts = np.split(rows, starts, axis=1)
        return {
            name: part.reshape(len(rows), *shape)
            for name, part, shape in zip(self._names, parts, self._shapes, strict=True)
        }

    def _flatten(self, params: Any) -> np.ndarray:
        rows = [np.asarray(params[name]) for name in self._names]
        return np.concatenate([row.reshape(len(row), -1) for row in rows], 1)

    def entries(self, element: sym.Element) -> Entries:
        """Returns what an element does to the entries."""
        numbers, ones, shift = self._flatten(self._act(element, self._samples))
        factor = ones - shift
        source = np.rint((numbers - shift) / factor).astype(int) - 1
        return Entries(source, factor, shift)

    def apply(self, element: sym.Element, entries: Entries, params: Arrays) -> Arrays:
        """Returns parameters ``[cases, ...]`` after an element acts."""
        source, factor, shift = entries
        flat = self._flatten(params)[:, source]
        if (factor == 1).all() and not shift.any():
            moved = self._unflatten(flat)
        elif self._exact:
            moved = self._unflatten(flat * factor + shift)
        else:
            return jax.tree.map(np.asarray, self._act(element, params))
        return {name: moved[name].astype(params[name].dtype) for name in self._names}

    def permutation(self, transform: Callable[[Arrays], Arrays]) -> Permutation:
        """Returns the origin of every entry under a map of parameters."""
        numbers, ones, _ = self._flatten(transform(self._samples))
        return tuple(np.rint(numbers / ones).astype(int) - 1)


def compare(program: Program) -> Result:
    """Compares discovery's group of a program with all pairs of permutations."""
    with jax.enable_x64(True):
        cases = Cases(
            program.apply_fn,
            program.params,
            program.inputs,
            _ROUNDS,
            ordered=program.ordered,
            tolerance=program.tolerance,
            looped=program.looped,
        )
        pairs = _invariant_pairs(program, cases)
    start = time.perf_counter()
    try:
        symmetry = sym.discover(
            program.apply_fn, program.params, *program.inputs, check=False
        )
    except Exception as error:  # noqa: BLE001
        seconds = time.perf_counter() - start
        message = f"{type(error).__name__}: {error}".splitlines()[0][:150]
        return Result("crash", len(pairs), 0, False, seconds, message)
    seconds = time.perf_counter() - start
    with jax.enable_x64(True):
        message = find_false_element(symmetry, cases, program.params)
        actions = Actions(symmetry, program.params)
        count, outside = _count(program, actions, symmetry, pairs)
    status: Status = "equal" if count == len(pairs) else "smaller"
    if message:
        status = "false"
    else:
        try:
            sym.check(symmetry, program.apply_fn, program.params, *program.inputs)
        except Exception as error:  # noqa: BLE001
            status = "refused"
            message = f"{type(error).__name__}: {error}".splitlines()[0][:150]
    return Result(status, len(pairs), count, outside, seconds, message)


def _invariant_pairs(program: Program, cases: Cases) -> list[Pair]:
    """Returns the pairs of permutations that leave the outputs unchanged.

    Pairs that pass the first batch of cases are a group unless one passed by chance: then
    its generators are tried on the other batches, and all pairs only if one fails.
    """
    pairs = _unchanged(program, cases, 0, list(program.pairs()))
    generators = _generators(pairs)
    for index in range(1, _ROUNDS):
        if len(_unchanged(program, cases, index, generators)) < len(generators):
            pairs = _unchanged(program, cases, index, pairs)
            generators = _generators(pairs)
    return pairs


def _unchanged(
    program: Program, cases: Cases, index: int, pairs: Sequence[Pair]
) -> list[Pair]:
    """Returns the pairs that leave the outputs of a batch of cases unchanged."""
    unchanged = []
    for start in range(0, len(pairs), _ELEMENTS):
        chunk = pairs[start : start + _ELEMENTS]
        changed = [program.act(cases.params[index], *pair) for pair in chunk]
        deviations = cases.deviations(changed, index)
        unchanged += [p for p, d in zip(chunk, deviations, strict=True) if d == 0]
    return unchanged


def _generators(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Returns generators of the group that pairs form, or all if they form none."""
    generators: list[Pair] = []
    chain = PermutationChain(2 * UNITS, ())
    for pair in pairs:
        move = tuple([*pair[0].tolist(), *(pair[1] + UNITS).tolist()])
        if move not in chain:
            generators.append(pair)
            chain.insert(move)
    return generators if chain.order == len(pairs) else pairs


def find_false_element(
    symmetry: sym.Symmetry,
    cases: Cases,
    params: dict[str, Any],
    *,
    exact: bool = False,
) -> str:
    """Returns a description of a group that changes the outputs, or nothing."""
    actions = Actions(symmetry, params)
    scalings = scaling_elements(symmetry, exact=exact)
    elements = [*permutation_elements(symmetry), *scalings]
    if not elements:
        return ""
    entries = [actions.entries(element) for _, element in elements]
    for index, case_params in enumerate(cases.params):
        changed = [
            actions.apply(element, moves, case_params)
            for (_, element), moves in zip(elements, entries, strict=True)
        ]
        deviations = cases.deviations(changed, index)
        if deviations.any():
            worst = int(deviations.argmax())
            return f"{elements[worst][0]} changes outputs by {deviations[worst]:.1e}"
    return ""


def _count(
    program: Program,
    actions: Actions,
    symmetry: sym.Symmetry,
    pairs: Sequence[Pair],
) -> tuple[int, bool]:
    """Returns the number of pairs in discovery's group, and if it has other elements."""
    generators = [
        tuple(actions.entries(element).source.tolist())
        for _, element in permutation_elements(symmetry)
    ]

    def move(pair: Pair) -> Permutation:
        return actions.permutation(lambda params: program.act(params, *pair))

    chain = PermutationChain(len(move(pairs[0])), generators)
    true_generators = [move(pair) for pair in _generators(pairs)]
    if all(generator in chain for generator in true_generators):
        count = len(pairs)
    else:
        count = sum(move(pair) in chain for pair in pairs)
    all_moves = PermutationChain(len(move(pairs[0])), true_generators)
    return count, any(generator not in all_moves for generator in generators)
