"""The report of one run: what it learned, on what, and how to repeat it."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metanet.report import describe, figures, page
from metanet.report.files import flatten, read_json, read_metrics, summary_rows
from metanet.report.page import Markup


class Sample(NamedTuple):
    """One test network: its function as an image beside the image it was fitted to.

    Attributes:
        image: Source image ``[H, W, C]`` uint8, or None where it is not to be had.
        reconstruction: The network's output ``[H, W, C]`` in [0, 1].
        label, predicted: Class names.
        probability: Of the predicted class.
        name: Identity of the network in its zoo.
    """

    image: np.ndarray | None
    reconstruction: np.ndarray
    label: str
    predicted: str
    probability: float
    name: str


def curves_section(workdir: Path) -> list[Markup]:
    """Learning curves from metrics.jsonl: loss first, then accuracy, then the rest."""
    panels: dict[str, dict[str, figures.Curve]] = {}
    for name, series in read_metrics(workdir).items():
        split, _, metric = name.rpartition("/")
        if metric in ("loss", "accuracy") and len(series[0]) > 0:
            panels.setdefault(metric, {})[split or metric] = series
    if not panels:
        return []
    ordered = {k: panels[k] for k in ("loss", "accuracy") if k in panels}
    return [page.section("Learning curves", figures.curves(ordered))]


def confusion_section(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    """The confusion matrix of the test split."""
    return page.section(
        "Confusion matrix",
        page.heat(matrix, names),
        note="Test split; rows are true classes, columns predicted ones.",
    )


def samples_section(samples: Sequence[Sample]) -> Markup:
    """Source images beside what the networks compute, with the predicted class."""
    items = []
    for sample in samples:
        right = sample.label == sample.predicted
        pictures = []
        if sample.image is not None:
            pictures.append(page.image(figures.png(sample.image), "source image"))
        drawn = figures.png(sample.reconstruction)
        pictures.append(page.image(drawn, "reconstruction by the network"))
        verdict = (
            f'<b class="right">{page.text(sample.predicted)}</b>'
            if right
            else f"<b>{page.text(sample.predicted)}</b>, is {page.text(sample.label)}"
        )
        items.append(
            Markup(
                f'<figure class="{"right" if right else "wrong"}">'
                f'<div class="pair">{page.join(pictures)}</div>'
                f"<figcaption>{verdict}<br>{100 * sample.probability:.1f} %, "
                f"{page.text(sample.name)}</figcaption></figure>"
            )
        )
    grid = Markup(f'<div class="samples">{page.join(items)}</div>')
    return page.section(
        "Networks of the test split",
        grid,
        note="Left: the image that was fitted. Right: the function that the weights "
        "compute. Below: predicted class and its probability; misread ones are framed.",
    )


def graph_sections(
    symmetry: Any, topology: Any, drawing: bytes | None
) -> list[Markup]:
    """Drawing and tables of the input networks' symmetry and parameter graph."""
    parts = []
    if drawing is not None:
        parts.append(page.image(drawing, "parameter graph", css="drawing"))
    for header, *rows in (describe.node_rows(topology), describe.edge_rows(topology)):
        parts.append(page.table(header, rows))
    sections = [page.section("Parameter graph of an input network", *parts)]
    groups, families = describe.group_rows(symmetry), describe.family_rows(symmetry)
    tables = [page.table(t[0], t[1:]) for t in (groups, families) if len(t) > 1]
    if tables:
        sections.append(
            page.section(
                "Symmetries of the input networks",
                *tables,
                note="Found in the traced program and checked numerically.",
            )
        )
    return sections
