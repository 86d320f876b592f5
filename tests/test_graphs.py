"""Parameter graphs: exact views, readable topologies, pictures."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.graph_networks import NETWORKS, wide_siren
from matplotlib.collections import LineCollection

from metanet.errors import MetanetError
from metanet.graphs import (
    ParameterGraph,
    Topology,
    build_topology,
    draw,
    edge_arrays,
    edge_blocks,
    node_parameters,
    stack,
    to_graph,
    to_params,
)
from metanet.networks import Network
from metanet.symmetry import act, discover, random_element

BATCHED = sorted({*NETWORKS} - {"dead", "generated"})


def symmetry_of(network: Network):
    return discover(network.apply_fn, network.params, *network.inputs, check=False)


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    return {name: make() for name, make in NETWORKS.items()}


@pytest.fixture(scope="module")
def symmetries(networks):
    return {name: symmetry_of(network) for name, network in networks.items()}


@pytest.fixture(scope="module")
def topologies(symmetries) -> dict[str, Topology]:
    return {name: build_topology(s) for name, s in symmetries.items()}


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def batch_of(params, size: int):
    """Different parameters along a new leading axis."""

    def rows(x):
        return np.stack([x + np.asarray(i, x.dtype) for i in range(size)])

    return jax.tree.map(rows, jax.tree.map(np.asarray, params))


@pytest.mark.parametrize("fuse", ["reader", "quotient"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_round_trip_is_exact(name, fuse, networks, symmetries):
    params = networks[name].params
    topology = build_topology(symmetries[name], fuse)
    batch = batch_of(params, 3)

    def trip(p):
        return to_params(to_graph(topology, p), p)

    @jax.jit
    def trips(p, batch):
        return trip(p), trip(batch), jax.vmap(trip)(batch)

    assert_same(trips(params, batch), (params, batch, batch))
    on_edges = sum(math.prod(e.shape) for e in topology.edges if e.primary)
    assert on_edges == topology.num_parameters
    assert on_edges == sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize("name", BATCHED)
def test_blocks_have_the_shapes_of_the_topology(name, networks, topologies):
    topology, params = topologies[name], networks[name].params

    def view(p):
        return to_graph(topology, p, p)

    graph = jax.eval_shape(view, batch_of(params, 2))
    assert graph.batch_shape == (2,) and graph.features == 2
    for edge, block in zip(topology.edges, graph.edges, strict=True):
        assert block.shape == (2, *edge.shape, 2)
        assert len(edge.positions) == edge.shape[3]
        assert {len(p) for p in edge.positions} <= {len(edge.positions[0])}
        if edge.source is not None and not edge.join:
            assert topology.nodes[edge.source].size == edge.shape[0] * edge.shape[1]
        if not edge.join:
            assert topology.nodes[edge.target].size == edge.shape[0] * edge.shape[2]
    assert len({n.name for n in topology.nodes}) == len(topology.nodes)
    assert len({e.name for e in topology.edges}) == len(topology.edges)


def test_features_hold_further_values(networks, topologies):
    params = networks["mlp"].params
    gradient = jax.tree.map(lambda x: -2 * x, params)
    graph = to_graph(topologies["mlp"], params, gradient)
    assert_same(to_params(graph, params, feature=1), gradient)
    assert_same(to_params(graph, jax.tree.structure(params)), params)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_topology_depends_on_the_architecture_alone(name, topologies):
    network = NETWORKS[name]()
    # Other values of the parameters, of the same shapes and types.
    other = jax.tree.map(lambda x: x * 0.5 + 0.25, network.params)
    again = build_topology(symmetry_of(network._replace(params=other)))
    assert again == topologies[name]
    assert hash(again) == hash(topologies[name])


def test_equal_topologies_share_a_trace(networks, topologies):
    traces = []

    @jax.jit
    def total(graph: ParameterGraph):
        traces.append(graph.topology)
        return sum(e.sum() for e in graph.edges)

    params = networks["siren"].params
    total(to_graph(topologies["siren"], params))
    total(to_graph(build_topology(symmetry_of(NETWORKS["siren"]())), params))
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("name", "kinds", "depths", "identity_edges"),
    [
        ("mlp", ["input", "hidden", "hidden", "output"], [0, 1, 2, 3], []),
        ("siren", ["input", "hidden", "hidden", "output"], [0, 1, 2, 3], []),
        ("cnn_flatten", ["input", "hidden", "hidden", "output"], [0, 1, 2, 3], []),
        ("cnn_pool", ["input", "hidden", "hidden", "output"], [0, 1, 2, 3], []),
        (
            "resnet",
            ["input", "hidden", "hidden", "hidden", "output"],
            [0, 1, 2, 3, 4],
            ["residual"],
        ),
        (
            "residual_mlp",
            ["input", "hidden", "hidden", "hidden", "output"],
            [0, 1, 2, 3, 4],
            ["residual"],
        ),
        ("low_rank", ["input", "hidden", "output", "latent"], [0, 1, 2, 1], []),
    ],
)
def test_layers_are_node_sets(name, kinds, depths, identity_edges, topologies):
    topology = topologies[name]
    assert [n.kind for n in topology.nodes] == kinds
    assert [n.depth for n in topology.nodes] == depths
    assert [j.kind for j in topology.identity_edges] == identity_edges
    for node in topology.nodes:
        assert node.identified == (node.kind in ("input", "output"))


def test_siren_has_readable_names(topologies):
    topology = topologies["siren"]
    assert [n.name for n in topology.nodes] == [
        "input",
        "layers/0",
        "layers/1",
        "output",
    ]
    assert [n.size for n in topology.nodes] == [3, 4, 5, 2]
    assert [n.symmetry for n in topology.nodes[1:3]] == ["phase", "phase"]
    assert [n.nonlinearity for n in topology.nodes[1:3]] == [("sin",), ("sin",)]
    assert {e.name: e.kind for e in topology.edges} == {
        f"layers/{i}/{k}": {"kernel": "weight"}.get(k, k)
        for i in range(3)
        for k in ("kernel", "bias")
    }


def test_parts_of_an_array_are_numbered_along_its_axes():
    """Two layers in one matrix: units 0 and 1 are outputs, units 2 to 5 are hidden."""

    def network(params, x):
        h = x @ params["w"]
        return h[:, :2] + jnp.tanh(h[:, 2:]) @ params["o"]

    params = {"w": jnp.ones((3, 6)), "o": jnp.ones((4, 2))}
    symmetry = discover(network, params, jnp.ones((5, 3)), check=False)
    edges = build_topology(symmetry).edges
    assert {(e.name, *(tuple(p.entries()) for p in e.parts)) for e in edges} == {
        ("w[0,0]", (0, 1, 2), (0, 1)),
        ("w[0,1]", (0, 1, 2), (2, 3, 4, 5)),
        ("o", (0, 1, 2, 3), (0, 1)),
    }


def test_multiplicity_holds_kernel_and_spatial_positions(topologies):
    edges = {e.name: e for e in topologies["cnn_flatten"].edges}
    kernel, flat = edges["c1/kernel"], edges["d/kernel"]
    assert kernel.shape == (1, 3, 4, 6) and flat.shape == (1, 4, 2, 4)
    assert kernel.positions[1] == (-1.0, 1.0) and kernel.positions[2] == (0.0, -1.0)


def test_groups_lie_on_the_diagonal_axis(networks, topologies):
    topology, params = topologies["grouped"], networks["grouped"].params
    index = [e.name for e in topology.edges].index("b/kernel")
    assert topology.edges[index].shape == (2, 2, 3, 9)
    block = to_graph(topology, params).edges[index]
    kernel = params["b"]["kernel"]  # [3, 3, inputs of a group, groups * outputs]
    expected = kernel.reshape(9, 2, 2, 3).transpose(2, 1, 3, 0)
    np.testing.assert_array_equal(block[..., 0], expected)


def test_tied_weights_are_stored_once(networks, topologies):
    topology, params = topologies["tied"], networks["tied"].params
    parameter_edges = [e for e in topology.edges if e.name.startswith("w")]
    assert [e.primary for e in parameter_edges] == [True, False]
    graph = to_graph(topology, params)
    copies = [
        b
        for e, b in zip(topology.edges, graph.edges, strict=True)
        if e in parameter_edges
    ]
    np.testing.assert_array_equal(copies[0], copies[1])


@pytest.mark.parametrize(
    "name", sorted({*NETWORKS} - {"dead", "low_rank", "generated"})
)
def test_quotient_has_one_node_set_per_group(name, symmetries):
    symmetry = symmetries[name]
    topology = build_topology(symmetry, "quotient")
    free = [
        frozenset(
            a
            for a in symmetry.activations[n.activation].units
            if symmetry.indices[a].pinned is None
        )
        for n in topology.nodes
    ]
    moved = [f for f in free if f]
    assert len(set(moved)) == len(moved)
    groups = {a for g in symmetry.groups for a in g.indices}
    assert set().union(*moved) == groups


def signatures(topology: Topology, graph: ParameterGraph) -> list[np.ndarray]:
    """Per node set a vector for each node: the parameters that it alone reads."""
    rows: list[list[np.ndarray]] = [[] for _ in topology.nodes]
    for edge, block in zip(topology.edges, graph.edges, strict=True):
        size = topology.nodes[edge.target].size
        if edge.source is None and block.size == size:
            rows[edge.target].append(np.asarray(block).reshape(size))
    return [
        np.stack(r, 1) if r else np.arange(n.size, dtype=float)[:, None]
        for n, r in zip(topology.nodes, rows, strict=True)
    ]


@pytest.mark.parametrize(
    "name", ["mlp", "siren", "cnn_flatten", "cnn_pool", "resnet", "grouped"]
)
def test_permuting_the_network_permutes_the_nodes(
    name, networks, symmetries, topologies, key
):
    topology, params = topologies[name], networks[name].params
    symmetry = symmetries[name]
    element = random_element(symmetry, key, signs=False, scales=False, phases=False)
    before = to_graph(topology, params)
    after = to_graph(topology, act(symmetry, element, params))
    orders, moved = [], False
    for old, new in zip(
        signatures(topology, before), signatures(topology, after), strict=True
    ):
        order = [int(np.flatnonzero((old == row).all(1))[0]) for row in new]
        assert sorted(order) == list(range(len(order)))
        moved |= order != sorted(order)
        orders.append(np.asarray(order))
    assert moved
    for edge, old, new in zip(topology.edges, before.edges, after.edges, strict=True):
        diagonal, sources, targets, _ = edge.shape
        full = np.zeros(
            (diagonal, sources, diagonal, targets, *old.shape[3:]), np.float32
        )
        moved_block = full.copy()
        for b in range(diagonal):
            full[b, :, b], moved_block[b, :, b] = old[b], new[b]
        flat = (diagonal * sources, diagonal * targets, *old.shape[3:])
        full, moved_block = full.reshape(flat), moved_block.reshape(flat)
        if edge.source is not None:
            full = full[orders[edge.source]]
        np.testing.assert_array_equal(moved_block, full[:, orders[edge.target]])


@pytest.mark.parametrize("name", BATCHED)
def test_every_edge_set_is_a_block_or_a_node_parameter(name, topologies):
    topology = topologies[name]
    on_edges = {block.edge for block in edge_blocks(topology) if block.edge >= 0}
    on_nodes = {i for parameters in node_parameters(topology) for i, _ in parameters}
    assert on_edges | on_nodes == set(range(len(topology.edges)))


def test_stack(networks, topologies):
    topology, params = topologies["siren"], networks["siren"].params
    batch = batch_of(params, 3)
    graphs = [
        to_graph(topology, jax.tree.map(lambda x, i=i: x[i], batch)) for i in range(3)
    ]
    assert_same(stack(graphs), to_graph(topology, batch))
    other = to_graph(topologies["tanh"], networks["tanh"].params)
    with pytest.raises(
        MetanetError, match=r"graph 1 .*layers/0: (symmetry|activation)"
    ):
        stack([graphs[0], other])
    with pytest.raises(MetanetError, match="no graphs"):
        stack([])


def test_wrong_parameters_are_named(networks, topologies):
    params = networks["mlp"].params
    with pytest.raises(MetanetError, match="belong to different architectures"):
        to_graph(topologies["mlp"], params["layers"][0])
    wrong = jax.tree.map(lambda x: x, params)
    wrong["layers"][1]["kernel"] = jnp.zeros((4, 6))
    with pytest.raises(MetanetError, match=r"layers/1/kernel: shape \(4, 6\)"):
        to_graph(topologies["mlp"], wrong)
    with pytest.raises(MetanetError, match='Did you mean "quotient"'):
        build_topology(symmetry_of(NETWORKS["mlp"]()), "quotent")  # type: ignore


@pytest.mark.parametrize("name", ["resnet", "grouped", "tied", "low_rank", "dead"])
def test_draw_accepts_any_topology(name, networks, topologies):
    topology = topologies[name]
    figure = draw(topology, graph=to_graph(topology, networks[name].params))
    texts = {t.get_text() for t in figure.axes[0].texts}
    assert {n.name for n in topology.nodes} <= texts
    dots = [c for c in figure.axes[0].collections if c.get_zorder() == 3]
    # Of more than 12 nodes the first 8 and the last 3 are shown.
    shown = [n.size if n.size <= 12 else 11 for n in topology.nodes]
    assert [len(c.get_offsets()) for c in dots] == shown


def test_drawn_lines_are_the_edges_in_the_colour_of_their_sign(networks, topologies):
    topology = topologies["mlp"]
    graph = to_graph(topology, networks["mlp"].params)
    figure = draw(topology, graph=graph)
    lines = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    arrays = edge_arrays(graph)
    weights = [i for i, e in enumerate(topology.edges) if e.source is not None]
    for i, drawn in zip(weights, lines, strict=True):
        values = arrays.edge_attr[arrays.edge_set == i, 0]
        assert len(drawn.get_segments()) == values.size
        red, _, blue, _ = np.transpose(drawn.get_colors())
        # The largest values are drawn last.
        values = values[np.argsort(np.abs(values), kind="stable")]
        strong = np.abs(values) > 0.1 * np.abs(values).max()
        np.testing.assert_array_equal((red > blue)[strong], (values > 0)[strong])


def test_draw_saves_a_figure(tmp_path):
    network = wide_siren()
    topology = build_topology(symmetry_of(network))
    path = tmp_path / "graph.png"
    figure = draw(topology, path, to_graph(topology, network.params))
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["graph.png"]
    assert "⋮" in {t.get_text() for t in figure.axes[0].texts}
    with pytest.raises(MetanetError, match="cannot draw"):
        draw(topology, tmp_path / "graph.pngg")
    with pytest.raises(MetanetError, match="cannot be written"):
        draw(topology, path / "graph.png")  # a file is no folder
    draw(topology, tmp_path / "new" / "graph.svg")
    assert (tmp_path / "new" / "graph.svg").read_bytes().startswith(b"<?xml")
