"""Every discovered network can be read: in every form, dense and packed, by every model."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.expanded_graphs import expand
from helpers.metanetworks import (
    MODELS_TESTED,
    ModelInputs,
    build,
    flat,
    graphs_of,
    model_inputs,
    scale_equivariant,
)
from helpers.symmetry_families import FAMILIES
from helpers.symmetry_libraries import LINEN
from helpers.symmetry_networks import NETWORKS, Case
from helpers.symmetry_paths import PATHS
from helpers.symmetry_sciences import SCIENCES
from helpers.symmetry_sequences import SEQUENCES
from helpers.symmetry_vision import VISION

from metanet import symmetry as sym
from metanet.graphs import (
    Budget,
    GraphForm,
    GraphSchema,
    build_topology,
    compile_topology,
    pack,
    to_graph,
    to_params,
)
from metanet.models import MODELS, GraphModel

FORMS = [
    GraphForm(bias, parallel)
    for bias in ("feature", "node", "loop")
    for parallel in (False, True)
]
TABLE = {
    f"{table}: {name}": make
    for table, networks in (
        ("networks", NETWORKS),
        ("families", FAMILIES),
        ("linen", LINEN),
        ("vision", VISION),
        ("sequences", SEQUENCES),
        ("sciences", SCIENCES),
    )
    for name, make in networks.items()
}
ALL: dict[str, Callable[[], Case]] = {**PATHS, **TABLE}
GRAPH_MODELS = [
    model
    for model in [*MODELS_TESTED, "dmc"]
    if "probes" not in model
    and (model == "dmc" or issubclass(MODELS[model.split()[0]], GraphModel))
]


@functools.cache
def read(name: str) -> ModelInputs:
    # Programs of other people promote ranks implicitly, which other tests forbid.
    with jax.numpy_rank_promotion("allow"):
        return model_inputs(ALL[name]())


@pytest.mark.parametrize("name", PATHS)
def test_group_on_paper(name):
    network = PATHS[name]()
    symmetry = sym.discover(network.apply_fn, network.params, *network.inputs)
    assert symmetry.order == network.order
    kinds = Counter(group.kind for group in symmetry.scaling_groups)
    assert kinds == network.scaling_groups


@pytest.mark.parametrize(
    "name", [*PATHS, *(pytest.param(n, marks=pytest.mark.slow) for n in TABLE)]
)
def test_graphs_hold_every_parameter_once_in_every_form(name):
    network, symmetry, _, params = read(name)
    for fuse in ("reader", "quotient"):
        topology = build_topology(symmetry, fuse)

        @jax.jit
        def back_and_forth(params, topology=topology):
            return to_params(to_graph(topology, params), network.params)

        jax.tree.map(np.testing.assert_array_equal, back_and_forth(params), params)
        for form in FORMS:
            schema = GraphSchema.of([topology], form)
            part = compile_topology(topology, schema).packed
            weights = [flat(params, i) for i in range(2)]
            batch = pack(
                [part] * 2, weights, Budget.of([part] * 2), parameters=part.parameters
            )
            values = [batch.edge_values.ravel(), batch.node_values.ravel()]
            cells = batch.parameter_cells
            assert cells is not None
            np.testing.assert_array_equal(np.concatenate(values)[cells], weights)
            assert len(np.unique(cells)) == cells.size


ORDERS = ("plus transpose", "products of units", "gram matrix", "rotary decoder")


@pytest.mark.parametrize("name", ORDERS)
def test_automorphisms_are_the_permutations(name):
    pytest.importorskip("pynauty")
    automorphisms = expand(read(name).topology).automorphisms()
    assert automorphisms == pytest.approx(PATHS[name]().order, rel=1e-9)


def uses(name: str) -> Counter[tuple[str, str, str]]:
    """Returns the number of edge sets by parameter, source and target."""
    topology = read(name).topology
    names = [node.name for node in topology.nodes]
    return Counter(
        (
            topology.leaves[edge.leaf][0],
            "-" if edge.source is None else names[edge.source],
            names[edge.target],
        )
        for edge in topology.edges
    )


def test_a_parameter_has_an_edge_set_per_path():
    """A matrix plus its transpose is read along both axes, a vector times itself too."""
    topology = read("plus transpose").topology
    twice = [e for e in topology.edges if topology.leaves[e.leaf][0] == "m"]
    assert [e.primary for e in twice] == [True, False]
    # One axis of the array indexes the source in one use, the other one in the other.
    order = [tuple(zip(e.order, e.units, strict=True)) for e in twice]
    assert order == [((1, (0, -1)), (0, (-1, 0))), ((0, (0, -1)), (1, (-1, 0)))]
    # Of a vector times itself, one factor scales the sources, the other one the targets.
    outer = uses("outer weight")
    assert outer["u", "w", "u"] == outer["u", "-", "u"] == 1


def test_an_activation_has_identity_edges_per_path():
    """Both axes of a Gram matrix are read where its transpose is added."""
    edges = [e.join for e in read("gram matrix").topology.identity_edges]
    assert ((0, 0), (1, 1)) in edges
    assert ((1, 0), (0, 1)) in edges or ((0, 1), (1, 0)) in edges


def test_segments_of_a_concatenation_have_edges_of_their_own_operands_alone():
    """A gate of an LSTM reads its own kernels; a half of a head turns into the other."""
    lstm = uses("linen: lstm")
    assert set(lstm.values()) == {1}
    kernels = [path for path, *_ in lstm]
    # Input and recurrent kernels and a recurrent bias per gate, and the last layer.
    assert Counter(kernels) == dict.fromkeys(kernels, 1)
    assert len(kernels) == 4 * 3 + 2
    topology = read("halves with gain").topology
    gates = [
        (topology.nodes[e.source].name, topology.nodes[e.target].name)
        for e in topology.identity_edges
        if e.kind == "gate"
    ]
    # Each half times the other one, which has the gain.
    assert sorted(gates) == [
        ("g", "gate:2"),
        ("g:2", "gate"),
        ("w", "gate"),
        ("w:2", "gate:2"),
    ]


# Networks whose nodes share edges, are averaged, and are joined on several paths.
QUICK = {
    ("same kernel", "gmn parallel"),
    ("same kernel", "product_gmn"),
    ("unequal slices", "gmn pna"),
    ("halves with gain", "deep_sets"),
}
# Every model reads all networks of `PATHS`, and every sixth of the others.
PAIRS = [
    pytest.param(name, model, marks=[] if (name, model) in QUICK else pytest.mark.slow)
    for (i, name), (k, model) in itertools.product(
        enumerate(ALL), enumerate(GRAPH_MODELS)
    )
    if name in PATHS or (i + k) % 6 == 0
]


@pytest.mark.parametrize(("name", "model"), PAIRS)
def test_models_read_dense_and_packed_graphs_alike_and_are_invariant(name, model):
    case = read(name)
    net = build(model, [case], depth=1)
    part = compile_topology(case.topology, net.schema).packed
    graphs = graphs_of(case, scale_equivariant(model))

    @nnx.jit
    def dense(net, params):
        def act(key, params):
            element = sym.random_element(case.symmetry, key)
            return sym.act(case.symmetry, element, params)

        keys = jax.random.split(jax.random.key(5), 3)
        both = jax.tree.map(
            lambda *x: jnp.concatenate(x), params, jax.vmap(act)(keys, params)
        )
        batch = graphs(both)
        net.set_statistics(batch)
        return net(batch).pooled, to_params(batch, case.network.params)

    pooled, canonical = dense(net, case.params)
    before, after = np.split(np.asarray(pooled), 2)
    scale = np.abs(before).max()
    assert np.isfinite(before).all()
    if model != "dmc":  # reads the parameters in their order
        assert np.abs(before - after).max() < 1e-5 * scale
    exact = Budget.of([part] * 2)
    budget = Budget(
        exact.nodes + 3,
        exact.edges + 5,
        3,
        *(n + 2 for n in (exact.averages, exact.averaged, exact.repeats)),
    )
    batch = pack([part] * 2, [flat(canonical, i) for i in range(2)], budget)
    packed = nnx.jit(lambda net, batch: net(batch).pooled)(net, batch)
    assert np.abs(packed[:2] - before[:2]).max() < 1e-5 * scale
