"""Runs an experiment once for every combination of its settings.

    python experiments/sweep.py --config configs/sweep_accuracy.py:models --out runs/models
    metanet report --group-by model.name runs/models/*/

Repeating the command goes on with what is not finished; started several times, also on
other machines with the same folder, the processes share the work.

A field that all runs share, say shorter runs:

    python experiments/sweep.py ... --set train.steps=750
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from metanet.errors import MetanetError
from metanet.training import from_mapping, read_config_file
from metanet.training.sweep import SweepConfig, run_sweep


def setting(text: str) -> tuple[str, Any]:
    """``NAME=VALUE``, the value as JSON or else as it stands."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", required=True, metavar="FILE[:ARG]", help="config of the sweep"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="directory of the runs"
    )
    parser.add_argument(
        "--set",
        type=setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="field of every run's config, may be repeated",
    )
    args = parser.parse_args()
    try:
        mapping = read_config_file(args.config).to_dict()
        sweep = from_mapping(SweepConfig, mapping, "config")
        sweep = replace(sweep, fixed={**sweep.fixed, **dict(args.set)})
        failed = 0
        for trial, outcome in run_sweep(sweep, args.out):
            print(f"{trial.name}: {outcome}", flush=True)
            failed += outcome.startswith("failed")
    except MetanetError as error:
        print(f"sweep: error: {error}", file=sys.stderr)
        return error.status
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
