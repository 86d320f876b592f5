"""Several runs side by side; runs that differ only in their seed count as one row."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metanet.errors import MetanetError, suggest
from metanet.report import figures, page
from metanet.report.files import duration, flatten, number, read_json
from metanet.training import read_transfers

_MISSING = "-"
# Where runs put their output says nothing about what they are.
_NOT_SETTINGS = ("seed", "workdir")
# What predictors that read no weights follow from.
_DATA = ("zoo.", "data.", "task.column")


class Comparison(NamedTuple):
    """A table of run groups.

    Attributes:
        header: Column titles.
        rows: Cells as text, best test value first.
        path: The HTML page.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    path: Path


class _Run(NamedTuple):
    path: Path
    settings: dict[str, Any]
    result: dict[str, Any]


class _Group(NamedTuple):
    name: str
    settings: dict[str, Any]
    results: tuple[dict[str, Any], ...]


def _read(workdir: Path) -> _Run:
    config = read_json(workdir, "config.json")
    settings = flatten(config.get("config", config))
    for key in _NOT_SETTINGS:
        settings.pop(key, None)
    result = read_json(workdir, "result.json")
    others = read_transfers(workdir)
    result |= {f"on {name}": metrics for name, metrics in others.items()}
    return _Run(workdir, settings, result)


def _group(runs: Sequence[_Run], by: Sequence[str]) -> list[_Group]:
    by_settings: dict[str, tuple[dict[str, Any], list[Path], list[dict[str, Any]]]] = {}
    for workdir, settings, result in runs:
        if by:
            settings = {key: _setting(settings, key, workdir) for key in by}
        _, paths, results = by_settings.setdefault(_key(settings), (settings, [], []))
        again = any(r.get("seed") == result.get("seed") is not None for r in results)
        if again and not by:
            continue  # the same run again is no further evidence
        paths.append(workdir)
        results.append(result)
    groups = []
    for settings, paths, results in by_settings.values():
        names = [p.resolve().name for p in paths]
        stem = (
            os.path.commonprefix(names).rstrip("-_. ") if len(names) > 1 else names[0]
        )
        # Fields that were asked for name a group better than its directories.
        label = ", ".join(map(str, settings.values())) if by else stem or names[0]
        groups.append(_Group(label, settings, tuple(results)))
    return groups


def _references(runs: Sequence[_Run], by: Sequence[str]) -> list[_Group]:
    """Returns the predictors without weights of the runs, as groups of their own.

    They depend on the zoo and the selection from it alone: runs that agree there count once.
    """
    if "model.name" not in by:
        return []  # no cell would name the row
    by_label: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {}
    for _, settings, result in runs:
        data = {k: v for k, v in settings.items() if k.startswith(_DATA)}
        shown = {k: data[k] for k in by if k in data}
        for name, metrics in (result.get("references") or {}).items():
            label = f"no weights: {name}"
            entry = by_label.setdefault(_key([label, shown]), (label, shown, {}))
            entry[2].setdefault(_key(data), {"test": metrics})
    return [
        _Group(label, shown | {"model.name": label}, tuple(results.values()))
        for label, shown, results in by_label.values()
    ]


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _values(group: _Group, split: str, metric: str) -> list[float]:
    values = [(r.get(split) or {}).get(metric) for r in group.results]
    return [float(v) for v in values if isinstance(v, (int, float))]


def _mean_sd(values: Sequence[float]) -> str:
    if not values:
        return _MISSING
    mean = number(statistics.fmean(values))
    if len(values) == 1:
        return mean
    spread = statistics.stdev(values)
    # As many digits as the mean has.
    small = "." in mean and "e" not in mean and spread < 1e3
    digits = len(mean.partition(".")[2])
    return f"{mean} ± {f'{spread:.{digits}f}' if small else number(spread)}"


def _mean(group: _Group, key: str) -> float | None:
    values = [r[key] for r in group.results if isinstance(r.get(key), (int, float))]
    return statistics.fmean(values) if values else None


# Metrics that are compared; a run's own report has all.
_COMPARED = {
    "test": ("accuracy", "r2", "kendall_tau", "mae", "coverage", "loss"),
    "validation": ("accuracy", "r2"),
}


def _metrics(groups: Sequence[_Group]) -> list[tuple[str, str]]:
    others = sorted({k for g in groups for r in g.results for k in r if k[:3] == "on "})
    compared = _COMPARED | dict.fromkeys(others, ("accuracy", "r2", "kendall_tau"))
    pairs = [
        (split, metric)
        for split, names in compared.items()
        for metric in names
        if any(_values(group, split, metric) for group in groups)
    ]
    # A loss says nothing to people who see anything else.
    return [pair for pair in pairs if pair[1] != "loss"] or pairs


def _differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Returns settings that distinguish the groups, but those that follow from a name.

    A model's options come with its name: they are shown where they vary beside it.
    """

    def column(key: str) -> list[str]:
        return [str(s.get(key, _MISSING)) for s in settings]

    def follows(key: str, name: str) -> bool:
        pairs = set(zip(column(name), column(key), strict=True))
        return len(pairs) == len(set(column(name)))

    keys = sorted({k for s in settings for k in s})
    varying = [k for k in keys if len(set(column(k))) > 1]
    names = [k for k in varying if k.rpartition(".")[2] == "name"]
    return [
        k for k in varying if k in names or not any(follows(k, name) for name in names)
    ]


def _setting(settings: dict[str, Any], key: str, workdir: Path) -> Any:
    if key not in settings:
        raise MetanetError(
            f"{workdir}: config: no field {key!r}.{suggest(key, settings)}"
        )
    return settings[key]


def compare(
    workdirs: Sequence[Path], out: Path | None = None, by: Sequence[str] = ()
) -> Comparison:
    """Compares finished runs.

    Args:
        workdirs: Directories of runs.
        out: The page to write; default: ``comparison.html`` in the directory that the
            runs have in common.
        by: Dotted fields of the config; runs that agree in these count as one row. None:
            runs that differ in their seed alone.

    Returns:
        The table and the page's path. Metrics are the mean over the runs of a group,
        with the sample standard deviation where there are several. Predictors that read
        no weights are rows as well where ``by`` names the model.

    Raises:
        MetanetError: a directory holds no finished run, or a field does not exist.
    """
    read = [_read(workdir) for workdir in workdirs]
    groups = _group(read, by)
    differing = list(by) or _differing([g.settings for g in groups])
    groups += _references(read, by)
    metrics = _metrics(groups)
    if metrics:
        lowest = metrics[0][1] == "loss"

        def rank(group: _Group) -> float:
            values = _values(group, *metrics[0])
            mean = statistics.fmean(values) if values else float("-inf")
            return mean if lowest else -mean

        groups.sort(key=rank)
    header = (*(() if by else ("run",)), *differing, "runs" if by else "seeds")
    header += tuple(f"{s} {m}" for s, m in metrics)
    header += ("parameters", "networks/s", "time")
    rows = []
    for g in groups:
        parameters, speed, wall = (
            _mean(g, k) for k in ("parameters", "networks_per_second", "wall_seconds")
        )
        rows.append(
            (
                *(() if by else (g.name,)),
                *(str(g.settings.get(k, _MISSING)) for k in differing),
                str(len(g.results)),
                *(_mean_sd(_values(g, s, m)) for s, m in metrics),
                _MISSING if parameters is None else number(round(parameters)),
                _MISSING if speed is None else number(speed),
                _MISSING if wall is None else duration(wall),
            )
        )
    if out is None:
        parents = [str(w.resolve().parent) for w in workdirs]
        out = Path(os.path.commonpath(parents)) / "comparison.html"
    parts = [page.section("Runs", page.table(header, rows))]
    if metrics:
        split, metric = metrics[0]
        values = [_values(g, split, metric) for g in groups]
        drawn = [(g, v) for g, v in zip(groups, values, strict=True) if v]
        chart = figures.bars(
            [g.name for g, _ in drawn],
            [statistics.fmean(v) for _, v in drawn],
            [statistics.stdev(v) if len(v) > 1 else 0.0 for _, v in drawn],
        )
        note = "Mean over seeds; bars show the sample standard deviation."
        parts.insert(0, page.section(f"{split} {metric}", chart, note=note))
    title = f"{len(workdirs)} runs compared"
    names = ", ".join(w.resolve().name for w in workdirs)
    return Comparison(header, tuple(rows), page.write_page(out, title, names, parts))
