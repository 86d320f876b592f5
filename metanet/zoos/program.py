"""One training run as one compiled program: initialisation, epochs, checkpoints.

All settings of a run are scalars in arrays, so that one program per architecture serves
every run of a zoo. A run costs what it needs: the number of its steps is data too. On
accelerators the program takes many runs at once.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from metanet.compiler import on_cpu, small_loop_options
from metanet.networks import (
    Architecture,
    ParamSpec,
    TrainMode,
    abstract_network,
    build_module,
    train_mode,
)
from metanet.zoos.hyperparameters import INITS, OPTIMIZERS, Settings

# Images per pass of an evaluation, small enough for a core's cache.
_EVAL_BATCH = 100
_KEPT = nnx.filterlib.Any(nnx.Param, nnx.BatchStat)


class Images(NamedTuple):
    """Standardised images and labels of both parts.

    Attributes:
        train, test: ``[N, height, width, channels]`` float32.
        train_labels, test_labels: ``[N]`` int32.
    """

    train: jax.Array
    train_labels: jax.Array
    test: jax.Array
    test_labels: jax.Array


class RunInputs(NamedTuple):
    """Settings of runs as arrays ``[K]``; names as indices."""

    key: jax.Array
    optimizer: jax.Array
    learning_rate: jax.Array
    weight_decay: jax.Array
    momentum: jax.Array
    dropout: jax.Array
    activation: jax.Array
    init: jax.Array
    init_scale: jax.Array
    label_noise: jax.Array
    images: jax.Array
    batch: jax.Array


class RunOutputs(NamedTuple):
    """What a run leaves, per checkpoint ``[C]``.

    Attributes:
        weights: ``[C, P]``.
        train_accuracy, train_loss: On training images of the run, with the labels that
            it saw.
        test_accuracy, test_loss: On the test images.
    """

    weights: jax.Array
    train_accuracy: jax.Array
    train_loss: jax.Array
    test_accuracy: jax.Array
    test_loss: jax.Array


def used_images(settings: Settings, train_images: int) -> int:
    """Number of training images that a run sees."""
    return max(1, round(settings.train_fraction * train_images))


def run_inputs(
    keys: jax.Array,
    settings: Sequence[Settings],
    activations: tuple[str, ...],
    train_images: int,
) -> RunInputs:
    """Settings of runs with keys ``[K]`` as what the program reads."""
    floats = lambda name: jnp.asarray([getattr(s, name) for s in settings], jnp.float32)
    indices = lambda name, names: jnp.asarray(
        [names.index(getattr(s, name)) for s in settings], jnp.int32
    )
    used = [used_images(s, train_images) for s in settings]
    return RunInputs(
        key=keys,
        optimizer=indices("optimizer", OPTIMIZERS),
        learning_rate=floats("learning_rate"),
        weight_decay=floats("weight_decay"),
        momentum=floats("momentum"),
        dropout=floats("dropout"),
        activation=indices("activation", activations),
        init=indices("init", INITS),
        init_scale=floats("init_scale"),
        label_noise=floats("label_noise"),
        images=jnp.asarray(used, jnp.int32),
        batch=jnp.asarray(
            np.minimum([s.batch_size for s in settings], used), jnp.int32
        ),
    )


class CompiledRuns:
    """``runs(inputs [K], images) -> outputs [K]``; several threads may call.

    On CPU the runs follow one another; elsewhere they are one batch.
    """

    def __init__(self, *about: Any):
        run, self._single = make_run(*about), on_cpu()
        many = run if self._single else jax.vmap(run, (0, None))
        self._run = jax.jit(many, compiler_options=small_loop_options())
        self._compiled: dict[Any, jax.stages.Compiled] = {}
        self._lock = threading.Lock()

    def __call__(self, inputs: RunInputs, images: Images) -> RunOutputs:
        calls = [inputs]
        if self._single:
            count = len(inputs.batch)
            calls = [jax.tree.map(lambda x, i=i: x[i], inputs) for i in range(count)]
        shapes = (len(inputs.batch), *(x.shape for x in images))
        with self._lock:  # threads that come first together would all compile
            if shapes not in self._compiled:
                lowered = self._run.lower(calls[0], images)
                self._compiled[shapes] = lowered.compile()
        found = [self._compiled[shapes](one, images) for one in calls]
        if self._single:
            return jax.tree.map(lambda *x: jnp.stack(x), *found)
        return found[0]


@functools.lru_cache(maxsize=8)
def compiled_runs(
    architecture: Architecture,
    activations: tuple[str, ...],
    epochs: tuple[int, ...],
    batch: int,
    drops: bool,
) -> CompiledRuns:
    """The program of an architecture; see `make_run` for the arguments."""
    return CompiledRuns(architecture, activations, epochs, batch, drops)


def make_run(
    architecture: Architecture,
    activations: tuple[str, ...],
    epochs: tuple[int, ...],
    batch: int,
    drops: bool,
) -> Callable[[RunInputs, Images], RunOutputs]:
    """The training of one run; ``inputs`` holds scalars.

    Args:
        architecture: Of the network.
        activations: Names that ``inputs.activation`` indexes.
        epochs: After which a checkpoint is kept, ascending.
        batch: The largest batch size.
        drops: Whether any run has dropout.
    """
    spec = ParamSpec.of(abstract_network(architecture).params)

    def run(inputs: RunInputs, images: Images) -> RunOutputs:
        keys = jax.random.split(inputs.key, 4)
        module = build_module(architecture, nnx.Rngs(keys[0]))
        graphdef, params, rest = nnx.split(module, nnx.Param, ...)
        params = _initial(params, inputs, keys[1])
        labels = _noisy(images.train_labels, images, inputs.label_noise, keys[2])
        shuffle = jax.random.fold_in(keys[3], 0)
        masks = jax.random.fold_in(keys[3], 1)
        chosen = jax.random.permutation(shuffle, len(labels))
        per_epoch = inputs.images // inputs.batch

        def outputs(params: Any, rest: Any, x: jax.Array, key: jax.Array | None):
            # Copies: the variables that a call changes are those of its own trace.
            copies = jax.tree.map(lambda v: v, (params, rest))
            net = nnx.merge(graphdef, *copies)
            if key is not None:
                net.train()
            masking = key if drops else None
            how = TrainMode(inputs.activation, activations, masking, inputs.dropout)
            with train_mode(how):
                logits = net(x)
            return logits, nnx.state(net, nnx.filterlib.Not(nnx.Param))

        def loss(params: Any, rest: Any, rows: jax.Array, key: jax.Array):
            logits, rest = outputs(params, rest, images.train[rows], key)
            return _cross_entropy(logits, labels[rows]).mean(), rest

        def step(i: jax.Array, state: Any) -> Any:
            params, rest, moments, order = state
            within = i % per_epoch
            order = jax.lax.cond(
                within == 0,
                lambda: _shuffled(chosen, inputs.images, shuffle, i // per_epoch + 1),
                lambda: order,
            )
            rows = order[within * inputs.batch + jnp.arange(batch) % inputs.batch]
            key = jax.random.fold_in(masks, i)
            gradient, rest = jax.grad(loss, has_aux=True)(params, rest, rows, key)
            params, moments = _update(params, gradient, moments, inputs, i)
            return params, rest, moments, order

        def measured(params: Any, rest: Any, rows: jax.Array, x, y):
            def chunk(part: tuple[jax.Array, jax.Array]):
                index, keep = part
                logits, _ = outputs(params, rest, x[index], None)
                right = (logits.argmax(-1) == y[index]) * keep
                return right.sum(), (_cross_entropy(logits, y[index]) * keep).sum()

            right, error = jax.lax.map(chunk, _chunks(rows))
            return right.sum() / len(rows), error.sum() / len(rows)

        def checkpoint(state: Any, bounds: jax.Array):
            state = jax.lax.fori_loop(
                bounds[0] * per_epoch, bounds[1] * per_epoch, step, state
            )
            params, rest = state[:2]
            net = nnx.merge(graphdef, params, rest)
            vector = spec.flatten(nnx.to_pure_dict(nnx.state(net, _KEPT)))
            seen = chosen[jnp.arange(len(images.test_labels)) % inputs.images]
            test = jnp.arange(len(images.test_labels))
            trained = measured(params, rest, seen, images.train, labels)
            tested = measured(params, rest, test, images.test, images.test_labels)
            return state, RunOutputs(vector, *trained, *tested)

        zeros = jax.tree.map(jnp.zeros_like, params)
        state = (params, rest, (zeros, zeros), chosen)
        bounds = jnp.asarray([(0, *epochs[:-1]), epochs]).T
        return jax.lax.scan(checkpoint, state, bounds)[1]

    return run


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _chunks(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows in passes of an evaluation, and which of them count."""
    count = -(-len(rows) // _EVAL_BATCH)
    places = jnp.arange(count * _EVAL_BATCH)
    index = rows[jnp.minimum(places, len(rows) - 1)]
    split = lambda v: v.reshape(count, _EVAL_BATCH)
    return split(index), split((places < len(rows)).astype(jnp.float32))


def _shuffled(
    chosen: jax.Array, count: jax.Array, key: jax.Array, epoch: jax.Array
) -> jax.Array:
    """The first ``count`` of the chosen images in an order of the epoch's own."""
    draws = jax.random.bits(jax.random.fold_in(key, epoch), chosen.shape) >> 1
    last = jnp.where(jnp.arange(len(chosen)) < count, draws, jnp.uint32(2**32 - 1))
    _, order = jax.lax.sort((last, chosen), num_keys=1)
    return order


def _noisy(
    labels: jax.Array, images: Images, share: jax.Array, key: jax.Array
) -> jax.Array:
    """Labels of which a share is drawn anew."""
    which, what = jax.random.split(key)
    replaced = jax.random.uniform(which, labels.shape) < share
    classes = jnp.maximum(labels.max(), images.test_labels.max()) + 1
    drawn = jax.random.randint(what, labels.shape, 0, classes)
    return jnp.where(replaced, drawn.astype(labels.dtype), labels)


def _initial(params: Any, inputs: RunInputs, key: jax.Array) -> Any:
    """Kernels by the run's scheme; other parameters as the module sets them."""
    flat, treedef = jax.tree_util.tree_flatten_with_path(params)
    leaves = []
    for number, (path, leaf) in enumerate(flat):
        if leaf.ndim < 2 or "kernel" not in jax.tree_util.keystr(path):
            leaves.append(leaf)
            continue
        inner = int(np.prod(leaf.shape[:-2]))
        fan_in, fan_out = inner * leaf.shape[-2], inner * leaf.shape[-1]
        deviations = jnp.asarray(
            [
                fan_in**-0.5,
                (2 / (fan_in + fan_out)) ** 0.5,
                (2 / fan_in) ** 0.5,
                1.0,
            ]
        )
        draw = jax.random.truncated_normal(
            jax.random.fold_in(key, number), -2.0, 2.0, leaf.shape
        )
        # A normal that is cut at two deviations has .88 of the deviation.
        scale = deviations[inputs.init] * inputs.init_scale / 0.87962566
        leaves.append(draw * scale)
    return jax.tree_util.tree_unflatten(treedef, leaves)


def _update(
    params: Any, gradient: Any, moments: Any, inputs: RunInputs, i: jax.Array
) -> tuple[Any, Any]:
    """One step of SGD with momentum, Adam or RMSProp, by ``inputs.optimizer``."""
    sgd, adam = inputs.optimizer == 0, inputs.optimizer == 1
    keep = jnp.where(sgd, inputs.momentum, jnp.where(adam, 0.9, 0.0))
    take = jnp.where(adam, 0.1, 1.0)
    keep2 = jnp.where(adam, 0.999, 0.9)
    count = i + 1.0
    correct = jnp.where(adam, 1 / (1 - 0.9**count), 1.0)
    correct2 = jnp.where(adam, 1 / (1 - 0.999**count), 1.0)

    def move(p: jax.Array, g: jax.Array, m: jax.Array, v: jax.Array):
        if p.ndim > 1:
            g = g + 2 * inputs.weight_decay * p
        m, v = keep * m + take * g, keep2 * v + (1 - keep2) * g * g
        scale = jnp.where(sgd, 1.0, 1 / (jnp.sqrt(v * correct2) + 1e-7))
        return p - inputs.learning_rate * correct * m * scale, m, v

    moved = jax.tree.map(move, params, gradient, *moments)
    outer, inner = jax.tree.structure(params), jax.tree.structure((0, 0, 0))
    params, m, v = jax.tree.transpose(outer, inner, moved)
    return params, (m, v)
