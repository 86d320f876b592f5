r"""Training steps per second of every model, one JSON line per case.

    python experiments/bench_train_step.py
    python experiments/bench_train_step.py --cases inr --models gmn,ng_t --repeats 9

Cases: ``inr`` (64 or 256 SIRENs 2-32-32-1), ``small_cnn`` (64 nets 1-16-16-16-10, 3x3),
``packed`` (batches of about 64 different CNNs, 2 to 5 layers, 4 to 32 channels, kernels
3 to 7, with and without shortcuts), ``resnet18`` and ``vit_s`` (one network as one graph).

``gflops`` counts the matrix products of the step's program; ``share_of_peak`` compares
them with a 2048^3 product of the same run. ``times_public`` is the ratio to the public
implementation of the model on two such cores (a full PyTorch training step).
``peak_memory_bytes`` is what the compiled program holds. ``--allocator tuned`` sets
MALLOC_MMAP_MAX_=0 and a large MALLOC_TRIM_THRESHOLD_, as for the public figures.
"""

import argparse
import json
import os
import sys


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = ("inr", "small_cnn", "packed", "resnet18", "vit_s")
    parser.add_argument(
        "--cases", default=",".join(known), help="comma-separated (default: all)"
    )
    parser.add_argument(
        "--models", default="", help="comma-separated model records (default: all)"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed steps (default 5)"
    )
    parser.add_argument("--batch", type=int, default=64, help="networks (default 64)")
    parser.add_argument(
        "--devices", type=int, default=os.cpu_count() or 1,
        help="CPU devices over which a batch is divided (default: the cores)",
    )  # fmt: skip
    parser.add_argument(
        "--allocator", choices=("default", "tuned"), default="default",
        help="settings of the C library's allocator (default: default)",
    )  # fmt: skip
    parser.add_argument(
        "--bf16", action="store_true", help="bfloat16 products (inr and small_cnn)"
    )
    args = parser.parse_args()
    unknown = sorted(set(args.cases.split(",")) - set(known))
    if unknown:
        parser.error(f"unknown case {unknown[0]!r}; known: {', '.join(known)}")
    if args.allocator == "tuned" and "MALLOC_MMAP_MAX_" not in os.environ:
        # The allocator reads them when a process starts.
        tuned = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **tuned})
    import jax

    jax.config.update("jax_num_cpu_devices", args.devices)
    from metanet.training import benchmark

    chosen = set(filter(None, args.models.split(",")))
    wanted = lambda name: not chosen or name in chosen
    print(f"device: {jax.devices()[0].device_kind}", file=sys.stderr)
    for case in args.cases.split(","):
        if case in benchmark.STACKED:
            records = benchmark.stacked_cases(
                case, wanted, args.batch, args.repeats, args.bf16
            )
        elif case == "packed":
            records = benchmark.packed_cases(wanted, args.repeats)
        else:
            records = benchmark.single_cases(case, wanted, min(args.repeats, 3))
        for record in records:
            record |= {"allocator": args.allocator, "bf16": args.bf16}
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
