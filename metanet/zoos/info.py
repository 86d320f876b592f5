"""The data card of a zoo."""

from __future__ import annotations

import numpy as np
from rich.table import Table

from metanet.zoos.splits import SPLITS
from metanet.zoos.store import Zoo


def describe(zoo: Zoo) -> list[Table]:
    """Tables for a terminal: provenance, counts per split and class, PSNR."""
    table = zoo.read(columns=("label", "split", "psnr"))
    config = zoo.info["config"]
    about = Table(title=f"Zoo {zoo.path}", show_header=False, title_justify="left")
    about.add_row("networks", f"{len(zoo):,}")
    about.add_row("parameters each", f"{table.weights.shape[1]:,}")
    for key, arch in zoo.architectures.items():
        options = ", ".join(f"{k}={v}" for k, v in arch.options)
        about.add_row(f"architecture {key}", f"{arch.name}({options})")
    for key, value in config.items():
        if key != "architecture":
            about.add_row(key, str(value))
    about.add_row("convention", zoo.info["convention"])
    psnr = table["psnr"]
    low, middle, high = np.quantile(psnr, [0.05, 0.5, 0.95])
    about.add_row(
        "PSNR",
        f"mean {psnr.mean():.2f} dB, 5 % {low:.2f}, median {middle:.2f}, "
        f"95 % {high:.2f}",
    )
    versions = zoo.info["versions"]
    about.add_row("made with", ", ".join(f"{k} {v}" for k, v in versions.items()))

    counts = Table(title="Networks per class", title_justify="left")
    counts.add_column("class")
    for split in SPLITS:
        counts.add_column(split, justify="right")
    for label, name in enumerate(zoo.class_names):
        of_class = table["label"] == label
        counts.add_row(
            name, *(f"{np.sum(of_class & (table['split'] == s)):,}" for s in SPLITS)
        )
    counts.add_row("all", *(f"{np.sum(table['split'] == s):,}" for s in SPLITS))
    return [about, counts]
