"""Training on networks of many architectures: packed batches, and a step for them.

One compiled step serves all architectures of a schema: every step has the same
number of chunks of one budget. A thread packs ahead while the device works.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from metanet.errors import MetanetError
from metanet.graphs import Budget, PackedGraphs, Plan, pack
from metanet.models.layers import bf16_products
from metanet.tasks import Task
from metanet.training.config import ExperimentConfig
from metanet.training.step import TrainState, advance

# Edges per chunk: long enough for products, short enough for the cache on CPU.
_CHUNK_EDGES = 8192


class PackedBatch(NamedTuple):
    """What a step reads.

    Attributes:
        graphs: Chunks of packed graphs, ``[C, ...]`` on every array.
        targets: ``[C, G]``, 0 for padding.
        networks: Their number.
    """

    graphs: PackedGraphs
    targets: np.ndarray
    networks: np.ndarray


def default_budget(plans: Sequence[Plan], edges: int = _CHUNK_EDGES) -> Budget:
    """A budget that holds every network, and few empty nodes beside its edges."""
    edges = max(edges, max(p.edges for p in plans))
    ratio = sum(p.nodes for p in plans) / sum(p.edges for p in plans)
    nodes = max(int(1.3 * ratio * edges), max(p.nodes for p in plans))
    smallest = min(p.edges for p in plans)
    return Budget(nodes, edges, min(edges // smallest + 1, 256))


def arrange(
    stream: Iterable[int], plans: Sequence[Plan], budget: Budget, chunks: int
) -> Iterator[list[list[int]]]:
    """Cuts a stream of networks into batches of ``chunks`` full bins.

    Networks that find no room wait for the next batch, ahead of those that follow. A
    stream that ends leaves its last networks in bins that may be empty.

    Args:
        stream: Numbers of networks.
        plans: Of each.
        budget: Of a bin.
        chunks: Bins per batch.
    """
    waiting: list[int] = []
    source = iter(stream)
    room = chunks * budget.edges
    while True:
        held = sum(plans[i].edges for i in waiting)
        # Half as many again to choose from, so that the last gaps are filled too.
        while held < 1.5 * room:
            number = next(source, None)
            if number is None:
                break
            waiting.append(number)
            held += plans[number].edges
        if not waiting:
            return
        bins, waiting = _place(waiting, plans, budget, chunks)
        yield bins


def _place(
    waiting: list[int], plans: Sequence[Plan], budget: Budget, chunks: int
) -> tuple[list[list[int]], list[int]]:
    """First fit by size into a fixed number of bins; the oldest first among equals."""
    bins: list[list[int]] = [[] for _ in range(chunks)]
    left = [[budget.nodes, budget.edges, budget.graphs] for _ in range(chunks)]
    order = sorted(range(len(waiting)), key=lambda k: -plans[waiting[k]].edges)
    placed = set()
    for k in order:
        plan = plans[waiting[k]]
        for held, room in zip(bins, left, strict=True):
            if room[0] >= plan.nodes and room[1] >= plan.edges and room[2] >= 1:
                held.append(waiting[k])
                room[0] -= plan.nodes
                room[1] -= plan.edges
                room[2] -= 1
                placed.add(k)
                break
    if not placed:
        largest = plans[waiting[order[0]]]
        raise MetanetError(
            f"pack: a network with {largest.nodes} nodes and {largest.edges} edges "
            f"exceeds the budget of {budget.nodes} and {budget.edges}"
        )
    return bins, [n for k, n in enumerate(waiting) if k not in placed]


def pack_batch(
    bins: list[list[int]],
    plans: Sequence[Plan],
    weights: Sequence[np.ndarray],
    targets: np.ndarray,
    budget: Budget,
) -> PackedBatch:
    """Packs the networks of a batch's bins."""
    chunks, labels = [], np.zeros((len(bins), budget.graphs), targets.dtype)
    spare = next(i for held in bins for i in held)
    for row, held in enumerate(bins):
        # An empty bin takes the shapes of some network, none of whose graphs count.
        part = held or [spare]
        packed = pack([plans[i] for i in part], [weights[i] for i in part], budget)
        if not held:
            packed = packed._replace(graph_mask=np.zeros_like(packed.graph_mask))
        chunks.append(packed)
        labels[row, : len(held)] = targets[held]
    graphs = PackedGraphs(*(np.stack(parts) for parts in zip(*chunks, strict=True)))
    count = np.asarray(sum(map(len, bins)), np.int32)
    return PackedBatch(graphs, labels, count)


def make_packed_step(
    graphdef: nnx.GraphDef,
    task: Task,
    optimizer: optax.GradientTransformation,
    config: ExperimentConfig,
) -> jax.stages.Wrapped:
    """Compiles ``step(state, batch) -> state, metrics``; the state is donated."""
    root = jax.random.key(config.seed)

    def loss(params, rest, graphs: PackedGraphs, targets: jax.Array, key: jax.Array):
        net = nnx.merge(graphdef, params, rest)
        with bf16_products(config.train.bf16):
            outputs = net(graphs, key=key, deterministic=False)
        return task.loss(outputs, targets, jnp.asarray(graphs.graph_mask))

    def step(state: TrainState, batch: PackedBatch):
        def chunk(total, item):
            found = jax.value_and_grad(loss)(state.params, state.rest, *item)
            return jax.tree.map(jnp.add, total, found), None

        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params))
        count = batch.targets.shape[0]
        keys = jax.random.split(jax.random.fold_in(root, state.step), count)
        chunks = (batch.graphs, batch.targets, keys)
        total, _ = jax.lax.scan(chunk, zero, chunks)
        networks = jnp.maximum(batch.networks, 1)
        value, gradient = jax.tree.map(lambda g: g / networks, total)
        return advance(state, optimizer, value, gradient, config.optimizer.ema_decay)

    return jax.jit(step, donate_argnums=0)
