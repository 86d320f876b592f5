"""Which networks a step sees, and where their weights lie."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import numpy as np

from metanet.training.sharding import DataParallel
from metanet.training.step import Dataset
from metanet.zoos import ZooTable

# Weights of a split up to this size are kept on every device.
_DEVICE_BYTES = 2 << 30


class DataOrder:
    """Batches that walk through one shuffled epoch after another.

    The networks of a step depend on the seed and the step alone, so a resumed run sees
    what an uninterrupted one would have seen, and no iterator has to be stored. An
    epoch that does not divide into batches is continued by the next within a batch.

    Args:
        count: Number of networks.
        batch_size: Networks per step.
        seed: Seed of the shuffles.
    """

    def __init__(self, count: int, batch_size: int, seed: int):
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self._epoch = lru_cache(maxsize=2)(self._shuffle)

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, 0xDA7A, epoch]).permutation(self.count)

    def batch(self, step: int) -> np.ndarray:
        """Indices ``[batch_size]`` of the networks of a step."""
        first = step * self.batch_size
        places = np.arange(first, first + self.batch_size)
        epochs, within = np.divmod(places, self.count)
        out = np.empty(self.batch_size, np.int32)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            out[here] = self._epoch(int(epoch))[within[here]]
        return out


class SplitData:
    """The networks of a split, on the devices if they fit there, else on the host.

    What the host itself holds in a file stays there.

    Args:
        table: The networks, of one size.
        column: With the targets.
        parallel: The devices.
        limit: Bytes up to which the weights are kept on every device.
    """

    def __init__(
        self,
        table: ZooTable,
        column: str,
        parallel: DataParallel,
        limit: int = _DEVICE_BYTES,
    ):
        self._table, self._targets, self._parallel = table, table[column], parallel
        self._held: Dataset | None = None
        in_memory = not isinstance(table.values, np.memmap)
        if in_memory and len(table) * table.size * 4 <= limit:
            self._held = self._place(np.arange(len(table)))

    def __len__(self) -> int:
        return len(self._targets)

    @property
    def on_device(self) -> bool:
        """Whether batches are gathered on the device."""
        return self._held is not None

    def _place(self, rows: np.ndarray) -> Dataset:
        weights: Any = self._table.take(rows).weights
        targets: Any = self._targets[rows]
        return self._parallel.replicate(Dataset(weights, targets))

    def take(self, rows: np.ndarray) -> tuple[Dataset, jax.Array]:
        """What a step reads for networks ``rows [C, M]``: data, and indices into it."""
        if self._held is not None:
            return self._held, self._parallel.split(rows, axis=1)
        own = np.arange(rows.size, dtype=np.int32).reshape(rows.shape)
        return self._place(rows.ravel()), self._parallel.split(own, axis=1)
