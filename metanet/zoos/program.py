"""One training run as one compiled program: initialisation, epochs, checkpoints.

All settings of a run are scalars in arrays, so that one program per architecture serves
every run of a zoo. The number of steps is data too: a run costs no more than it needs. On
accelerators the program takes many runs at once.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from metanet.compiler import on_cpu, small_loop_options
from metanet.networks import (
    Architecture,
    InputNetwork,
    Params,
    ParamSpec,
    TrainMode,
    abstract_network,
    build_module,
    train_mode,
)
from metanet.zoos.hyperparameters import INITS, OPTIMIZERS, Settings
from metanet.zoos.optimizers import Moments, UpdateRule, update_step

# Images per pass of an evaluation, small enough for a core's cache.
_EVAL_BATCH = 100
# A normal that is truncated at two deviations has this share of the deviation.
_TRUNCATED_DEVIATION = 0.87962566
_STORED = nnx.filterlib.Any(nnx.Param, nnx.BatchStat)


class Images(NamedTuple):
    """Standardised images and labels of both parts.

    Attributes:
        train: ``[N, height, width, channels]`` float32.
        train_labels: ``[N]`` int32.
        test: ``[M, height, width, channels]`` float32.
        test_labels: ``[M]`` int32.
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
    """Results of a run, per checkpoint ``[C]``.

    Attributes:
        weights: ``[C, P]``.
        train_accuracy: On training images of the run, with the labels it was trained on.
        train_loss: Likewise.
        test_accuracy: On the test images.
        test_loss: Likewise.
    """

    weights: jax.Array
    train_accuracy: jax.Array
    train_loss: jax.Array
    test_accuracy: jax.Array
    test_loss: jax.Array


def used_images(settings: Settings, train_images: int) -> int:
    """Returns the number of training images that a run uses."""
    return max(1, round(settings.train_fraction * train_images))


def run_inputs(
    keys: jax.Array,
    settings: Sequence[Settings],
    activations: tuple[str, ...],
    train_images: int,
) -> RunInputs:
    """Converts the settings of runs to arrays.

    Args:
        keys: Random keys ``[K]``.
        settings: Of each run.
        activations: Names that the program was compiled for.
        train_images: Number of training images.
    """

    def floats(name: str) -> jax.Array:
        return jnp.asarray([getattr(s, name) for s in settings], jnp.float32)

    def indices(name: str, names: tuple[str, ...]) -> jax.Array:
        return jnp.asarray([names.index(getattr(s, name)) for s in settings], jnp.int32)

    used = [used_images(s, train_images) for s in settings]
    batch = np.minimum([s.batch_size for s in settings], used)
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
        batch=jnp.asarray(batch, jnp.int32),
    )


@dataclass(frozen=True)
class RunProgram:
    """Training of one run as a function of its inputs (scalars) and the images.

    Attributes:
        architecture: Of the network.
        activations: Names that ``inputs.activation`` indexes.
        epochs: Epochs after which a checkpoint is taken, ascending.
        batch: The largest batch size.
        has_dropout: False saves the masks if no run has dropout.
    """

    architecture: Architecture
    activations: tuple[str, ...]
    epochs: tuple[int, ...]
    batch: int
    has_dropout: bool

    @property
    def spec(self) -> ParamSpec:
        """Layout of the stored weights."""
        return ParamSpec.of(abstract_network(self.architecture).params)

    def __call__(self, inputs: RunInputs, images: Images) -> RunOutputs:
        """Trains the network; under `jax.jit` only."""
        keys = jax.random.split(inputs.key, 4)
        module = build_module(self.architecture, nnx.Rngs(keys[0]))
        graphdef, params, rest = nnx.split(module, nnx.Param, ...)
        params = _initial_params(params, inputs, keys[1])
        labels = noisy_labels(images, inputs.label_noise, keys[2])
        shuffle_key = jax.random.fold_in(keys[3], 0)
        dropout_key = jax.random.fold_in(keys[3], 1)
        chosen = jax.random.permutation(shuffle_key, len(labels))
        run = _Run(
            self, inputs, images, graphdef, labels, chosen, shuffle_key, dropout_key
        )
        state = _RunState(params, rest, Moments.zeros_like(params), chosen)
        intervals = jnp.asarray([(0, *self.epochs[:-1]), self.epochs]).T
        return jax.lax.scan(run.train_until_checkpoint, state, intervals)[1]


class _RunState(NamedTuple):
    """Variables of a run.

    Attributes:
        params: State of the trained parameters.
        rest: State of the other variables (batch statistics).
        moments: Of the optimiser.
        order: Order of the training images in the current epoch.
    """

    params: Params
    rest: nnx.State
    moments: Moments
    order: jax.Array


@dataclass(frozen=True, eq=False)  # hashed by identity: its fields are traced arrays
class _Run:
    """A run while it is traced.

    Attributes:
        program: The program.
        inputs: Settings.
        images: The images.
        graphdef: Structure of the network.
        labels: Training labels with noise.
        chosen: All training images in a random order; the run uses the first
            ``inputs.images``.
        shuffle_key: Of the order in every epoch.
        dropout_key: Of the dropout masks.
    """

    program: RunProgram
    inputs: RunInputs
    images: Images
    graphdef: nnx.GraphDef[InputNetwork]
    labels: jax.Array
    chosen: jax.Array
    shuffle_key: jax.Array
    dropout_key: jax.Array

    @property
    def steps_per_epoch(self) -> jax.Array:
        """Number of batches in an epoch."""
        return self.inputs.images // self.inputs.batch

    def train_until_checkpoint(
        self, state: _RunState, interval: jax.Array
    ) -> tuple[_RunState, RunOutputs]:
        """Trains from epoch ``interval[0]`` to ``interval[1]`` and evaluates."""
        per_epoch = self.steps_per_epoch
        state = jax.lax.fori_loop(
            interval[0] * per_epoch, interval[1] * per_epoch, self.step, state
        )
        network = nnx.merge(self.graphdef, state.params, state.rest)
        stored = nnx.to_pure_dict(nnx.state(network, _STORED))
        vector = self.program.spec.flatten(stored)
        count = len(self.images.test_labels)
        trained_on = self.chosen[jnp.arange(count) % self.inputs.images]
        train = self.evaluate(state, trained_on, self.images.train, self.labels)
        test = self.evaluate(
            state, jnp.arange(count), self.images.test, self.images.test_labels
        )
        return state, RunOutputs(vector, *train, *test)

    def step(self, i: jax.Array, state: _RunState) -> _RunState:
        """Takes an optimiser step on the next batch."""
        inputs, per_epoch = self.inputs, self.steps_per_epoch
        within = i % per_epoch
        order = jax.lax.cond(
            within == 0,
            lambda: self.shuffled(i // per_epoch + 1),
            lambda: state.order,
        )
        batch = jnp.arange(self.program.batch) % inputs.batch
        rows = order[within * inputs.batch + batch]
        key = jax.random.fold_in(self.dropout_key, i)
        gradient, rest = jax.grad(self.loss, has_aux=True)(
            state.params, state.rest, rows, key
        )
        rule = UpdateRule(
            inputs.optimizer, inputs.learning_rate, inputs.weight_decay, inputs.momentum
        )
        params, moments = update_step(state.params, gradient, state.moments, rule, i)
        return _RunState(params, rest, moments, order)

    def shuffled(self, epoch: jax.Array) -> jax.Array:
        """Returns the order of an epoch: the images of the run, then the others."""
        key = jax.random.fold_in(self.shuffle_key, epoch)
        bits = jax.random.bits(key, self.chosen.shape) >> 1
        is_used = jnp.arange(len(self.chosen)) < self.inputs.images
        sort_key = jnp.where(is_used, bits, jnp.uint32(2**32 - 1))
        _, order = jax.lax.sort((sort_key, self.chosen), num_keys=1)
        return order

    def loss(
        self, params: Params, rest: nnx.State, rows: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, nnx.State]:
        """Returns the mean cross-entropy of training images, and new statistics."""
        logits, rest = self.forward(params, rest, self.images.train[rows], key)
        return _cross_entropy(logits, self.labels[rows]).mean(), rest

    def forward(
        self, params: Params, rest: nnx.State, x: jax.Array, key: jax.Array | None
    ) -> tuple[jax.Array, nnx.State]:
        """Returns logits and the new variables; training mode if there is a key."""
        # Copies: a call changes the variables of its own trace only.
        copies = jax.tree.map(lambda v: v, (params, rest))
        network = nnx.merge(self.graphdef, *copies)
        if key is not None:
            network.train()
        mode = TrainMode(
            self.inputs.activation,
            self.program.activations,
            key if self.program.has_dropout else None,
            self.inputs.dropout,
        )
        with train_mode(mode):
            logits = network(x)
        return logits, nnx.state(network, nnx.filterlib.Not(nnx.Param))

    def evaluate(
        self, state: _RunState, rows: jax.Array, x: jax.Array, y: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Returns accuracy and loss on the rows of images ``x`` with labels ``y``."""

        def evaluate_chunk(
            chunk: tuple[jax.Array, jax.Array],
        ) -> tuple[jax.Array, jax.Array]:
            index, mask = chunk
            logits, _ = self.forward(state.params, state.rest, x[index], None)
            correct = (logits.argmax(-1) == y[index]) * mask
            return correct.sum(), (_cross_entropy(logits, y[index]) * mask).sum()

        correct, loss = jax.lax.map(evaluate_chunk, _chunks(rows))
        return correct.sum() / len(rows), loss.sum() / len(rows)


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def _chunks(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pads rows to whole chunks ``[chunks, _EVAL_BATCH]``, with a mask."""
    count = -(-len(rows) // _EVAL_BATCH)
    positions = jnp.arange(count * _EVAL_BATCH)
    index = rows[jnp.minimum(positions, len(rows) - 1)]
    mask = (positions < len(rows)).astype(jnp.float32)
    return index.reshape(count, _EVAL_BATCH), mask.reshape(count, _EVAL_BATCH)


def noisy_labels(images: Images, share: jax.Array, key: jax.Array) -> jax.Array:
    """Replaces a share of the training labels by random ones."""
    mask_key, label_key = jax.random.split(key)
    labels = images.train_labels
    is_replaced = jax.random.uniform(mask_key, labels.shape) < share
    classes = jnp.maximum(labels.max(), images.test_labels.max()) + 1
    random_labels = jax.random.randint(label_key, labels.shape, 0, classes)
    return jnp.where(is_replaced, random_labels.astype(labels.dtype), labels)


def _initial_params(params: Params, inputs: RunInputs, key: jax.Array) -> Params:
    """Draws kernels by the scheme of the run; other parameters keep their values."""
    flat, treedef = jax.tree_util.tree_flatten_with_path(params)
    leaves = []
    for number, (path, leaf) in enumerate(flat):
        if leaf.ndim < 2 or "kernel" not in jax.tree_util.keystr(path):
            leaves.append(leaf)
            continue
        window = int(np.prod(leaf.shape[:-2]))
        fan_in, fan_out = window * leaf.shape[-2], window * leaf.shape[-1]
        deviations = jnp.asarray(  # in the order of INITS
            [
                fan_in**-0.5,
                (2 / (fan_in + fan_out)) ** 0.5,
                (2 / fan_in) ** 0.5,
                1.0,
            ]
        )
        noise = jax.random.truncated_normal(
            jax.random.fold_in(key, number), -2.0, 2.0, leaf.shape
        )
        scale = deviations[inputs.init] * inputs.init_scale / _TRUNCATED_DEVIATION
        leaves.append(noise * scale)
    return jax.tree_util.tree_unflatten(treedef, leaves)


class CompiledRuns:
    """``runs(inputs [K], images) -> outputs [K]``; several threads may call.

    On CPU the runs follow one another; elsewhere they are one batch.
    """

    def __init__(self, program: RunProgram):
        self._one_by_one = on_cpu()
        run = program if self._one_by_one else jax.vmap(program, (0, None))
        self._run = jax.jit(run, compiler_options=small_loop_options())
        self._compiled: dict[tuple[object, ...], jax.stages.Compiled] = {}
        self._lock = threading.Lock()

    def __call__(self, inputs: RunInputs, images: Images) -> RunOutputs:
        count = len(inputs.batch)
        calls = [inputs]
        if self._one_by_one:
            calls = [jax.tree.map(lambda x, i=i: x[i], inputs) for i in range(count)]
        shapes = (count, *(x.shape for x in images))
        with self._lock:  # otherwise the first threads would all compile
            if shapes not in self._compiled:
                lowered = self._run.lower(calls[0], images)
                self._compiled[shapes] = lowered.compile()
        results = [self._compiled[shapes](call, images) for call in calls]
        if self._one_by_one:
            return jax.tree.map(lambda *x: jnp.stack(x), *results)
        return results[0]


@functools.lru_cache(maxsize=8)
def compiled_runs(program: RunProgram) -> CompiledRuns:
    """Returns the compiled program, shared by all runs of an architecture."""
    return CompiledRuns(program)
