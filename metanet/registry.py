"""Names to objects: one small table per kind of thing that a config can name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from metanet.errors import MetanetError, suggest

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of named objects that refuses duplicates and names near misses.

    Attributes:
        kind: What the table holds, for messages ("model", "schedule", ...).
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._table: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that enters its argument under ``name``.

        Raises:
            ValueError: if the name is taken.
        """

        def enter(value: T) -> T:
            if name in self._table:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._table[name] = value
            return value

        return enter

    def __getitem__(self, name: str) -> T:
        if name not in self._table:
            raise MetanetError(
                f"unknown {self.kind} {name!r}.{suggest(str(name), self._table)}"
            )
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._table))

    def __contains__(self, name: object) -> bool:
        return name in self._table
