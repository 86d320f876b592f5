"""Sections of a report on accuracy prediction: where it is right, and what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metanet.report import figures, page
from metanet.report.files import number
from metanet.report.page import Markup
from metanet.report.sections import SECTIONS, ReportInputs
from metanet.tasks.accuracy import kendall, r_squared
from metanet.training import Run, RunResult
from metanet.zoos import SETTING_COLUMNS, ZooTable

# Test networks among which parameters are exchanged, and times that this is done.
_EXCHANGED, _REPEATS = 256, 3
_PARTS = 4  # of a setting that is a number


@SECTIONS.register("accuracy", position=30)
def accuracy_sections(report: ReportInputs) -> list[Markup]:
    """Returns predicted against true accuracy, errors by group, and importance."""
    run = report.run
    if run.config.task.name != "accuracy":
        return []
    table = run.tables["test"]
    outputs = run.split_outputs("test")
    task = run.experiment.task
    predictions = task.predictions(outputs, run.calibration)
    accuracies = table[task.columns[0]].astype(np.float64)
    names = table["family"] if "family" in table.columns else table["architecture"]
    groups = {
        str(name): (accuracies[names == name], predictions[names == name, 0])
        for name in np.unique(names)
    }
    parts = [
        page.section(
            "Predicted and true accuracy",
            figures.scatter(groups, "true", "predicted"),
            note="Networks of the test split, by family of architectures.",
        )
    ]
    rows = _error_rows(table, predictions, accuracies)
    header = ("", "", "networks", "R2", "Kendall tau", "mean error", "in interval")
    errors = page.table(header, rows)
    parts.append(page.section("Errors by architecture and setting", errors))
    shares = importance(run, table, accuracies)
    if shares:
        names, falls = (list(column) for column in zip(*shares, strict=True))
        parts.append(
            page.section(
                "Importance of parameters",
                figures.bars(names, falls, [0.0] * len(falls)),
                note="Fall of R2 when networks of one architecture exchange the values of "
                "a parameter among them.",
            )
        )
    return [*parts, _reference_section(report.result)]


def _reference_section(result: RunResult) -> Markup:
    scores: list[tuple[str, Mapping[str, Any]]] = [("this model", result.test)]
    for name, values in result.references.items():
        scores.append((name, values))
        if "model" in values:
            scores.append(
                ("this model, on the networks of the row above", values["model"])
            )
    names = ("r2", "kendall_tau", "mae")
    rows = [(n, *(number(values[m]) for m in names)) for n, values in scores]
    table = page.table(("", "R2", "Kendall tau", "mean error"), rows)
    note = "Test split. Settings: all that a run was trained with, and for how long."
    return page.section("What the weights add", table, note=note)


def _error_rows(
    table: ZooTable, predictions: np.ndarray, accuracies: np.ndarray
) -> list[tuple[str, ...]]:
    rows = []
    for name in ("family", *SETTING_COLUMNS, "epoch", "width"):
        if name not in table.columns:
            continue
        for label, members in _groups(table[name]):
            value, true = predictions[members, 0], accuracies[members]
            covered = (predictions[members, 1] <= true) & (
                true <= predictions[members, 2]
            )
            rows.append(
                (
                    name,
                    label,
                    str(int(members.sum())),
                    number(r_squared(value, true)),
                    number(kendall(value, true)),
                    number(float(np.abs(value - true).mean())),
                    f"{100 * covered.mean():.1f} %",
                )
            )
    return rows


def _groups(values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Members by value, or by parts of equal count of what has many values."""
    known = np.unique(values)
    if len(known) == 1:
        return []
    if values.dtype.kind not in "fiu" or len(known) <= 6:
        return [(str(v), values == v) for v in known]
    edges = np.quantile(values, np.linspace(0, 1, _PARTS + 1))
    which = np.searchsorted(edges[1:-1], values, side="right")
    parts = [
        (f"{edges[i]:.3g} to {edges[i + 1]:.3g}", which == i) for i in range(_PARTS)
    ]
    return [(label, members) for label, members in parts if members.any()]


def importance(
    run: Run, table: ZooTable, accuracies: np.ndarray
) -> Sequence[tuple[str, float]]:
    """Fall of R2 when a parameter is exchanged among networks, largest first.

    Of the architecture with the most test networks (permutation importance, Breiman
    2001).
    """
    kinds, counts = np.unique(table["architecture"], return_counts=True)
    key = str(kinds[counts.argmax()])
    network = run.experiment.inputs[key]
    rows = np.flatnonzero(table["architecture"] == key)[:_EXCHANGED]
    if len(rows) < 8:
        return []
    weights, true = table.take(rows).weights, accuracies[rows]

    def score(weights: np.ndarray) -> float:
        return r_squared(run.predict(weights, network)[:, 0], true)

    whole, rng, out, start = score(weights), np.random.default_rng(0), [], 0
    for path, size in zip(network.spec.paths, network.spec.sizes, strict=True):
        falls = []
        for _ in range(_REPEATS):
            mixed: Any = weights.copy()
            part = slice(start, start + size)
            mixed[:, part] = weights[rng.permutation(len(rows)), part]
            falls.append(whole - score(mixed))
        out.append((path, float(np.mean(falls))))
        start += size
    return sorted(out, key=lambda item: -item[1])[:12]
