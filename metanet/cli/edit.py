"""``metanet edit``: networks in files, edited by a run."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metanet.cli.console import add_command, print_table
from metanet.cli.predict import read_network
from metanet.errors import MetanetError

if TYPE_CHECKING:
    from metanet.training import Run


def add_commands(commands: Any) -> None:
    """Adds ``edit``."""
    edit = add_command(
        commands,
        "edit",
        run_edit,
        "write edited copies of networks",
        """
        Applies a run of the task "edit" (configs/edit_inr.py) to networks, and writes each
        under its own name into a directory, in the format in which it came; a zoo row
        becomes an .npz file. Existing files are not overwritten.
        """,
        """
        metanet edit runs/edit_inr network.npz other.safetensors --out edited
        metanet edit runs/edit_inr zoos/digits-siren:0 --out edited
        """,
    )
    edit.add_argument("workdir", metavar="WORKDIR", type=Path, help="a run's directory")
    edit.add_argument(
        "files", metavar="FILE", nargs="+", help="a file of weights, ONNX, or ZOO:ID"
    )
    edit.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        required=True,
        help="directory of the results",
    )


def run_edit(args: argparse.Namespace) -> int:
    """Edits every file that can be read; fails if one cannot."""
    from metanet.training import load_run

    run = load_run(args.workdir)
    if not run.experiment.task.reads_weights:
        raise MetanetError(
            f"{args.workdir}: a run of the task {run.config.task.name!r}, which edits "
            "nothing; train one with configs/edit_inr.py"
        )
    targets = [_target(file, args.out) for file in args.files]
    for path in targets:
        if targets.count(path) > 1 or path.exists():
            raise MetanetError(f"{path}: would be overwritten; choose another --out")
    rows, failed = [], False
    for file, path in zip(args.files, targets, strict=True):
        try:
            change = _edit(file, path, run)
        except MetanetError as error:
            text = str(error)
            message = text if text.startswith(file) else f"{file}: {text}"
            print(f"metanet: error: {message}", file=sys.stderr)
            failed = True
            continue
        rows.append((file, str(path), f"{100 * change:.1f} %"))
    if rows:
        print_table("", ("file", "edited", "change"), rows, right=[2])
    return 1 if failed else 0


def _target(file: str, out: Path) -> Path:
    zoo, colon, row = file.rpartition(":")
    if colon and Path(zoo).is_dir():
        return out / f"{Path(zoo).name}-{row}.npz"
    return out / Path(file).name


def _edit(file: str, path: Path, run: Run) -> float:
    """Writes the edited network; returns the relative change of its weights."""
    import numpy as np

    from metanet.files import write_file
    from metanet.importers import save_network

    architecture, weights = read_network(file, run)
    if not np.isfinite(weights).all():
        raise MetanetError(f"{file}: weights: NaN or infinite values")
    outputs = run.outputs(weights[None], architecture)
    edited = np.asarray(architecture.restore(outputs[:, : architecture.spec.size]))[0]
    if not np.isfinite(edited).all():
        raise MetanetError(f"{file}: weights: too large to be edited in float32")
    spec = architecture.spec
    network = architecture.network._replace(params=spec.unflatten(edited))
    if Path(file).is_file():
        save_network(path, network, like=file)
    else:
        stream = io.BytesIO()
        np.savez(stream, **spec.arrays(edited))  # type: ignore[arg-type]
        write_file(path, stream.getvalue())
    return float(np.linalg.norm(edited - weights) / np.linalg.norm(weights))
