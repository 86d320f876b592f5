"""Models that are not graph metanetworks compute the equations of their docstrings.

References are NumPy in float64 on SIRENs 2-3-4-1, whose weights are read by their names.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import reference_models as reference
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


def randomize(model: nnx.Module) -> None:
    """Draws all parameters: no gain is 1, no offset 0."""
    state = nnx.state(model, nnx.Param)
    leaves, treedef = jax.tree.flatten(state)
    rng = np.random.default_rng(1)
    drawn = [
        x + jnp.asarray(0.3 * rng.normal(size=x.shape), jnp.float32) for x in leaves
    ]
    nnx.update(model, treedef.unflatten(drawn))


def build(name: str, **options: Any) -> Any:
    model = build_model(
        name,
        {**OPTIONS.get(name, {}), **options},
        topology=graphs().topology,
        symmetry=symmetry(),
        probe=probe(),
        rngs=nnx.Rngs(0),
    )
    randomize(model)
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
            sequences = [_convolve(layer, s, model.config.kernel) for s in sequences]
        pooled.append(np.concatenate(sequences).mean(0))
    return np.stack(pooled)


def _convolve(layer: Any, rows: np.ndarray, kernel: int) -> np.ndarray:
    padded = np.concatenate([rows, np.zeros((kernel, rows.shape[1]))])
    windows = [padded[i : i + kernel].ravel() for i in range(0, len(rows), 2)]
    return reference.silu(reference.linear(layer, np.stack(windows)))


def probegen(model: Any) -> np.ndarray:
    """Outputs of the network at generated inputs between -2 and 1; then the MLP."""
    codes = reference.linear(model.generate, reference.value(model.codes))
    inputs = -0.5 + 1.5 * np.tanh(codes)
    outputs = np.stack([siren(number, inputs)[-1][:, 0] for number in range(COUNT)])
    return hidden_layers(model, (outputs - outputs.mean()) / outputs.std())


def functional(model: Any) -> np.ndarray:
    """Encodings of inputs and outputs where they are permuted; blocks; means."""
    leaves = [np.float64(x) for x in jax.tree.leaves(params())]
    permuted = model.config.pinned == "permuted"
    raw = []
    for spec in model.specs:
        x = leaves[spec.leaf]
        axes = x.shape[1:]
        order = (0, *(1 + i for i in spec.order)) if len(axes) == len(spec.order) else 0
        x = x.transpose(order) if order else x
        raw.append(x.reshape(COUNT, *spec.shape, -1))
    statistics = [(x.mean(), x.std()) for x in raw]
    pooled = []
    for number in range(COUNT):
        arrays = []
        for i, (spec, x) in enumerate(zip(model.specs, raw, strict=True)):
            mean, deviation = statistics[i]
            parts = [(x[number] - mean) / deviation]
            for axis, group in enumerate(spec.axes):
                if permuted and group.label >= len(symmetry().groups):
                    waves = _position_waves(group.size)
                    shape = [1] * len(spec.axes)
                    shape[axis] = group.size
                    waves = waves.reshape(*shape, -1)
                    wide = (*spec.shape, waves.shape[-1])
                    parts.append(np.broadcast_to(waves, wide))
            joined = np.concatenate(parts, axis=-1)
            arrays.append(reference.linear(model.start[i], joined))
        for block in model.blocks:
            arrays = _functional_block(model, block, arrays)
        means = [x.reshape(-1, x.shape[-1]).mean(0) for x in arrays]
        x = reference.rms(np.concatenate(means)) * reference.value(model.gain)
        pooled.append(x)
    return np.stack(pooled)


def _position_waves(size: int) -> np.ndarray:
    """Four octaves of sines and cosines of positions from 0 to 1."""
    position = np.linspace(0, 1, size)
    angles = [position * np.pi * 2**k for k in range(4)]
    return np.stack([*map(np.sin, angles), *map(np.cos, angles)], axis=1)


def _functional_block(model: Any, block: Any, arrays: list[Any]) -> list[Any]:
    def normed(gains: Any) -> list[np.ndarray]:
        return [
            reference.rms(x) * reference.value(gain)
            for x, gain in zip(arrays, gains, strict=True)
        ]

    if model.config.attention:
        attended = zip(arrays, normed(block.row_gains), block.rows, strict=True)
        arrays = [
            x if layer is None else x + _slices_attend(layer, y, model.config.heads)
            for x, y, layer in attended
        ]
    maps = _equivariant_maps(block.maps, model.specs, normed(block.gains))
    return [x + reference.silu(y) for x, y in zip(arrays, maps, strict=True)]


def _slices_attend(layer: Any, x: np.ndarray, heads: int) -> np.ndarray:
    """Per axis, attention between the slices along it; heads split the channels."""
    update = np.zeros(x.shape)
    queries_keys_values = np.split(x @ reference.value(layer.read.kernel), 3, axis=-1)
    for axis in range(x.ndim - 1):
        parts = [np.moveaxis(y, axis, 0) for y in queries_keys_values]
        split = [np.split(y, heads, axis=-1) for y in parts]
        outputs = []
        for q, k, v in zip(*split, strict=True):
            rows = [y.reshape(len(y), -1) for y in (q, k, v)]
            outputs.append(attend(*rows, 1).reshape(v.shape))
        update += np.moveaxis(np.concatenate(outputs, axis=-1), 0, axis)
    return reference.linear(layer.write, update)


def _equivariant_maps(maps: Any, specs: Any, arrays: list[Any]) -> list[Any]:
    """Every map entry by entry: blocks of axes have one value each."""
    reduce = {"mean": np.mean, "max": np.max}[maps.reduce]

    def entries(side: Any) -> Any:
        """Pairs of the values of the blocks that a map retains, and an entry."""
        spec = specs[side.array]
        sizes = [spec.axes[block[0]].size for block in side.blocks]
        for values in itertools.product(*map(range, sizes)):
            entry = [0] * len(spec.axes)
            for block, number in zip(side.blocks, values, strict=True):
                for axis in block:
                    entry[axis] = number
            yield tuple(values[i] for i in side.kept), tuple(entry)

    sums = [np.zeros(x.shape) for x in arrays]
    counts = [0] * len(arrays)
    for (ins, outs), layer in zip(maps.terms, maps.mixes, strict=True):
        read: dict[tuple[int, ...], list[np.ndarray]] = {}
        for side in ins:
            members: dict[tuple[int, ...], list[np.ndarray]] = {}
            for retained, entry in entries(side):
                members.setdefault(retained, []).append(arrays[side.array][entry])
            for retained, values in members.items():
                read.setdefault(retained, []).append(reduce(values, axis=0))
        mixed = {
            retained: reference.linear(layer, np.concatenate(parts))
            for retained, parts in read.items()
        }
        start = 0
        for side in outs:
            width = arrays[side.array].shape[-1]
            for retained, entry in entries(side):
                sums[side.array][entry] += mixed[retained][start : start + width]
            start += width
            counts[side.array] += 1
    return [y / np.sqrt(count) for y, count in zip(sums, counts, strict=True)]


REFERENCES = {
    "flat_mlp": flat_mlp,
    "statnn": statnn,
    "transformer": transformer,
    "dmc": dmc,
    "probegen": probegen,
    **dict.fromkeys(("dws", "nfn_np", "nfn_hnp", "unf", "nft"), functional),
}


def test_every_other_model_has_a_reference():
    others = {
        name
        for name in MODELS
        if MODELS[name].__module__.startswith("metanet.")
        and not issubclass(MODELS[name], GraphModel)
    }
    assert others == set(REFERENCES)


@pytest.mark.parametrize("name", REFERENCES)
def test_pooled_features(name):
    model = build(name)
    graphdef, variables = nnx.split(model)

    @functools.partial(jax.jit, compiler_options=fast_compile_options())
    def pooled(variables, graphs):
        return nnx.merge(graphdef, variables)(graphs).pooled

    close(pooled(variables, graphs()), REFERENCES[name](model))


def test_a_packed_sequence_has_the_features_of_a_dense_one():
    model = build("dmc")
    part = compile_topology(graphs().topology, model.schema).packed
    leaves = zip(*jax.tree.leaves(params()), strict=True)
    flat = [np.concatenate([np.ravel(x) for x in network]) for network in leaves]
    budget = Budget(COUNT * part.nodes + 3, COUNT * part.edges + 5, COUNT + 1)
    packed = model(pack([part] * COUNT, flat, budget)).pooled
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


@pytest.mark.parametrize("homogeneous", [False, True])
def test_edit_heads(homogeneous):
    """Kernels read an edge and both of its ends, biases their node."""
    model = build("gmn", dim=8, depth=1, bias="feature")
    head = EditHead(model, homogeneous=homogeneous, rngs=nnx.Rngs(2))
    randomize(head)
    features = model(graphs())
    values = head(graphs(), features)
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
