"""Reads what a run has written: config, metrics, result."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metanet.errors import MetanetError
from metanet.training import read_metrics


def read_json(workdir: Path, name: str) -> dict[str, Any]:
    """Reads ``workdir/name``.

    Raises:
        MetanetError: not a run's directory, or the file is damaged.
    """
    path = workdir / name
    if not workdir.is_dir():
        raise MetanetError(f"{workdir}: no such run directory")
    if not path.is_file():
        raise MetanetError(
            f"{path}: no such file; is {workdir} the directory of a finished run?"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MetanetError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise MetanetError(f"{path}: expected a JSON object")
    return content


def metric_series(workdir: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of every metric in ``metrics.jsonl``."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for row in read_metrics(workdir):
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)):
                steps, values = series.setdefault(name, ([], []))
                steps.append(int(row["step"]))
                values.append(float(value))
    return series


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping to dotted names."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out |= flatten(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def number(value: Any) -> str:
    """A number for people: 0.9312, 12,345, 1.2e-05."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if not math.isfinite(value):
        return "-"
    if isinstance(value, int) or (value == int(value) and abs(value) >= 1000):
        return f"{int(value):,}"
    if value and not 1e-3 <= abs(value) < 1e4:
        return f"{value:.2e}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"


def duration(seconds: float) -> str:
    """Seconds as "42 s", "3 min 5 s" or "1 h 12 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def summary_rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The main numbers of a result as (label, value) rows, the test split first."""
    rows = []
    for split in ("test", "validation"):
        for name, value in dict(result.get(split) or {}).items():
            if name == "accuracy":
                rows.append((f"{split} accuracy", f"{100 * value:.2f} %"))
            elif isinstance(value, (int, float)):
                rows.append((f"{split} {name}", number(value)))
    labels = {
        "best_step": "best step",
        "parameters": "parameters",
        "networks_per_second": "networks/s trained",
        "seed": "seed",
    }
    rows += [(labels[k], number(result[k])) for k in labels if k in result]
    if "wall_seconds" in result:
        rows.append(("time", duration(result["wall_seconds"])))
    return rows
