"""The data card of a zoo."""

from __future__ import annotations

import numpy as np
from rich.table import Table

from metanet.zoos.shards import ZooTable
from metanet.zoos.splits import SPLITS
from metanet.zoos.store import Zoo

# Largest number of architectures that are listed one by one.
_LISTED = 6


def describe(zoo: Zoo) -> list[Table]:
    """Builds tables for a terminal: provenance, counts per split, quality, settings."""
    table = zoo.read(skip_broken=True)
    about = Table(title=f"Zoo {zoo.path}", show_header=False, title_justify="left")
    about.add_row("networks", f"{len(zoo):,}")
    about.add_row("parameters each", _range(table.sizes, "{:,.0f}"))
    architectures = zoo.architectures
    if len(architectures) > _LISTED:
        names = sorted({a.name for a in architectures.values()})
        about.add_row("architectures", f"{len(architectures)}: {', '.join(names)}")
    else:
        for key, architecture in architectures.items():
            options = ", ".join(f"{k}={v}" for k, v in architecture.options)
            about.add_row(f"architecture {key}", f"{architecture.name}({options})")
    for key, value in zoo.info["config"].items():
        if not isinstance(value, dict):
            about.add_row(f"config.{key}", str(value))
    versions = zoo.info["versions"]
    about.add_row("made with", ", ".join(f"{k} {v}" for k, v in versions.items()))
    is_population = zoo.info["kind"] == "population"
    summarize = _summarize_classifiers if is_population else _summarize_inrs
    return [about, *summarize(zoo, table)]


def _summarize_inrs(zoo: Zoo, table: ZooTable) -> list[Table]:
    psnr = table["psnr"]
    low, median, high = np.quantile(psnr, [0.05, 0.5, 0.95])
    quality = Table(title="Quality", show_header=False, title_justify="left")
    quality.add_row("convention", zoo.info["convention"])
    quality.add_row(
        "PSNR",
        f"mean {psnr.mean():.2f} dB, 5 % {low:.2f}, median {median:.2f}, "
        f"95 % {high:.2f}",
    )
    label = table["label"]
    classes = [(name, label == i) for i, name in enumerate(zoo.class_names)]
    return [quality, _counts("Networks per class", "class", classes, table)]


def _summarize_classifiers(zoo: Zoo, table: ZooTable) -> list[Table]:
    last = table["epoch"] == table["epoch"].max()
    runs = Table(title="Runs", title_justify="left")
    runs.add_column("after the last epoch")
    runs.add_column("lowest, quartiles, highest", justify="right")
    for name in ("train_accuracy", "test_accuracy", "test_loss"):
        quartiles = np.quantile(table[name][last], [0, 0.25, 0.5, 0.75, 1])
        runs.add_row(name, "  ".join(f"{v:.4g}" for v in quartiles))
    missing = len(zoo) - len(table)
    runs.add_row("networks with NaN weights", f"{missing:,}")
    settings = Table(title="Settings of the runs", title_justify="left")
    settings.add_column("setting")
    settings.add_column("values", justify="right")
    for name in zoo.info["config"]["hyperparameters"]:
        values = table[name]
        if values.dtype.kind in "fiu" and len(np.unique(values)) > 5:
            settings.add_row(name, _range(values, "{:.3g}"))
            continue
        choices, counts = np.unique(values[last], return_counts=True)
        pairs = zip(choices, counts, strict=True)
        settings.add_row(name, ", ".join(f"{_text(v)} ({n:,})" for v, n in pairs))
    families = np.unique(table["family"])
    rows = [(str(f), table["family"] == f) for f in families]
    return [runs, settings, _counts("Networks per family", "family", rows, table)]


def _counts(
    title: str, name: str, rows: list[tuple[str, np.ndarray]], table: ZooTable
) -> Table:
    """Counts networks by group (rows, each with its mask) and split (columns)."""
    counts = Table(title=title, title_justify="left")
    counts.add_column(name)
    for split in SPLITS:
        counts.add_column(split, justify="right")
    in_split = {split: table["split"] == split for split in SPLITS}
    for label, members in [*rows, ("all", np.ones(len(table), bool))]:
        counts.add_row(label, *(f"{np.sum(members & in_split[s]):,}" for s in SPLITS))
    return counts


def _range(values: np.ndarray, template: str) -> str:
    low, high = template.format(values.min()), template.format(values.max())
    return low if low == high else f"{low} to {high}"


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, np.floating) else str(value)
