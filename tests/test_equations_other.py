"""Models that are not graph metanetworks compute the equations of their docstrings.

References are NumPy in float64. All models read SIRENs 2-3-4-1, whose weights the references
read by their names; those that depend on the architecture also read other networks.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_equations as graph_models
from flax import nnx
from helpers import reference_models as reference
from helpers import reference_other_models as others
from helpers.metanetworks import randomize
from helpers.symmetry_networks import NETWORKS, array, deep_mlp, tanh
from scipy.special import softmax

from metanet import symmetry as sym
from metanet.compiler import fast_compile_options
from metanet.graphs import (
    Budget,
    ParameterGraph,
    build_topology,
    compile_topology,
    make_layout,
    pack,
    to_graph,
)
from metanet.models import MODELS, EditHead, GraphModel, Probe, build_model
from metanet.models.equivariant_maps import array_specs
from metanet.models.functionals import EquivariantLinear
from metanet.networks import Architecture, ParamSpec, create

W0, SIZES, COUNT = 2.0, (2, 3, 4, 1), 3
NETWORK = create(Architecture.of("siren", hidden=SIZES[1:3], w0=W0), jax.random.key(0))
OPTIONS: dict[str, dict[str, Any]] = {
    "flat_mlp": {"dim": 8, "depth": 2},
    "statnn": {"dim": 8, "depth": 2},
    "transformer": {"dim": 8, "depth": 2, "heads": 2, "token": 3},
    "dmc": {"dim": 16, "depth": 3, "kernel": 4},
    "probegen": {"probes": 3, "latent": 4, "dim": 8, "depth": 2},
    "dws": {"dim": 4, "depth": 2},
    "nfn_np": {"dim": 4, "depth": 2},
    "nfn_hnp": {"dim": 4, "depth": 2},
    "unf": {"dim": 4, "depth": 2},
    "nft": {"dim": 4, "depth": 2, "heads": 2},
}


@functools.cache
def symmetry() -> sym.Symmetry:
    return sym.discover(*NETWORK[:2], *NETWORK.inputs, check=False)


@functools.cache
def weights() -> dict[str, np.ndarray]:
    """Random arrays ``[COUNT, ...]`` of all networks, by name, in the order of layers."""
    rng = np.random.default_rng(0)
    arrays = {}
    for i, (a, b) in enumerate(itertools.pairwise(SIZES)):
        scale = 0.5 + i
        arrays[f"kernel {i}"] = scale * rng.normal(size=(COUNT, a, b)) + 0.1
        arrays[f"bias {i}"] = scale * rng.normal(size=(COUNT, b)) - 0.2
    return {name: x.astype(np.float32).astype(np.float64) for name, x in arrays.items()}


def params() -> Any:
    layers = {
        i: {name: jnp.float32(weights()[f"{name} {i}"]) for name in ("bias", "kernel")}
        for i in range(len(SIZES) - 1)
    }
    return {"layers": layers}


@functools.cache
def graphs() -> ParameterGraph:
    return to_graph(build_topology(symmetry()), params())


def siren(number: int, x: np.ndarray) -> list[np.ndarray]:
    """Values of all layers of one network at inputs ``[K, 2]``."""
    values = []
    for i in range(len(SIZES) - 1):
        x = x @ weights()[f"kernel {i}"][number] + weights()[f"bias {i}"][number]
        x = np.sin(W0 * x) if i < len(SIZES) - 2 else x
        values.append(x)
    return values


def probe() -> Probe:
    activations = functools.partial(
        sym.compute_activations, NETWORK.apply_fn, symmetry()
    )
    return Probe(activations, ParamSpec.of(NETWORK.params), (2,), low=-2.0, high=1.0)


def build(name: str, **options: Any) -> Any:
    model = build_model(
        name,
        {**OPTIONS.get(name, {}), **options},
        topology=graphs().topology,
        symmetry=symmetry(),
        probe=probe(),
        rngs=nnx.Rngs(0),
    )
    randomize(model, 0.3, seed=1)
    model.set_statistics(graphs())
    return model


def close(actual: Any, expected: np.ndarray) -> None:
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-5 * scale)


def hidden_layers(model: Any, x: np.ndarray) -> np.ndarray:
    for layer in model.layers:
        x = reference.silu(reference.linear(layer, x))
    return x


def flat_mlp(model: Any) -> np.ndarray:
    """Each array standardised over all networks; then the MLP."""
    parts = [((x - x.mean()) / x.std()).reshape(COUNT, -1) for x in weights().values()]
    return hidden_layers(model, np.concatenate(parts, axis=1))


def statnn(model: Any) -> np.ndarray:
    """Mean, variance and quartiles of each array, standardised; then the MLP."""
    columns = []
    for x in weights().values():
        flat = x.reshape(COUNT, -1)
        columns += [flat.mean(1), flat.var(1)]
        columns += list(np.quantile(flat, [0, 0.25, 0.5, 0.75, 1], axis=1))
    raw = np.stack(columns, axis=1)
    deviation = raw.std(0)
    varies = deviation > 1e-3 * np.abs(raw.mean(0))
    x = (raw - raw.mean(0)) / np.where(varies, deviation, 1.0)
    return hidden_layers(model, x)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> np.ndarray:
    """Attention of rows ``[N, d]``; d is split over the heads."""
    outputs = []
    for a, b, c in zip(*(np.split(y, heads, axis=1) for y in (q, k, v)), strict=True):
        outputs.append(softmax(a @ b.T / np.sqrt(a.shape[1]), axis=1) @ c)
    return np.concatenate(outputs, axis=1)


def transformer(model: Any) -> np.ndarray:
    """A unit's incoming weights in pieces of ``token`` numbers; biases of a layer in one."""
    length, heads = model.config.token, model.config.heads
    pooled = []
    for number in range(COUNT):
        rows = []
        for x in weights().values():
            standard = (x[number] - x.mean()) / x.std()
            for unit in standard.T if standard.ndim == 2 else [standard]:
                for start in range(0, len(unit), length):
                    piece = unit[start : start + length]
                    rows.append(np.pad(piece, (0, length - len(piece))))
        x = reference.linear(model.read, np.stack(rows))
        x = x + reference.value(model.position)
        for layer in range(model.config.depth):
            qkv = reference.norm_linear(model.attend[layer], x)
            mixed = attend(*np.split(qkv, 3, axis=1), heads)
            x = x + reference.linear(model.mix[layer], mixed)
            wide = reference.silu(reference.norm_linear(model.widen[layer], x))
            x = x + reference.linear(model.narrow[layer], wide)
        pooled.append(reference.rms(x).mean(0))
    return np.stack(pooled)


def dmc(model: Any) -> np.ndarray:
    """Convolutions of stride 2 along the nodes and along the edges, then the mean."""
    compiled = compile_topology(graphs().topology, model.schema)

    def encode(encoder: Any, grid: int, key: int, x: np.ndarray) -> np.ndarray:
        return reference.encode(encoder, grid, key, x[..., None], np.zeros(1, int))

    pooled = []
    for number in range(COUNT):
        width = model.on_nodes.width
        nodes, edges = [np.zeros((SIZES[0], width))], []
        for i in range(len(SIZES) - 1):
            bias, kernel = (weights()[f"{n} {i}"][number] for n in ("bias", "kernel"))
            (entry,), block = compiled.node_parameters[i + 1], compiled.blocks[i]
            nodes.append(encode(model.on_nodes, entry.grid, entry.type, bias))
            rows = encode(model.on_edges, block.grid, block.type, kernel)
            edges.append(rows.reshape(-1, width))
        sequences = [np.concatenate(nodes), np.concatenate(edges)]
        for layer in model.filters:
            convolved = [
                others.strided(layer, s, model.config.kernel) for s in sequences
            ]
            sequences = [reference.silu(s) for s in convolved]
        pooled.append(np.concatenate(sequences).mean(0))
    return np.stack(pooled)


def probegen(model: Any) -> np.ndarray:
    """Outputs of the network at generated inputs between -2 and 1; then the MLP."""
    codes = reference.linear(model.generate, reference.value(model.codes))
    inputs = -0.5 + 1.5 * np.tanh(codes)
    outputs = np.stack([siren(number, inputs)[-1][:, 0] for number in range(COUNT)])
    return hidden_layers(model, (outputs - outputs.mean()) / outputs.std())


def functional(model: Any) -> np.ndarray:
    leaves = [np.float64(x) for x in jax.tree.leaves(params())]
    networks = [[x[number] for x in leaves] for number in range(COUNT)]
    return others.functional(model, networks, len(symmetry().groups))[0]


REFERENCES = {
    "flat_mlp": flat_mlp,
    "statnn": statnn,
    "transformer": transformer,
    "dmc": dmc,
    "probegen": probegen,
    **dict.fromkeys(("dws", "nfn_np", "nfn_hnp", "unf", "nft"), functional),
}


def test_every_other_model_has_a_reference():
    models = {
        name
        for name in MODELS
        if MODELS[name].__module__.startswith("metanet.")
        and not issubclass(MODELS[name], GraphModel)
    }
    assert models == set(REFERENCES)


@pytest.mark.parametrize("name", REFERENCES)
def test_pooled_features(name):
    model = build(name)
    close(pool(model, graphs()), REFERENCES[name](model))


def test_cost_of_a_transformer_is_its_widest_array():
    """Hidden features of all tokens, or scores of all pairs per head."""
    for options in ({"dim": 32, "token": 8}, {"dim": 2, "heads": 2, "token": 1}):
        model = build("transformer", **options)
        size, heads = len(model.index), model.config.heads
        widest = max(4 * size * model.dim, heads * size * size)
        assert model.cost == widest
    assert widest == heads * size * size


def test_a_packed_sequence_has_the_features_of_a_dense_one():
    model = build("dmc")
    part = compile_topology(graphs().topology, model.schema).packed
    leaves = zip(*jax.tree.leaves(params()), strict=True)
    flat = [np.concatenate([np.ravel(x) for x in network]) for network in leaves]
    budget = Budget(COUNT * part.nodes + 3, COUNT * part.edges + 5, COUNT + 1)
    packed = pool(model, pack([part] * COUNT, flat, budget))
    close(packed[:COUNT], dmc(model))


def test_probes_add_a_linear_map_of_activations():
    """The activations of hidden units after their nonlinearity, of outputs as they are."""
    model = build("gmn", dim=8, depth=1, probes=3)
    layout = make_layout(graphs(), model.schema)
    inputs = reference.value(model.probes.inputs)
    expected = np.array(model.encoder.nodes(layout), np.float64)
    for number in range(COUNT):
        start = SIZES[0]
        for i, values in enumerate(siren(number, inputs), start=1):
            added = reference.linear(model.probes.maps[i], values.T)
            expected[number, start : start + SIZES[i]] += added
            start += SIZES[i]
    close(model.nodes(layout), expected)


@functools.partial(jax.jit, compiler_options=fast_compile_options())
def edit(model: Any, head: EditHead, batch: Any) -> tuple[Any, jax.Array]:
    """Features of the model, and values of the head."""
    features = model(batch)
    return features, head(batch, features)


@functools.partial(jax.jit, compiler_options=fast_compile_options())
def pool(model: Any, batch: Any) -> jax.Array:
    """Pooled features of the model."""
    return model(batch).pooled


@pytest.mark.parametrize("homogeneous", [False, True])
def test_edit_heads(homogeneous):
    """Kernels read an edge and both of its ends, biases their node."""
    model = build("gmn", dim=8, depth=1, bias="feature")
    head = EditHead(model, homogeneous=homogeneous, rngs=nnx.Rngs(2))
    randomize(head, 0.3, seed=1)
    features, values = edit(model, head, graphs())
    compiled = compile_topology(graphs().topology, model.schema)
    expected = []
    for number in range(COUNT):
        nodes = np.float64(features.nodes[number])
        at_nodes = reference.linear(head.on_nodes, nodes) * head.node_scale[...]
        layers, start = {}, 0
        for i, (a, b) in enumerate(itertools.pairwise(SIZES)):
            sources, targets = (
                nodes[start : start + a],
                nodes[start + a : start + a + b],
            )
            rows = np.float64(features.edges[i][number]).reshape(a, b, -1)
            hidden = reference.linear(head.projection, rows)
            if not homogeneous:
                at_sources, _ = np.split(reference.linear(head.ends, sources), 2, -1)
                _, at_targets = np.split(reference.linear(head.ends, targets), 2, -1)
                hidden = hidden + at_sources[:, None] + at_targets[None]
                hidden = reference.silu(hidden)
            scale = float(head.edge_scale[...][compiled.blocks[i].type])
            kernel = reference.linear(head.on_edges, hidden)[..., 0] * scale
            start += a
            layers[i] = {"bias": at_nodes[start : start + b, 0], "kernel": kernel}
        leaves = jax.tree.leaves({"layers": layers})
        expected.append(np.concatenate([x.ravel() for x in leaves]))
    close(values, np.stack(expected))


# Convolutions; square arrays, which have diagonals; channels within heads.
ARCHITECTURES = {
    "CNN": graph_models.CASES["CNN"],
    "RNN": NETWORKS["rnn"],
    "attention": NETWORKS["fused, reshape"],
}


@functools.cache
def sample(architecture: str) -> tuple[sym.Symmetry, list[Any]]:
    """The symmetry of an architecture, and random parameters of three networks."""
    network = ARCHITECTURES[architecture]()
    discovered = sym.discover(*network[:2], *network.inputs, check=False)
    leaves, treedef = jax.tree.flatten(network.params)
    rng = np.random.default_rng(0)
    drawn = [
        [jnp.asarray(0.7 * rng.normal(size=x.shape), jnp.float32) for x in leaves]
        for _ in range(COUNT)
    ]
    return discovered, [treedef.unflatten(network) for network in drawn]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", ["dws", "nfn_np", "nfn_hnp", "unf", "nft"])
def test_weight_space_functionals(name, architecture):
    discovered, networks = sample(architecture)
    batch = to_graph(
        build_topology(discovered), jax.tree.map(lambda *xs: jnp.stack(xs), *networks)
    )
    model = build_model(
        name,
        {**OPTIONS[name], "dim": 2},
        topology=batch.topology,
        symmetry=discovered,
        rngs=nnx.Rngs(0),
    )
    randomize(model, 0.3, seed=1)
    model.set_statistics(batch)
    leaves = [[np.float64(x) for x in jax.tree.leaves(p)] for p in networks]
    expected, features = others.functional(model, leaves, len(discovered.groups))
    close(pool(model, batch), expected)
    call = jax.jit(lambda m, g: m.arrays(g), compiler_options=fast_compile_options())
    arrays = call(model, batch)
    for number, network in enumerate(features):
        for actual, wanted in zip(arrays, network, strict=True):
            close(actual[number], wanted)


@pytest.mark.parametrize("pinned", ["permuted", "channels"])
def test_maps_on_an_mlp_are_those_of_the_paper(pinned):
    """Means of rows, of columns and of whole arrays, in NFN-NP and NFN-HNP."""
    network = deep_mlp()
    discovered = sym.discover(*network[:2], *network.inputs, check=False)
    specs = array_specs(discovered, pinned)
    layer = EquivariantLinear(specs, 2, 3, rngs=nnx.Rngs(0))
    randomize(layer, 0.3, seed=1)
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(*s.shape, s.dense * 2)) for s in specs]
    depth, ends = len(specs) // 2, pinned == "permuted"
    permuted = [ends, *[True] * (depth - 1), ends]
    # Leaves are in the order of their names: all biases, then all weights.
    weights, biases = others.nfn_layer(layer, arrays[depth:], arrays[:depth], permuted)
    call = jax.jit(lambda m, x: m(x), compiler_options=fast_compile_options())
    outputs = call(layer, [jnp.asarray(x[None], jnp.float32) for x in arrays])
    for actual, expected in zip(outputs, [*biases, *weights], strict=True):
        close(actual[0], expected)


def test_sequences_of_several_architectures():
    """Kernels and recurrence, dense and in one bin."""
    model = build_model(
        "dmc",
        {"dim": 16, "depth": 3, "kernel": 3},
        topology=[graph.topology for graph in graph_models.graphs()],
        rngs=nnx.Rngs(0),
    )
    randomize(model, 0.3, seed=1)
    graphs = graph_models.graphs()
    batch = graph_models.packed_batch(model, graphs)
    model.set_statistics(batch)
    packed = pool(model, batch)
    expected = others.dmc(model, list(graphs))
    for i, graph in enumerate(graphs):
        close(packed[i], expected[i])
        close(pool(model, graph_models.batched(graph))[0], expected[i])


def numbered(graph: ParameterGraph) -> ParameterGraph:
    """The graph of the same architecture whose parameters are their numbers."""
    leaves, start = [], 0
    for _, shape in graph.topology.leaves:
        size = int(np.prod(shape))
        leaves.append(jnp.arange(start, start + size, dtype=jnp.float32).reshape(shape))
        start += size
    return to_graph(graph.topology, leaves)


def repeated_layer() -> ParameterGraph:
    """The graph of a network that uses one array twice."""
    params = {"w": array(3, 4), "u": array(4, 4), "o": array(4, 2)}

    def run(p, x):
        hidden = tanh(tanh(tanh(x @ p["w"]) @ p["u"]) @ p["u"])
        return hidden @ p["o"]

    discovered = sym.discover(run, params, array(5, 3), check=False)
    topology = build_topology(discovered)
    assert sorted(edge.primary for edge in topology.edges) == [False, True, True, True]
    return to_graph(topology, params)


@pytest.mark.parametrize(
    ("variant", "tied"),
    [
        ("gmn attention", False),
        ("gmn bias nodes", False),
        ("gmn loops", False),
        ("gmn parallel", False),
        ("product_gmn", True),
        ("scale_gmn_b", False),
    ],
)
def test_edits_in_all_forms(variant, tied):
    """Biases as features, edges or loops; kernels in one edge or several; packed.

    Tied weights take the value of their first use.
    """
    graphs = (repeated_layer(),) if tied else graph_models.graphs()
    model = graph_models.build(variant, graphs)
    head = EditHead(model, homogeneous="scale" in variant, rngs=nnx.Rngs(2))
    randomize(head, 0.3, seed=1)
    largest = max(graph.topology.num_parameters for graph in graphs)
    _, packed = edit(model, head, graph_models.packed_batch(model, graphs, largest))
    for i, graph in enumerate(graphs):
        features, values = edit(model, head, graph_models.batched(graph))
        x, e, _ = graph_models.rows((features.nodes, features.edges, None))
        expected = others.edit(head, graph, numbered(graph), x, e)
        close(values[0], expected)
        close(packed[i, : len(expected)], expected)
        assert (np.asarray(packed[i, len(expected) :]) == 0).all()
