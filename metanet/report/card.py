"""The data card of a zoo as a page: what it holds, how good it is, how it was made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.table import Table

from metanet.report import figures, page
from metanet.report.page import Markup
from metanet.zoos import SETTING_COLUMNS, Zoo, ZooTable, describe

# Architectures that are listed.
_LISTED = 200


def write_card(zoo: Zoo, path: Path) -> Path:
    """Writes a zoo's card as HTML.

    Args:
        zoo: The zoo.
        path: The page.

    Raises:
        MetanetError: for a damaged zoo, or a place that cannot be written.
    """
    table = zoo.read(skip_broken=True)
    parts = [_quality(table)]
    if "family" in table.columns:
        parts += _settings(table)
    for table_of_zoo in describe(zoo):
        parts.append(page.section(*_markup(table_of_zoo)))
    known = list(zoo.architectures.items())
    if len(known) > 1:
        names = [
            (k, a.name, ", ".join(f"{o}={v}" for o, v in a.options)) for k, a in known
        ]
        counts = dict(
            zip(*np.unique(table["architecture"], return_counts=True), strict=True)
        )
        rows = [(*n, str(counts.get(n[0], 0))) for n in names[:_LISTED]]
        header = ("id", "kind", "options", "networks")
        note = (
            "" if len(rows) == len(known) else f"The first {len(rows)} of {len(known)}."
        )
        parts.append(page.section("Architectures", page.table(header, rows), note=note))
    title = zoo.path.resolve().name
    return page.write_page(path, title, f"{len(zoo):,} networks", parts)


def _quality(table: ZooTable) -> Markup:
    """Histograms of accuracy after the last epoch, or of PSNR."""
    if "psnr" in table.columns:
        panels = {"PSNR in dB": {"networks": table["psnr"]}}
        return page.section("Quality", figures.histograms(panels))
    last = table["epoch"] == table["epoch"].max()
    family = table["family"]
    panels = {
        title: {
            str(name): table[column][last & (family == name)]
            for name in np.unique(family)
        }
        for title, column in (
            ("test accuracy", "test_accuracy"),
            ("training accuracy", "train_accuracy"),
        )
    }
    note = "Networks after their last epoch, by family."
    return page.section("Quality", figures.histograms(panels), note=note)


def _settings(table: ZooTable) -> list[Markup]:
    """Accuracy against every setting that varies as a number."""
    last = table.take(table["epoch"] == table["epoch"].max())
    panels = {}
    for name in SETTING_COLUMNS:
        values = last[name]
        if values.dtype.kind == "f" and len(np.unique(values)) > 6:
            panels[name] = (values, last["test_accuracy"])
    if not panels:
        return []
    note = "Test accuracy after the last epoch."
    return [page.section("Settings", figures.points(panels), note=note)]


def _markup(table: Table) -> tuple[str, Markup]:
    """Converts a terminal's table to one of the page."""
    cells = [list(column.cells) for column in table.columns]
    header = [str(column.header) for column in table.columns]
    rows = [tuple(map(str, row)) for row in zip(*cells, strict=True)]
    return str(table.title), page.table(header, rows)
