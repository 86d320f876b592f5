"""The automorphisms of the typed parameter graph are the permutations of the symmetry."""

from __future__ import annotations

from math import factorial

import pytest
from helpers.expanded_graphs import expand
from helpers.graph_networks import NETWORKS

from metanet.graphs import build_topology
from metanet.symmetry import discover

pytest.importorskip("pynauty")


# Orders of the permutation groups on paper: hidden units of every layer, once for layers
# that a residual connection or a tied weight joins.
ORDERS = {
    "mlp": factorial(4) * factorial(5),
    "tanh": factorial(4) * factorial(5),
    "siren": factorial(4) * factorial(5),
    "cnn_flatten": factorial(3) * factorial(4),
    "cnn_pool": factorial(4) * factorial(3),
    "resnet": factorial(4) * factorial(4),
    "residual_mlp": factorial(4) * factorial(3),
    # The two groups, two channels in each, three outputs of each.
    "grouped": 2 * factorial(2) ** 2 * factorial(3) ** 2,
    "tied": factorial(4),
    "low_rank": factorial(4) * factorial(2),
    "generated": factorial(3) * factorial(4),
    "split_kernel": factorial(4) * factorial(4),
    # The units, and the 24 entries of an array that nothing reads.
    "dead": factorial(4) * factorial(24),
}


def test_every_network_has_an_order():
    assert set(ORDERS) == set(NETWORKS)


@pytest.mark.parametrize("fuse", ["reader", "quotient"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_automorphisms_are_the_permutations(name, fuse):
    network = NETWORKS[name]()
    symmetry = discover(network.apply_fn, network.params, *network.inputs, check=False)
    assert symmetry.order == ORDERS[name]
    automorphisms = expand(build_topology(symmetry, fuse)).automorphisms()
    assert automorphisms == pytest.approx(ORDERS[name], rel=1e-9)
