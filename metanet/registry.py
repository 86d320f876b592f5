"""Tables of named things that a config or a command line can choose from.

A registry is filled by a decorator above each definition:

    MODELS: Registry[type[Model]] = Registry("model", requires=("Config",))

    @MODELS.register("gmn")
    class GMN(GraphModel):
        Config = GMNConfig

and read by name: ``MODELS["gmn"]`` is the class, ``MODELS.configure("gmn", {"dim": 32})``
a checked `GMNConfig`. Names of the form ``package.module:attribute`` reach what lies outside
the package without being registered.
"""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Generic, TypeVar, cast

from metanet.errors import MetanetError, suggest
from metanet.options import field_types, from_mapping

T = TypeVar("T")
D = TypeVar("D")


class Registry(Generic[T]):
    """A table from names to objects of one kind.

    Iteration yields the registered names in alphabetical order.

    Args:
        kind: Name of the kind for messages ("model", "schedule").
        requires: Attributes that every object of the kind has. Objects that carry options
            have their dataclass as the attribute ``Config``.
    """

    def __init__(self, kind: str, *, requires: tuple[str, ...] = ()):
        self.kind = kind
        self.requires = requires
        self._objects: dict[str, T] = {}
        self._defaults: dict[str, Mapping[str, object]] = {}

    def register(self, *names: str, **defaults: object) -> Callable[[D], D]:
        """Returns a decorator that enters the definition below it under each name.

        Args:
            *names: Names of the object, usually one.
            **defaults: Options that these names stand for, where they differ from the
                defaults of the object's ``Config``.

        Raises:
            ValueError: if a name is taken.
            TypeError: if the object lacks a required attribute.
        """

        def enter(definition: D) -> D:
            missing = self._missing(definition)
            if missing:
                raise TypeError(f"{self.kind} {names[0]!r} has no attribute {missing}")
            for name in names:
                if name in self._objects:
                    raise ValueError(f"{self.kind} {name!r} is registered twice")
                self._objects[name] = cast(T, definition)
                self._defaults[name] = MappingProxyType(dict(defaults))
            return definition

        return enter

    def __getitem__(self, name: str) -> T:
        """Returns the object of a name, or imports it from ``package.module:attribute``.

        Raises:
            MetanetError: for an unknown name (with the nearest one), and for an object that
                cannot be imported or lacks a required attribute.
        """
        if name in self._objects:
            return self._objects[name]
        if isinstance(name, str) and ":" in name:
            return self._import(name)
        raise MetanetError(
            f"unknown {self.kind} {name!r}.{suggest(str(name), self._objects)}"
        )

    def check(self, name: str) -> None:
        """Raises a `MetanetError` for an unknown name.

        With this method a registry is a bound of a field: ``Annotated[str, SCHEDULES]``.
        """
        self[name]

    def defaults(self, name: str) -> Mapping[str, object]:
        """Returns the options that a name stands for; none for imported objects."""
        self.check(name)
        return self._defaults.get(name, MappingProxyType({}))

    def configure(self, name: str, options: Mapping[str, object]) -> Any:
        """Returns an instance of the object's ``Config``.

        Args:
            name: Name of the object.
            options: Fields that differ from the defaults of the name and of ``Config``.

        Raises:
            MetanetError: for an unknown name, an unknown option or an impossible value.
        """
        config = cast(Any, self[name]).Config
        return from_mapping(config, {**self.defaults(name), **options})

    def options(self, name: str) -> frozenset[str]:
        """Returns the names of the fields of the object's ``Config``."""
        return frozenset(field_types(cast(Any, self[name]).Config))

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._objects))

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, name: object) -> bool:
        return name in self._objects

    def _import(self, name: str) -> T:
        module_name, _, attribute = name.partition(":")
        module = _import_module(module_name, f"{self.kind} {name!r}")
        try:
            imported = operator.attrgetter(attribute)(module)
        except AttributeError:
            public = [key for key in vars(module) if not key.startswith("_")]
            raise MetanetError(
                f"{self.kind} {name!r}: module {module_name} has no {attribute!r}."
                f"{suggest(attribute, public)}"
            ) from None
        missing = self._missing(imported)
        if missing:
            raise MetanetError(
                f"{self.kind} {name!r}: {attribute} has no attribute {missing}, which "
                f"every {self.kind} has"
            )
        return imported

    def _missing(self, definition: object) -> str:
        absent = [name for name in self.requires if not hasattr(definition, name)]
        return ", ".join(absent)


def import_modules(names: Iterable[str]) -> None:
    """Imports modules that register something when they are imported.

    Args:
        names: Dotted names of modules on the Python path.

    Raises:
        MetanetError: for a module that cannot be imported, with the reason.
    """
    for name in names:
        _import_module(name, f"module {name!r}")


class Importable:
    """Bound of a field that names a module: checking the name imports the module.

    What the module registers is therefore known to the fields that are read after it.
    """

    def check(self, name: str) -> None:
        """Raises a `MetanetError` for a module that cannot be imported."""
        import_modules((name,))


ModuleName = Annotated[str, Importable()]


def _import_module(name: str, subject: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, ValueError) as error:
        raise MetanetError(f"{subject} cannot be imported: {error}") from error
