"""The part of ``--config=FILE:ARGUMENT`` after the colon, typed."""

from __future__ import annotations

from typing import Any

from metanet.errors import MetanetError, suggest


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
