"""Registries: filled by decorators, read by name, open to what lies outside the package."""

import sys
from dataclasses import dataclass

import pytest

from metanet.errors import MetanetError
from metanet.options import Options, PositiveInt
from metanet.registry import Registry, import_modules


@dataclass(frozen=True)
class SquareConfig(Options):
    side: PositiveInt = 1
    color: str = "red"


@pytest.fixture
def shapes() -> Registry:
    registry = Registry("shape", requires=("Config",))

    @registry.register("square")
    @registry.register("big_square", side=10)
    class Square:
        Config = SquareConfig

    return registry


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A module outside the package: `outside_shapes`."""
    (tmp_path / "outside_shapes.py").write_text(
        "from dataclasses import dataclass\n"
        "from metanet.options import Options\n"
        "class Circle:\n"
        "    @dataclass(frozen=True)\n"
        "    class Config(Options):\n"
        "        radius: float = 1.0\n"
        "class Point:\n"
        "    pass\n"
    )
    (tmp_path / "broken_shapes.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("outside_shapes", "broken_shapes"):
        sys.modules.pop(name, None)


def test_names_and_defaults(shapes):
    assert shapes["square"] is shapes["big_square"]
    assert list(shapes) == ["big_square", "square"] and len(shapes) == 2
    assert "square" in shapes and "circle" not in shapes
    assert shapes.defaults("square") == {}
    assert shapes.defaults("big_square") == {"side": 10}
    assert shapes.options("square") == {"side", "color"}


def test_configure_merges_defaults_and_options(shapes):
    assert shapes.configure("square", {}) == SquareConfig()
    assert shapes.configure("big_square", {}) == SquareConfig(side=10)
    expected = SquareConfig(side=3, color="blue")
    assert shapes.configure("big_square", {"side": 3, "color": "blue"}) == expected
    for options, message in (
        ({"sides": 3}, 'sides: unknown key. Did you mean "side"?'),
        ({"side": 0}, "side: must be at least 1, got 0"),
        ({"color": 3}, "color: expected str, got 3"),
    ):
        with pytest.raises(MetanetError) as error:
            shapes.configure("square", options)
        assert str(error.value) == message


def test_mistakes_in_a_definition_are_refused(shapes):
    with pytest.raises(ValueError, match="shape 'square' is registered twice"):

        @shapes.register("square")
        class Again:
            Config = SquareConfig

    with pytest.raises(TypeError, match="shape 'point' has no attribute Config"):

        @shapes.register("point")
        class Point:
            pass

    assert len(shapes) == 2


def test_a_function_with_several_names():
    rules: Registry = Registry("rule")

    @rules.register("add", "sub")
    def linear(x):
        return x

    assert rules["add"] is rules["sub"] is linear


def test_objects_outside_the_package(shapes, outside):
    circle = shapes["outside_shapes:Circle"]
    assert circle.__name__ == "Circle"
    assert shapes.defaults("outside_shapes:Circle") == {}
    assert shapes.configure("outside_shapes:Circle", {"radius": 2}).radius == 2.0
    assert list(shapes) == ["big_square", "square"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sqare", "unknown shape 'sqare'. Did you mean \"square\"?"),
        ("outside_shapes:Circel", "module outside_shapes has no 'Circel'.*\"Circle\""),
        (
            "outside_shapes:Point",
            "Point has no attribute Config, which every shape has",
        ),
        ("no_such_module:X", "'no_such_module:X' cannot be imported: No module named"),
        ("broken_shapes:X", "cannot be imported: No module named 'no_such_package'"),
        (":X", "shape ':X' cannot be imported"),
    ],
)
def test_unknown_names(shapes, outside, name, message):
    with pytest.raises(MetanetError, match=message):
        shapes[name]


def test_import_modules(outside):
    import_modules([])
    import_modules(("outside_shapes",))
    assert "outside_shapes" in sys.modules
    with pytest.raises(MetanetError, match="module 'no_such_module' cannot be"):
        import_modules(["outside_shapes", "no_such_module"])
