"""Weights of a zoo in memory, or in a mapped file where they are more than that."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from metanet.errors import MetanetError


class Spool:
    """Collects float32 values; beyond a limit they go to a file that has no name.

    Args:
        folder: Where the file is put if it is needed. It vanishes with the last array
            that reads it, however the process ends.
        memory: The limit in GiB; 0: a quarter of the machine's memory.
    """

    def __init__(self, folder: Path, memory: float = 0.0):
        self._folder = folder
        self._limit = memory * 2**30 or _machine_memory() / 4
        self._parts: list[np.ndarray] = []
        self._file: Any = None
        self._count = 0

    def append(self, part: np.ndarray) -> int:
        """Adds values ``[n]``; returns where they begin.

        Raises:
            MetanetError: when the file cannot be written.
        """
        start, self._count = self._count, self._count + part.size
        self._parts.append(part)
        if self._file is not None or self._count * 4 > self._limit:
            self._spill()
        return start

    def _spill(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            for part in self._parts:
                self._file.write(np.ascontiguousarray(part, np.float32).data)
            self._file.flush()
        except OSError as error:
            raise MetanetError(
                f"{self._folder}: the zoo's weights do not fit in memory (config."
                f"data.memory), nor in a file here: {error.strerror}"
            ) from error
        self._parts = []

    def whole(self) -> np.ndarray:
        """All values, ``[N]``; read-only where they are a file's."""
        if self._file is None:
            return np.concatenate([np.empty(0, np.float32), *self._parts])
        with self._file as file:
            return np.memmap(file, np.float32, "r", shape=(self._count,))


def _machine_memory() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # not on every system
        return 16 * 2**30
