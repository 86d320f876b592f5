r"""Training steps per second of every model, one JSON line per case.

    python experiments/bench_train_step.py
    python experiments/bench_train_step.py --cases inr --models gmn,ng_t --repeats 9

Cases: ``inr`` (SIRENs 2-32-32-1, 64 per batch), ``small_cnn`` (CNNs 1-16-16-16-10 with 3x3
kernels, 64 per batch), ``packed`` (batches of about 64 different CNNs with 2 to 5 layers,
4 to 32 channels, kernels 3 to 7, with and without shortcuts), ``resnet18`` and ``vit_s``
(one network as one graph).

``gflops`` counts the matrix products of the step's program; ``share_of_peak`` relates them
to a 2048^3 product in the same process. ``times_public`` is the ratio to the public
implementation of the model on two such cores (a full PyTorch training step).
``peak_memory_bytes`` is the memory of the compiled program. ``--allocator tuned`` sets
MALLOC_MMAP_MAX_=0 and a large MALLOC_TRIM_THRESHOLD_, as for the public figures.
``--bf16`` is ``train.bf16``: bfloat16 products with float32 sums, for accelerators with
units for them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from metanet import symmetry as sym
from metanet.graphs import build_topology, compile_topology, edge_blocks, to_graph
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


class ModelCase(NamedTuple):
    """A model of the benchmark.

    Attributes:
        model: Registered name.
        options: Options that differ from the model's defaults, mostly widths of the public
            implementations.
        public: Networks per second of the public implementation on two cores (with the
            tuned allocator where that was measured); None without a figure.
    """

    model: str
    options: dict[str, Any]
    public: float | None = None


def _baselines() -> dict[str, ModelCase]:
    names = (
        "nft",
        "deep_sets",
        "set_transformer",
        "transformer",
        "flat_mlp",
        "dmc",
        "probegen",
    )
    return {name: ModelCase(name, {}) for name in names}


# Architecture, and models by the name of their record.
DENSE: dict[str, tuple[Architecture, dict[str, ModelCase]]] = {
    "inr": (
        INR,
        {
            "product_gmn": ModelCase("product_gmn", {}),
            "product_gmn_probes": ModelCase("product_gmn", {"probes": 64}),
            "gmn": ModelCase("gmn", {}, 81),
            "ng_gnn": ModelCase("ng_gnn", {}, 65),
            "ng_gnn_32": ModelCase("ng_gnn", {"dim": 32}, 65),
            "ng_t": ModelCase("ng_t", {"attention_dim": 128}, 6.3),
            "scale_gmn": ModelCase("scale_gmn", {}, 14),
            "scale_gmn_b": ModelCase("scale_gmn_b", {}, 4.1),
            "scale_product_gmn": ModelCase("scale_product_gmn", {}),
            "dws": ModelCase("dws", {}, 155),
            "nfn_np": ModelCase("nfn_np", {"dim": 512}, 42),
            "nfn_hnp": ModelCase("nfn_hnp", {"dim": 512}, 19),
            "unf": ModelCase("unf", {}, 1438),
            "statnn": ModelCase("statnn", {}),
            **_baselines(),
        },
    ),
    "small_cnn": (
        SMALL_CNN,
        {
            "product_gmn": ModelCase("product_gmn", {}),
            "gmn": ModelCase("gmn", {}),
            "gmn_parallel": ModelCase("gmn", {"kernel": "parallel"}, 12),
            "ng_gnn_32": ModelCase("ng_gnn", {"dim": 32}, 108),
            "ng_gnn_256": ModelCase("ng_gnn", {"dim": 256}, 6.1),
            "ng_t": ModelCase("ng_t", {"attention_dim": 128}, 13),
            "ng_t_128": ModelCase(
                "ng_t", {"dim": 128, "edge_dim": 64, "attention_dim": 256}, 3.7
            ),
            "scale_gmn": ModelCase("scale_gmn", {}, 42),
            "scale_gmn_b": ModelCase("scale_gmn_b", {}, 22),
            "scale_product_gmn": ModelCase("scale_product_gmn", {}),
            "nfn_hnp": ModelCase("nfn_hnp", {"dim": 16}, 471),
            "unf": ModelCase("unf", {"dim": 8}, 177),
            "statnn": ModelCase("statnn", {"dim": 640}, 4690),
            **_baselines(),
        },
    ),
}
PACKED: dict[str, dict[str, Any]] = {
    "product_gmn": {},
    "gmn": {},
    "ng_gnn": {"dim": 32},
    "ng_t": {},
    "scale_gmn": {},
    "scale_gmn_b": {},
    "scale_product_gmn": {},
    "deep_sets": {},
    "set_transformer": {},
    "dmc": {},
}


def synthetic_experiment(
    architecture: Architecture, config: ExperimentConfig
) -> tuple[Experiment, np.ndarray]:
    """Returns an experiment on untrained networks, and their weights ``[1024, P]``."""
    network = InputArchitecture.of(architecture, config)

    def draw(key: jax.Array) -> jax.Array:
        return network.spec.flatten(create(architecture, key).params)

    weights = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), _POOL))
    experiment = Experiment(config, {"0": network}, _task())
    return experiment, np.asarray(weights)


def _task() -> Classification:
    return Classification(ClassificationConfig(), tuple("0123456789"))


def dense_cases(
    case: str,
    selected: Callable[[str], bool],
    batch: int,
    repeats: int,
    bf16: bool = False,
) -> Iterator[dict[str, Any]]:
    """Measures models on batches of networks of one architecture."""
    architecture, models = DENSE[case]
    for name, (model, options, public) in models.items():
        if not selected(name):
            continue
        named = NamedConfig.of(model, **options)
        record = measure_dense(architecture, named, batch, repeats, bf16=bf16)
        ratio = record["networks_per_second"] / public if public else None
        yield {
            "case": f"{case}_batch_{batch}",
            "model": name,
            **record,
            "public_networks_per_second": public,
            "times_public": ratio,
        }


def measure_dense(
    architecture: Architecture,
    model: NamedConfig,
    batch: int,
    repeats: int,
    micro: int = 0,
    bf16: bool = False,
) -> dict[str, Any]:
    """Returns speed of the training step and of the forward pass, memory and size."""
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

    def edges(index: jax.Array) -> Any:
        return experiment.single.graphs(data.weights[index]).edges

    edges_all = jax.jit(lambda i: jax.lax.map(edges, i))
    states = [state]

    def run() -> jax.Array:
        states[0], metrics = step(states[0], data, indices)
        return metrics["loss"]

    seconds = median_seconds(run, repeats)
    return {
        "parameters": parameter_count(params),
        **_speed(batch, seconds, flops, compiled),
        "forward_per_second": batch
        / median_seconds(lambda: forward_all(rows), repeats),
        "micro_batch": micro,
        "graph_share": median_seconds(lambda: edges_all(rows), repeats) / seconds,
        "traces": _traces(step),
    }


def _traces(step: Any) -> int:
    """Returns the number of programs that the calls of a jitted function compiled."""
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
    selected: Callable[[str], bool], repeats: int, count: int = 256
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
        if selected(name):
            yield {
                "case": "packed_cnns",
                "model": name,
                **_measure_packed(name, options, topologies, weights, repeats),
            }


def _measure_packed(
    name: str, options: dict[str, Any], topologies, weights, repeats: int
) -> dict[str, Any]:
    rngs = nnx.Rngs(0)
    model = build_model(name, options, topology=topologies, rngs=rngs)
    task = _task()
    plans = [compile_topology(t, model.schema).packed for t in topologies]  # type: ignore[attr-defined]
    edges = sum(p.edges for p in plans) / len(plans)
    wide = 64 / model.cost * max(p.edges for p in plans)
    budget = default_budget(plans, 8192 if wide <= 1 else 4096)
    chunks = max(1, round(64 * edges / budget.edges))
    order = itertools.cycle(range(len(plans)))
    batches = arrange(order, plans, budget, chunks)
    labels = np.zeros(len(plans), np.int32)

    def pack_items(bins: list[list[int]]) -> PackedItems:
        packed = pack_bins(bins, plans, weights, {"label": labels}, budget)
        return PackedItems(packed, np.asarray(sum(map(len, bins)), np.int32))

    first = pack_items(next(batches))
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
    states = [state]
    counts, edges_used = [], []

    def pack_next():
        bins = next(batches)
        edges_used.append(sum(plans[i].edges for b in bins for i in b))
        counts.append(sum(map(len, bins)))
        return pack_items(bins)

    ready = [pack_next() for _ in range(repeats + 2)]
    packing_seconds = median_seconds(pack_next, repeats)
    turn = itertools.cycle(ready)

    def run() -> jax.Array:
        states[0], metrics = step(states[0], (), next(turn))
        return metrics["loss"]

    seconds = median_seconds(run, repeats)
    networks = sum(counts[: repeats + 2]) / (repeats + 2)
    slots = chunks * budget.edges
    return {
        "parameters": parameters,
        **_speed(networks, seconds, flops, compiled),
        "networks_per_batch": networks,
        "padding": 1 - sum(edges_used) / len(edges_used) / slots,
        "packing_share": packing_seconds / seconds,
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
    case: str, selected: Callable[[str], bool], repeats: int
) -> Iterator[dict[str, Any]]:
    """Measures forward and backward passes on one large network."""
    architecture, models = SINGLE[case]
    network = create(architecture, jax.random.key(0))
    symmetry = sym.discover(
        network.apply_fn, network.params, *network.inputs, check=False
    )
    topology = build_topology(symmetry)
    batch = jax.tree.map(lambda x: x[None], network.params)
    edges = sum(int(np.prod(g.shape)) for g in edge_blocks(topology))
    for name, config in models:
        if not selected(name):
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = (*DENSE, "packed", *SINGLE)
    parser.add_argument(
        "--cases", default=",".join(known), help="comma-separated (default: all)"
    )
    parser.add_argument(
        "--models", default="", help="comma-separated names of records (default: all)"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed steps (default: 5)"
    )
    parser.add_argument(
        "--batch", type=int, default=64, help="networks per batch (default: 64)"
    )
    parser.add_argument(
        "--devices",
        type=int,
        default=os.cpu_count() or 1,
        help="CPU devices over which a batch is divided (default: the cores)",
    )
    parser.add_argument(
        "--allocator",
        choices=("default", "tuned"),
        default="default",
        help="settings of the C library's allocator (default: default)",
    )
    parser.add_argument(
        "--bf16", action="store_true", help="bfloat16 products (inr and small_cnn)"
    )
    args = parser.parse_args()
    unknown = sorted(set(args.cases.split(",")) - set(known))
    if unknown:
        parser.error(f"unknown case {unknown[0]!r}; known: {', '.join(known)}")
    if args.allocator == "tuned" and "MALLOC_MMAP_MAX_" not in os.environ:
        # The allocator reads these variables when a process starts.
        tuned = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **tuned})
    jax.config.update("jax_num_cpu_devices", args.devices)
    chosen = set(filter(None, args.models.split(",")))

    def selected(name: str) -> bool:
        return not chosen or name in chosen

    print(f"device: {jax.devices()[0].device_kind}", file=sys.stderr)
    for case in args.cases.split(","):
        if case in DENSE:
            records = dense_cases(case, selected, args.batch, args.repeats, args.bf16)
        elif case == "packed":
            records = packed_cases(selected, args.repeats)
        else:
            records = single_cases(case, selected, min(args.repeats, 3))
        for record in records:
            record |= {"allocator": args.allocator, "bf16": args.bf16}
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
