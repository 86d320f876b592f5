"""Progress of long work: a bar with rate and time left, or plain log lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

_LOG_SECONDS = 10.0


class Tracker(Protocol):
    """Counts finished work."""

    def advance(self, count: int, **info: float) -> None:
        """Adds ``count`` units of finished work and shows numbers such as the loss."""
        ...


class _Silent:
    def advance(self, count: int, **info: float) -> None:
        pass


class _Bar:
    def __init__(self, progress: Progress, task: TaskID, done: int):
        self._progress, self._task = progress, task
        self._start, self._new, self._info = time.monotonic(), 0, ""

    def advance(self, count: int, **info: float) -> None:
        self._new += count
        rate = self._new / max(time.monotonic() - self._start, 1e-9)
        if info:
            self._info = _format(info)
        self._progress.update(
            self._task, advance=count, rate=f"{rate:.4g}/s", info=self._info
        )


class _Lines:
    def __init__(self, total: int, description: str, unit: str, done: int):
        self._total, self._description, self._unit = total, description, unit
        self._done, self._new, self._info = done, 0, ""
        self._start = self._last = time.monotonic()

    def advance(self, count: int, **info: float) -> None:
        self._done += count
        self._new += count
        if info:
            self._info = _format(info)
        now = time.monotonic()
        if now - self._last < _LOG_SECONDS and self._done < self._total:
            return
        self._last = now
        rate = self._new / max(now - self._start, 1e-9)
        left = (self._total - self._done) / rate if rate else 0.0
        print(
            f"{self._description}: {self._done}/{self._total} {self._unit}, "
            f"{rate:.4g}/s, {left:.0f} s left {self._info}".rstrip(),
            file=sys.stderr,
            flush=True,
        )


def _format(info: dict[str, float]) -> str:
    return " ".join(f"{k} {v:.4g}" for k, v in info.items())


@contextmanager
def track(
    total: int,
    description: str,
    *,
    unit: str = "steps",
    done: int = 0,
    show: bool = True,
) -> Iterator[Tracker]:
    """Shows the progress of a piece of long work on standard error.

    Args:
        total: Number of units of work.
        description: Name of the work.
        unit: Name of a unit.
        done: Units finished before (resumed work); not part of the rate.
        show: False for silence (processes other than the first, tests).
    """
    if not show:
        yield _Silent()
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(total, description, unit, done)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit + " {task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(
            description, total=total, completed=done, rate="", info=""
        )
        yield _Bar(progress, task, done)
