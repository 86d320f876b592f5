"""Networks written in other libraries have the group derived on paper."""

from collections import Counter

import pytest
from helpers.symmetry_libraries import LINEN, equinox_cases

from metanet import symmetry as sym


def check(case):
    symmetry = sym.discover(case.apply_fn, case.params, *case.inputs)
    assert symmetry.order == case.order
    assert not symmetry.unknown
    kinds = Counter(group.kind for group in symmetry.scaling_groups)
    assert kinds == case.scaling_groups


@pytest.mark.parametrize("name", LINEN)
def test_linen(name):
    check(LINEN[name]())


EQUINOX = (
    "mlp",
    "convolutions, flattened",
    "gru cell, scanned",
    "lstm cell, scanned",
    "attention",
    "gated mlp, rms norm",
    "ensemble by vmap",
    "group norm, transposed",
)


# Equinox promotes ranks implicitly, which other tests forbid.
@pytest.mark.parametrize("name", EQUINOX)
def test_equinox(name):
    pytest.importorskip("equinox")
    import jax

    with jax.numpy_rank_promotion("allow"):
        check(equinox_cases()[name]())
