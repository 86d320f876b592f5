"""``metanet evaluate``, ``report``, ``predict``: what one does with finished runs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from metanet.cli.console import add_command, print_table
from metanet.cli.inspect import read_row
from metanet.errors import MetanetError


def add_commands(commands: Any) -> None:
    """Adds ``evaluate``, ``report`` and ``predict``."""
    evaluate = add_command(
        commands,
        "evaluate",
        run_evaluate,
        "metrics of a run's best checkpoint",
        "Evaluates the checkpoint that was best on validation on a split of the zoo.",
        "metanet evaluate runs/classify_inr --split validation",
    )
    evaluate.add_argument("workdir", metavar="WORKDIR", type=Path)
    evaluate.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="test",
        help="split to evaluate on (default: test)",
    )
    report = add_command(
        commands,
        "report",
        run_report,
        "write a run's report, or compare runs",
        """
        With one directory: writes its report.html anew. With several: prints them as a
        table, best first, and writes comparison.html beside them; runs that differ only
        in their seed become one row with mean and standard deviation.
        """,
        """
        metanet report runs/classify_inr
        metanet report runs/gmn-* runs/statnn-*
        """,
    )
    report.add_argument("workdirs", metavar="WORKDIR", type=Path, nargs="+")
    predict = add_command(
        commands,
        "predict",
        run_predict,
        "classify networks stored in files",
        """
        Classifies networks given as files or as rows of a zoo. Their architecture must
        be the one that the run was trained on; PyTorch names and layouts (".weight",
        outputs first) are understood. Nothing that a file contains is executed.

        FILE is .npz, .safetensors, .pth, .pt (a PyTorch state dict), or ZOO:ID.
        The exit status is 1 if any of the files could not be read.
        """,
        """
        metanet predict runs/classify_inr model.pth other.safetensors
        metanet predict runs/classify_inr zoos/digits:17 --json
        """,
    )
    predict.add_argument("workdir", metavar="WORKDIR", type=Path)
    predict.add_argument("files", metavar="FILE", nargs="+")
    predict.add_argument("--json", action="store_true", help="print one JSON array")


def run_evaluate(args: argparse.Namespace) -> int:
    """Prints the metrics of one split."""
    from metanet.report import summary_rows
    from metanet.training import load_run

    metrics = load_run(args.workdir).evaluate(args.split)
    rows = summary_rows({args.split: metrics})
    print_table(f"{args.workdir}: {args.split}", ("", ""), rows, right=[1])
    return 0


def run_report(args: argparse.Namespace) -> int:
    """Rewrites one report, or compares several runs."""
    from metanet.report import compare, write_report

    if len(args.workdirs) == 1:
        print(f"report: {write_report(args.workdirs[0])}")
        return 0
    table = compare(args.workdirs)
    print_table("", table.header, table.rows, right=range(1, len(table.header)))
    print(f"comparison: {table.path}")
    return 0


class Prediction(NamedTuple):
    """Outcome for one file: a class with its probability, or an error."""

    file: str
    label: int | None = None
    name: str = ""
    probability: float = 0.0
    error: str = ""


def run_predict(args: argparse.Namespace) -> int:
    """Classifies every file that can be read; fails if one cannot."""
    import numpy as np

    from metanet.training import load_run

    run = load_run(args.workdir)
    vectors: list[Any] = []
    outcomes: list[Prediction] = []
    readable: list[int] = []
    for file in args.files:
        try:
            vectors.append(read_network(file, run))
            readable.append(len(outcomes))
            outcomes.append(Prediction(file))
        except MetanetError as error:
            outcomes.append(Prediction(file, error=str(error)))
    if vectors:
        probabilities = np.asarray(run.predict(np.stack(vectors)))
        names = run.experiment.task.class_names
        for i, row in zip(readable, probabilities, strict=True):
            label = int(row.argmax())
            outcomes[i] = outcomes[i]._replace(
                label=label, name=names[label], probability=float(row[label])
            )
    _show(outcomes, args.json)
    return 1 if len(readable) < len(outcomes) else 0


def read_network(file: str, run: Any) -> Any:
    """Weights ``[P]`` of a file or zoo row, of the architecture that ``run`` takes.

    Raises:
        MetanetError: unreadable, or of another architecture.
    """
    from metanet.importers import bind, read_arrays

    directory, colon, _ = file.rpartition(":")
    if colon and Path(directory).is_dir():
        architecture, weights = read_row(file)
        expected = run.config.zoo.fit.architecture
        if not same_architecture(architecture, expected):
            raise MetanetError(
                f"{file}: architecture {architecture.to_json()}, this run takes "
                f"{expected.to_json()}"
            )
        return weights
    bound = bind(read_arrays(file), run.experiment.spec, file)
    if bound.ignored:
        print(f"{file}: left out {', '.join(bound.ignored)}", file=sys.stderr)
    return bound.vector


def same_architecture(a: Any, b: Any) -> bool:
    """Whether two architectures agree, options that keep their default included."""
    keys = {**dict(a.options), **dict(b.options)}
    return a.name == b.name and all(a.option(k) == b.option(k) for k in keys)


def _show(outcomes: list[Prediction], as_json: bool) -> None:
    if as_json:
        rows = [
            {"file": o.file, "error": o.error}
            if o.error
            else {
                "file": o.file,
                "label": o.label,
                "class": o.name,
                "probability": o.probability,
            }
            for o in outcomes
        ]
        print(json.dumps(rows, indent=2))
    elif any(not o.error for o in outcomes):
        rows = [
            (o.file, o.name, f"{100 * o.probability:.1f} %")
            for o in outcomes
            if not o.error
        ]
        print_table("", ("file", "class", "probability"), rows, right=[2])
    for outcome in outcomes:
        if outcome.error:
            print(f"metanet: error: {outcome.error}", file=sys.stderr)
