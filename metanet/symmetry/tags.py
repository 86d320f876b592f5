"""What the tags of occurrences say: which parameters and sites they index."""

from __future__ import annotations

from collections.abc import Iterable

from metanet.symmetry.indices import Occurrence
from metanet.symmetry.structure import Position


def positions(o: Occurrence, leaf: int) -> list[Position]:
    """Positions of a leaf that an occurrence indexes."""
    return [t[2] for t in o.tags if t[0] == "p" and t[1] == leaf]


def sites_of(occurrences: Iterable[Occurrence]) -> set[int]:
    """Sites whose units are among some occurrences."""
    return {t[1] for o in occurrences for t in o.tags if t[0] == "s"}


def joined_units(
    source: int, ends: list[tuple[Occurrence, int | None]]
) -> tuple[tuple[int, int], ...]:
    """Pairs of source and target units that are the same index."""
    return tuple(
        (t[2], unit)
        for o, unit in ends
        if unit is not None
        for t in sorted(o.tags, key=str)
        if t[0] == "s" and t[1] == source
    )
