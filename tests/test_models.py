"""Layers of models against direct computations; equivariance of node features."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import training_cases
from helpers.metanetworks import (
    ModelInputs,
    build,
    graphs_of,
    scale_equivariant,
    subject,
)
from helpers.symmetry_networks import NETWORKS, Case, array, relu

from metanet import symmetry as sym
from metanet.errors import MetanetError
from metanet.graphs import (
    AxisMap,
    EdgeBlock,
    HeadEdges,
    Rows,
    build_topology,
    make_layout,
    map_edges,
    stack,
    to_graph,
)
from metanet.graphs.layouts import block_ops
from metanet.models import GMN, build_model
from metanet.models.dmc import strided_windows
from metanet.models.layers import (
    Linear,
    NormLinear,
    _row_split,
    bf16_products,
    dropout,
    product,
)


def read(model: str, case: ModelInputs, *params):
    """Returns the features of each batch of parameter sets, from one compiled program."""
    net = build(model, [case])
    graphs = graphs_of(case, scale_equivariant(model))
    net.set_statistics(jax.jit(graphs)(case.params))
    run = jax.jit(lambda p: net(graphs(p)))
    return [run(p) for p in params]


@pytest.mark.parametrize("model", ["flat_mlp", "dmc"])
def test_models_of_ordered_weights_are_not_invariant(model):
    case = subject("siren")
    element = sym.random_element(case.symmetry, jax.random.key(5))
    moved = jax.vmap(lambda p: sym.act(case.symmetry, element, p))(case.params)
    before, after = (x.pooled for x in read(model, case, case.params, moved))
    assert float(jnp.abs(before - after).max()) > 1e-2


# The last map of each residual branch starts at half the deviation of other maps, so that
# the features of a fresh model do not grow with its depth.
LAST_MAPS = {
    "gmn": {"edge_out", "node_out", "global_out"},
    "ng_gnn": {"edge_out", "node_out"},
    "ng_t": {"edge_out", "node_out", "second"},
    "product_gmn": {"node_out", "global_out"},
    "scale_gmn_b": {"edge_factor", "linear"},
    "scale_product_gmn": {"linear"},
    "nft": {"write"},
    "transformer": {"mix", "narrow"},
}


@pytest.mark.parametrize("model", LAST_MAPS)
def test_initial_deviation_of_maps(model):
    """LeCun's initialisation: a variance of 1 / inputs, offsets 0."""
    case = subject("siren")
    options = {"dim": 64, "depth": 2} | ({"heads": 4} if model == "nft" else {})
    net = build_model(
        model,
        options,
        topology=case.topology,
        symmetry=case.symmetry,
        rngs=nnx.Rngs(0),
    )
    seen = set()
    for path, layer in nnx.iter_modules(net):
        if not isinstance(layer, Linear | NormLinear) or layer.kernel.size < 2000:
            continue
        inputs, outputs = layer.kernel.shape
        names = [part for part in path if isinstance(part, str)]
        last = names[-1] in LAST_MAPS[model] and "mlp" not in names
        seen |= {names[-1]} & LAST_MAPS[model]
        scale = float(jnp.std(layer.kernel[...])) * np.sqrt(inputs)
        assert scale == pytest.approx(0.5 if last else 1.0, rel=0.12), (names, outputs)
        bias = getattr(layer, "bias", None)
        assert bias is None or not np.any(bias[...])
    assert seen == LAST_MAPS[model]


def test_equal_messages_have_no_deviation():
    """The variance of large equal numbers is negative in float32, by rounding."""
    case = subject("mlp")
    net = build_model(
        "gmn",
        {"dim": 8, "depth": 1, "aggregate": "pna"},
        topology=case.topology,
        rngs=nnx.Rngs(0),
    )
    layout = make_layout(to_graph(case.topology, case.params), net.schema)
    edges = net.encoder.edges(layout)
    values = 1000.0 * jnp.sqrt(jnp.arange(2.0, 10.0))
    large = map_edges(lambda e: jnp.broadcast_to(values, e.shape), edges)
    assert np.isfinite(net.blocks[0].aggregators[0](layout, large, "target")).all()


def change_of_pooled(
    model: str, network: Any, depth: int, groups: dict[str, bool]
) -> float:
    """The largest change of the pooled feature under a random element of the group."""
    symmetry = sym.discover(*network[:2], *network.inputs, check=False)
    topology = build_topology(symmetry)
    options = {"depth": depth, "dim": 16}
    net = build_model(model, options, topology=topology, rngs=nnx.Rngs(0))
    state = nnx.state(net, nnx.Param)
    leaves, treedef = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [
        x + 0.2 * jax.random.normal(k, x.shape)
        for x, k in zip(leaves, keys, strict=True)
    ]
    nnx.update(net, treedef.unflatten(drawn))
    pool = jax.jit(lambda params: net(stack([to_graph(topology, params)])).pooled)
    before, changes = pool(network.params), []
    for key in jax.random.split(jax.random.key(1), 4):
        element = sym.random_element(symmetry, key, phases=False, **groups)
        after = pool(sym.act(symmetry, element, network.params))
        changes.append(float(jnp.abs(after - before).max() / jnp.abs(before).max()))
    return max(changes)


@pytest.mark.parametrize("model", ["scale_gmn", "scale_gmn_b", "scale_product_gmn"])
@pytest.mark.parametrize("depth", [1, 2])
def test_factors_of_units_without_a_bias(model, depth):
    """Their features start at 0, so that no constant may stand for their size."""
    params = {"a": array(3, 4), "b": array(4, 5), "c": array(5, 2)}

    def run(p, x):
        return relu(relu(x @ p["a"]) @ p["b"]) @ p["c"]

    network = Case(run, params, (array(5, 3),), 0, {})
    groups = {"signs": True, "scales": True}
    assert change_of_pooled(model, network, depth, groups) < 1e-5


@pytest.mark.parametrize("model", ["scale_gmn_b", "scale_product_gmn", "product_gmn"])
def test_channels_that_share_an_edge_can_be_permuted(model):
    """A product over tokens has one edge for all channels, which differ from block three on."""
    groups = {"signs": False, "scales": False}
    assert change_of_pooled(model, NETWORKS["mixer"](), 4, groups) < 1e-5


@pytest.mark.parametrize(
    "rows", [1, 639, 640, 641, 960, 1000, 7 * 127, 6 * 997, 4099, 64 * 647, 319 * 641]
)
def test_rows_of_a_gradient_are_split_into_equal_parts(rows):
    """Parts of 320 to 639 rows, else the largest that divide, of 64 or more; else one."""
    sizes = [size for size in range(320, 640) if rows % size == 0]
    sizes += [size for size in range(319, 63, -1) if rows % size == 0]
    expected = rows // sizes[0] if rows >= 640 and sizes else 1
    assert _row_split(rows) == expected


def test_node_features_are_equivariant():
    case = subject("siren")
    element = sym.random_element(
        case.symmetry, jax.random.key(3), signs=False, phases=False
    )
    moved = jax.vmap(lambda p: sym.act(case.symmetry, element, p))(case.params)
    before, after = (x.nodes for x in read("product_gmn", case, case.params, moved))
    hidden = [i for i, n in enumerate(case.topology.nodes) if n.kind == "hidden"]
    starts = np.cumsum([0, *(n.size for n in case.topology.nodes)])
    for index, perm in zip(hidden, element.permutations, strict=True):
        nodes = slice(starts[index], starts[index + 1])
        expected = before[:, nodes][:, perm[0]]
        np.testing.assert_allclose(after[:, nodes], expected, atol=1e-4)


def sum_of_sines(
    function: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, w: jax.Array
) -> jax.Array:
    return jnp.sum(jnp.sin(function(x, w)))


@pytest.mark.parametrize("rows", [(7,), (64,), (640,), (2, 3, 5, 64), (1280,)])
def test_product_equals_matrix_multiplication(rows):
    x = jax.random.normal(jax.random.key(0), (*rows, 12))
    w = jax.random.normal(jax.random.key(1), (12, 5))
    expected = jax.value_and_grad(sum_of_sines, (1, 2))(jnp.matmul, x, w)
    computed = jax.value_and_grad(sum_of_sines, (1, 2))(product, x, w)
    for a, b in zip(jax.tree.leaves(computed), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_bf16_products_round_factors_only():
    x = jax.random.normal(jax.random.key(0), (640, 12))
    w = jax.random.normal(jax.random.key(1), (12, 5))

    def rounded(v: jax.Array) -> jax.Array:
        return v.astype(jnp.bfloat16).astype(jnp.float32)

    with bf16_products():
        value, gradients = jax.value_and_grad(sum_of_sines, (1, 2))(product, x, w)
    y = rounded(x) @ rounded(w)
    np.testing.assert_allclose(value, jnp.sin(y).sum(), rtol=1e-4)
    g = rounded(jnp.cos(y))
    np.testing.assert_allclose(gradients[0], g @ rounded(w).T, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(gradients[1], rounded(x).T @ g, rtol=1e-3, atol=1e-2)
    # Nothing is rounded outside of the context, or inside when it is switched off.
    with bf16_products(False):
        np.testing.assert_array_equal(product(x, w), x @ w)


def test_folded_norm_equals_norm_then_linear():
    layer = NormLinear(8, 5, rngs=nnx.Rngs(0))
    layer.gain[...] = jnp.linspace(0.5, 2.0, 8)
    x = jax.random.normal(jax.random.key(1), (3, 4, 8))
    rms = jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    expected = (x / rms * layer.gain[...].reshape(1, 1, -1)) @ layer.kernel[...]
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


def axis_map(shared: int, both: int, n: int, rest: int) -> AxisMap:
    """An axis map whose units lie in another order than it sorts them."""
    units, order = (n, rest, shared, both), (2, 3, 0, 1)
    return AxisMap(units, order, (shared, both, n, rest))


def node(axes: AxisMap, c: int, z: int, i: int, r: int) -> int:
    """Number of the node with the given shared, diagonal, edge and other index."""
    return int(np.ravel_multi_index((i, r, c, z), axes.units))


@pytest.mark.parametrize(
    ("shape", "shared", "rest"),
    [
        ((1, 5, 3), 1, (1, 1)),
        ((4, 1, 1), 1, (1, 1)),
        ((2, 3, 4), 1, (1, 1)),
        ((2, 3, 4), 3, (1, 1)),
        ((2, 3, 1), 1, (2, 3)),
        ((1, 2, 3), 2, (1, 4)),
    ],
)
def test_products_with_edges_equal_loops_over_the_edges(shape, shared, rest):
    """Nodes are averaged over the rest, and scores over the shared index."""
    both, sources, targets = shape
    heads, width, batch = 2, 6, 2
    src = axis_map(shared, both, sources, rest[0])
    dst = axis_map(shared, both, targets, rest[1])
    block = EdgeBlock(0, 1, shape, (src, dst))
    key = jax.random.split(jax.random.key(0), 3)
    edges = jax.random.normal(key[0], (batch, both, heads, sources, targets))
    at_source = jax.random.normal(key[1], (batch, np.prod(src.units), width))
    at_target = jax.random.normal(key[2], (batch, np.prod(dst.units), width))
    to_target, to_source = np.zeros(at_target.shape), np.zeros(at_source.shape)
    products = np.zeros(edges.shape)
    for b, z, h, s, t, c in np.ndindex(*edges.shape, shared):
        run = slice(h * width // heads, (h + 1) * width // heads)
        from_nodes = [node(src, c, z, s, r) for r in range(rest[0])]
        into_nodes = [node(dst, c, z, t, r) for r in range(rest[1])]
        x = np.mean([at_source[b, i, run] for i in from_nodes], 0)
        y = np.mean([at_target[b, i, run] for i in into_nodes], 0)
        e = float(edges[b, z, h, s, t])
        for i in into_nodes:
            to_target[b, i, run] += e * x
        for i in from_nodes:
            to_source[b, i, run] += e * y
        products[b, z, h, s, t] += np.vdot(x, y) / np.sqrt(width / heads) / shared
    arriving = block_ops.aggregate_messages(edges, at_source, block, "target")
    np.testing.assert_allclose(arriving, to_target, atol=1e-5)
    leaving = block_ops.aggregate_messages(edges, at_target, block, "source")
    np.testing.assert_allclose(leaving, to_source, atol=1e-5)
    scores = block_ops.edge_scores(at_source, at_target, block, heads)
    np.testing.assert_allclose(scores, products, atol=1e-5)


def test_memory_orders_of_edges_do_not_mix():
    edges = (jnp.ones((1, 1, 1, 2, 2, 3)),)
    with pytest.raises(TypeError, match="Edges alone, or HeadEdges alone"):
        map_edges(jnp.add, edges, HeadEdges(edges))  # type: ignore[arg-type]
    doubled = map_edges(jnp.add, HeadEdges(edges), HeadEdges(edges))
    assert isinstance(doubled, HeadEdges)
    np.testing.assert_array_equal(doubled.blocks[0], 2 * edges[0])


def test_dropout_keeps_the_mean_and_depends_on_the_key():
    x, rate = jnp.ones((200, 200)), 0.3
    keys = jax.random.split(jax.random.key(0))
    first, second = (dropout(x, rate, key, False) for key in keys)
    np.testing.assert_array_equal(np.unique(first), np.float32([0.0, 1 / 0.7]))
    # Five standard deviations of the mean of 40,000 draws.
    assert abs(float((first == 0).mean()) - rate) < 5 * (0.3 * 0.7 / 40_000) ** 0.5
    assert float((first != second).mean()) > 0.3
    np.testing.assert_array_equal(first, dropout(x, rate, keys[0], False))
    np.testing.assert_array_equal(x, dropout(x, rate, keys[0], True))
    np.testing.assert_array_equal(x, dropout(x, 0.0, keys[0], False))
    with pytest.raises(ValueError, match="needs a key"):
        dropout(x, rate, None, False)


def test_dropout_of_a_model_acts_in_training_alone():
    case = subject("siren")
    graphs = to_graph(case.topology, case.params)
    model = GMN.for_graphs(case.topology, dim=8, depth=1, dropout=0.5, rngs=nnx.Rngs(0))

    @functools.partial(nnx.jit, static_argnums=2)
    def run(model: GMN, key: jax.Array, deterministic: bool) -> jax.Array:
        return model(graphs, key=key, deterministic=deterministic).pooled

    keys = jax.random.split(jax.random.key(0))
    plain = run(model, keys[0], True)
    np.testing.assert_array_equal(plain, run(model, keys[1], True))
    dropped = np.asarray(run(model, keys[0], False))
    zeros = dropped == 0
    assert 0.2 < zeros.mean() < 0.8
    np.testing.assert_allclose(
        dropped[~zeros], 2 * np.asarray(plain)[~zeros], rtol=1e-6
    )
    assert (dropped != run(model, keys[1], False)).any()


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_every_training_step_has_its_own_dropout_key(rate):
    """With learning rate 0, losses of the same networks differ by dropout alone."""
    options = {"name": "flat_mlp", "dim": 8, "depth": 1, "dropout": rate}
    chosen = training_cases.config(model=options, optimizer={"learning_rate": 0.0})
    rows = np.broadcast_to(np.arange(16), (3, 1, 16))
    _, metrics = training_cases.run_steps(training_cases.experiment(chosen), rows)
    assert len({step["loss"] for step in metrics}) == (3 if rate else 1)


def test_for_graphs_equals_build_model():
    case = subject("siren")
    graphs = to_graph(case.topology, case.params)
    built = build_model(
        "gmn", {"dim": 8, "depth": 1}, topology=case.topology, rngs=nnx.Rngs(0)
    )
    short = GMN.for_graphs(case.topology, dim=8, depth=1, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(built(graphs).pooled, short(graphs).pooled)
    with pytest.raises(MetanetError, match='Did you mean "depth"'):
        GMN.for_graphs(case.topology, dept=3, rngs=nnx.Rngs(0))


def test_unknown_names_and_options_are_named():
    topology = subject("siren").topology

    def build(name: str, **options: Any) -> Any:
        return build_model(name, options, topology=topology, rngs=nnx.Rngs(0))

    with pytest.raises(MetanetError, match='Did you mean "gmn"'):
        build("gnm")
    with pytest.raises(MetanetError, match='Did you mean "depth"'):
        build("product_gmn", dept=3)
    with pytest.raises(MetanetError, match="probes"):
        build("product_gmn", probes=3)
    with pytest.raises(MetanetError, match="heads: 3 does not divide"):
        build("product_gmn", heads=3)
    with pytest.raises(
        MetanetError, match='aggregate: unknown choice .*Did you mean "mean"'
    ):
        build("gmn", aggregate="meen")
    with pytest.raises(MetanetError, match="one architecture"):
        both = [topology, subject("mlp").topology]
        build_model("statnn", {}, topology=both, rngs=nnx.Rngs(0))


def test_windows_of_runs_are_a_convolution_of_each():
    """The convolution has stride 2 and pads zeros; rows between runs have no effect."""
    rng = np.random.default_rng(0)
    lengths, gap, kernel = [7, 0, 1, 12, 2], 3, 4
    start = np.cumsum([0, *(n + gap for n in lengths[:-1])])
    values = rng.standard_normal((start[-1] + lengths[-1] + gap, 5)).astype("f4")
    weight = rng.standard_normal((kernel * 5, 6)).astype("f4")
    windows = strided_windows(
        Rows(jnp.asarray(values), jnp.asarray(start), jnp.asarray(lengths), start),
        kernel,
    )
    for i, n in enumerate(lengths):
        start_row, count = windows.start[i], windows.length[i]
        computed = np.asarray(windows.values[start_row:][:count] @ weight)
        assert len(computed) == -(-n // 2)
        if n:
            direct = jax.lax.conv_general_dilated(
                values[None, start[i] : start[i] + n],
                weight.reshape(kernel, 5, 6),
                (2,),
                [(0, 2 * len(computed) - 2 + kernel - n)],
                dimension_numbers=("NWC", "WIO", "NWC"),
            )
            np.testing.assert_allclose(computed, direct[0], atol=1e-5)
