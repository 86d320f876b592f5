"""Cases of the training-step benchmark, built from the parts that training uses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from metanet import symmetry as sym
from metanet.graphs import build_topology, edge_blocks, plan, to_graph
from metanet.models import MODELS, GMNConfig, ProductGMNConfig, build_model
from metanet.networks import Architecture, ParamSpec, create
from metanet.tasks import Classification, ClassificationConfig
from metanet.training.config import ExperimentConfig, NamedConfig
from metanet.training.dense import Dataset, DenseReader, micro_batch
from metanet.training.experiment import Experiment, InputArchitecture, Metanetwork
from metanet.training.optimizer import build_optimizer
from metanet.training.packed import (
    PackedItems,
    PackedReader,
    arrange,
    default_budget,
    pack_bins,
)
from metanet.training.profile import (
    matmul_peak,
    median_seconds,
    parameter_count,
    peak_memory,
    product_flops,
)
from metanet.training.sharding import DataParallel
from metanet.training.step import initial_state, make_train_step
from metanet.zoos import FAMILIES, ImageShape

_POOL = 1024
INR = Architecture.of("siren", hidden=(32, 32))
SMALL_CNN = Architecture.of("small_cnn")
_BASELINES: dict[str, Mapping[str, Any]] = {
    name: {}
    for name in ("nft", "deep_sets", "set_transformer", "transformer", "flat_mlp",
                 "dmc", "probegen")
}  # fmt: skip
# Per case the models: record name to (registered name, options), with the widths of the
# public implementations, and their networks per second on two cores (tuned allocator
# where that was measured; None: no figure).
STACKED: dict[str, tuple[Architecture, dict[str, tuple[str, dict, float | None]]]]
STACKED = {
    "inr": (
        INR,
        {
            "product_gmn": ("product_gmn", {}, None),
            "product_gmn_probes": ("product_gmn", {"probes": 64}, None),
            "gmn": ("gmn", {}, 81),
            "ng_gnn": ("ng_gnn", {}, 65),
            "ng_gnn_32": ("ng_gnn", {"dim": 32}, 65),
            "ng_t": ("ng_t", {"attention_dim": 128}, 6.3),
            "scale_gmn": ("scale_gmn", {}, 14),
            "scale_gmn_b": ("scale_gmn_b", {}, 4.1),
            "scale_product_gmn": ("scale_product_gmn", {}, None),
            "dws": ("dws", {}, 155),
            "nfn_np": ("nfn_np", {"dim": 512}, 42),
            "nfn_hnp": ("nfn_hnp", {"dim": 512}, 19),
            "unf": ("unf", {}, 1438),
            "statnn": ("statnn", {}, None),
            **{name: (name, dict(o), None) for name, o in _BASELINES.items()},
        },
    ),
    "small_cnn": (
        SMALL_CNN,
        {
            "product_gmn": ("product_gmn", {}, None),
            "gmn": ("gmn", {}, None),
            "gmn_parallel": ("gmn", {"kernel": "parallel"}, 12),
            "ng_gnn_32": ("ng_gnn", {"dim": 32}, 108),
            "ng_gnn_256": ("ng_gnn", {"dim": 256}, 6.1),
            "ng_t": ("ng_t", {"attention_dim": 128}, 13),
            "ng_t_128": (
                "ng_t",
                {"dim": 128, "edge_dim": 64, "attention_dim": 256},
                3.7,
            ),
            "scale_gmn": ("scale_gmn", {}, 42),
            "scale_gmn_b": ("scale_gmn_b", {}, 22),
            "scale_product_gmn": ("scale_product_gmn", {}, None),
            "nfn_hnp": ("nfn_hnp", {"dim": 16}, 471),
            "unf": ("unf", {"dim": 8}, 177),
            "statnn": ("statnn", {"dim": 640}, 4690),
            **{name: (name, dict(o), None) for name, o in _BASELINES.items()},
        },
    ),
}
PACKED = {
    "product_gmn": {}, "gmn": {}, "ng_gnn": {"dim": 32}, "ng_t": {}, "scale_gmn": {},
    "scale_gmn_b": {}, "scale_product_gmn": {}, "deep_sets": {}, "set_transformer": {},
    "dmc": {},
}  # fmt: skip


def synthetic_experiment(
    architecture: Architecture, config: ExperimentConfig
) -> tuple[Experiment, np.ndarray]:
    """An experiment on new random networks, and their weights ``[1024, P]``."""
    one = InputArchitecture.of(architecture, config)
    keys = jax.random.split(jax.random.key(1), _POOL)
    draw = lambda key: one.spec.flatten(create(architecture, key).params)
    weights = jax.jit(jax.vmap(draw))(keys)
    experiment = Experiment(config, {"0": one}, _task())
    return experiment, np.asarray(weights)


def _task() -> Classification:
    return Classification(ClassificationConfig(), tuple("0123456789"))


def stacked_cases(
    case: str,
    wanted: Callable[[str], bool],
    batch: int,
    repeats: int,
    bf16: bool = False,
) -> Iterator[dict[str, Any]]:
    """Measures models on batches of networks of one architecture."""
    architecture, models = STACKED[case]
    for name, (model, options, public) in models.items():
        if not wanted(name):
            continue
        record = measure_stacked(
            architecture,
            NamedConfig.of(model, **options),
            batch,
            repeats,
            bf16=bf16,
        )
        ratio = record["networks_per_second"] / public if public else None
        yield {
            "case": f"{case}_batch_{batch}",
            "model": name,
            **record,
            "public_networks_per_second": public,
            "times_public": ratio,
        }


def measure_stacked(
    architecture: Architecture,
    model: NamedConfig,
    batch: int,
    repeats: int,
    micro: int = 0,
    bf16: bool = False,
) -> dict[str, Any]:
    """One record: speed of the training step and of the forward pass, memory, size."""
    config = ExperimentConfig(model=model)
    train = replace(config.train, batch_size=batch, bf16=bf16)
    config = replace(config, train=train)
    experiment, weights = synthetic_experiment(architecture, config)
    optimizer = build_optimizer(config.optimizer, config.train.steps)
    net = experiment.build()
    sample = jax.jit(experiment.single.graphs)(jnp.asarray(weights))
    net.model.set_statistics(sample)
    graphdef, state = initial_state(net, optimizer)
    parallel = DataParallel()
    state = parallel.replicate(state)
    reader = DenseReader(experiment, parallel)
    step = make_train_step(reader, experiment.task, graphdef, optimizer, config)
    micro = micro_batch(
        batch,
        net.model.cost,
        parallel.size,
        jax.default_backend(),
        micro,
        parameter_count(state.params),
    )
    labels = np.zeros(len(weights), np.int32)
    data = parallel.replicate(
        Dataset(jnp.asarray(weights), {"label": jnp.asarray(labels)})
    )
    rows = np.arange(batch, dtype=np.int32).reshape(-1, micro)
    indices = parallel.split(rows, axis=1)
    flops = product_flops(step, state, data, indices)
    compiled = step.lower(state, data, indices).compile()
    params, rest = jax.tree.map(jnp.copy, (state.params, state.rest))

    def forward(index: jax.Array) -> jax.Array:
        batch = experiment.single.task_batch(data.weights[index])
        return nnx.merge(graphdef, params, rest)(batch)

    forward_all = jax.jit(lambda i: jax.lax.map(forward, i))
    build = jax.jit(
        lambda i: jax.lax.map(
            lambda r: experiment.single.graphs(data.weights[r]).edges, i
        )
    )
    held = [state]

    def run() -> jax.Array:
        held[0], metrics = step(held[0], data, indices)
        return metrics["loss"]

    seconds = median_seconds(run, repeats)
    return {
        "parameters": parameter_count(params),
        **_speed(batch, seconds, flops, compiled),
        "forward_per_second": batch
        / median_seconds(lambda: forward_all(rows), repeats),
        "micro_batch": micro,
        "graph_share": median_seconds(lambda: build(rows), repeats) / seconds,
        "traces": _traces(step),
    }


def _traces(step: Any) -> int:
    """Programs that a jitted function has compiled in its calls."""
    return step._cache_size()


def _speed(count: float, seconds: float, flops: int, compiled: Any) -> dict[str, Any]:
    peak = matmul_peak()
    return {
        "networks_per_second": count / seconds,
        "gflops": flops / seconds / 1e9,
        "peak_gflops": peak / 1e9,
        "share_of_peak": flops / seconds / peak,
        "peak_memory_bytes": peak_memory(compiled),
    }


def packed_cases(
    wanted: Callable[[str], bool], repeats: int, count: int = 256
) -> Iterator[dict[str, Any]]:
    """Measures graph models on packed batches of different CNNs, about 64 a batch."""
    rng = np.random.default_rng(0)
    images = ImageShape(side=28, channels=1, classes=10)
    drawn = [FAMILIES["wild_park"].draw(rng, images) for _ in range(count)]
    networks = [create(a, jax.random.key(i)) for i, a in enumerate(drawn)]
    topologies = [
        build_topology(sym.discover(n.apply_fn, n.params, *n.inputs, check=False))
        for n in networks
    ]
    weights = [np.asarray(ParamSpec.of(n.params).flatten(n.params)) for n in networks]
    for name, options in PACKED.items():
        if wanted(name):
            yield {
                "case": "packed_cnns",
                "model": name,
                **_measure_packed(name, options, topologies, weights, repeats),
            }


def _pack(bins, plans, weights, labels, budget) -> PackedItems:
    networks = pack_bins(bins, plans, weights, {"label": labels}, budget)
    return PackedItems(networks, np.asarray(sum(map(len, bins)), np.int32))


def _measure_packed(
    name: str, options: dict[str, Any], topologies, weights, repeats: int
) -> dict[str, Any]:
    rngs = nnx.Rngs(0)
    model = build_model(name, options, topology=topologies, rngs=rngs)
    task = _task()
    plans = [plan(t, model.schema) for t in topologies]  # type: ignore[attr-defined]
    edges = sum(p.edges for p in plans) / len(plans)
    wide = 64 / model.cost * max(p.edges for p in plans)
    budget = default_budget(plans, 8192 if wide <= 1 else 4096)
    chunks = max(1, round(64 * edges / budget.edges))
    order = itertools.cycle(range(len(plans)))
    batches = arrange(order, plans, budget, chunks)
    labels = np.zeros(len(plans), np.int32)
    first = _pack(next(batches), plans, weights, labels, budget)
    sample = jax.tree.map(lambda x: x[0], first.bins.graphs)
    model.set_statistics(sample)
    net = Metanetwork(model, task.head(model, rngs=rngs))
    config = ExperimentConfig()
    optimizer = build_optimizer(config.optimizer, 1000)
    graphdef, state = initial_state(net, optimizer)
    step = make_train_step(PackedReader(), task, graphdef, optimizer, config)
    flops = product_flops(step, state, (), first)
    parameters = parameter_count(state.params)
    compiled = step.lower(state, (), first).compile()
    held = [state]
    seen, used, packing = [], [], []

    def pack_next():
        bins = next(batches)
        used.append(sum(plans[i].edges for b in bins for i in b))
        seen.append(sum(map(len, bins)))
        return _pack(bins, plans, weights, labels, budget)

    ready = [pack_next() for _ in range(repeats + 2)]
    packing.append(median_seconds(pack_next, repeats))
    turn = itertools.cycle(ready)

    def run() -> jax.Array:
        held[0], metrics = step(held[0], (), next(turn))
        return metrics["loss"]

    seconds = median_seconds(run, repeats)
    networks = sum(seen[: repeats + 2]) / (repeats + 2)
    slots = chunks * budget.edges
    return {
        "parameters": parameters,
        **_speed(networks, seconds, flops, compiled),
        "networks_per_batch": networks,
        "padding": 1 - sum(used) / len(used) / slots,
        "packing_share": packing[0] / seconds,
        "chunks": chunks,
        "budget_edges": budget.edges,
        "traces": _traces(step),
    }


SINGLE: dict[str, tuple[Architecture, tuple[tuple[str, Any], ...]]] = {
    "resnet18": (
        Architecture.of("resnet"),
        (
            ("product_gmn", ProductGMNConfig(dim=16, heads=4, depth=2)),
            ("gmn", GMNConfig(dim=16, depth=2, frequencies=4)),
        ),
    ),
    "vit_s": (
        Architecture.of("vit", side=32, dim=384, depth=12, heads=6, hidden=1536),
        (("product_gmn", ProductGMNConfig(dim=16, heads=4, depth=2, frequencies=4)),),
    ),
}


def single_cases(
    case: str, wanted: Callable[[str], bool], repeats: int
) -> Iterator[dict[str, Any]]:
    """Measures forward and backward passes on one large network."""
    architecture, models = SINGLE[case]
    network = create(architecture, jax.random.key(0))
    found = sym.discover(network.apply_fn, network.params, *network.inputs, check=False)
    topology = build_topology(found)
    batch = jax.tree.map(lambda x: x[None], network.params)
    edges = sum(int(np.prod(g.shape)) for g in edge_blocks(topology))
    for name, config in models:
        if not wanted(name):
            continue
        options = {f: getattr(config, f) for f in MODELS.options(name)}
        model = build_model(name, options, topology=topology, rngs=nnx.Rngs(0))
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)

        def step(params, batch, graphdef=graphdef, rest=rest):
            def loss(params):
                graphs = to_graph(topology, batch)
                return (nnx.merge(graphdef, params, rest)(graphs).pooled ** 2).mean()

            value, gradient = jax.value_and_grad(loss)(params)
            return value, optax.tree.norm(gradient)

        flops = product_flops(step, params, batch)
        compiled = jax.jit(step).lower(params, batch).compile()
        seconds = median_seconds(lambda c=compiled, p=params: c(p, batch), repeats, 1)
        yield {
            "case": case,
            "model": name,
            "parameters": parameter_count(params),
            "edges": edges,
            "graph_parameters": topology.num_parameters,
            **_speed(1, seconds, flops, compiled),
        }
