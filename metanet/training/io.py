"""Files of a run's directory: config.json, inputs.json, result.json, transfers."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import metanet
from metanet.errors import MetanetError
from metanet.files import write_file
from metanet.networks import Architecture
from metanet.training.config import ExperimentConfig

_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
)


def write_config(
    workdir: Path, config: ExperimentConfig, overrides: Mapping[str, Any]
) -> None:
    """Writes config.json, or checks that an existing one is the same.

    Args:
        workdir: The run's directory.
        config: The experiment.
        overrides: Fields that the command line changed, for the record.

    Raises:
        MetanetError: when the directory belongs to a run of another config, or cannot be
            written.
    """
    path = workdir / "config.json"
    if path.is_file():
        stored, new = _flatten(_read(path)["config"]), _flatten(config.to_json())
        differing = sorted(
            k for k in stored.keys() | new.keys() if stored.get(k) != new.get(k)
        )
        if differing:
            changes = "; ".join(
                f"{k}: {stored.get(k)!r}, now {new.get(k)!r}" for k in differing
            )
            raise MetanetError(
                f"{workdir}: holds a run of another config ({changes}); name another "
                "--workdir or delete this one"
            )
        return
    content = {
        "config": config.to_json(),
        "overrides": dict(overrides),
        "versions": {
            "python": platform.python_version(),
            "metanet": metanet.__version__,
            **_versions(),
        },
        "git_commit": _git_commit(),
    }
    write_file(path, json.dumps(content, indent=1).encode())


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # vendored, no metadata
            continue
    return versions


def read_config(workdir: Path) -> ExperimentConfig:
    """Reads the config of a run.

    Raises:
        MetanetError: when the directory is not a run's.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise MetanetError(f"{workdir}: not a run's directory (no config.json in it)")
    return ExperimentConfig.from_mapping(_read(path)["config"])


class RunInputs(NamedTuple):
    """Input networks of a run, recorded so that it predicts without its zoo.

    Attributes:
        architectures: Architectures by id.
        class_names: Class names of the zoo's labels.
        image_side: Height and width of the images that the networks read, where known.
    """

    architectures: dict[str, Architecture]
    class_names: tuple[str, ...]
    image_side: int | None = None


def write_inputs(workdir: Path, inputs: RunInputs) -> None:
    """Writes inputs.json."""
    content = {
        "class_names": inputs.class_names,
        "architectures": {k: a.to_json() for k, a in inputs.architectures.items()},
        "image_side": inputs.image_side,
    }
    write_file(workdir / "inputs.json", json.dumps(content, indent=1).encode())


def read_inputs(workdir: Path) -> RunInputs:
    """Reads inputs.json.

    Raises:
        MetanetError: when the run never started to train.
    """
    path = workdir / "inputs.json"
    if not path.is_file():
        raise MetanetError(f"{workdir}: no checkpoint yet; train the run first")
    content = _read(path)
    names, stored = content.get("class_names"), content.get("architectures")
    if not isinstance(names, list) or not isinstance(stored, dict):
        raise MetanetError(f"{path}: expected class_names and architectures")
    architectures = {k: Architecture.from_json(v) for k, v in stored.items()}
    return RunInputs(architectures, tuple(map(str, names)), content.get("image_side"))


@dataclass(frozen=True)
class RunResult:
    """Result of a finished run; the content of result.json.

    Attributes:
        test, validation: Metrics of the best checkpoint.
        best_step: Step of the best checkpoint.
        steps: Optimiser steps in all.
        parameters: Trainable parameters.
        networks_per_second: Median speed of training; None for very short runs.
        wall_seconds: Duration of training, over all resumed parts.
        seed: Seed of the config.
        calibration: Result of `Task.calibrate`.
        training_support: Result of `training_support`.
        sliding_windows: Result of `sliding_window_ops`; {} where not recorded.
        references: Test metrics of baselines, by name.
    """

    test: dict[str, Any]
    validation: dict[str, Any]
    best_step: int
    steps: int
    parameters: int
    networks_per_second: float | None
    wall_seconds: float
    seed: int
    calibration: dict[str, Any] = field(default_factory=dict)
    training_support: dict[str, list[float]] = field(default_factory=dict)
    sliding_windows: dict[str, list[str]] = field(default_factory=dict)
    references: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_result(workdir: Path) -> RunResult | None:
    """Reads result.json; None for a run that is not finished.

    Raises:
        MetanetError: for a file that is damaged or lacks a field.
    """
    path = workdir / "result.json"
    if not path.is_file():
        return None
    content = _read(path)
    known = {f.name for f in fields(RunResult)}
    try:
        return RunResult(**{k: v for k, v in content.items() if k in known})
    except TypeError as error:
        raise MetanetError(f"{path}: not the result of a run: {error}") from error


def write_result(workdir: Path, result: RunResult) -> None:
    """Writes result.json."""
    write_file(workdir / "result.json", json.dumps(asdict(result), indent=1).encode())


def write_transfer(workdir: Path, zoo: Path, metrics: Mapping[str, Any]) -> Path:
    """Writes ``on-ZOO.json``: test metrics on a zoo that the run was not trained on."""
    path = workdir / f"on-{zoo.resolve().name}.json"
    write_file(path, json.dumps({"zoo": str(zoo), "test": metrics}, indent=1).encode())
    return path


def read_transfers(workdir: Path) -> dict[str, dict[str, Any]]:
    """Reads the test metrics on other zoos, by the zoo's name."""
    files = sorted(workdir.glob("on-*.json"))
    return {p.stem.removeprefix("on-"): _read(p)["test"] for p in files}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise MetanetError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise MetanetError(f"{path}: expected a JSON object")
    return content


def _flatten(value: Any, prefix: str = "config") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(_flatten(item, f"{prefix}.{key}"))
    return flat


def _git_commit() -> str | None:
    """Returns the commit of the checkout that metanet runs from, "+" for local changes."""
    try:
        commit = _git("rev-parse", "HEAD")
        if commit is None:
            return None
        changes = _git("status", "--porcelain", "--untracked-files=no")
        return commit + ("+" if changes else "")
    except (OSError, subprocess.TimeoutExpired):
        return None


def _git(*arguments: str) -> str | None:
    root = str(Path(__file__).parent)
    process = subprocess.run(
        ["git", "-C", root, *arguments], capture_output=True, text=True, timeout=10
    )
    return process.stdout.strip() if process.returncode == 0 else None
