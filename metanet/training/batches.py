"""The interface between networks of a zoo and the compiled steps.

A `BatchSource` lives on the host: it arranges networks into batches and moves them to the
device. Its `BatchReader` is the part that runs inside a compiled program: it turns what
the host sends into `TaskBatch` objects. Networks of one architecture are gathered from a
matrix on the device (dense.py), those of many are packed on the host (packed.py); one
training step (step.py) serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import numpy as np

from metanet.graphs import GraphBatch
from metanet.tasks import TaskBatch
from metanet.training.sharding import DataParallel

T = TypeVar("T")
# Networks on which the standardisation is measured.
STATISTICS_SAMPLE = 1024


class Batch(NamedTuple):
    """Arguments of one training step, and what the host records of them.

    Attributes:
        data: Arrays on the device that ``items`` index; () for none.
        items: Pytree whose arrays have a leading axis of passes.
        ids: Zoo ids of the networks.
        position: Position of the next batch, as JSON values.
    """

    data: Any
    items: Any
    ids: np.ndarray
    position: list[int]


class EvaluationCall(NamedTuple):
    """Arguments of one call of the evaluation step.

    Attributes:
        data, items: As in `Batch`.
        slots: Flat positions of the networks among the outputs ``[C * M]``.
        rows: Rows of the split to which these outputs belong.
    """

    data: Any
    items: Any
    slots: np.ndarray
    rows: np.ndarray


class BatchReader(Protocol):
    """Turns the arguments of a step into task batches, inside a compiled program."""

    @property
    def parallel(self) -> DataParallel | None:
        """Devices over which a pass is divided; None for one device."""
        ...

    def keys(self, key: jax.Array, items: Any) -> jax.Array:
        """Returns random keys with the leading axis of passes."""
        ...

    def prepare(self, data: Any, items: Any, keys: jax.Array) -> tuple[Any, jax.Array]:
        """Returns all passes ``[C, ...]`` and a key of dropout for each ``[C]``."""
        ...

    def training_batch(self, data: Any, item: Any) -> TaskBatch:
        """Returns the batch of one pass of `prepare`."""
        ...

    def evaluation_batch(self, data: Any, item: Any) -> TaskBatch:
        """Returns the batch of one item of an `EvaluationCall`, without augmentation."""
        ...

    def count(self, items: Any) -> int | jax.Array:
        """Returns the number of networks of a step."""
        ...


class BatchSource(Protocol):
    """Batches of a zoo's networks; complete when made."""

    @property
    def reader(self) -> BatchReader:
        """The part that runs inside compiled programs."""
        ...

    def sample(self) -> GraphBatch:
        """Returns training networks on which a model measures its statistics."""
        ...

    def replicate(self, state: T) -> T:
        """Copies a state, or parameters, to the devices of the step."""
        ...

    def batches(self, position: list[int]) -> Generator[Batch]:
        """Yields batches without end, from a position on; the first is ``[0, 0]``."""
        ...

    def size(self, split: str) -> int:
        """Returns the number of networks of a split."""
        ...

    def evaluation(self, split: str) -> Iterator[EvaluationCall]:
        """Yields calls that together cover a split once."""
        ...


def evaluate_split(
    source: BatchSource,
    evaluate: Callable[[Any, Any, Any, Any], Any],
    params: Any,
    rest: Any,
    split: str,
) -> Any:
    """Returns the outputs on all networks of a split, arrays ``[N, ...]``.

    Args:
        source: The networks.
        evaluate: Result of `make_eval_step`.
        params, rest: Trainable and other state of the metanetwork.
        split: "train", "validation" or "test".
    """
    size = source.size(split)
    structure, arrays = None, []
    for call in source.evaluation(split):
        outputs = jax.device_get(evaluate(params, rest, call.data, call.items))
        leaves, structure = jax.tree.flatten(outputs)
        flat = [x.reshape(-1, *x.shape[2:])[call.slots] for x in leaves]
        if not arrays:
            arrays = [np.empty((size, *x.shape[1:]), x.dtype) for x in flat]
        for array, values in zip(arrays, flat, strict=True):
            array[call.rows] = values
    assert structure is not None, "a split has at least one network"
    return jax.tree.unflatten(structure, arrays)
