"""Discovered groups of small tricky programs against all permutations of their units."""

import itertools
from unittest import mock

import numpy as np
import pytest
from helpers import brute_force
from helpers.permutation_chain import PermutationChain
from helpers.tricky_programs import KNOWN_SMALLER, PROGRAMS

from metanet import symmetry as sym

# Every kind of program is among every twenty-two.
SOME = [*PROGRAMS][::22]


def check(name: str) -> None:
    result = brute_force.compare(PROGRAMS[name])
    missed = result.status == "smaller" and name in KNOWN_SMALLER
    assert result.status == "equal" or missed, result


@pytest.mark.parametrize("name", SOME)
def test_group_is_that_of_brute_force(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in PROGRAMS if n not in SOME])
def test_every_group_is_that_of_brute_force(name):
    check(name)


def test_programs_are_many_and_few_are_missed():
    assert len(PROGRAMS) >= 150
    # At most 15 of 150.
    assert 10 * len(KNOWN_SMALLER) <= len(PROGRAMS)
    assert set(KNOWN_SMALLER) <= set(PROGRAMS)


@pytest.mark.parametrize(
    "name, other",
    [
        # Ties of relus, casts and constants, of which the group of distinct units is false.
        ("ranked: relu", "ranked: itself"),
        ("argmax: at most zero", "argmax: itself"),
        ("argmax: in bfloat16", "argmax: itself"),
        ("argmax: rounded", "argmax: itself"),
        # A scale where there is none, and none of integers.
        ("biased gelu", "biased leaky relu"),
        ("biased relu of a sine", "biased sine"),
        ("cumulative sum of units", "cumulative sum of rows"),
    ],
)
def test_false_groups_are_seen(name, other):
    program = PROGRAMS[other]
    false = sym.discover(program.apply_fn, program.params, *program.inputs)
    with mock.patch.object(sym, "discover", return_value=false):
        assert brute_force.compare(PROGRAMS[name]).status == "false"


def test_missed_groups_are_seen():
    program = PROGRAMS["roll rows"]
    pinned = PROGRAMS["cumulative sum of units"]
    smaller = sym.discover(pinned.apply_fn, pinned.params, *pinned.inputs)
    with mock.patch.object(sym, "discover", return_value=smaller):
        result = brute_force.compare(program)
    assert (result.status, result.order, result.found) == ("smaller", 576, 24)


@pytest.mark.parametrize(
    "generators, order",
    [
        ([(1, 2, 3, 0)], 4),
        ([(1, 2, 3, 0), (1, 0, 2, 3)], 24),
        ([(1, 2, 0, 3, 4), (0, 1, 3, 4, 2)], 60),
        ([(1, 0, 2, 3), (0, 1, 3, 2), (2, 3, 0, 1)], 8),
        ([], 1),
    ],
)
def test_chain_holds_the_elements_of_a_group(generators, order):
    degree = len(generators[0]) if generators else 3
    chain = PermutationChain(degree, generators)
    elements = {tuple(range(degree))}
    while True:
        products = {tuple(g[i] for i in e) for e in elements for g in generators}
        if products <= elements:
            break
        elements |= products
    assert chain.order == len(elements) == order
    for permutation in itertools.permutations(range(degree)):
        assert (permutation in chain) == (permutation in elements)


def test_slots_move_units_alike():
    """Weights of two layers whose units are relabelled and weighted between them."""
    order, weights = (2, 0, 3, 1), (1.0, 2.0, 3.0, 4.0)
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(1, 3, 4)), "b": rng.normal(size=(1, 4, 2))}

    def product(params):
        return (params["a"][0] * weights)[:, order] @ params["b"][0]

    moved = {name: leaf.copy() for name, leaf in params.items()}
    permutation = np.array([3, 0, 2, 1])
    brute_force.Slot("a", 1, weights=weights).permute(moved, permutation)
    brute_force.Slot("b", 0, order=order).permute(moved, permutation)
    assert not np.allclose(moved["a"], params["a"])
    np.testing.assert_allclose(product(moved), product(params), rtol=1e-12)
