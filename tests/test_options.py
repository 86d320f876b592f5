"""Options: dataclasses that check types, choices and bounds by their annotations."""

from dataclasses import FrozenInstanceError, dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from metanet.errors import MetanetError
from metanet.options import (
    Interval,
    NonEmpty,
    NonNegativeFloat,
    Options,
    PositiveInt,
    RangeWithin,
    Rate,
    from_mapping,
    to_mapping,
)


@dataclass(frozen=True)
class Inner(Options):
    size: PositiveInt = 4
    kind: Literal["relu", "tanh"] = "relu"


@dataclass(frozen=True)
class Outer(Options):
    rate: Rate = 0.5
    weight: NonNegativeFloat = 1.0
    share: Annotated[float, Interval(0, 1, "(]")] = 1.0
    names: Annotated[tuple[str, ...], NonEmpty()] = ("a",)
    widths: tuple[PositiveInt, ...] = ()
    bounds: Annotated[tuple[float, float], RangeWithin(0.0, 2.0)] = (0.0, 1.0)
    flag: bool = False
    table: dict[str, Any] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    other: Inner | None = None


def test_values_are_converted():
    outer = Outer(rate=0, names=["b"], widths=[1, np.int64(2)], bounds=(1, 2))  # type: ignore[arg-type]
    assert type(outer.rate) is float and outer.names == ("b",)
    assert outer.widths == (1, 2) and type(outer.widths[1]) is int
    assert outer.bounds == (1.0, 2.0) and type(outer.bounds[0]) is float
    with pytest.raises(FrozenInstanceError):
        outer.rate = 0.1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rate": 1.0}, "rate: must lie in [0, 1), got 1.0"),
        ({"rate": -0.1}, "rate: must lie in [0, 1), got -0.1"),
        ({"rate": float("nan")}, "rate: must lie in [0, 1), got nan"),
        ({"rate": "x"}, "rate: expected float, got 'x'"),
        ({"rate": True}, "rate: expected float, got True"),
        ({"weight": float("inf")}, "weight: must be at least 0, got inf"),
        ({"share": 0.0}, "share: must lie in (0, 1], got 0.0"),
        ({"names": ()}, "names: needs at least one entry"),
        ({"names": "ab"}, "names: expected tuple[str, ...], got 'ab'"),
        ({"names": ("a", 1)}, "names: expected str, got 1"),
        ({"widths": (2, 0)}, "widths: must be at least 1, got 0"),
        ({"widths": 3}, "widths: expected tuple[int, ...], got 3"),
        ({"widths": (2, 1.5)}, "widths: expected int, got 1.5"),
        ({"bounds": (1.0,)}, "bounds: expected tuple[float, float], got (1.0,)"),
        (
            {"bounds": (1.0, 0.5)},
            "bounds: expected (low, high) within 0.0 and 2.0, got (1.0, 0.5)",
        ),
        ({"flag": 1}, "flag: expected bool, got 1"),
        ({"table": []}, "table: expected dict, got []"),
        ({"inner": 3}, "inner: expected a section, got 3"),
        ({"inner": None}, "inner: expected a section, got None"),
    ],
)
def test_impossible_values_are_named(fields, message):
    for make in (lambda: Outer(**fields), lambda: from_mapping(Outer, fields)):
        with pytest.raises(MetanetError) as error:
            make()
        assert str(error.value) == message


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"rat": 0.1}, 'config.rat: unknown key. Did you mean "rate"?'),
        (
            {"inner": {"sise": 1}},
            'config.inner.sise: unknown key. Did you mean "size"?',
        ),
        ({"inner": {"size": 0}}, "config.inner.size: must be at least 1, got 0"),
        ({"other": {"size": 0}}, "config.other.size: must be at least 1, got 0"),
        (
            {"inner": {"kind": "tanhh"}},
            "config.inner.kind: unknown choice 'tanhh'. Did you mean \"tanh\"?",
        ),
        (
            {"inner": {"kind": "x"}},
            "config.inner.kind: unknown choice 'x'. Known: relu, tanh.",
        ),
    ],
)
def test_nested_mistakes_are_named(mapping, message):
    with pytest.raises(MetanetError) as error:
        from_mapping(Outer, mapping, "config")
    assert str(error.value) == message


def test_mappings_and_back():
    mapping = {"rate": 0.25, "inner": {"size": 8}, "table": {"a": [1, {"b": 2}]}}
    outer = from_mapping(Outer, mapping)
    assert outer == Outer(rate=0.25, inner=Inner(size=8), table=mapping["table"])
    assert "other" not in to_mapping(outer)
    assert from_mapping(Outer, to_mapping(outer)) == Outer(
        rate=0.25, inner=Inner(size=8), table={"a": (1, {"b": 2})}
    )
    with_other = from_mapping(Outer, {"other": {"kind": "tanh"}})
    assert to_mapping(with_other)["other"] == {"size": 4, "kind": "tanh"}


def test_subclasses_check_what_they_add():
    @dataclass(frozen=True)
    class Wider(Inner):
        heads: PositiveInt = 2

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.size % self.heads:
                raise MetanetError(f"heads: {self.heads} does not divide {self.size}")

    assert Wider(size=6).heads == 2
    for fields in ({"heads": 3}, {"heads": 0}, {"size": 0}):
        with pytest.raises(MetanetError):
            Wider(**fields)
