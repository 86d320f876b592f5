"""Training on networks of many architectures."""

import itertools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from metanet import symmetry as sym
from metanet.errors import MetanetError
from metanet.graphs import (
    Budget,
    PackedGraphs,
    build_topology,
    compile_topology,
    first_fit_decreasing,
    pack,
    to_graph,
)
from metanet.models import build_model
from metanet.networks import Architecture, ParamSpec, create
from metanet.tasks import Classification, ClassificationConfig, TaskBatch
from metanet.training import ExperimentConfig
from metanet.training.experiment import Metanetwork
from metanet.training.packed import (
    PackedItems,
    PackedReader,
    arrange,
    default_budget,
    pack_bins,
)
from metanet.training.prefetch import prefetch
from metanet.training.step import initial_state, make_train_step

ARCHITECTURES = [
    Architecture.of("varying_cnn", widths=[3, 2], kernels=[3, 3]),
    Architecture.of("varying_cnn", widths=[3, 3], kernels=[1, 5], residual=[0, 1]),
    Architecture.of("mlp", in_dim=4, hidden=[5], out_dim=3),
]


@pytest.fixture(scope="module")
def zoo():
    """Nine networks of three architectures: topologies, plans, weights, labels."""
    made = []
    for arch in ARCHITECTURES:
        first = create(arch, jax.random.key(0))
        found = sym.discover(first.apply_fn, first.params, *first.inputs, check=False)
        for seed in range(3):
            params = create(arch, jax.random.key(seed)).params
            vector = ParamSpec.of(params).flatten(params)
            made.append((build_topology(found), params, np.asarray(vector)))
    topologies, params, weights = zip(*made, strict=True)
    model = build_model(
        "product_gmn",
        {"dim": 8, "heads": 2, "depth": 1},
        topology=topologies,
        rngs=nnx.Rngs(0),
    )
    plans = [compile_topology(t, model.schema).packed for t in topologies]
    return topologies, params, weights, plans, model


def items_of(bins, plans, weights, labels, budget) -> PackedItems:
    packed = pack_bins(bins, plans, weights, {"label": labels}, budget)
    return PackedItems(packed, np.asarray(sum(map(len, bins)), np.int32))


def test_one_trace_serves_all_architectures_and_gives_the_stacked_gradient(zoo):
    topologies, params, weights, plans, model = zoo
    labels = np.arange(len(plans), dtype=np.int32) % 3
    budget = default_budget(plans, 256)
    batches = arrange(range(len(plans)), plans, budget, 2)
    task = Classification(ClassificationConfig(hidden=4), ("a", "b", "c"))
    net = Metanetwork(model, task.head(model, rngs=nnx.Rngs(1)))
    optimizer = optax.sgd(1.0)
    graphdef, state = initial_state(net, optimizer)
    start = jax.tree.map(jnp.copy, state.params)
    step = make_train_step(
        PackedReader(), task, graphdef, optimizer, ExperimentConfig()
    )
    order = list(batches)
    assert sorted(i for bins in order for held in bins for i in held) == list(range(9))
    first = items_of(order[0], plans, weights, labels, budget)
    state, metrics = step(state, (), first)

    chosen = [i for held in order[0] for i in held]
    groups = [[i for i in chosen if i // 3 == kind] for kind in range(3)]
    assert all(groups)

    def loss(weights_of_model):
        merged, total = nnx.merge(graphdef, weights_of_model, state.rest), 0.0
        for group in groups:
            stacked = jax.tree.map(lambda *x: jnp.stack(x), *(params[i] for i in group))
            batch = TaskBatch(
                to_graph(topologies[group[0]], stacked),
                {"label": jnp.asarray(labels[np.array(group)])},
                jnp.ones(len(group)),
            )
            total += task.loss(merged(batch), batch)
        return total / len(chosen)

    value, gradient = jax.jit(jax.value_and_grad(loss))(start)
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
    change = jax.tree.map(lambda a, b: a - b, start, state.params)
    for a, b in zip(jax.tree.leaves(change), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)

    for bins in order[1:] or order:
        items = items_of(bins, plans, weights, labels, budget)
        state, metrics = step(state, (), items)
        assert np.isfinite(float(metrics["loss"]))
    assert step._cache_size() == 1


def test_a_stream_fills_its_bins(zoo):
    plans = zoo[3]
    budget = default_budget(plans, 512)
    stream = itertools.islice(itertools.cycle(range(len(plans))), 600)
    batches = list(arrange(stream, plans, budget, 3))
    seen = [i for bins in batches for held in bins for i in held]
    counts = np.bincount(seen, minlength=len(plans))
    assert counts.sum() == 600 and counts.max() - counts.min() <= 1
    for bins in batches:
        assert len(bins) == 3
        for held in bins:
            assert sum(plans[i].edges for i in held) <= budget.edges
            assert sum(plans[i].nodes for i in held) <= budget.nodes
    with pytest.raises(MetanetError, match="more than the budget"):
        next(arrange(range(9), plans, Budget(3, 3, 3), 2))


@pytest.mark.parametrize("edges", [1, 512, 10**5])
def test_default_budget(zoo, edges):
    """Room for the largest network, few empty nodes, and as many graphs as fit."""
    plans = zoo[3]
    budget = default_budget(plans, edges)
    assert budget.edges == max(edges, *(p.edges for p in plans))
    assert budget.nodes >= max(p.nodes for p in plans)
    needed = budget.edges * sum(p.nodes for p in plans) / sum(p.edges for p in plans)
    assert edges == 1 or needed < budget.nodes < 1.5 * needed
    smallest = min(p.edges for p in plans)
    assert budget.graphs == min(budget.edges // smallest + 1, 256)


def test_default_budget_holds_averages_and_repeats_beside_its_edges(zoo):
    """Networks of which a bin holds the most have the most of them per edge."""

    def counts(edges: int, averages: int, averaged: int, repeats: int):
        return zoo[3][0]._replace(
            source=np.zeros(edges),
            average_size=np.zeros(averages),
            averaged=np.zeros(averaged),
            repeat=np.zeros(repeats),
        )

    plans = [counts(30, 1, 5, 0), counts(9, 0, 0, 4), counts(7, 0, 0, 0)]
    budget = default_budget(plans, 100)
    assert (budget.averages, budget.averaged, budget.repeats) == (3, 16, 44)


def test_the_number_of_graphs_can_be_the_limit(zoo):
    """Bins that could hold many more nodes and edges hold two networks each."""
    plans = zoo[3]
    budget = Budget(10**4, 10**6, 2)
    bins = first_fit_decreasing([(p.nodes, p.edges) for p in plans], budget)
    assert [len(members) for members in bins] == [2, 2, 2, 2, 1]
    weights = zoo[2]
    with pytest.raises(MetanetError, match="3 networks exceed the budget of 2 graphs"):
        pack(plans[:3], weights[:3], budget)


def test_statistics_of_a_packed_batch_are_those_of_the_weights(zoo):
    """Means and deviations per type over all networks, padding left out."""
    topologies, rng = zoo[0], np.random.default_rng(0)
    # Biases that are 0 as they are initialised would have no deviation.
    params = [
        jax.tree.map(lambda x: np.float32(x + rng.normal(size=x.shape)), network)
        for network in zoo[1]
    ]
    weights = [np.asarray(ParamSpec.of(p).flatten(p)) for p in params]
    options = {"dim": 4, "depth": 1, "heads": 1}
    model = build_model("product_gmn", options, topology=topologies, rngs=nnx.Rngs(0))
    plans = [compile_topology(t, model.schema).packed for t in topologies]
    budget = Budget(
        sum(p.nodes for p in plans) + 9,
        sum(p.edges for p in plans) + 11,
        len(plans) + 3,
    )
    model.set_statistics(pack(plans, weights, budget))
    values: dict[str, list[np.ndarray]] = {}
    biases: dict[str, list[np.ndarray]] = {}
    for topology, network in zip(topologies, params, strict=True):
        leaves = jax.tree.leaves(network)
        for edge in topology.edges:
            ends = "".join(
                topology.nodes[k].kind[0] if topology.nodes[k].kind != "hidden" else "h"
                for k in (
                    (edge.source, edge.target)
                    if edge.source is not None
                    else (edge.target,)
                )
            )
            table = biases if edge.source is None else values
            array = np.asarray(leaves[edge.leaf]).ravel()
            table.setdefault(f"{edge.kind}_{ends}", []).append(array)
    for types, table, encoder in (
        (model.schema.edge_types, values, model.encoder.on_edges),
        (model.schema.node_keys, biases, model.encoder.on_nodes),
    ):
        checked = 0
        for number, kind in enumerate(types):
            if kind.label in table:
                joined = np.concatenate(table[kind.label])
                mean, deviation = (
                    encoder.mean[...][number],
                    encoder.deviation[...][number],
                )
                np.testing.assert_allclose(mean, joined.mean(), atol=1e-5)
                np.testing.assert_allclose(deviation, joined.std(), rtol=1e-4)
                checked += 1
        assert checked >= 2


def test_empty_bins_count_nothing(zoo):
    plans, weights = zoo[3], zoo[2]
    labels = np.zeros(len(plans), np.int32)
    budget = default_budget(plans, 256)
    items = items_of([[0], []], plans, weights, labels, budget)
    assert isinstance(items.bins.graphs, PackedGraphs)
    assert items.networks == 1 and items.bins.graphs.graph_mask.sum() == 1


def test_a_thread_packs_ahead_and_passes_errors_on():
    assert list(prefetch(iter(range(20)))) == list(range(20))
    before = threading.active_count()
    reader = prefetch(itertools.count())
    assert [next(reader) for _ in range(3)] == [0, 1, 2]
    reader.close()
    assert threading.active_count() == before

    def broken():
        yield 1
        raise MetanetError("the shard is gone")

    reader = prefetch(broken())
    assert next(reader) == 1
    with pytest.raises(MetanetError, match="the shard is gone"):
        next(reader)
