"""The order of training data, as a pure function of the step."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


class DataOrder:
    """Batches that walk through one shuffled epoch after another.

    The networks of a step depend on the seed and the step alone, so a resumed run sees
    what an uninterrupted one would have seen, and no iterator has to be stored. An epoch
    that does not divide into batches is continued by the next within a batch.

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
