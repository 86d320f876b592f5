"""Every metanetwork on every kind of network, in dense and packed batches."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.metanetworks import (
    MODELS_TESTED,
    PROBING,
    SUBJECTS,
    ModelInputs,
    build,
    flat,
    graphs_of,
    scale_equivariant,
    subject,
)

from metanet import symmetry as sym
from metanet.errors import MetanetError
from metanet.graphs import (
    Budget,
    compile_topology,
    first_fit_decreasing,
    pack,
    to_graph,
)
from metanet.models import MODELS, GraphModel, build_model

# Models that read topologies of all kinds at once.
GRAPH_MODELS = [
    case
    for case in [*MODELS_TESTED, "dmc"]
    if "probes" not in case
    and (case == "dmc" or issubclass(MODELS[case.split()[0]], GraphModel))
]
PACKED_PAIRS = (("residual CNN with norm", "GRU"), ("small CNN", "RNN"))
PACKED_QUICKLY = {
    "product_gmn": PACKED_PAIRS[0],
    "gmn parallel": PACKED_PAIRS[1],
    "gmn pna": PACKED_PAIRS[1],
    "scale_gmn_b": PACKED_PAIRS[1],
    "dmc": PACKED_PAIRS[1],
}
BUILT_IN = {m for m in MODELS if MODELS[m].__module__.startswith("metanet.")}
# Change of the pooled feature relative to its largest entry: less than the first under the
# group, more than the second under a permutation outside of it. Two orders of magnitude
# lie between them, so that rounding cannot pass for a broken symmetry.
INVARIANT = 1e-5
BROKEN = 1e-3
# Networks whose outputs cannot be captured, or whose inputs have no batch axis.
UNPROBED = {
    *("transformer block", "GRU", "RNN", "DeepSets", "residual CNN with norm", "mixer")
}


def moved(subject: ModelInputs, params: Any, seed: int = 5):
    """Returns three parameter sets under random elements of their symmetry group."""

    def act(key: jax.Array, params: Any) -> Any:
        element = sym.random_element(subject.symmetry, key)
        return sym.act(subject.symmetry, element, params)

    return jax.vmap(act)(jax.random.split(jax.random.key(seed), 3), params)


@functools.cache
def moved_and_broken(name: str, factors: bool):
    """Returns graphs of three networks, of equivalent ones, and of changed ones."""
    case = subject(name)

    def permute_columns(x: jax.Array) -> jax.Array:
        """Permutes the columns of matrices only, which is no symmetry of the networks."""
        return jnp.roll(x, 1, axis=-1) if x.ndim == 3 else x

    @jax.jit
    def prepare(params):
        broken = jax.tree.map(permute_columns, params)
        joined = jax.tree.map(concatenate, params, moved(case, params), broken)
        return graphs_of(case, factors)(joined)

    return prepare(case.params)


def concatenate(*arrays: jax.Array) -> jax.Array:
    return jnp.concatenate(arrays)


def quick(model: str, name: str) -> bool:
    """Returns True for the pairs of the default suite.

    They contain every model, and every network but the transformer block, whose kinds the
    default suite tests in test_model_families.
    """
    return name == "siren" or (
        model == "gmn"
        and name in ("residual CNN with norm", "RNN", "DeepSets")
        or model in ("scale_gmn_b", "unf")
        and name in ("mlp", "GRU")
        or (model, name)
        in (
            ("product_gmn", "small CNN"),
            ("gmn parallel", "small CNN"),
            ("product_gmn probes", "mlp"),
        )
    )


PAIRS = [
    pytest.param(m, s, marks=[] if quick(m, s) else pytest.mark.slow)
    for m in MODELS_TESTED
    for s in SUBJECTS
    if not (m in PROBING and s in UNPROBED)
]


@pytest.mark.parametrize(("model", "name"), PAIRS)
def test_invariant_to_the_discovered_group(model, name):
    net = build(model, [subject(name)])

    @nnx.jit
    def run(net, graphs):
        net.set_statistics(graphs)

        def energy(net):
            pooled = net(graphs).pooled
            return (pooled[:3] ** 3).mean(), pooled

        gradient, pooled = nnx.grad(energy, has_aux=True)(net)
        size = sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient))
        return pooled, size

    pooled, size = run(net, moved_and_broken(name, scale_equivariant(model)))
    before, after, broken = np.split(np.asarray(pooled), 3)
    scale = np.abs(before).max()
    assert before.shape == (3, net.dim)
    assert np.abs(before - after).max() < INVARIANT * scale
    assert 0 < float(size) < float("inf")
    # Different networks have different features, and a change outside the group shows.
    assert np.abs(before[0] - before[1]).max() > 1e-3 * scale
    if model not in ("statnn", "deep_sets", "set_transformer"):
        assert np.abs(before - broken).max() > BROKEN * scale


def packed_quickly(model: str, names: tuple[str, str]) -> bool:
    """Returns True for one pair of some models, and all pairs of models from outside."""
    return PACKED_QUICKLY.get(model) == names or model.split()[0] not in BUILT_IN


@pytest.mark.parametrize(
    ("model", "names"),
    [
        pytest.param(
            model,
            names,
            marks=[] if packed_quickly(model, names) else pytest.mark.slow,
        )
        for model in GRAPH_MODELS
        for names in PACKED_PAIRS
    ],
    ids=lambda x: x if isinstance(x, str) else " and ".join(x),
)
def test_packed_equals_dense_equals_single_and_padding_has_no_effect(model, names):
    cases = [subject(n) for n in names]
    net = build(model, cases)
    plans = [
        compile_topology(c.topology, net.schema).packed for c in cases for _ in range(2)
    ]
    weights = [flat(c.params, i) for c in cases for i in range(2)]
    count = len(plans)
    budget = Budget(
        sum(p.nodes for p in plans) + 7, sum(p.edges for p in plans) + 13, count + 1
    )
    batch = pack(plans, weights, budget)
    nnx.jit(lambda net, batch: net.set_statistics(batch))(net, batch)

    def poison(values: np.ndarray, graph: np.ndarray) -> np.ndarray:
        return np.where((graph > count)[:, None], np.nan, values)

    poisoned = batch._replace(
        edge_values=poison(batch.edge_values, batch.edge_graph),
        node_values=poison(batch.node_values, batch.node_graph),
    )
    assert np.isnan(poisoned.edge_values).any()

    @nnx.jit
    def run(net, batch):
        def energy(net):
            pooled = net(batch).pooled[:count]
            return (pooled**3).mean(), pooled

        return nnx.grad(energy, has_aux=True)(net)

    gradients, packed = run(net, poisoned)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    for i, case in enumerate(cases):
        dense, single = dense_and_single(net, case)
        np.testing.assert_allclose(packed[2 * i : 2 * i + 2], dense, atol=1e-5)
        np.testing.assert_allclose(single, dense[:1], atol=1e-5)


def dense_and_single(net: Any, case: ModelInputs):
    """Returns the outputs for a batch of the first two networks, and for the first."""

    @nnx.jit
    def run(net, params):
        two = jax.tree.map(lambda x: x[:2], params)
        one = jax.tree.map(lambda x: x[:1], params)
        graphs = functools.partial(to_graph, case.topology)
        return net(graphs(two)).pooled, net(graphs(one)).pooled

    return run(net, case.params)


@pytest.mark.parametrize("kind", ["positive", "sign"])
def test_node_features_of_scale_gmn_are_equivariant_to_factors(kind):
    case = subject("mlp" if kind == "positive" else "siren")
    net = build("scale_gmn_b", [case])
    element = sym.random_element(
        case.symmetry, jax.random.key(3), permutations=False, phases=False
    )
    act = jax.vmap(lambda p: sym.act(case.symmetry, element, p))
    run = nnx.jit(lambda net, p: net(to_graph(case.topology, p)))
    before, after = run(net, case.params), run(net, act(case.params))
    start, checked = 0, 0
    scaling_groups = [f for f in case.symmetry.scaling_groups if f.kind == kind]
    for node in case.topology.nodes:
        nodes = slice(start, start + node.size)
        start += node.size
        if not node.scale_kinds:
            np.testing.assert_allclose(
                after.nodes[:, nodes], before.nodes[:, nodes], rtol=2e-4, atol=2e-4
            )
            continue
        ratio = after.nodes[:, nodes] / before.nodes[:, nodes]
        factor = jnp.median(ratio, axis=-1, keepdims=True)
        assert float(jnp.abs(factor - 1).max()) > 0.1
        np.testing.assert_allclose(
            after.nodes[:, nodes], before.nodes[:, nodes] * factor, rtol=2e-3, atol=1e-4
        )
        # The same factor for all networks: the one with which the group acts.
        np.testing.assert_allclose(
            factor, jnp.broadcast_to(factor[:1], factor.shape), rtol=1e-3
        )
        checked += 1
    assert checked == len(scaling_groups) == 2


@pytest.mark.parametrize("model", ["scale_gmn_b", "scale_product_gmn"])
def test_tiny_weights_keep_values_and_gradients_small(model):
    """Parameters of some units are tiny, with and without the biases, as after decay."""
    case = subject("mlp")
    net = build(model, [case])
    net.set_statistics(to_graph(case.topology, case.params))

    def energy(net, graphs):
        features = net(graphs)
        return (features.pooled**2).mean(), features

    def largest(tree: Any) -> float:
        return max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))

    def decayed(params: Any, rank: int) -> Any:
        """Decays the first units of arrays of at least some rank, batch axis included."""

        def decay(x: jax.Array) -> jax.Array:
            return x.at[..., :4].mul(1e-15) if x.ndim >= rank else x

        return jax.tree.map(decay, params)

    run = nnx.jit(nnx.grad(energy, has_aux=True))
    slope, plain = run(net, to_graph(case.topology, case.params))
    for rank in (2, 3):  # biases and matrices, matrices only
        graphs = to_graph(case.topology, decayed(case.params, rank))
        gradient, features = run(net, graphs)
        assert largest(features.nodes) < 30 * largest(plain.nodes)
        assert largest(gradient) < 30 * largest(slope)


def test_array_features_of_functionals_are_equivariant():
    case = subject("mlp")
    net = build("unf", [case])
    element = sym.random_element(
        case.symmetry, jax.random.key(3), signs=False, scales=False
    )
    act = jax.vmap(lambda p: sym.act(case.symmetry, element, p))
    run = nnx.jit(lambda net, p: net.arrays(to_graph(case.topology, p)))
    before, after = run(net, case.params), run(net, act(case.params))
    perms = [p[0] for p in element.permutations]
    for spec, x, y in zip(net.specs, before, after, strict=True):
        for place, axis in enumerate(spec.axes):
            x = jnp.take(x, perms[axis.label], axis=1 + place)
        np.testing.assert_allclose(y, x, atol=1e-4)


def test_bins_contain_every_network_once():
    rng = np.random.default_rng(0)
    sizes = [(int(n), int(20 * n)) for n in rng.integers(5, 60, 300)]
    budget = Budget(nodes=400, edges=6000, graphs=64)
    bins = first_fit_decreasing(sizes, budget)
    assert sorted(i for members in bins for i in members) == list(range(300))
    for members in bins:
        assert sum(sizes[i][0] for i in members) <= budget.nodes
        assert sum(sizes[i][1] for i in members) <= budget.edges
    used = sum(e for _, e in sizes) / (len(bins) * budget.edges)
    assert used > 0.95
    # Largest networks first, each into the first bin that has room.
    room, expected = [], []
    for i in sorted(range(300), key=lambda i: -sizes[i][1]):
        size = np.array([*sizes[i], 1])
        fits = [k for k, left in enumerate(room) if (left >= size).all()]
        if not fits:
            room.append(np.array([budget.nodes, budget.edges, budget.graphs]))
            expected.append([])
            fits = [len(room) - 1]
        room[fits[0]] -= size
        expected[fits[0]].append(i)
    assert bins == expected
    # A budget may be used up to the last node, edge and graph.
    exact = Budget(nodes=7, edges=9, graphs=2)
    assert first_fit_decreasing([(3, 4), (4, 5)], exact) == [[1, 0]]
    assert first_fit_decreasing([(7, 9)], exact) == [[0]]
    few_nodes = Budget(nodes=5, edges=100, graphs=9)
    assert first_fit_decreasing([(3, 10), (3, 9)], few_nodes) == [[0], [1]]
    with pytest.raises(MetanetError, match="network 1 has 8 nodes and 9 edges"):
        first_fit_decreasing([(7, 9), (8, 9)], exact)
    with pytest.raises(MetanetError, match="network 0 has 7 nodes and 10 edges"):
        first_fit_decreasing([(7, 10)], exact)
    with pytest.raises(MetanetError, match="more than the budget"):
        first_fit_decreasing([(500, 10)], budget)


def test_several_values_per_parameter_are_packed():
    """A weight and its gradient, say, in a bin without room for more."""
    case = subject("small CNN")
    net = build_model(
        "product_gmn",
        {"dim": 8, "depth": 1, "heads": 2},
        topology=case.topology,
        features=2,
        rngs=nnx.Rngs(0),
    )
    gradient = jax.tree.map(jnp.sin, case.params)
    graphs = to_graph(case.topology, case.params, gradient)
    net.set_statistics(graphs)
    part = compile_topology(case.topology, net.schema).packed
    weights = [
        np.stack([flat(case.params, i), flat(gradient, i)], axis=1) for i in range(3)
    ]
    budget = Budget(3 * part.nodes, 3 * part.edges, 3)
    packed = net(pack([part] * 3, weights, budget)).pooled
    np.testing.assert_allclose(packed, net(graphs).pooled, atol=1e-5)
    swapped = net(to_graph(case.topology, gradient, case.params)).pooled
    assert np.abs(swapped - packed).max() > 1e-3


def test_packing_errors():
    case, other = subject("mlp"), subject("GRU")
    net = build("product_gmn", [case])
    with pytest.raises(MetanetError, match="does not know"):
        compile_topology(other.topology, net.schema)
    with pytest.raises(MetanetError, match="does not know"):
        net(to_graph(other.topology, other.params))
    known = compile_topology(case.topology, net.schema).packed
    weights = flat(case.params, 0)
    with pytest.raises(MetanetError, match="has 3 weights"):
        pack([known], [weights[:3]], Budget(100, 1000, 4))
    with pytest.raises(MetanetError, match="exceed the budget"):
        pack([known], [weights], Budget(2, 1000, 4))
