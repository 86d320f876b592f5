"""Parallel calls: on CPU one thread per core, elsewhere one at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from metanet.compiler import on_cpu

A = TypeVar("A")
B = TypeVar("B")


def map_on_cores(call: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Yields results in the order of the items, computed by a thread per core.

    XLA runs a loop of small operations on one core and releases the GIL meanwhile. Calls
    that have not begun are cancelled when the caller stops early or a call fails.

    Args:
        call: The function.
        items: Its arguments.
    """
    with ThreadPoolExecutor(_workers()) as pool:
        try:
            yield from pool.map(call, items)
        finally:
            pool.shutdown(cancel_futures=True)


def _workers() -> int:
    if not on_cpu():
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
