"""``metanet sweep``: an experiment for every combination of some of its settings."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from metanet.cli.console import add_command


def add_commands(commands: Any) -> None:
    """Adds ``sweep``."""
    parser = add_command(
        commands,
        "sweep",
        run_sweep,
        "run an experiment for every combination of its settings",
        """
        Trains one run per combination of the settings that a config lists, each in a
        directory of its own. Repeating the command continues with what is not finished.
        Started several times, also on other machines with the same directory, the
        processes share the work. A run that fails leaves error.txt and does not stop the
        others; the exit status is then 1.
        """,
        """
        metanet sweep --config configs/sweep_accuracy.py:models --out runs/models
        metanet sweep --config configs/sweep_accuracy.py:mixed --set train.steps=750 \\
            --out runs/mixed
        metanet report --group-by model.name runs/models/*/
        """,
    )
    parser.add_argument(
        "--config",
        metavar="FILE[:ARG]",
        required=True,
        help="config file of a sweep, and its variant",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, required=True, help="directory of the runs"
    )
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        type=_assignment,
        action="append",
        default=[],
        help="value of a config field in every run; may be repeated",
    )


def _assignment(text: str) -> tuple[str, object]:
    """Parses ``NAME=VALUE``; a value that is no JSON is text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def run_sweep(args: argparse.Namespace) -> int:
    """Runs the trials and prints the outcome of each."""
    from dataclasses import replace

    from metanet.options import from_mapping
    from metanet.training import SweepConfig, read_config_file
    from metanet.training import run_sweep as run_trials

    mapping = read_config_file(args.config).to_dict()
    sweep = from_mapping(SweepConfig, mapping, "config")
    sweep = replace(sweep, fixed={**sweep.fixed, **dict(args.set)})
    failures = 0
    for trial, outcome in run_trials(sweep, args.out):
        print(f"{trial.name}: {outcome}", flush=True)
        failures += outcome.startswith("failed")
    return 1 if failures else 0
