"""Graphs edge by edge agree with the typed blocks, and with the symmetry."""

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
NAMES = ["mlp", "group norm", "lstm", "u-net", "grouped query", "experts", "mixer",
         "multi-query", "message passing", "hypernetwork"]  # fmt: skip


def graph_of(name, fuse="reader"):
    network = CASES[name]()
    found = sym.discover(network.apply_fn, network.params, *network.inputs, check=False)
    return network, found, build_topology(found, fuse)


def refined(arrays, rounds: int = 4):
    """Colours of a graph by its edges' values alone (Weisfeiler and Leman)."""
    colours = [f"set {s}" for s in arrays.node_set]
    edges = list(
        zip(*arrays.edge_index.tolist(), arrays.edge_set.tolist(),
            arrays.edge_position.tolist(), arrays.edge_attr.tolist(), strict=True)
    )  # fmt: skip
    for _ in range(rounds):
        seen = [[] for _ in colours]
        for source, target, *facts in edges:
            seen[target].append((str(facts), "from", colours[source]))
            seen[source].append((str(facts), "to", colours[target]))
        colours = [
            str(hash((c, *sorted(s)))) for c, s in zip(colours, seen, strict=True)
        ]
    return Counter(colours)


@pytest.mark.parametrize("name", NAMES)
def test_a_permuted_network_has_an_isomorphic_graph(name):
    network, found, topology = graph_of(name)
    element = sym.random_element(
        found, jax.random.key(1), scales=False, signs=False, phases=False
    )
    moved = sym.act(found, element, network.params)
    before, after = (
        edge_arrays(to_graph(topology, p)) for p in (network.params, moved)
    )
    np.testing.assert_array_equal(before.edge_index, after.edge_index)
    assert not np.array_equal(before.edge_attr, after.edge_attr)
    assert refined(before) == refined(after)
    spoiled = before._replace(edge_attr=before.edge_attr.copy())
    spoiled.edge_attr[np.argmax(np.abs(spoiled.edge_attr))] += 1.0
    assert refined(spoiled) != refined(before)


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
    arrays, made = edge_arrays(graph), to_networkx(graph)
    assert made.number_of_nodes() == topology.num_nodes + 1
    assert made.number_of_edges() == arrays.edge_index.shape[1]
    held = Counter((s, t, d.get("value", 0.0)) for s, t, d in made.edges(data=True))
    wanted = zip(
        *arrays.edge_index.tolist(), arrays.edge_attr[:, 0].tolist(), strict=True
    )
    assert held == Counter(wanted)
    assert made.nodes[0]["set"] == topology.nodes[0].name


def test_graphs_of_several_networks_are_refused():
    network, _, topology = graph_of("mlp")
    graph = to_graph(topology, network.params)
    with pytest.raises(MetanetError, match="one network"):
        edge_arrays(stack([graph, graph]))


@pytest.mark.parametrize("name", ["group norm", "transformer", "message passing"])
def test_the_quotient_has_one_set_per_group(name):
    """Residual streams merged: fewer node sets, every parameter still in its place."""
    network, found, topology = graph_of(name)
    _, _, merged = graph_of(name, "quotient")
    assert len(merged.nodes) <= len(topology.nodes)
    back = to_params(to_graph(merged, network.params), network.params)
    for a, b in zip(
        jax.tree.leaves(back), jax.tree.leaves(network.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)
