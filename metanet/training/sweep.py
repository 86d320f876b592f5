"""Many runs of one config: a grid or a random part of it, shared among processes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metanet.errors import MetanetError, require_at_least
from metanet.files import write_file
from metanet.training.arguments import override, read_config_file
from metanet.training.config import ExperimentConfig
from metanet.training.files import read_result
from metanet.training.loop import Busy, Interrupted, train


@dataclass(frozen=True)
class SweepConfig:
    """What is varied.

    Attributes:
        config: The experiment, ``FILE[:ARGUMENT]``.
        arguments: Settings after the colon, each with its choices.
        values: Dotted fields of the config, each with its choices.
        fixed: Dotted fields of the config that are the same in all runs.
        alternatives: Sets of fields, one of which is taken at a time; {} for none.
        draws: Number of combinations that are taken at random; 0 takes all.
        seed: Of these.
    """

    config: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    alternatives: tuple[dict[str, Any], ...] = ({},)
    draws: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, draws=0, seed=0)
        for name, choices in {**self.arguments, **self.values}.items():
            if not isinstance(choices, list | tuple) or not choices:
                raise MetanetError(
                    f"{name}: expected a list of choices, got {choices!r}"
                )


class Trial(NamedTuple):
    """One combination.

    Attributes:
        name: Of its directory.
        config: ``FILE:ARGUMENT``.
        values: Overrides by dotted name.
    """

    name: str
    config: str
    values: dict[str, Any]


def trials(sweep: SweepConfig) -> list[Trial]:
    """All combinations of a sweep, or those that it draws, in a fixed order."""
    names = [*sweep.arguments, *sweep.values]
    choices = [*sweep.arguments.values(), *sweep.values.values()]
    out = []
    for *combination, other in itertools.product(*choices, sweep.alternatives):
        chosen = dict(zip(names, combination, strict=True)) | other
        given = ",".join(f"{k}={chosen[k]}" for k in sweep.arguments)
        file, _, argument = sweep.config.partition(":")
        text = ",".join(part for part in (argument, given) if part)
        own = {k: v for k, v in chosen.items() if k not in sweep.arguments}
        label = "-".join(f"{k.rpartition('.')[2]}={v}" for k, v in chosen.items())
        name = re.sub(r"[^\w.=+-]+", "_", label) or "run"
        out.append(Trial(name, f"{file}:{text}", {**sweep.fixed, **own}))
    if sweep.draws and sweep.draws < len(out):
        rng = np.random.default_rng(sweep.seed)
        kept = sorted(rng.choice(len(out), sweep.draws, replace=False))
        out = [out[i] for i in kept]
    return out


def experiment_of(trial: Trial) -> ExperimentConfig:
    """A trial's config.

    Raises:
        MetanetError: for fields or settings that do not exist.
    """
    config = read_config_file(trial.config)
    for name, value in trial.values.items():
        override(config, name, value)
    return ExperimentConfig.from_mapping(config.to_dict())


def run_sweep(sweep: SweepConfig, out: str | Path) -> Iterator[tuple[Trial, str]]:
    """Runs what is not finished, trial after trial.

    Several processes may work on one directory: each takes trials that no other is at.
    A trial that fails leaves error.txt and does not stop the others.

    Args:
        sweep: The sweep.
        out: Directory of the runs.

    Yields:
        Each trial with "done", "failed: why", "finished before" or "elsewhere".

    Raises:
        MetanetError: for a combination that is no config, before anything runs.
        Interrupted: when told to stop.
    """
    planned = [(trial, experiment_of(trial)) for trial in trials(sweep)]
    for trial, config in planned:
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
