"""The files of a run's directory beside checkpoints and metrics."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from metanet.errors import MetanetError
from metanet.files import write_file
from metanet.networks import Architecture
from metanet.training.config import ExperimentConfig

_PACKAGES = (
    "metanet-jax",
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
    """Writes config.json, or checks that the one there is the same.

    Raises:
        MetanetError: when the directory holds a run of another config, or cannot be
            written.
    """
    path = workdir / "config.json"
    if path.is_file():
        held, new = _flat(_read(path)["config"]), _flat(config.to_json())
        differing = sorted(
            k for k in held.keys() | new.keys() if held.get(k) != new.get(k)
        )
        if differing:
            found = "; ".join(
                f"{k}: {held.get(k)!r}, now {new.get(k)!r}" for k in differing
            )
            raise MetanetError(
                f"{workdir}: holds a run of another config ({found}); name another "
                "--workdir or delete this one"
            )
        return
    content = {
        "config": config.to_json(),
        "overrides": dict(overrides),
        "versions": {
            "python": platform.python_version(),
            **{p: importlib.metadata.version(p) for p in _PACKAGES},
        },
        "git_commit": _git_commit(),
    }
    write_file(path, json.dumps(content, indent=1).encode())


def read_config(workdir: Path) -> ExperimentConfig:
    """The config of a run.

    Raises:
        MetanetError: when the directory is no run.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise MetanetError(f"{workdir}: not a run's directory (no config.json in it)")
    return ExperimentConfig.from_mapping(_read(path)["config"])


class InputNetworks(NamedTuple):
    """What a run reads; recorded, so that it predicts without its zoo.

    Attributes:
        architectures: By id.
        class_names: Of the zoo's labels.
        image_side: Height and width of the images that they read, where known.
    """

    architectures: dict[str, Architecture]
    class_names: tuple[str, ...]
    image_side: int | None = None


def write_inputs(workdir: Path, inputs: InputNetworks) -> None:
    """Writes inputs.json."""
    content = {
        "class_names": inputs.class_names,
        "architectures": {k: a.to_json() for k, a in inputs.architectures.items()},
        "image_side": inputs.image_side,
    }
    write_file(workdir / "inputs.json", json.dumps(content, indent=1).encode())


def read_inputs(workdir: Path) -> InputNetworks:
    """Reads inputs.json.

    Raises:
        MetanetError: when the run never started to train.
    """
    path = workdir / "inputs.json"
    if not path.is_file():
        raise MetanetError(f"{workdir}: no checkpoint yet; train the run first")
    content = _read(path)
    names, held = content.get("class_names"), content.get("architectures")
    if not isinstance(names, list) or not isinstance(held, dict):
        raise MetanetError(f"{path}: expected class_names and architectures")
    architectures = {k: Architecture.from_json(v) for k, v in held.items()}
    side = content.get("image_side")
    return InputNetworks(architectures, tuple(map(str, names)), side)


def read_result(workdir: Path) -> dict[str, Any] | None:
    """result.json of a finished run; None where it is not finished."""
    path = workdir / "result.json"
    return _read(path) if path.is_file() else None


def write_result(workdir: Path, result: Mapping[str, Any]) -> None:
    """Writes result.json."""
    write_file(workdir / "result.json", json.dumps(result, indent=1).encode())


def write_transfer(workdir: Path, zoo: Path, metrics: Mapping[str, Any]) -> Path:
    """Writes ``on-ZOO.json``: test metrics on a zoo that the run was not trained on."""
    path = workdir / f"on-{zoo.resolve().name}.json"
    write_file(path, json.dumps({"zoo": str(zoo), "test": metrics}, indent=1).encode())
    return path


def read_transfers(workdir: Path) -> dict[str, dict[str, Any]]:
    """Test metrics on other zoos, by the zoo's name."""
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


def _flat(value: Any, prefix: str = "config") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(_flat(item, f"{prefix}.{key}"))
    return flat


def _git_commit() -> str | None:
    """The commit of the checkout that metanet runs from, "+" for local changes."""
    root = Path(__file__).parent
    try:
        run = lambda *args: subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, timeout=10
        )
        commit = run("rev-parse", "HEAD")
        if commit.returncode:
            return None
        dirty = run("status", "--porcelain", "--untracked-files=no").stdout.strip()
        return commit.stdout.strip() + ("+" if dirty else "")
    except (OSError, subprocess.TimeoutExpired):
        return None
