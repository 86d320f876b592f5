"""How zoos use a machine: on CPU one program per core, elsewhere one large batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from metanet.compiler import on_cpu

A = TypeVar("A")
B = TypeVar("B")


def map_on_cores(call: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Results of ``call`` in the order of ``items``, computed by a thread per core.

    XLA runs a loop of small operations on one core, and releases the GIL meanwhile. When
    the caller stops early or a call fails, what has not begun is left.
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
