"""The steps between two lines of metrics: means, speed, whether all is finite."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np


class StepWindow:
    """Collects the metrics of steps without waiting for them.

    The time of a window leaves out pauses (evaluation, checkpoints) and the very first
    step, which compiles.
    """

    def __init__(self) -> None:
        self._metrics: list[dict[str, jax.Array]] = []
        self._timed, self._start, self._compiled = 0, time.monotonic(), False

    def __len__(self) -> int:
        return len(self._metrics)

    def add(self, metrics: dict[str, jax.Array], networks: int) -> None:
        """Takes the metrics of one more step, which may still be running."""
        self._metrics.append(metrics)
        if self._compiled:
            self._timed += networks
            return
        jax.block_until_ready(metrics)
        self._compiled, self._start = True, time.monotonic()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Surrounds work that is not training."""
        jax.block_until_ready(self._metrics[-1:])
        begun = time.monotonic()
        yield
        self._start += time.monotonic() - begun

    def first_bad(self) -> int | None:
        """Waits; returns the age in steps of the first value that is not finite, or None."""
        metrics = jax.device_get(self._metrics)
        finite = [all(np.isfinite(v).all() for v in m.values()) for m in metrics]
        return len(metrics) - finite.index(False) if False in finite else None

    def close(self) -> dict[str, float]:
        """Waits; returns means of the metrics and networks per second; starts a new window."""
        metrics = jax.device_get(self._metrics)
        seconds = time.monotonic() - self._start
        values = {n: float(np.mean([m[n] for m in metrics])) for n in metrics[0]}
        if self._timed:
            values["networks_per_second"] = self._timed / seconds
        self._metrics, self._timed, self._start = [], 0, time.monotonic()
        return values
