"""The report of one run: what it learned, on what, and how to repeat it."""

from __future__ import annotations

import io
import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from metanet.errors import MetanetError
from metanet.graphs import draw, to_graph
from metanet.networks import Params
from metanet.report import describe, figures, page
from metanet.report.files import (
    flatten,
    metric_series,
    number,
    read_json,
    summary_rows,
)
from metanet.report.page import Markup
from metanet.report.sections import SECTIONS, ReportInputs, all_sections
from metanet.symmetry import SymmetryError, check
from metanet.training import (
    InputArchitecture,
    Run,
    load_run,
    read_result,
    read_transfers,
)
from metanet.zoos import load_images, reconstruct

# Networks shown, and test networks among which misread ones are looked for.
_SHOWN = 24
_SEARCHED = 512


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


@SECTIONS.register("curves", position=10)
def curves_section(report: ReportInputs) -> list[Markup]:
    """Returns the learning curves from metrics.jsonl."""
    panels: dict[str, Mapping[str, figures.Curve]] = {}
    series = metric_series(report.workdir)
    for metric in ("loss", "accuracy", "r2", "kendall_tau", "psnr"):
        lines = {"training": metric, "validation": f"validation_{metric}"}
        curves: dict[str, figures.Curve] = {
            split: series[name] for split, name in lines.items() if name in series
        }
        if curves:
            panels[metric] = curves
    if not panels:
        return []
    return [page.section("Learning curves", figures.curves(panels))]


@SECTIONS.register("confusion", position=20)
def confusion_section(report: ReportInputs) -> list[Markup]:
    """Returns the confusion matrix of a classification."""
    matrix = report.result.test.get("confusion")
    if not matrix:
        return []
    return [
        page.section(
            "Confusion matrix",
            page.heat(matrix, report.run.zoo.class_names),
            note="Test split; rows are true classes, columns predicted ones.",
        )
    ]


@SECTIONS.register("transfers", position=40)
def transfer_section(report: ReportInputs) -> list[Markup]:
    """Returns the metrics on other zoos, where there are any."""
    numbers = {
        zoo: {k: v for k, v in metrics.items() if isinstance(v, int | float)}
        for zoo, metrics in read_transfers(report.workdir).items()
    }
    names = sorted({name for metrics in numbers.values() for name in metrics})
    rows = [
        (zoo, *(number(metrics.get(n, math.nan)) for n in names))
        for zoo, metrics in numbers.items()
    ]
    if not rows:
        return []
    note = "Test splits of zoos that the run was not trained on."
    return [page.section("Other zoos", page.table(("", *names), rows), note=note)]


@SECTIONS.register("samples", position=50)
def samples_section(report: ReportInputs) -> list[Markup]:
    """Returns source images beside renderings of classified INRs, with the classes."""
    items = []
    for sample in _samples(report.run):
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
    if not items:
        return []
    grid = Markup(f'<div class="samples">{page.join(items)}</div>')
    return [
        page.section(
            "Networks of the test split",
            grid,
            note="Left: the image that was fitted. Right: the function that the weights "
            "compute. Below: predicted class and its probability; misclassified networks "
            "are framed.",
        )
    ]


@SECTIONS.register("graph", position=60)
def graph_sections(report: ReportInputs) -> list[Markup]:
    """Returns drawing and tables of the input networks' parameter graph and symmetry."""
    run = report.run
    weights, columns = run.zoo.row(0)
    network = run.experiment.inputs.get(columns["architecture"])
    if network is None:
        return []
    symmetry, topology = network.symmetry, network.topology
    architecture = run.zoo.architectures[columns["architecture"]]
    params = network.spec.unflatten(jnp.asarray(weights))
    drawing = io.BytesIO()
    figure = draw(topology, graph=to_graph(topology, params))
    figure.savefig(drawing, format="png", dpi=130)
    nodes, edges = describe.node_rows(topology), describe.edge_rows(topology)
    tables = (
        describe.group_rows(symmetry),
        describe.family_rows(symmetry),
        describe.coverage_rows(symmetry),
    )
    return [
        page.section(
            "Parameter graph of an input network",
            page.image(drawing.getvalue(), "parameter graph", css="drawing"),
            page.table(nodes[0], nodes[1:]),
            page.table(edges[0], edges[1:]),
            note=f"{architecture.name}: {topology.num_nodes} nodes, "
            f"{topology.num_parameters:,} parameters. Drawn with the weights of "
            f"network {columns['id']}.",
        ),
        page.section(
            "Symmetries of the input networks",
            *(page.table(t[0], t[1:]) for t in tables if len(t) > 1),
            note="Found in the traced program. "
            + _evidence(network, params, f"network {columns['id']}"),
        ),
    ]


def _evidence(architecture: InputArchitecture, params: Params, name: str) -> str:
    """Checks the symmetry of an architecture at some weights; says what came out."""
    network = architecture.network
    try:
        result = check(architecture.symmetry, network.apply_fn, params, *network.inputs)
    except SymmetryError as error:
        return f"The numerical check with the weights of {name} failed: {error}."
    text = "; ".join(map(str.strip, str(result).splitlines()))
    return f"Checked for this report with the weights of {name}, perturbed: {text}."


def _samples(run: Run) -> list[Sample]:
    """Returns some classified INRs of the test split, misclassified ones first."""
    zoo = run.zoo
    if zoo.info["kind"] != "inr" or run.config.task.name != "classification":
        return []
    table = zoo.read("test", ["id", "label", "image"])
    searched = slice(0, _SEARCHED)
    probabilities = np.asarray(run.predict(table.weights[searched]))
    predicted, labels = probabilities.argmax(axis=1), table["label"][searched]
    wrong = np.flatnonzero(predicted != labels)[: _SHOWN // 3]
    right = np.flatnonzero(predicted == labels)[: _SHOWN - len(wrong)]
    shown = np.concatenate([wrong, right])
    fit = run.config.zoo.fit
    assert fit is not None
    try:
        images = load_images(fit.images, fit.data_root or None).images
    except MetanetError:
        images = None
    drawn = reconstruct(zoo, table.weights[shown])
    return [
        Sample(
            image=None if images is None else images[table["image"][i]],
            reconstruction=drawing,
            label=zoo.class_names[labels[i]],
            predicted=zoo.class_names[predicted[i]],
            probability=float(probabilities[i, predicted[i]]),
            name=f"network {table['id'][i]}",
        )
        for i, drawing in zip(shown, drawn, strict=True)
    ]


@SECTIONS.register("settings", position=70)
def settings_section(report: ReportInputs) -> list[Markup]:
    """Returns config, overrides, versions, and the command that repeats the run."""
    workdir, config = report.workdir, report.config
    rest = {k: v for k, v in config.items() if k not in ("config", "overrides")}
    rows = [
        (k.removeprefix("versions."), v)
        for k, v in flatten(rest).items()
        if v is not None
    ]
    settings = json.dumps(config["config"], indent=2)
    changed = config.get("overrides") or {}
    values = " ".join(f"{k}={v}" for k, v in changed.items()) or "none"
    section = page.section(
        "How to repeat it",
        page.code(command(workdir)),
        page.table(("", ""), [*rows, ("overrides", values)]),
        page.folded("Config", settings),
    )
    return [section]


def command(workdir: Path) -> str:
    """The command line that trains this run again."""
    again = workdir.with_name(f"{workdir.name}-again")
    words = ["metanet", "train", "--config", str(workdir / "config.json")]
    return shlex.join([*words, "--workdir", str(again)])


def write_report(workdir: str | Path) -> Path:
    """Writes ``report.html`` of a finished run.

    Returns:
        Its path.

    Raises:
        MetanetError: the directory holds no finished run, or cannot be written.
    """
    workdir = Path(workdir)
    result = read_result(workdir)
    if result is None:
        raise MetanetError(f"{workdir}: the run is not finished (no result.json in it)")
    config = read_json(workdir, "config.json")
    run = load_run(workdir)
    report = ReportInputs(workdir, run, result, config)
    parts = [page.tiles(summary_rows(asdict(result))), *all_sections(report)]
    title = workdir.resolve().name
    subtitle = f"{run.config.model.name} on {run.config.zoo.path}"
    return page.write_page(workdir / "report.html", title, subtitle, parts)
