"""The section of a report on editing: input, target and edited images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from metanet.report import figures, page
from metanet.report.files import number
from metanet.report.page import Markup
from metanet.report.sections import SECTIONS, ReportInputs

# Test networks in the grid.
_SHOWN = 24


@SECTIONS.register("edits", position=30)
def edit_sections(report: ReportInputs) -> list[Markup]:
    """Returns errors beside those of the baselines, and a grid of images."""
    run = report.run
    if run.config.task.name != "edit":
        return []
    scores: list[tuple[str, Mapping[str, Any]]] = [("edited", report.result.test)]
    scores += report.result.references.items()
    rows = [(name, number(s["mse"]), number(s["psnr"])) for name, s in scores]
    table = run.tables["test"]
    images = run.split_outputs("test")
    targets = run.experiment.task.targets(run.zoo, table)["target"]
    figures_ = [
        _figure(images["input"][i], targets[i], images["edited"][i], table["id"][i])
        for i in range(min(_SHOWN, len(table)))
    ]
    return [
        page.section(
            "Error of the edited images",
            page.table(("", "MSE", "PSNR (dB)"), rows),
            note="Test split. Identity: the networks without an edit. Mean image: the mean "
            "target of the training split, for every network.",
        ),
        page.section(
            "Edited networks",
            Markup(f'<div class="samples">{page.join(figures_)}</div>'),
            note="Networks of the test split. From left to right: the image that a network "
            "renders, the target, and what it renders with its edited weights.",
        ),
    ]


def _figure(
    before: np.ndarray, target: np.ndarray, after: np.ndarray, network: object
) -> Markup:
    pictures = [
        page.image(figures.png(np.clip(before, 0, 1)), "before the edit"),
        page.image(figures.png(target), "target"),
        page.image(figures.png(np.clip(after, 0, 1)), "after the edit"),
    ]
    error = float(np.square(after - target).mean())
    return Markup(
        f'<figure><div class="pair">{page.join(pictures)}</div>'
        f"<figcaption>MSE {number(error)}<br>network {page.text(network)}</figcaption>"
        "</figure>"
    )
