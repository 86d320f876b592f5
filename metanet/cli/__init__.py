"""The `metanet` command: one subcommand per task, each in a module of its own.

Heavy imports (jax, flax, matplotlib) stay inside the functions that run a command, so
that ``metanet --help`` and mistyped commands answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from metanet import __version__
from metanet.cli import edit, inspect, runs, sweep, train, zoo
from metanet.cli.console import quiet_libraries
from metanet.errors import MetanetError
from metanet.registry import import_modules

__all__ = ["main"]

_DESCRIPTION = """\
Weight-space metanetworks: train networks that read the weights of other networks.

  metanet train --config configs/classify_inr.py
      fit a zoo of small networks, train a metanetwork on it, write a report
  metanet train --config configs/predict_accuracy.py
      train a zoo of classifiers, and learn to tell their accuracy from their weights
  metanet predict runs/predict_accuracy model.onnx
      apply a run to networks stored in files
  metanet inspect siren:hidden=32,32
      show the symmetries and the parameter graph of a network
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's argument parser with all subcommands."""
    parser = argparse.ArgumentParser(
        prog="metanet",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="'metanet COMMAND --help' explains a command and its options.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"metanet {__version__}")
    parser.add_argument(
        "--import",
        dest="imports",
        metavar="MODULE",
        action="append",
        default=[],
        help="import a module that registers models, rules, operators, ... (repeatable)",
    )
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True
    )
    for module in (train, sweep, runs, edit, inspect, zoo):
        module.add_commands(commands)
    return parser


def _say(message: str) -> None:
    print(f"metanet: error: {' '.join(message.split())}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status.

    0: done. 1: bad input, told in one line on standard error. 2: wrong usage. 130
    and 143: interrupted, by the keyboard or SIGTERM. Anything unforeseen keeps its traceback.
    """
    parser = build_parser()
    args, extra = parser.parse_known_args(argv)
    configured = "config" in args  # its fields are set by further arguments
    if extra and not configured:
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    quiet_libraries()
    try:
        if configured:
            args.overrides = extra
        # Modules beside the user's files, as `python FILE` finds them.
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        import_modules(args.imports)
        status = args.run(args)
        sys.stdout.flush()
        return status
    except MetanetError as error:
        _say(str(error))
        return error.status
    except BrokenPipeError:
        # The reader (head, less) has left; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        _say(f"{error.filename}: {error.strerror}")
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
