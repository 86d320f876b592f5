"""Detection of networks that are unlike all training networks.

Weights are summarised by the sizes of their arrays, programs by their sliding windows. The
slope of an activation or the epsilon of a norm shows in neither and is not detected.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from metanet.networks import ParamSpec
from metanet.training.experiment import InputArchitecture
from metanet.tuning import TABLE_ROWS
from metanet.zoos import ZooTable

# Share of a range by which a network may lie outside of it.
_TOLERANCE = 0.1
_NAMES = {
    "parameters": "the number of its parameters",
    "matrix_size_low": "the root mean square of its smallest matrix",
    "matrix_size_high": "the root mean square of its largest matrix",
    "matrix_spread": "the deviation within its most even matrix",
    "vector_size": "the root mean square of its largest bias or gain",
}


def summarize(weights: np.ndarray, spec: ParamSpec) -> dict[str, np.ndarray]:
    """Returns decimal logarithms ``[N]`` of sizes of the networks' arrays, by name.

    Args:
        weights: Flat weights ``[N, P]``.
        spec: Layout of the parameters.
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
    out = {"parameters": np.full(len(weights), np.log10(spec.size))}
    if sizes[True]:
        out["matrix_size_low"] = _log10(np.min(sizes[True], axis=0))
        out["matrix_size_high"] = _log10(np.max(sizes[True], axis=0))
        out["matrix_spread"] = _log10(np.min(spreads, axis=0))
    if sizes[False]:
        out["vector_size"] = _log10(np.max(sizes[False], axis=0))
    return out


def _log10(x: np.ndarray) -> np.ndarray:
    return np.log10(np.maximum(x, 1e-12))


def training_support(
    table: ZooTable, inputs: Mapping[str, InputArchitecture]
) -> dict[str, list[float]]:
    """Returns lowest and highest value of each summary over the networks of a table."""
    support: dict[str, list[float]] = {}
    for key in np.unique(table["architecture"]):
        rows, spec = table.take(table["architecture"] == key), inputs[str(key)].spec
        for start in range(0, len(rows), TABLE_ROWS):
            part = rows.take(slice(start, start + TABLE_ROWS))
            for name, values in summarize(part.weights, spec).items():
                low, high = support.get(name, [np.inf, -np.inf])
                support[name] = [min(low, values.min()), max(high, values.max())]
    return {name: [float(low), float(high)] for name, (low, high) in support.items()}


def out_of_range_reasons(
    support: Mapping[str, list[float]], weights: np.ndarray, spec: ParamSpec
) -> list[str]:
    """Returns a sentence for each summary of a network ``[P]`` outside of the support.

    Args:
        support: Result of `training_support`.
        weights: Flat weights of the network.
        spec: Layout of its parameters.
    """
    reasons = []
    for name, values in summarize(weights[None], spec).items():
        if name not in support:
            continue
        (low, high), value = support[name], float(values[0])
        tolerance = _TOLERANCE * (high - low) + 0.01
        if not low - tolerance <= value <= high + tolerance:
            reasons.append(
                f"{_NAMES[name]} is {10**value:.3g}, training had {10**low:.3g} to "
                f"{10**high:.3g}"
            )
    return reasons


def sliding_window_ops(
    table: ZooTable, inputs: Mapping[str, InputArchitecture]
) -> dict[str, list[str]]:
    """Returns all sliding windows of the programs of a table's networks."""
    keys = np.unique(table["architecture"])
    windows = [inputs[str(key)].sliding_windows for key in keys]
    kinds = {kind for w in windows for kind in w.kinds}
    positions = {w.extent for w in windows if w.extent}
    return {"kinds": sorted(kinds), "extents": sorted(positions)}


def unseen_operation_reasons(
    known: Mapping[str, list[str]], architecture: InputArchitecture
) -> list[str]:
    """Returns a sentence for each sliding window that no training network had.

    Args:
        known: Result of `sliding_window_ops` for the training networks; {} where it was
            not recorded.
        architecture: The architecture in question.
    """
    if not known:
        return []
    reasons, kinds = [], known["kinds"]
    for kind in architecture.sliding_windows.kinds:
        if kind in kinds:
            continue
        size, _, _ = kind.partition(", ")
        similar = [
            k.removeprefix(f"{size}, ") for k in kinds if k.startswith(f"{size}, ")
        ]
        had = " or ".join(similar) or " or ".join(kinds) or "none at all"
        reasons.append(f"it has {kind} (training had {had})")
    positions = architecture.sliding_windows.extent
    if positions and positions not in known["extents"]:
        had = " or ".join(known["extents"]) or "no windows"
        reasons.append(
            f"it slides windows over {positions} positions (training had {had})"
        )
    return reasons
