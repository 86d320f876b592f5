"""The compiled training and evaluation steps.

A step scans ``value_and_grad`` over micro-batches, so that on CPU the arrays of one
pass stay in cache; weights are gathered from a matrix on the device and become graphs
inside the program, so nothing is converted or copied by the host. Beside the model's
arrays a step holds the graphs of one batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import PartitionSpec

from metanet.models.layers import bf16_products
from metanet.training.experiment import Experiment, Metanetwork
from metanet.training.sharding import DataParallel

# Bytes of one edge array that keep a pass in cache on CPU. The arrays that the backward
# pass needs are some ten times as many: measured best between 0.1 and 0.3 MB.
_CACHE_BYTES = 250_000


class TrainState(NamedTuple):
    """What training changes, and what a checkpoint holds.

    Attributes:
        step: Number of optimiser steps done.
        params: Trainable parameters.
        ema: Averaged parameters; the same arrays' structure, evaluated when in use.
        opt_state: State of the optimiser.
        rest: Non-trainable state (standardisation).
    """

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any
    rest: Any


class Dataset(NamedTuple):
    """A split on the device: flat weights ``[N, P]`` and targets ``[N]``."""

    weights: jax.Array
    targets: jax.Array


def micro_batch(
    batch: int,
    cost: int,
    devices: int,
    backend: str,
    wanted: int = 0,
    parameters: int = 0,
) -> int:
    """Networks per pass: a divisor of the batch that fits the cache on CPU.

    Args:
        batch: Networks per step.
        cost: Floats per network in the widest array.
        devices: Number of devices that share a pass; the result is a multiple of it
            where the batch allows.
        backend: Only "cpu" is split.
        wanted: A given size, returned as it is; 0 to choose.
        parameters: Of the model: adding up its gradient once per pass must not cost
            more than the pass.
    """
    if wanted:
        return wanted
    if backend != "cpu":
        return batch
    cached, paying = (
        _CACHE_BYTES // (4 * max(cost, 1)),
        parameters // (8 * max(cost, 1)),
    )
    fitting = max(1, cached, paying) * devices
    divisors = [d for d in range(1, batch + 1) if batch % d == 0]
    shared = [d for d in divisors if d % devices == 0] or divisors
    return max([d for d in shared if d <= fitting] or shared[:1])


def initial_state(
    net: Metanetwork, optimizer: optax.GradientTransformation
) -> tuple[nnx.GraphDef, TrainState]:
    """Splits a metanetwork once into its definition and a training state."""
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    copy = jax.tree.map(jnp.copy, params)
    state = TrainState(
        jnp.zeros((), jnp.int32), params, copy, optimizer.init(params), rest
    )
    return graphdef, state


def advance(
    state: TrainState,
    optimizer: optax.GradientTransformation,
    loss: jax.Array,
    gradient: Any,
    decay: float,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The state after one step, and its metrics, from the mean loss and gradient."""
    update, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, update)
    ema = params
    if decay:
        # A short memory at first: the average must not carry the initial values.
        keep = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
        ema = jax.tree.map(lambda e, p: keep * e + (1 - keep) * p, state.ema, params)
    metrics = {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
    return TrainState(state.step + 1, params, ema, opt_state, state.rest), metrics


def make_train_step(
    experiment: Experiment,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    parallel: DataParallel | None = None,
) -> jax.stages.Wrapped:
    """Compiles ``step(state, data, indices [C, M]) -> state, metrics``.

    The state is donated. Metrics (loss, gradient norm) stay on the device. Each device
    of ``parallel`` takes its part of the M networks of every pass.
    """
    config, task, one = experiment.config, experiment.task, experiment.single
    augmented = experiment.augmented()
    root = jax.random.key(config.seed)

    def read(data: Dataset, indices: jax.Array, keys: jax.Array):
        """Parameter graphs ``[M, ...]`` of one micro-batch."""
        weights = data.weights[indices]
        return one.graphs(augmented(keys, weights) if augmented else weights)

    def loss(params, rest, graphs, targets, key):
        net = nnx.merge(graphdef, params, rest)
        with bf16_products(config.train.bf16):
            outputs = net(graphs, key=key, deterministic=False)
        return task.loss(outputs, targets, jnp.ones(targets.shape[0]))

    def gradients(params, rest, data: Dataset, indices: jax.Array, keys: jax.Array):
        """Sums over a device's networks, then over the devices."""
        # All at once and before the loop: inside it, XLA would compute the weights,
        # random noise included, again in every fusion that reads them.
        graphs = jax.vmap(read, (None, 0, 0))(data, indices, keys)

        def chunk(total, item):
            chunk_graphs, index, chunk_keys = item
            found = jax.value_and_grad(loss)(
                params,
                rest,
                chunk_graphs,
                data.targets[index],
                jax.random.fold_in(chunk_keys[0], 1),
            )
            return jax.tree.map(jnp.add, total, found), None

        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        total, _ = jax.lax.scan(chunk, zero, (graphs, indices, keys))
        return total if parallel is None else jax.lax.psum(total, "data")

    if parallel is not None:
        # One sum over the devices per step, not one per micro-batch.
        rows, whole = PartitionSpec(None, "data"), PartitionSpec()
        gradients = jax.shard_map(
            gradients,
            mesh=parallel.mesh,
            in_specs=(whole, whole, whole, rows, rows),
            out_specs=whole,
            check_vma=False,
        )

    def train_step(state: TrainState, data: Dataset, indices: jax.Array):
        key = jax.random.fold_in(root, state.step)
        slots = jnp.arange(indices.size).reshape(indices.shape)
        keys = jax.vmap(jax.vmap(lambda i: jax.random.fold_in(key, i)))(slots)
        found = gradients(state.params, state.rest, data, indices, keys)
        value, gradient = jax.tree.map(lambda g: g / indices.size, found)
        return advance(state, optimizer, value, gradient, config.optimizer.ema_decay)

    placement = None if parallel is None else parallel.replicated
    return jax.jit(train_step, donate_argnums=0, out_shardings=placement)


def make_outputs(
    experiment: Experiment, graphdef: nnx.GraphDef
) -> Callable[[Any, Any, jax.Array], jax.Array]:
    """``outputs(params, rest, weights [B, P]) -> [B, k]``, deterministic."""
    one = experiment.single

    def outputs(params: Any, rest: Any, weights: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params, rest)(one.graphs(weights))

    return outputs


def make_eval_step(
    experiment: Experiment,
    graphdef: nnx.GraphDef,
    placement: jax.sharding.Sharding | None = None,
) -> Callable[..., jax.Array]:
    """Compiles ``(params, rest, data, indices [C, M]) -> outputs [C, M, k]``."""
    outputs = make_outputs(experiment, graphdef)

    def evaluate(params, rest, data: Dataset, indices: jax.Array):
        return jax.lax.map(lambda i: outputs(params, rest, data.weights[i]), indices)

    return jax.jit(evaluate, out_shardings=placement)
