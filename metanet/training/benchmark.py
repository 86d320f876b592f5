"""Cases of the training-step benchmark, built from the parts that training uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metanet import symmetry as sym
from metanet.graphs import build_topology
from metanet.networks import Architecture, ParamSpec, create
from metanet.tasks import Classification, ClassificationConfig
from metanet.training.config import ExperimentConfig, NamedConfig
from metanet.training.experiment import Experiment, left_to_canonicalize
from metanet.training.optimizer import build_optimizer
from metanet.training.profile import (
    matmul_peak,
    median_seconds,
    parameter_count,
    peak_memory,
    product_flops,
)
from metanet.training.step import (
    Dataset,
    initial_state,
    make_train_step,
    micro_batch,
)

_POOL = 1024


def synthetic_experiment(
    architecture: Architecture, config: ExperimentConfig
) -> tuple[Experiment, np.ndarray]:
    """An experiment on new random networks, and their weights ``[1024, P]``."""
    network = create(architecture, jax.random.key(0))
    spec = ParamSpec.of(network.params)
    keys = jax.random.split(jax.random.key(1), _POOL)
    weights = jax.jit(jax.vmap(lambda k: spec.flatten(create(architecture, k).params)))(
        keys
    )
    symmetry = sym.discover(network.apply_fn, network.params, *network.inputs)
    experiment = Experiment(
        config=config,
        network=network,
        spec=spec,
        symmetry=symmetry,
        topology=(topology := build_topology(symmetry)),
        canonical=left_to_canonicalize(config, symmetry, topology),
        task=Classification(ClassificationConfig(), tuple("0123456789")),
    )
    return experiment, np.asarray(weights)


def train_step_cases(dim: int, depth: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Measures every model on batches of INRs; one record per case."""
    inr = Architecture.of("siren", hidden=(32, 32))
    gmn = NamedConfig.of("gmn", dim=dim, depth=depth)
    models = {
        "gmn": gmn,
        "gmn_probes_64": NamedConfig.of("gmn", dim=dim, depth=depth, probes=64),
        "flat_mlp": NamedConfig.of("flat_mlp"),
        "statnn": NamedConfig.of("statnn"),
    }
    for name, model in models.items():
        for batch in (64, 256):
            case = _measure(inr, model, batch, repeats)
            yield {"case": f"inr_2-32-32-1_batch_{batch}", "model": name, **case}


def _measure(
    architecture: Architecture, model: NamedConfig, batch: int, repeats: int
) -> dict[str, Any]:
    config = ExperimentConfig(model=model)
    config = replace(config, train=replace(config.train, batch_size=batch))
    experiment, weights = synthetic_experiment(architecture, config)
    optimizer = build_optimizer(config.optimizer, config.train.steps)
    net = experiment.build(weights)
    graphdef, state = initial_state(net, optimizer)
    step = make_train_step(experiment, graphdef, optimizer)
    micro = micro_batch(batch, net.model.cost, 1, jax.default_backend())
    data = Dataset(jnp.asarray(weights), jnp.zeros(len(weights), jnp.int32))
    indices = jnp.arange(batch, dtype=jnp.int32).reshape(-1, micro)
    flops = product_flops(step, state, data, indices)
    parameters = parameter_count(state.params)
    compiled = step.lower(state, data, indices).compile()
    held = [state]

    def run() -> jax.Array:
        held[0], metrics = compiled(held[0], data, indices)
        return metrics["loss"]

    def graphs(rows: jax.Array) -> Any:
        build = lambda index: experiment.graphs(data.weights[index]).edges
        return jax.lax.map(build, rows)

    build = jax.jit(graphs)
    seconds = median_seconds(run, repeats)
    peak = matmul_peak()
    return {
        "parameters": parameters,
        "networks_per_second": batch / seconds,
        "gflops": flops / seconds / 1e9,
        "peak_gflops": peak / 1e9,
        "share_of_peak": flops / seconds / peak,
        "peak_memory_bytes": peak_memory(compiled),
        "micro_batch": micro,
        "graph_share": median_seconds(lambda: build(indices), repeats) / seconds,
    }
