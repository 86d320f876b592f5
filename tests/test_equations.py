"""Every graph metanetwork computes the equations of its docstring, dense and packed."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import reference_models as reference
from helpers.metanetworks import randomize
from helpers.symmetry_networks import NETWORKS, array, relu

from metanet import symmetry as sym
from metanet.compiler import fast_compile_options
from metanet.graphs import (
    Budget,
    HeadEdges,
    ParameterGraph,
    build_topology,
    compile_topology,
    make_layout,
    pack,
    to_graph,
    to_params,
)
from metanet.models import MODELS, GraphModel, build_model
from metanet.networks import Architecture, create

# Two networks of different widths in one bin: kernels of 9 values, and recurrence.
CASES = {
    "CNN": lambda: create(
        Architecture.of("small_cnn", widths=[2, 3], classes=2), jax.random.key(0)
    ),
    "RNN": NETWORKS["rnn"],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "gmn": {"dim": 8, "readout": "edges", "bias": "feature"},
    "gmn sum": {"dim": 8, "aggregate": "sum", "readout": "mean", "bias": "feature"},
    "gmn attention": {
        "dim": 8,
        "aggregate": "attention",
        "readout": "nodes_edges",
        "bias": "feature",
    },
    "gmn pna": {
        "dim": 8,
        "aggregate": "pna",
        "readout": "attention",
        "bias": "feature",
        "directions": "forward",
    },
    "gmn bias nodes": {"dim": 8, "readout": "roles"},
    "gmn loops": {"dim": 8, "bias": "loop", "readout": "edges"},
    "gmn parallel": {"dim": 8, "kernel": "parallel", "aggregate": "sum"},
    "ng_gnn": {"dim": 8, "readout": "roles"},
    "ng_t": {
        "dim": 8,
        "edge_dim": 6,
        "heads": 2,
        "attention_dim": 4,
        "readout": "outputs",
    },
    "product_gmn": {"dim": 8, "heads": 4},
    "product_gmn moments": {"dim": 8, "heads": 2, "moments": 3, "readout": "moments"},
    "scale_gmn": {"dim": 8},
    "scale_gmn_b": {"dim": 8},
    "scale_product_gmn": {"dim": 8, "heads": 4},
    "deep_sets": {"dim": 8},
    "set_transformer": {"dim": 8, "points": 3},
}


@functools.cache
def graphs() -> tuple[ParameterGraph, ...]:
    """The graph of each case, all parameters random."""
    out = []
    for i, make in enumerate(CASES.values()):
        network = make()
        symmetry = sym.discover(*network[:2], *network.inputs, check=False)
        leaves, treedef = jax.tree.flatten(network.params)
        rng = np.random.default_rng(i)
        noisy = [
            jnp.asarray(0.7 * rng.normal(size=x.shape), jnp.float32) for x in leaves
        ]
        params = treedef.unflatten(noisy)
        out.append(to_graph(build_topology(symmetry), params))
    return tuple(out)


def build(
    variant: str, networks: tuple[ParameterGraph, ...] | None = None, depth: int = 2
) -> GraphModel:
    """The model of a variant for the two networks, or for others."""
    name = variant.split()[0]
    topologies = [graph.topology for graph in networks or graphs()]
    options = {"depth": depth, **VARIANTS[variant]}
    model = build_model(name, options, topology=topologies, rngs=nnx.Rngs(0))
    assert isinstance(model, GraphModel)
    randomize(model, 0.2)
    return model


def packed_batch(
    model: GraphModel, networks: tuple[ParameterGraph, ...], parameters: int = 0
) -> Any:
    """The networks in one bin, with room for padding; for edits of so many parameters."""
    compiled = [compile_topology(g.topology, model.schema).packed for g in networks]
    weights = []
    for graph in networks:
        treedef = jax.tree.structure([0] * len(graph.topology.leaves))
        leaves = to_params(graph, treedef)
        weights.append(np.concatenate([np.asarray(x).ravel() for x in leaves]))
    nodes, edges = (sum(getattr(c, n) for c in compiled) for n in ("nodes", "edges"))
    budget = Budget(nodes + 5, edges + 7, len(compiled) + 1)
    return pack(compiled, weights, budget, parameters=parameters)


def batched(graph: ParameterGraph) -> ParameterGraph:
    return jax.tree.map(lambda x: x[None], graph)


def rows(state: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """A dense state of one network as rows of nodes and edges."""
    x, e, g = state
    if isinstance(e, HeadEdges):
        blocks = [jnp.moveaxis(b, 2, -1) for b in e.blocks]
    else:
        # Parallel edges of a pair of nodes follow each other.
        blocks = [jnp.moveaxis(b, 1, 4) for b in e]
    edges = [np.asarray(b, np.float64).reshape(-1, b.shape[-1]) for b in blocks]
    nodes = np.asarray(jnp.broadcast_to(x, (1, *x.shape[1:])), np.float64)[0]
    return nodes, np.concatenate(edges), None if g is None else np.float64(g[0])


def close(actual: Any, expected: np.ndarray) -> None:
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * scale)


def test_every_graph_model_has_a_reference():
    models = {
        name
        for name in MODELS
        if isinstance(MODELS[name], type)
        and issubclass(MODELS[name], GraphModel)
        and MODELS[name].__module__.startswith("metanet.")
    }
    assert models == set(reference.BLOCKS) == {v.split()[0] for v in VARIANTS}


@functools.cache
def token_graph() -> ParameterGraph:
    """The graph of products over channels, tokens, tokens and channels.

    All channels share the edges of a product over tokens.
    """
    params = {
        "e": array(3, 2),
        "t1": array(4, 3),
        "b": array(3),
        "t2": array(3, 2),
        "o": array(2, 2),
    }

    def run(p, x):
        mixed = jnp.einsum("btc,ts->bsc", x @ p["e"], p["t1"])
        hidden = relu(mixed + p["b"].reshape(1, -1, 1))
        return jnp.einsum("bsc,su->buc", hidden, p["t2"]) @ p["o"]

    symmetry = sym.discover(run, params, array(5, 4, 3), check=False)
    return to_graph(build_topology(symmetry), params)


@pytest.mark.parametrize("variant", VARIANTS)
def test_blocks_and_readout(variant):
    model = build(variant)
    pooled_of = jax.jit(
        lambda m, g: m(g).pooled, compiler_options=fast_compile_options()
    )
    packed = pooled_of(model, packed_batch(model, graphs()))
    for row, expected in zip(
        packed, compare_blocks(variant, model, graphs()), strict=False
    ):
        close(row, expected)


@pytest.mark.parametrize(
    "variant",
    [v for v in VARIANTS if v not in ("gmn bias nodes", "gmn loops", "gmn parallel")],
)
def test_channels_that_share_edges(variant):
    """The change of an edge is the mean over its pairs of nodes; depth 4, as they differ late."""
    networks = (token_graph(),)
    compare_blocks(variant, build(variant, networks, depth=4), networks)


def compare_blocks(
    variant: str, model: GraphModel, networks: tuple[ParameterGraph, ...]
) -> list[np.ndarray]:
    """Compares the features after every block; returns pooled features of the reference."""
    block_equations = reference.BLOCKS[variant.split()[0]]
    mean_log_degree = reference.mean_log_degree(list(networks))
    graphdef, variables = nnx.split(model)

    def states_and_pooled(variables, batch):
        model = nnx.merge(graphdef, variables)
        layout = make_layout(batch, model.schema)
        states = [model.initial_state(layout)]
        for block in model.blocks:
            states.append(block(layout, states[-1], key=None, deterministic=True))
        return states, model.pool(layout, model.final_state(layout, states[-1]))

    options = fast_compile_options()
    run = jax.jit(states_and_pooled, compiler_options=options)
    pooled_features = []
    for graph in networks:
        states, pooled = run(variables, batched(graph))
        flat = reference.read_graph(graph, mean_log_degree, model.schema.form)
        x, e, g = rows(states[0])
        assert len(x) == flat.size and len(e) == len(set(flat.number))
        e = e[flat.number]
        for block, state in zip(model.blocks, states[1:], strict=True):
            x, e, g = block_equations(block, flat, x, e, g)
            features = (x, flat.once(e), g)
            for actual, expected in zip(rows(state), features, strict=True):
                if expected is not None:
                    close(actual, expected)
        if "scale" in variant:
            x = reference.mlp(model.last, reference.invariant(flat, x))
        expected = reference.readout(model.readout, flat, x, e, g)
        close(pooled[0], expected)
        pooled_features.append(expected)
    return pooled_features


@pytest.mark.parametrize("variant", ["gmn", "product_gmn moments"])
def test_encodings_of_weights(variant):
    """Edges start from their encoded values, nodes also from moments of their edges."""
    model = build(variant)
    sample = batched(graphs()[0])
    model.set_statistics(sample)
    compiled = compile_topology(graphs()[0].topology, model.schema)
    layout = make_layout(sample, model.schema)
    encoded = [np.asarray(e)[0, 0] for e in model.encoder.edges(layout)]
    seen = 0
    for entry, actual in zip(compiled.blocks, encoded, strict=True):
        if entry.block.edge < 0:
            continue
        values = np.asarray(sample.edges[entry.block.edge])[0, ..., 0]
        same_type = [
            np.asarray(sample.edges[other.block.edge]).ravel()
            for other in compiled.blocks
            if other.type == entry.type
        ]
        joined = np.concatenate(same_type)
        statistics = model.encoder.on_edges
        close(statistics.mean[...][entry.type], joined.mean())
        close(statistics.deviation[...][entry.type], joined.std())
        expected = reference.encode(
            statistics,
            entry.grid,
            entry.type,
            values.reshape(-1, values.shape[-1]),
            np.asarray(entry.positions),
        )
        close(actual.reshape(expected.shape), expected)
        seen += 1
    assert seen >= 3
    if "moments" in variant:
        heads = model.config.heads
        flat = reference.read_graph(graphs()[0], 0.0)
        edges = np.concatenate([e.reshape(-1, e.shape[-1]) for e in encoded])
        expected = np.asarray(model.nodes(layout))[0] + reference.linear(
            model.moments, reference.moments(flat, edges[:, heads:])
        )
        close(model.initial_state(layout).nodes[0], expected)
