"""Runs an experiment once for every combination of its settings.

    python experiments/sweep.py --config configs/sweep_accuracy.py:models --out runs/models
    metanet report --group-by model.name runs/models/*/

Repeating the command goes on with what is not finished; started several times, also on
other machines with the same folder, the processes share the work.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from metanet.errors import MetanetError
from metanet.training import from_mapping, read_config_file
from metanet.training.sweep import SweepConfig, run_sweep


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
    args = parser.parse_args()
    try:
        mapping = read_config_file(args.config).to_dict()
        sweep = from_mapping(SweepConfig, mapping, "config")
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
