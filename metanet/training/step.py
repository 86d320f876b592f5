"""The compiled training and evaluation steps.

A step scans ``value_and_grad`` over passes, so that on CPU the arrays of one pass stay in
cache. Networks become graphs inside the program; nothing is converted or copied by the
host. Beside the model's arrays a step holds the graphs of one batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import PartitionSpec

from metanet.models import bf16_products
from metanet.tasks import Task, TaskBatch
from metanet.training.batches import BatchReader
from metanet.training.config import ExperimentConfig
from metanet.training.experiment import Metanetwork


class TrainState(NamedTuple):
    """State of training, stored with every checkpoint.

    Attributes:
        step: Number of optimiser steps done.
        params: Trainable parameters.
        ema: Averaged parameters of the same structure; those that are evaluated.
        opt_state: State of the optimiser.
        rest: Non-trainable state (standardisation).
    """

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any
    rest: Any


def initial_state(
    net: Metanetwork, optimizer: optax.GradientTransformation
) -> tuple[nnx.GraphDef[Metanetwork], TrainState]:
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
    """Returns the state after one step and its metrics.

    Args:
        state: The state before.
        optimizer: The optimiser.
        loss, gradient: Means over the batch.
        decay: Decay of the averaged parameters; 0 for none.
    """
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
    reader: BatchReader,
    task: Task,
    graphdef: nnx.GraphDef[Metanetwork],
    optimizer: optax.GradientTransformation,
    config: ExperimentConfig,
) -> jax.stages.Wrapped:
    """Compiles ``step(state, data, items) -> state, metrics``; the state is donated.

    Args:
        reader: Turns ``data`` and ``items`` of a `Batch` into passes.
        task: Loss of a pass.
        graphdef: Definition of the metanetwork.
        optimizer: The optimiser.
        config: Seed, precision of products and decay of the averaged parameters.
    """
    root = jax.random.key(config.seed)
    parallel = reader.parallel

    def loss(params: Any, rest: Any, batch: TaskBatch, key: jax.Array) -> jax.Array:
        net = nnx.merge(graphdef, params, rest)
        with bf16_products(config.train.bf16):
            outputs = net(batch, key=key, deterministic=False)
        return task.loss(outputs, batch)

    def gradients(
        params: Any, rest: Any, data: Any, items: Any, keys: jax.Array
    ) -> tuple[jax.Array, Any]:
        """Returns loss and gradient, summed over networks and devices."""

        def add_pass(total: Any, item: Any) -> tuple[Any, None]:
            batch, key = reader.training_batch(data, item[0]), item[1]
            value = jax.value_and_grad(loss)(params, rest, batch, key)
            return jax.tree.map(jnp.add, total, value), None

        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        total, _ = jax.lax.scan(add_pass, zero, reader.prepare(data, items, keys))
        return total if parallel is None else jax.lax.psum(total, "data")

    if parallel is not None:
        # One sum over the devices per step, not one per pass.
        rows, whole = PartitionSpec(None, "data"), PartitionSpec()
        gradients = jax.shard_map(
            gradients,
            mesh=parallel.mesh,
            in_specs=(whole, whole, whole, rows, rows),
            out_specs=whole,
            check_vma=False,
        )

    def train_step(
        state: TrainState, data: Any, items: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        keys = reader.keys(jax.random.fold_in(root, state.step), items)
        total = gradients(state.params, state.rest, data, items, keys)
        count = reader.count(items)
        value, gradient = jax.tree.map(lambda g: g / count, total)
        return advance(state, optimizer, value, gradient, config.optimizer.ema_decay)

    placement = None if parallel is None else parallel.replicated
    return jax.jit(train_step, donate_argnums=0, out_shardings=placement)


def make_eval_step(
    reader: BatchReader, task: Task, graphdef: nnx.GraphDef[Metanetwork]
) -> Callable[[Any, Any, Any, Any], Any]:
    """Compiles ``(params, rest, data, items [C, ...]) -> outputs [C, G, ...]``.

    Outputs are those of `Task.evaluate`, without dropout or augmentation.
    """

    def evaluate(params: Any, rest: Any, data: Any, items: Any) -> Any:
        def run_pass(item: Any) -> Any:
            batch = reader.evaluation_batch(data, item)
            return task.evaluate(nnx.merge(graphdef, params, rest)(batch), batch)

        return jax.lax.map(run_pass, items)

    placement = None if reader.parallel is None else reader.parallel.replicated
    return jax.jit(evaluate, out_shardings=placement)
