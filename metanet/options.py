"""Options as frozen dataclasses that check themselves.

A class of options states the type, the bounds and the default of every field once:

    @dataclass(frozen=True)
    class TrainConfig(Options):
        steps: PositiveInt = 1000
        schedule: Literal["cosine", "linear"] = "cosine"

The checks run whenever an instance is made, whether in code, from a config file or from the
command line. Errors begin with the name of the field, so that each caller can put the name
of the section before it ("config.train.steps: must be at least 1, got 0").
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, cast

from metanet.errors import MetanetError, suggest

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """Lower bound of a number, itself allowed; infinity and NaN are refused."""

    low: float

    def check(self, value: float) -> None:
        """Raises a `MetanetError` when the value lies outside the bound."""
        if not (value >= self.low and math.isfinite(value)):
            raise MetanetError(f"must be at least {self.low}, got {value}")


@dataclasses.dataclass(frozen=True)
class Interval:
    """Interval of a number in the notation of mathematics.

    Attributes:
        low, high: Ends.
        ends: "[]", "[)", "(]" or "()"; a round bracket excludes its end.
    """

    low: float
    high: float
    ends: str = "[]"

    def check(self, value: float) -> None:
        """Raises a `MetanetError` when the value lies outside the interval."""
        above = value > self.low if self.ends[0] == "(" else value >= self.low
        below = value < self.high if self.ends[1] == ")" else value <= self.high
        if self.low == 0 and self.high == math.inf and not above:
            raise MetanetError(f"must be positive, got {value}")
        if not (above and below and math.isfinite(value)):
            interval = f"{self.ends[0]}{self.low}, {self.high}{self.ends[1]}"
            raise MetanetError(f"must lie in {interval}, got {value}")


@dataclasses.dataclass(frozen=True)
class RangeWithin:
    """Bounds of a field that is itself a pair (low, high), from which values are drawn."""

    low: float
    high: float

    def check(self, value: tuple[float, float]) -> None:
        """Raises a `MetanetError` for a pair that is descending or leaves the bounds."""
        if not self.low <= value[0] <= value[1] <= self.high:
            raise MetanetError(
                f"expected (low, high) within {self.low} and {self.high}, got {value}"
            )


@dataclasses.dataclass(frozen=True)
class NonEmpty:
    """Bound of a tuple that has at least one entry."""

    def check(self, value: tuple[object, ...]) -> None:
        """Raises a `MetanetError` for an empty tuple."""
        if not value:
            raise MetanetError("needs at least one entry")


PositiveInt = Annotated[int, AtLeast(1)]
NonNegativeInt = Annotated[int, AtLeast(0)]
PositiveFloat = Annotated[float, Interval(0, math.inf, "()")]
NonNegativeFloat = Annotated[float, AtLeast(0)]
Rate = Annotated[float, Interval(0, 1, "[)")]


class Options:
    """Base class of frozen dataclasses whose fields are checked when one is made.

    Types, `Literal` choices and bounds (`AtLeast`, `Interval` inside `Annotated`) are read
    from the annotations. Whole numbers become floats and lists become tuples where the
    annotation says so. Subclasses that compare several fields extend ``__post_init__``.
    """

    def __post_init__(self) -> None:
        for name, annotation in field_types(type(self)).items():
            value = getattr(self, name)
            try:
                converted = convert(annotation, value)
            except MetanetError as error:
                raise within(name, error) from None
            if converted is not value:
                object.__setattr__(self, name, converted)


def field_types(cls: type) -> Mapping[str, Any]:
    """Returns the annotation of every field of a dataclass, bounds included."""
    return _field_types(cls)


@functools.cache
def _field_types(cls: type) -> Mapping[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return types.MappingProxyType(
        {field.name: hints[field.name] for field in dataclasses.fields(cast(Any, cls))}
    )


def within(section: str, error: MetanetError) -> MetanetError:
    """Returns the error of a field with the name of its section before it."""
    text = str(error)
    field, colon, _ = text.partition(":")
    named = bool(colon) and all(part.isidentifier() for part in field.split("."))
    return MetanetError(f"{section}{'.' if named else ': '}{text}")


def from_mapping(cls: type[T], mapping: Mapping[str, Any], section: str = "") -> T:
    """Makes a dataclass from a mapping; fields that are left out keep their defaults.

    Values are read in the order of the fields.

    Args:
        cls: The dataclass.
        mapping: Values by field name, nested for nested dataclasses.
        section: Dotted name of the mapping for messages ("config.train").

    Raises:
        MetanetError: for an unknown key (with the nearest one), a wrong type, and all that
            the class refuses, naming the dotted field.
    """
    try:
        known = field_types(cls)
        values: dict[str, Any] = {}
        for key in mapping:
            if key not in known:
                raise MetanetError(f"{key}: unknown key.{suggest(str(key), known)}")
        for key in (name for name in known if name in mapping):
            try:
                values[key] = convert(known[key], mapping[key])
            except MetanetError as error:
                raise within(key, error) from None
        return cls(**values)
    except MetanetError as error:
        raise within(section, error) if section else error from None


def to_mapping(options: Any) -> dict[str, Any]:
    """Returns the nested mapping of a dataclass, the inverse of `from_mapping`.

    Sections that are None are left out, tuples stay tuples.
    """
    fields = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    return {name: _plain(v) for name, v in fields.items() if v is not None}


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return _plain(value.to_json())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def convert(annotation: Any, value: Any) -> Any:
    """Returns a value as a field of an annotation holds it.

    Raises:
        MetanetError: for a value of another type, choice or range.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return value
    if origin is Annotated:
        converted = convert(arguments[0], value)
        for bound in arguments[1:]:
            bound.check(converted)
        return converted
    if origin is typing.Literal:
        return _choice(arguments, value)
    if origin in (types.UnionType, typing.Union):
        return _alternative(annotation, arguments, value)
    if origin is tuple:
        return _tuple(annotation, arguments, value)
    kind = origin or annotation
    if isinstance(value, Mapping) and kind not in (dict, Mapping):
        return _section(kind, value)
    return _plain_value(kind, value)


def _choice(choices: tuple[Any, ...], value: Any) -> Any:
    for choice in choices:
        if value == choice and type(value) is type(choice):
            return value
    raise MetanetError(
        f"unknown choice {value!r}.{suggest(str(value), map(str, choices))}"
    )


def _alternative(annotation: Any, alternatives: tuple[Any, ...], value: Any) -> Any:
    if value is None and types.NoneType in alternatives:
        return None
    rest = [kind for kind in alternatives if kind is not types.NoneType]
    if len(rest) == 1:
        return convert(rest[0], value)
    for kind in rest:
        try:
            return convert(kind, value)
        except MetanetError:
            continue
    raise _mismatch(annotation, value)


def _tuple(annotation: Any, items: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _mismatch(annotation, value)
    if len(items) == 2 and items[1] is Ellipsis:
        kinds = [items[0]] * len(value)
    elif len(items) == len(value):
        kinds = list(items)
    else:
        raise _mismatch(annotation, value)
    pairs = zip(kinds, value, strict=True)
    return tuple(convert(kind, item) for kind, item in pairs)


def _section(kind: Any, mapping: Mapping[str, Any]) -> Any:
    if hasattr(kind, "from_json"):
        return kind.from_json(mapping)
    if dataclasses.is_dataclass(kind):
        return from_mapping(cast(type, kind), mapping)
    raise _mismatch(kind, dict(mapping))


def _plain_value(kind: Any, value: Any) -> Any:
    if isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        return value
    if kind is float and isinstance(value, numbers.Real) and type(value) is not bool:
        return float(value)
    if kind is int and isinstance(value, numbers.Integral) and type(value) is not bool:
        return int(value)
    if dataclasses.is_dataclass(kind):
        raise MetanetError(f"expected a section, got {value!r}")
    raise _mismatch(kind, value)


def _mismatch(annotation: Any, value: Any) -> MetanetError:
    return MetanetError(f"expected {_type_name(annotation)}, got {value!r}")


def _type_name(annotation: Any) -> str:
    """Returns a type as it reads in source code, without bounds."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if annotation is Ellipsis:
        return "..."
    if origin in (types.UnionType, typing.Union):
        return " | ".join(map(_type_name, arguments))
    name = getattr(origin or annotation, "__name__", str(annotation))
    if origin is None:
        return name
    return f"{name}[{', '.join(map(_type_name, arguments))}]"
