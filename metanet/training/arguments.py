"""Config files: ``FILE:ARGUMENT`` into a ConfigDict, and the argument's parts."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from metanet.errors import MetanetError, suggest
from metanet.training.files import read_config
from metanet.zoos import IMAGE_SETS, PopulationConfig


def read_config_file(config: str) -> ConfigDict:
    """Runs ``get_config`` of ``FILE[:ARGUMENT]``; a run's config.json is read as it is.

    Raises:
        MetanetError: for a file that does not exist or is no config.
    """
    name, colon, argument = config.partition(":")
    file = Path(name)
    if not file.is_file():
        near = [str(p) for p in file.parent.glob("*.py")]
        raise MetanetError(f"{file}: no such config file.{suggest(str(file), near)}")
    if file.name == "config.json":
        return ConfigDict(read_config(file.parent).to_json())
    spec = importlib.util.spec_from_file_location("metanet_config", file)
    if spec is None or spec.loader is None:
        raise MetanetError(
            f"{file}: a config is a Python file (.py) or a run's config.json"
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise MetanetError(f"{file}: defines no function get_config")
    return module.get_config(*([argument] if colon else []))


def section_of(config: ConfigDict, name: str) -> ConfigDict:
    """The section that holds a field, given by its dotted name.

    Raises:
        MetanetError: when there is no such field (with the nearest one).
    """
    path, section, node = name.split("."), config, config
    for depth, key in enumerate(path):
        where = ".".join(["config", *path[:depth]])
        if not isinstance(node, ConfigDict):
            raise MetanetError(f"{where} is a value, not a section")
        if key not in node:
            raise MetanetError(
                f"{where} has no key {key!r}.{suggest(key, node.keys())}"
            )
        section, node = node, node[key]
    return section


def override(config: ConfigDict, name: str, value: Any) -> None:
    """Sets a field by its dotted name.

    Raises:
        MetanetError: when there is no such field.
    """
    section = section_of(config, name)
    with section.ignore_type():
        section[name.rpartition(".")[2]] = value


# The first is the default.
ZOO_VARIANTS = ("digits", *(name for name in IMAGE_SETS if name != "digits"), "smoke")


def zoo_config(argument: str, zoo: PopulationConfig) -> ConfigDict:
    """What ``get_config`` of a zoo's config file returns.

    Args:
        argument: An image set or "smoke", and any of ``runs=N``, ``seed=N``,
            ``data_root=DIR``.
        zoo: The zoo on images of 28 or 32 pixels. On digits all images are used, in
            batches of 32; "smoke" has few networks of few epochs.

    Raises:
        MetanetError: for an unknown image set or setting.
    """
    images, given = parse_argument(argument, ZOO_VARIANTS, runs=0, seed=0, data_root="")
    small = images == "smoke"
    changes: dict[str, Any] = {
        "images": "digits" if small else images,
        "data_root": given["data_root"],
        "seed": given["seed"],
        "runs": given["runs"] or (12 if small else zoo.runs),
    }
    if small or images == "digits":
        ranges = replace(zoo.hyperparameters, batch_size=(32,))
        changes |= {"train_images": 0, "test_images": 0, "hyperparameters": ranges}
    if small:
        families = len(zoo.families)
        count = min(zoo.architectures, max(2, families))
        changes |= {"architectures": count, "epochs": (0, 1), "shard_runs": 4}
    return ConfigDict(asdict(replace(zoo, **changes)))


def parse_argument(
    argument: str | None, variants: tuple[str, ...], **defaults: Any
) -> tuple[str, dict[str, Any]]:
    """Parses ``"variant,key=value,..."``.

    Args:
        argument: The text after the colon; None or "" is the first variant.
        variants: Allowed variants; the first is the default.
        **defaults: Allowed keys with their default values, which fix the types.

    Returns:
        The variant and the values of all keys.

    Raises:
        MetanetError: for an unknown variant or key, or a value of the wrong type.
    """
    variant, values = variants[0], dict(defaults)
    for part in (p.strip() for p in (argument or "").split(",") if p.strip()):
        key, equals, text = part.partition("=")
        if not equals:
            if part not in variants:
                raise MetanetError(
                    f"config argument {part!r}: no such variant."
                    f"{suggest(part, variants)}"
                )
            variant = part
            continue
        if key not in defaults:
            raise MetanetError(
                f"config argument {key!r}: no such setting.{suggest(key, defaults)}"
            )
        values[key] = _convert(key, text, defaults[key])
    return variant, values


def _convert(key: str, text: str, default: Any) -> Any:
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        return kind(text)
    except (KeyError, ValueError):
        raise MetanetError(
            f"config argument {key}: expected {kind.__name__}, got {text!r}"
        ) from None
