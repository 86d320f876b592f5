"""Where the units of a site stand in an array of the program."""

from __future__ import annotations

from collections.abc import Sequence

from metanet.symmetry.indices import Axis, Indices

ViewAxis = tuple[int, int, tuple[tuple[int, int], ...]]


def view_axes(
    indices: Indices,
    axes: list[Axis],
    activation: int,
    units: int,
    turns: Sequence[int] = (),
) -> tuple[ViewAxis | None, ...] | None:
    """Describes an array's axes as `View.axes` does.

    Args:
        atoms: Atoms of the occurrences.
        axes: The array's axes, with site tags.
        site: The site to look for.
        units: Number of its units.
        turns: Units that are the turns of loops around the array.

    Returns:
        One entry per axis; None where the array does not hold all units, or holds some
        twice.
    """
    described: list[ViewAxis | None] = []
    met = [u for u in turns if u >= 0]
    for axis in axes:
        start, found = 0, None
        for segment in indices.normal(axis):
            stop = start + indices.segment_size(segment)
            places = [
                next((t[2] for t in o.tags if t[:2] == ("s", activation)), -1)
                for o in segment
            ]
            here = [u for u in places if u >= 0]
            if here:
                sizes = (indices.size(o.axis_index) for o in segment)
                found = (start, stop, tuple(zip(sizes, places, strict=True)))
                met += here
            start = stop
        described.append(found)
    return tuple(described) if sorted(met) == list(range(units)) else None
