"""The networks of the symmetry table have the group derived on paper."""

from __future__ import annotations

from collections.abc import Callable

import jax
import pytest
from helpers.symmetry_haiku import haiku_cases, jraph_cases
from helpers.symmetry_keras import keras_cases
from helpers.symmetry_missed import MISSED
from helpers.symmetry_networks import Case
from helpers.symmetry_sciences import SCIENCES
from helpers.symmetry_sequences import SEQUENCES
from helpers.symmetry_vision import VISION

from metanet import symmetry as sym

PROGRAMS = {**VISION, **SEQUENCES, **SCIENCES}


def marked(number: int, name: str):
    """Returns a parameter of a test, every third of the default suite.

    A test is expected to fail where a group is missed.
    """
    marks = [pytest.mark.slow] if number % 3 else []
    if name in MISSED:
        marks.append(pytest.mark.xfail(reason=MISSED[name], strict=True))
    return pytest.param(name, marks=marks)


def check(build: Callable[[], Case]) -> None:
    # Programs of other people promote ranks implicitly, which other tests forbid.
    with jax.numpy_rank_promotion("allow"):
        network = build()
        symmetry = sym.discover(network.apply_fn, network.params, *network.inputs)
    assert network.order % symmetry.order == 0
    assert symmetry.order == network.order


def test_names_are_unique():
    assert len(PROGRAMS) == len(VISION) + len(SEQUENCES) + len(SCIENCES)


@pytest.mark.parametrize("name", [marked(*pair) for pair in enumerate(PROGRAMS)])
def test_program(name):
    check(PROGRAMS[name])


def library(cases: Callable[[], dict[str, Callable[[], Case]]]):
    """Returns the cases of a library, none if it is not installed."""
    try:
        return cases()
    except ImportError:
        return {}


OTHERS = {
    f"{kind}: {name}": build
    for kind, cases in (
        ("haiku", haiku_cases),
        ("jraph", jraph_cases),
        ("keras", keras_cases),
    )
    for name, build in library(cases).items()
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_library(name):
    if name.split(": ")[1] in MISSED:
        pytest.xfail(MISSED[name.split(": ")[1]])
    check(OTHERS[name])
