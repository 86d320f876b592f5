"""The data card of a zoo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from rich.table import Table

from metanet.zoos.shards import ZooTable
from metanet.zoos.splits import SPLITS
from metanet.zoos.store import Zoo

# Architectures that are listed; of more, their number and sizes are told.
_LISTED = 6


def describe(zoo: Zoo) -> list[Table]:
    """Tables for a terminal: provenance, counts per split, quality, settings."""
    table = zoo.read(skip_broken=True)
    about = Table(title=f"Zoo {zoo.path}", show_header=False, title_justify="left")
    about.add_row("networks", f"{len(zoo):,}")
    about.add_row("parameters each", _range(table.sizes, "{:,.0f}"))
    known = zoo.architectures
    if len(known) > _LISTED:
        names = sorted({a.name for a in known.values()})
        about.add_row("architectures", f"{len(known)}: {', '.join(names)}")
    else:
        for key, arch in known.items():
            options = ", ".join(f"{k}={v}" for k, v in arch.options)
            about.add_row(f"architecture {key}", f"{arch.name}({options})")
    for key, value in zoo.info["config"].items():
        if not isinstance(value, dict):
            about.add_row(f"config.{key}", str(value))
    versions = zoo.info["versions"]
    about.add_row("made with", ", ".join(f"{k} {v}" for k, v in versions.items()))
    return [about, *_KINDS[zoo.info["kind"]](zoo, table)]


def _inr(zoo: Zoo, table: ZooTable) -> list[Table]:
    psnr = table["psnr"]
    low, middle, high = np.quantile(psnr, [0.05, 0.5, 0.95])
    quality = Table(title="Quality", show_header=False, title_justify="left")
    quality.add_row("convention", zoo.info["convention"])
    quality.add_row(
        "PSNR",
        f"mean {psnr.mean():.2f} dB, 5 % {low:.2f}, median {middle:.2f}, "
        f"95 % {high:.2f}",
    )
    label = table["label"]
    classes = [(name, label == i) for i, name in enumerate(zoo.class_names)]
    return [quality, _counts("Networks per class", "class", classes, table)]


def _population(zoo: Zoo, table: ZooTable) -> list[Table]:
    last = table["epoch"] == table["epoch"].max()
    runs = Table(title="Runs", title_justify="left")
    runs.add_column("after the last epoch")
    runs.add_column("lowest, quartiles, highest", justify="right")
    for name in ("train_accuracy", "test_accuracy", "test_loss"):
        five = np.quantile(table[name][last], [0, 0.25, 0.5, 0.75, 1])
        runs.add_row(name, "  ".join(f"{v:.4g}" for v in five))
    missing = len(zoo) - len(table)
    runs.add_row("networks with NaN weights", f"{missing:,}")
    settings = Table(title="Settings of the runs", title_justify="left")
    settings.add_column("setting")
    settings.add_column("drawn", justify="right")
    for name in zoo.info["config"]["hyperparameters"]:
        values = table[name]
        if values.dtype.kind in "fiu" and len(np.unique(values)) > 5:
            settings.add_row(name, _range(values, "{:.3g}"))
            continue
        names, counts = np.unique(values[last], return_counts=True)
        settings.add_row(
            name,
            ", ".join(
                f"{_text(n)} ({c:,})" for n, c in zip(names, counts, strict=True)
            ),
        )
    families = np.unique(table["family"])
    rows = [(str(f), table["family"] == f) for f in families]
    return [runs, settings, _counts("Networks per family", "family", rows, table)]


def _counts(
    title: str, name: str, rows: list[tuple[str, Any]], table: ZooTable
) -> Table:
    """A row per kind of network, a column per split."""
    counts = Table(title=title, title_justify="left")
    counts.add_column(name)
    for split in SPLITS:
        counts.add_column(split, justify="right")
    held = {split: table["split"] == split for split in SPLITS}
    for label, members in [*rows, ("all", np.ones(len(table), bool))]:
        counts.add_row(label, *(f"{np.sum(members & held[s]):,}" for s in SPLITS))
    return counts


def _range(values: np.ndarray, form: str) -> str:
    low, high = form.format(values.min()), form.format(values.max())
    return low if low == high else f"{low} to {high}"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, np.floating) else str(value)


_KINDS: dict[str, Callable[[Zoo, ZooTable], list[Table]]] = {
    "inr": _inr,
    "population": _population,
}
