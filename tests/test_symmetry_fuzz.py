"""Random programs: their discovered symmetries hold numerically."""

from unittest import mock

import pytest
from helpers import random_programs
from hypothesis import given, settings
from hypothesis import strategies as st

from metanet import symmetry as sym

PROGRAMS = st.lists(st.sampled_from(random_programs.NAMES), min_size=1, max_size=5)


def check(names) -> int:
    """Returns the order of a program's group, which must have no fault."""
    order, fault = random_programs.find_fault(names)
    assert not fault, f"{names}: {fault}"
    return order


def test_random_programs_are_sound():
    orders: list[int] = []

    @given(PROGRAMS)
    @settings(max_examples=40, deadline=None, derandomize=True)
    def run(names):
        orders.append(check(names))

    run()
    # A discovery that finds nothing is sound as well.
    assert len(orders) >= 40
    assert sum(order > 1 for order in orders) >= len(orders) // 2


@pytest.mark.slow
@given(PROGRAMS)
@settings(max_examples=1000, deadline=None)
def test_many_random_programs_are_sound(names):
    check(names)


# Programs for which an earlier rule yielded a false symmetry, and similar ones.
@pytest.mark.parametrize(
    "names",
    [
        ["sin", "halves", "roll rows", "messages", "greatest"],
        ["messages", "layer", "routed"],
        ["relu", "argsort", "layer", "looked up"],
        ["three pieces", "stacked", "interleaved"],
        ["plus a row's constant", "greatest"],
        ["bfloat16", "greatest two"],
        ["less its mean over nothing", "ranked table"],
        ["quantized", "tanh"],
        # A refinement without end.
        ["any", "layer", "greatest's value", "tile"],
    ],
    ids=" ".join,
)
def test_earlier_counterexamples_are_sound(names):
    check(names)


@pytest.mark.parametrize(
    "names, other",
    [
        (["layer", "cumsum", "tanh"], ["layer", "relu", "tanh"]),
        (["layer", "at most zero", "greatest"], ["layer", "greatest"]),
        (["layer", "bfloat16", "greatest"], ["layer", "greatest"]),
        (["layer", "integers", "layer"], ["layer", "relu", "layer"]),
    ],
)
def test_false_groups_are_seen(names, other):
    """The group of a program whose parameters have the same names is false for another."""
    params = random_programs.parameters(other)
    false = sym.discover(random_programs.program(other), params, random_programs.X)
    with mock.patch.object(sym, "discover", return_value=false):
        _, fault = random_programs.find_fault(names)
    assert "changes outputs" in fault
