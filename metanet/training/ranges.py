"""What training networks look like, to notice networks that differ.

Their weights by a few sizes, their programs by the windows that they slide. What neither
shows (the slope of an activation, the epsilon of a norm) is not noticed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from metanet.networks import ParamSpec
from metanet.training.experiment import InputNetwork
from metanet.zoos import ZooTable

# Share of a range by which a network may leave it.
_SLACK = 0.1
# Networks that are summarised together; a zoo may be larger than memory.
_TOGETHER = 4096
_NAMES = {
    "parameters": "the number of its parameters",
    "matrix_size_low": "the root mean square of its smallest matrix",
    "matrix_size_high": "the root mean square of its largest matrix",
    "matrix_spread": "the deviation within its most even matrix",
    "vector_size": "the root mean square of its largest bias or gain",
}


def summarize(weights: np.ndarray, spec: ParamSpec) -> dict[str, np.ndarray]:
    """Sizes of networks' arrays, decimal logarithms ``[N]``, by name.

    Args:
        weights: Flat weights ``[N, P]``.
        spec: Their layout.
    """
    sizes: dict[bool, list[np.ndarray]] = {True: [], False: []}
    spreads, start = [], 0
    exact = weights.astype(np.float64)
    for shape, size in zip(spec.shapes, spec.sizes, strict=True):
        part = exact[:, start : start + size]
        start += size
        matrix = len(shape) > 1
        sizes[matrix].append(np.sqrt(np.square(part).mean(1)))
        if matrix:
            spreads.append(part.std(1))
    log = lambda x: np.log10(np.maximum(x, 1e-12))
    out = {"parameters": np.full(len(weights), np.log10(spec.size))}
    if sizes[True]:
        out["matrix_size_low"] = log(np.min(sizes[True], axis=0))
        out["matrix_size_high"] = log(np.max(sizes[True], axis=0))
        out["matrix_spread"] = log(np.min(spreads, axis=0))
    if sizes[False]:
        out["vector_size"] = log(np.max(sizes[False], axis=0))
    return out


def ranges_of(
    table: ZooTable, inputs: Mapping[str, InputNetwork]
) -> dict[str, list[float]]:
    """Lowest and highest value of each summary over the networks of a table."""
    found: dict[str, list[float]] = {}
    for key in np.unique(table["architecture"]):
        rows, spec = table.take(table["architecture"] == key), inputs[str(key)].spec
        for start in range(0, len(rows), _TOGETHER):
            part = rows.take(slice(start, start + _TOGETHER))
            for name, values in summarize(part.weights, spec).items():
                low, high = found.get(name, [np.inf, -np.inf])
                found[name] = [min(low, values.min()), max(high, values.max())]
    return {name: [float(low), float(high)] for name, (low, high) in found.items()}


def outside(
    ranges: Mapping[str, list[float]], weights: np.ndarray, spec: ParamSpec
) -> list[str]:
    """How one network ``[P]`` differs from the training networks; [] where it does not.

    One sentence for each summary that lies outside what training has seen.
    """
    reasons = []
    for name, values in summarize(weights[None], spec).items():
        if name not in ranges:
            continue
        (low, high), value = ranges[name], float(values[0])
        slack = _SLACK * (high - low) + 0.01
        if not low - slack <= value <= high + slack:
            reasons.append(
                f"{_NAMES[name]} is {10**value:.3g}, training had {10**low:.3g} to "
                f"{10**high:.3g}"
            )
    return reasons


def windows_in(
    table: ZooTable, inputs: Mapping[str, InputNetwork]
) -> dict[str, list[str]]:
    """All that the programs of a table's networks slide; see `Windows`."""
    found = [inputs[str(key)].windows for key in np.unique(table["architecture"])]
    kinds = {kind for one in found for kind in one.kinds}
    places = {one.places for one in found if one.places}
    return {"kinds": sorted(kinds), "places": sorted(places)}


def unseen(windows: Mapping[str, list[str]], one: InputNetwork) -> list[str]:
    """What a network slides that no training network did; [] where there is nothing.

    Args:
        windows: Of the training networks, see `windows_in`; {} where not recorded.
        one: The network.
    """
    if not windows:
        return []
    reasons, held = [], windows["kinds"]
    for kind in one.windows.kinds:
        if kind in held:
            continue
        size, _, _ = kind.partition(", ")
        alike = [h.removeprefix(f"{size}, ") for h in held if h.startswith(f"{size}, ")]
        had = " or ".join(alike) or " or ".join(held) or "none at all"
        reasons.append(f"it has {kind} (training had {had})")
    places = one.windows.places
    if places and places not in windows["places"]:
        had = " or ".join(windows["places"]) or "no windows"
        reasons.append(f"it slides windows over {places} places (training had {had})")
    return reasons
