"""Config files: ``FILE[:ARGUMENT]`` to a `ConfigDict` whose fields a command line can set.

A config file is a Python file with a function ``get_config(argument)``. It states what
differs from the defaults of the dataclasses:

    def get_config(argument: str = "") -> ConfigDict:
        variant, settings = parse_argument(argument, ("digits", "smoke"), seed=0)
        return experiment_config(seed=settings["seed"], train={"steps": 2_000})

`experiment_config` checks these values and fills in all others.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import metanet
from metanet.errors import MetanetError, suggest
from metanet.options import Options, from_mapping, to_mapping
from metanet.training.config import ExperimentConfig
from metanet.training.io import read_config

Setting = bool | int | float | str


def to_config_dict(options: Options) -> ConfigDict:
    """Returns all fields of a dataclass of options, nested as its sections are."""
    return ConfigDict(to_mapping(options))


def experiment_config(**sections: Any) -> ConfigDict:
    """Returns the config of an experiment with every field.

    Args:
        **sections: Fields of `ExperimentConfig` that differ from their defaults; sections
            are mappings: ``train={"steps": 2_000}``.

    Raises:
        MetanetError: for a field that does not exist or an impossible value.
    """
    return to_config_dict(from_mapping(ExperimentConfig, sections, "config"))


def read_config_file(config: str) -> ConfigDict:
    """Returns what ``get_config`` of a config file returns.

    Args:
        config: ``FILE`` or ``FILE:ARGUMENT``. ``FILE`` is a path, or the name of a config
            that is part of the package (``classify_inr``); the config.json of a run
            repeats that run.

    Raises:
        MetanetError: for a file that does not exist or is no config.
    """
    name, colon, argument = config.partition(":")
    file = find_config_file(name)
    if file.name == "config.json":
        return ConfigDict(read_config(file.parent).to_json())
    spec = importlib.util.spec_from_file_location(f"metanet_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise MetanetError(
            f"{file}: a config is a Python file (.py) or a run's config.json"
        )
    module = importlib.util.module_from_spec(spec)
    # Dataclasses that the file defines look their annotations up in this table.
    sys.modules[spec.name] = module
    # Unlike an import, this leaves no compiled file beside the config.
    exec(compile(file.read_bytes(), str(file), "exec"), vars(module))
    if not hasattr(module, "get_config"):
        raise MetanetError(f"{file}: defines no function get_config")
    if not colon:
        return module.get_config()
    if not inspect.signature(module.get_config).parameters:
        raise MetanetError(f"{file}: takes no argument, got {argument!r}")
    return module.get_config(argument)


def find_config_file(name: str) -> Path:
    """Returns the path of a config file.

    Args:
        name: A path, or the name of a config that is part of the package.

    Raises:
        MetanetError: for neither, with the nearest file or name.
    """
    file = Path(name)
    if file.is_file():
        return file
    if file.name == name and not file.suffix:
        known = {path.stem: path for path in _packaged_configs()}
        if name in known:
            return known[name]
        raise MetanetError(f"{name}: no such config.{suggest(name, known)}")
    near = [str(path) for path in file.parent.glob("*.py")]
    raise MetanetError(f"{file}: no such config file.{suggest(str(file), near)}")


def _packaged_configs() -> Iterator[Path]:
    """Yields the config files of the installed package, or of the checkout around it."""
    package = Path(metanet.__file__).parent
    yield from sorted((package.parent / "configs").glob("[!_]*.py"))
    yield from sorted((package / "configs").glob("[!_]*.py"))


def section_of(config: ConfigDict, name: str) -> ConfigDict:
    """Returns the section that contains a field.

    Args:
        config: The whole config.
        name: Dotted name of the field.

    Raises:
        MetanetError: when there is no such field (with the nearest one).
    """
    path, section, node = name.split("."), config, config
    for depth, key in enumerate(path):
        prefix = ".".join(["config", *path[:depth]])
        if not isinstance(node, ConfigDict):
            raise MetanetError(f"{prefix} is a value, not a section")
        if key not in node:
            raise MetanetError(
                f"{prefix} has no key {key!r}.{suggest(key, node.keys())}"
            )
        section, node = node, node[key]
    return section


def override(config: ConfigDict, name: str, value: object) -> None:
    """Sets a field of a config in place.

    Args:
        config: The whole config.
        name: Dotted name of the field.
        value: New value; its type is checked when the config becomes a dataclass.

    Raises:
        MetanetError: when there is no such field.
    """
    section = section_of(config, name)
    with section.ignore_type():
        section[name.rpartition(".")[2]] = value


def parse_argument(
    argument: str | None,
    variants: tuple[str, ...],
    **defaults: Setting,
) -> tuple[str, dict[str, Any]]:
    """Parses ``"variant,setting=value,..."``.

    Args:
        argument: Text after the colon; None and "" select the first variant.
        variants: Allowed variants; the first is the default.
        **defaults: Allowed settings with their default values, which fix the types.

    Returns:
        The variant, and the values of all settings by name.

    Raises:
        MetanetError: for an unknown variant or setting (with the nearest one), or a value
            of the wrong type.
    """
    variant, values = variants[0], dict(defaults)
    for part in (text.strip() for text in (argument or "").split(",")):
        name, equals, text = part.partition("=")
        if not part:
            continue
        if equals and name in defaults:
            values[name] = _parse_value(name, text, defaults[name])
        elif equals:
            raise MetanetError(
                f"config argument {name!r}: no such setting.{suggest(name, defaults)}"
            )
        elif part in variants:
            variant = part
        else:
            raise MetanetError(
                f"config argument {part!r}: no such variant.{suggest(part, variants)}"
            )
    return variant, values


def _parse_value(name: str, text: str, default: Setting) -> Setting:
    kind = type(default)
    try:
        if kind is bool:
            return kind({"true": 1, "1": 1, "false": 0, "0": 0}[text.lower()])
        return kind(text)
    except (KeyError, ValueError):
        raise MetanetError(
            f"config argument {name}: expected {kind.__name__}, got {text!r}"
        ) from None
