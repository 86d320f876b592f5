"""Training steps per second of every model, one JSON line per case.

    python experiments/bench_train_step.py [--repeats 5] [--dim 64] [--depth 4]

Cases: batches of 64 and 256 INRs 2-32-32-1. ``gflops`` counts the matrix products of the
step's program; ``share_of_peak`` compares them with a 2048^3 product of the same run.
``graph_share`` is the share of the step's time that building the graphs takes.
"""

import argparse
import json
import sys

import jax

from metanet.training.benchmark import train_step_cases


def main() -> None:
    parser = argparse.ArgumentParser(description="Training steps per second.")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps per case")
    parser.add_argument("--dim", type=int, default=64, help="width of the GMN")
    parser.add_argument("--depth", type=int, default=4, help="blocks of the GMN")
    args = parser.parse_args()
    print(f"device: {jax.devices()[0].device_kind}", file=sys.stderr)
    for case in train_step_cases(args.dim, args.depth, args.repeats):
        print(json.dumps(case), flush=True)


if __name__ == "__main__":
    main()
