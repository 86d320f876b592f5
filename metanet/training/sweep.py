"""Sweeps: one experiment, run for every combination of some of its settings."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from metanet.errors import MetanetError
from metanet.files import write_file
from metanet.options import NonEmpty, Options
from metanet.training.arguments import override, read_config_file
from metanet.training.config import ExperimentConfig
from metanet.training.io import read_result
from metanet.training.loop import Busy, Interrupted, train


@dataclass(frozen=True)
class SweepConfig(Options):
    """Combinations of settings.

    Attributes:
        config: The experiment, ``FILE[:ARGUMENT]``.
        arguments: Choices of each setting after the colon.
        values: Choices of each field of the config, by dotted name.
        fixed: Values of fields that all runs share, by dotted name.
        alternatives: Sets of field values; every combination is run with each set.
    """

    config: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    alternatives: Annotated[tuple[dict[str, Any], ...], NonEmpty()] = ({},)

    def __post_init__(self) -> None:
        super().__post_init__()
        for section in ("arguments", "values"):
            for name, choices in getattr(self, section).items():
                if not isinstance(choices, list | tuple) or not choices:
                    raise MetanetError(
                        f"{section}.{name}: expected a list of choices, got {choices!r}"
                    )


class Trial(NamedTuple):
    """One combination of settings.

    Attributes:
        name: Name of its directory.
        config: ``FILE:ARGUMENT``.
        values: Fields that differ from the config, by dotted name.
    """

    name: str
    config: str
    values: dict[str, Any]


def trials(sweep: SweepConfig) -> list[Trial]:
    """Returns all combinations of a sweep in a fixed order."""
    names = [*sweep.arguments, *sweep.values]
    choices = [*sweep.arguments.values(), *sweep.values.values()]
    return [
        _trial(sweep, dict(zip(names, combination, strict=True)), alternative)
        for *combination, alternative in itertools.product(*choices, sweep.alternatives)
    ]


def _trial(
    sweep: SweepConfig, combination: dict[str, Any], alternative: Mapping[str, Any]
) -> Trial:
    settings = {**combination, **alternative}
    file, _, argument = sweep.config.partition(":")
    varied = ",".join(f"{name}={settings[name]}" for name in sweep.arguments)
    arguments = ",".join(part for part in (argument, varied) if part)
    fields = {k: v for k, v in settings.items() if k not in sweep.arguments}
    label = "-".join(f"{k.rpartition('.')[2]}={v}" for k, v in settings.items())
    directory = re.sub(r"[^\w.=+-]+", "_", label) or "run"
    return Trial(directory, f"{file}:{arguments}", {**sweep.fixed, **fields})


def experiment_of(trial: Trial) -> ExperimentConfig:
    """Returns the config of a trial.

    Raises:
        MetanetError: for fields or settings that do not exist.
    """
    config = read_config_file(trial.config)
    for name, value in trial.values.items():
        override(config, name, value)
    return ExperimentConfig.from_mapping(config.to_dict())


def run_sweep(sweep: SweepConfig, out: str | Path) -> Iterator[tuple[Trial, str]]:
    """Runs the trials that are not finished, one after the other.

    Several processes may work on one directory: each takes the trials on which no other
    works. A trial that fails leaves error.txt and does not stop the others.

    Args:
        sweep: The sweep.
        out: Directory of the runs.

    Yields:
        Each trial with "done", "failed: REASON", "finished before" or "elsewhere".

    Raises:
        MetanetError: for a combination that is no config, before anything runs.
        Interrupted: after a stop signal.
    """
    experiments = [(trial, experiment_of(trial)) for trial in trials(sweep)]
    for trial, config in experiments:
        workdir = Path(out) / trial.name
        if read_result(workdir) is not None:
            yield trial, "finished before"
            continue
        try:
            train(config, workdir, overrides=trial.values)
            (workdir / "error.txt").unlink(missing_ok=True)
            yield trial, "done"
        except Busy:
            yield trial, "elsewhere"
        except Interrupted:
            raise
        except MetanetError as error:
            write_file(workdir / "error.txt", f"{error}\n".encode())
            yield trial, f"failed: {error}"
