"""Buffer of float32 values that spills to a memory-mapped file above a size limit."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np

from metanet.errors import MetanetError


class FloatBuffer:
    """Collects float32 values; above a limit they go to an unlinked file.

    Args:
        folder: Folder of the file, if one is needed. The file vanishes with the last array
            that maps it, however the process ends.
        memory: The limit in GiB; 0: a quarter of the machine's memory.
    """

    def __init__(self, folder: Path, memory: float = 0.0):
        self._folder = folder
        self._limit = memory * 2**30 or _machine_memory() / 4
        self._parts: list[np.ndarray] = []
        self._file: IO[bytes] | None = None
        self._stack = ExitStack()
        self._count = 0

    def append(self, part: np.ndarray) -> int:
        """Appends values ``[n]`` and returns the position of the first.

        Raises:
            MetanetError: when the file cannot be written.
        """
        start = self._count
        self._count += part.size
        self._parts.append(part)
        if self._file is not None or self._count * 4 > self._limit:
            self._spill()
        return start

    def _spill(self) -> None:
        try:
            if self._file is None:
                file = tempfile.TemporaryFile(dir=self._folder)
                self._file = self._stack.enter_context(file)
            for part in self._parts:
                self._file.write(np.ascontiguousarray(part, np.float32).data)
            self._file.flush()
        except OSError as error:
            raise MetanetError(
                f"{self._folder}: the weights fit neither in memory nor in a file here: "
                f"{error.strerror}"
            ) from error
        self._parts = []

    def finish(self) -> np.ndarray:
        """Returns all values, ``[N]``; read-only if they are in a file."""
        if self._file is None:
            return np.concatenate([np.empty(0, np.float32), *self._parts])
        with self._stack:
            return np.memmap(self._file, np.float32, "r", shape=(self._count,))


def _machine_memory() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # not on every system
        return 16 * 2**30
