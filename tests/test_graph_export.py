"""Lists of edges agree with the typed blocks, and with the symmetry."""

from collections import Counter

import jax
import numpy as np
import pytest
from helpers.symmetry_families import FAMILIES
from helpers.symmetry_networks import NETWORKS

from metanet import symmetry as sym
from metanet.errors import MetanetError
from metanet.graphs import (
    build_topology,
    edge_arrays,
    stack,
    to_graph,
    to_networkx,
    to_params,
)

CASES = {**NETWORKS, **FAMILIES}
NAMES = [
    "mlp",
    "group norm",
    "lstm",
    "u-net",
    "grouped query",
    "experts",
    "mixer",
    "multi-query",
    "message passing",
    "hypernetwork",
]


def graph_of(name, fuse="reader"):
    network = CASES[name]()
    symmetry = sym.discover(
        network.apply_fn, network.params, *network.inputs, check=False
    )
    return network, symmetry, build_topology(symmetry, fuse)


def refined_colours(arrays, rounds: int = 4):
    """Returns node colours from colour refinement (Weisfeiler and Leman, 1968)."""
    colours = [f"set {s}" for s in arrays.node_set]
    sources, targets = arrays.edge_index.tolist()
    labels = [
        str(label)
        for label in zip(
            arrays.edge_set.tolist(),
            arrays.edge_position.tolist(),
            arrays.edge_attr.tolist(),
            strict=True,
        )
    ]
    for _ in range(rounds):
        seen = [[] for _ in colours]
        for source, target, label in zip(sources, targets, labels, strict=True):
            seen[target].append((label, "from", colours[source]))
            seen[source].append((label, "to", colours[target]))
        colours = [
            str(hash((c, *sorted(s)))) for c, s in zip(colours, seen, strict=True)
        ]
    return Counter(colours)


@pytest.mark.parametrize("name", NAMES)
def test_a_permuted_network_has_an_isomorphic_graph(name):
    network, symmetry, topology = graph_of(name)
    element = sym.random_element(
        symmetry, jax.random.key(1), scales=False, signs=False, phases=False
    )
    moved = sym.act(symmetry, element, network.params)
    before, after = (
        edge_arrays(to_graph(topology, p)) for p in (network.params, moved)
    )
    np.testing.assert_array_equal(before.edge_index, after.edge_index)
    assert not np.array_equal(before.edge_attr, after.edge_attr)
    assert refined_colours(before) == refined_colours(after)
    changed = before._replace(edge_attr=before.edge_attr.copy())
    changed.edge_attr[np.argmax(np.abs(changed.edge_attr))] += 1.0
    assert refined_colours(changed) != refined_colours(before)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_on_an_edge(name):
    network, _, topology = graph_of(name)
    arrays = edge_arrays(to_graph(topology, network.params))
    count = arrays.node_set.size
    assert arrays.edge_index.min() >= 0 and arrays.edge_index.max() < count
    values = np.concatenate([np.ravel(x) for x in jax.tree.leaves(network.params)])
    on_edges = set(arrays.edge_attr[:, 0].tolist())
    assert {float(v) for v in values} <= on_edges
    sources, targets = arrays.node_set[arrays.edge_index]
    for i, edge in enumerate(topology.edges):
        chosen = arrays.edge_set == i
        assert set(sources[chosen]) == {-1 if edge.source is None else edge.source}
        assert set(targets[chosen]) == {edge.target}


def test_networkx_has_the_same_edges():
    pytest.importorskip("networkx")
    network, _, topology = graph_of("group norm")
    graph = to_graph(topology, network.params)
    arrays, multigraph = edge_arrays(graph), to_networkx(graph)
    assert multigraph.number_of_nodes() == topology.num_nodes + 1
    assert multigraph.number_of_edges() == arrays.edge_index.shape[1]
    edges = Counter(
        (s, t, d.get("value", 0.0)) for s, t, d in multigraph.edges(data=True)
    )
    expected = zip(
        *arrays.edge_index.tolist(), arrays.edge_attr[:, 0].tolist(), strict=True
    )
    assert edges == Counter(expected)
    assert multigraph.nodes[0]["set"] == topology.nodes[0].name


def test_graphs_of_several_networks_are_refused():
    network, _, topology = graph_of("mlp")
    graph = to_graph(topology, network.params)
    with pytest.raises(MetanetError, match="one network"):
        edge_arrays(stack([graph, graph]))


@pytest.mark.parametrize("name", ["group norm", "transformer", "message passing"])
def test_the_quotient_has_one_set_per_group(name):
    """The quotient merges residual streams and moves no parameter."""
    network, _, topology = graph_of(name)
    _, _, merged = graph_of(name, "quotient")
    assert len(merged.nodes) <= len(topology.nodes)
    back = to_params(to_graph(merged, network.params), network.params)
    for a, b in zip(
        jax.tree.leaves(back), jax.tree.leaves(network.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)
