"""``metanet train``: a config with overrides into a run."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metanet.cli.console import UsageError, add_command, print_table


def add_commands(commands: Any) -> None:
    """Adds ``train``."""
    parser = add_command(
        commands,
        "train",
        run_train,
        "run or resume an experiment",
        """
        Runs the experiment that a config describes: fits or opens its zoo, trains a
        metanetwork, evaluates the checkpoint that is best on validation, and writes
        config.json, metrics.jsonl, checkpoints/, result.json and report.html into the
        run's directory. An interrupted run continues where it stopped.

        Every value of the config can be changed on the command line by its dotted name,
        --config.SECTION.NAME=VALUE; what a config offers is said in its file.
        """,
        """
        metanet train --config configs/classify_inr.py
        metanet train --config configs/classify_inr.py:smoke --workdir /tmp/smoke
        metanet train --config configs/classify_inr.py --config.model.dim=128
        metanet train --config runs/classify_inr/config.json --config.seed=1
        """,
    )
    parser.usage = (
        "metanet train --config FILE[:ARG] [--config.NAME=VALUE ...] [--workdir DIR]"
    )
    parser.add_argument(
        "--config",
        metavar="FILE[:ARG]",
        required=True,
        help="config file, and the variant of it to take",
    )
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        type=Path,
        help="directory of the run (default: runs/NAME-ARG after the config)",
    )
    several = parser.add_argument_group("several processes")
    several.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="address of process 0; starts jax.distributed",
    )
    several.add_argument(
        "--num-processes", metavar="N", type=int, help="number of processes"
    )
    several.add_argument(
        "--process-id", metavar="I", type=int, help="number of this process, from 0"
    )


def default_workdir(config: str) -> Path:
    """``configs/a.py:b`` to ``runs/a-b``, a run's config to ``runs/NAME-again``."""
    file, _, arg = config.partition(":")
    if file.endswith(".json"):
        return Path("runs") / f"{Path(file).resolve().parent.name}-again"
    arg = re.sub(r"[^\w.=-]+", "-", arg).strip("-")
    return Path("runs") / (Path(file).stem + (f"-{arg}" if arg else ""))


def load_config(config: str, overrides: Sequence[str] = ()) -> tuple[Any, dict]:
    """Loads a config file and applies ``--config.x.y=z`` overrides.

    Args:
        config: ``FILE`` or ``FILE:ARG``; a run's config.json repeats that run.
        overrides: Command line arguments, each starting with ``--config.``, or the
            value of the one before.

    Returns:
        The locked ConfigDict, and the overridden values by dotted name.

    Raises:
        UsageError: an unknown key (with the nearest known one) or a value of another
            type.
        MetanetError: the file does not exist or is no config.
    """
    from absl import flags
    from ml_collections import config_flags

    from metanet.errors import MetanetError
    from metanet.training import read_config_file, section_of

    base = read_config_file(config)
    for option in overrides:
        if re.match(r"--?(no)?config\.", option):
            name = re.sub(r"^--?(no)?config\.", "", option.partition("=")[0])
            try:
                section_of(base, name)
            except MetanetError as error:
                raise UsageError(str(error)) from error
        elif option.startswith("-") and not re.match(r"-\.?\d", option):
            raise UsageError(
                f"unrecognized argument {option}; config values are set by "
                "--config.NAME=VALUE"
            )
    values = flags.FlagValues()
    argv = ["metanet", *overrides]
    try:
        config_flags.DEFINE_config_dict(
            "config", base, lock_config=True, flag_values=values, sys_argv=argv
        )
        left = values(argv)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(_last_line(error)) from error
    if left:
        raise UsageError(f"unrecognized arguments: {' '.join(left)}")
    flag = values["config"]
    return flag.value, config_flags.get_override_values(flag)


def _last_line(error: Exception) -> str:
    """The part of a flag library's message that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _start_processes(args: argparse.Namespace) -> None:
    options = (args.coordinator, args.num_processes, args.process_id)
    if all(value is None for value in options):
        return
    if any(value is None for value in options):
        raise UsageError(
            "--coordinator, --num-processes and --process-id belong together"
        )
    from metanet.training import ProcessConfig, start_processes

    start_processes(ProcessConfig(*options))


def run_train(args: argparse.Namespace) -> int:
    """Trains, evaluates, reports."""
    config, overrides = load_config(args.config, args.overrides)
    workdir = args.workdir or default_workdir(args.config)
    _start_processes(args)
    import jax

    from metanet.report import summary_rows
    from metanet.training import ExperimentConfig, train

    experiment = ExperimentConfig.from_mapping(config.to_dict())
    result = train(experiment, workdir, overrides=overrides)
    if jax.process_index() > 0:
        return 0
    print_table(str(workdir), ("", ""), summary_rows(asdict(result)), right=[1])
    return _report(workdir, alone=jax.process_count() == 1)


def _report(workdir: Path, alone: bool) -> int:
    """Writes the report; among several processes, in one more.

    Reading a checkpoint waits for all processes of a group, and the others have ended.
    """
    if alone:
        from metanet.report import write_report

        print(f"report: {write_report(workdir)}")
        return 0
    program = "import sys; from metanet.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "report", str(workdir)]
    return subprocess.run(
        command, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    ).returncode
