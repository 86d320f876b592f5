"""``metanet evaluate``, ``report``, ``predict``: what one does with finished runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from metanet.cli.console import UsageError, add_command, print_table
from metanet.cli.predict import run_predict


def add_commands(commands: Any) -> None:
    """Adds ``evaluate``, ``report`` and ``predict``."""
    evaluate = add_command(
        commands,
        "evaluate",
        run_evaluate,
        "metrics of a run's best checkpoint, on its own zoo or another",
        """
        Evaluates the checkpoint that was best on validation on a split of the zoo. With
        --zoo on the test split of another zoo, such as one trained on other images; the
        metrics are kept in WORKDIR/on-ZOO.json, and `metanet report` compares them.
        """,
        """
        metanet evaluate runs/classify_inr --split validation
        metanet evaluate runs/on-mnist-*/ --zoo zoos/fashion_mnist-small_cnn
        """,
    )
    evaluate.add_argument("workdirs", metavar="WORKDIR", type=Path, nargs="+")
    evaluate.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="test",
        help="split to evaluate on (default: test)",
    )
    evaluate.add_argument(
        "--zoo", metavar="DIR", type=Path, help="a zoo that the run was not trained on"
    )
    report = add_command(
        commands,
        "report",
        run_report,
        "write a run's report, or compare runs",
        """
        With one directory: writes its report.html anew. With several: prints them as a
        table, best first, and writes comparison.html beside them; runs that differ only
        in their seed become one row with mean and standard deviation. Runs that have
        not finished are left out.
        """,
        """
        metanet report runs/classify_inr
        metanet report runs/gmn-* runs/statnn-*
        metanet report --group-by model.name,data.fraction runs/sweep/*/
        """,
    )
    report.add_argument("workdirs", metavar="WORKDIR", type=Path, nargs="+")
    report.add_argument(
        "--group-by",
        metavar="FIELD,...",
        default="",
        help="fields of the config, such as model.name,data.fraction: runs that agree in "
        "these become one row (default: runs that differ in their seed alone); with "
        "model.name, predictors that read no weights are rows as well",
    )
    predict = add_command(
        commands,
        "predict",
        run_predict,
        "predict what networks in files represent, or how accurate they are",
        """
        Applies a run to networks given as files or as rows of a zoo. A file of weights
        must be of an architecture that the run was trained on; PyTorch names and layouts
        (".weight", outputs first) are understood. An ONNX file is read as a program: its
        graph may be new, as long as its parts are not. Nothing that a file contains is
        executed.

        FILE is .onnx, .npz, .safetensors, .pth, .pt (a PyTorch state dict), or ZOO:ID.
        The exit status is 1 if any of the files could not be read. A network that lies
        outside what the run was trained on is predicted with a warning.
        """,
        """
        metanet predict runs/classify_inr model.pth other.safetensors
        metanet predict runs/predict_accuracy model.onnx zoos/mnist:17 --json
        """,
    )
    predict.add_argument("workdir", metavar="WORKDIR", type=Path)
    predict.add_argument("files", metavar="FILE", nargs="+")
    predict.add_argument("--json", action="store_true", help="print one JSON array")


def run_evaluate(args: argparse.Namespace) -> int:
    """Prints the metrics of one split."""
    from metanet.report import summary_rows
    from metanet.training import load_run, write_transfer
    from metanet.zoos import Zoo

    if args.zoo and args.split != "test":
        raise UsageError(f"--zoo: reads the test split, not --split {args.split}")
    zoo = Zoo.open(args.zoo) if args.zoo else None
    for workdir in args.workdirs:
        metrics = load_run(workdir).evaluate(args.split, zoo)
        if args.zoo:
            write_transfer(workdir, args.zoo, metrics)
        rows = summary_rows({args.split: metrics})
        what = f"{workdir}: {args.split}{f' of {args.zoo}' if args.zoo else ''}"
        print_table(what, ("", ""), rows, right=[1])
    return 0


def run_report(args: argparse.Namespace) -> int:
    """Rewrites one report, or compares several runs."""
    from metanet.report import compare, write_report

    if len(args.workdirs) == 1 and not args.group_by:
        print(f"report: {write_report(args.workdirs[0])}")
        return 0
    by = [field for field in args.group_by.split(",") if field]
    # Of what a pattern like runs/* names, the runs; a sweep may still be running.
    runs = [d for d in args.workdirs if not d.is_file()]
    finished = [d for d in runs if (d / "result.json").is_file()]
    left_out = [d.name for d in runs if d not in finished]
    if left_out and finished:
        print(f"not finished, left out: {', '.join(left_out)}")
    table = compare(finished or runs, by=by)
    print_table("", table.header, table.rows, right=range(1, len(table.header)))
    print(f"comparison: {table.path}")
    return 0
