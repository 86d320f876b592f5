"""Metrics on disk: one JSON line per step, and TensorBoard events beside them."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tensorboardX import SummaryWriter

from metanet.errors import MetanetError
from metanet.files import write_file


class MetricWriter:
    """Writes ``metrics.jsonl`` and TensorBoard events.

    Lines after ``step`` are dropped at the start: they belong to work that a resumed
    run does again.

    Args:
        workdir: The run's directory.
        step: Step at which training starts.
        active: False for silence (processes other than the first).
    """

    def __init__(self, workdir: Path, step: int, *, active: bool = True):
        self._stream = self._events = None
        if not active:
            return
        path = workdir / "metrics.jsonl"
        before = [line for line in _lines(path) if json.loads(line)["step"] <= step]
        write_file(path, "".join(before).encode())
        self._stream = path.open("a")
        self._events = SummaryWriter(
            str(workdir / "tensorboard"), purge_step=step + 1 if step else None
        )

    def write(self, step: int, **metrics: float) -> None:
        """Appends one line, flushed to the system at once.

        Raises:
            MetanetError: when the disk is full.
        """
        if self._stream is None or self._events is None:
            return
        try:
            self._stream.write(json.dumps({"step": step, **metrics}) + "\n")
            self._stream.flush()
            for name, value in metrics.items():
                self._events.add_scalar(name, value, step)
        except OSError as error:
            raise MetanetError(
                f"{self._stream.name}: cannot be written: {error.strerror}"
            ) from error

    def close(self) -> None:
        """Finishes both files."""
        if self._stream is not None and self._events is not None:
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._events.close()


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """The lines of ``metrics.jsonl``; a last line that was cut off is left out."""
    return [json.loads(line) for line in _lines(workdir / "metrics.jsonl")]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    good = []
    for number, line in enumerate(path.read_text().splitlines(keepends=True), 1):
        try:
            content = json.loads(line)
        except ValueError as error:
            if not line.endswith("\n"):
                break
            raise MetanetError(f"{path}: line {number}: not JSON: {error}") from error
        if not isinstance(content, dict) or "step" not in content:
            raise MetanetError(f"{path}: line {number}: no field step")
        good.append(line)
    return good
