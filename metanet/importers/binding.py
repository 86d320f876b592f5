"""Binds the arrays of a file to the parameters of a known architecture, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from metanet.errors import MetanetError
from metanet.networks import ParamSpec

# Name of a parameter in a file -> its possible names in metanet, best first. Only "weight"
# has its outputs first (PyTorch); "kernel" has its inputs first everywhere.
_ALIASES = {
    "weight": ("kernel", "scale", "embedding", "weight"),
    "kernel": ("kernel",),
    "bias": ("bias",),
    "scale": ("scale",),
    "gamma": ("scale",),
    "beta": ("bias",),
    "embedding": ("embedding",),
    "running_mean": ("mean",),
    "running_var": ("var",),
    "mean": ("mean",),
    "var": ("var",),
}

# Path of a parameter in metanet -> name of its array in the file.
Pairs = dict[str, str]


class Bound(NamedTuple):
    """Weights of one network, bound to an architecture.

    Attributes:
        vector: Flat parameters ``[P]`` float32 in the order of the `ParamSpec`.
        ignored: Names of arrays of the file that are not weights ("label").
    """

    vector: np.ndarray
    ignored: tuple[str, ...]


def _natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    parts = re.findall(r"\d+|[^\d]+", name)
    return tuple(
        (0, int(p)) if p.isascii() and p.isdigit() and len(p) < 10 else (1, p)
        for p in parts
    )


def _split(name: str) -> tuple[str, str]:
    """Splits "net/0/linear/weight" into its module and the parameter's own name."""
    module, _, last = name.replace(".", "/").removesuffix(":0").rpartition("/")
    return module, last


def _modules(names: list[str]) -> list[dict[str, str]]:
    """Groups names by module, in natural order, as ``{last part: full name}``."""
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        module, last = _split(name)
        groups.setdefault(module, {})[last] = name
    return [groups[m] for m in sorted(groups, key=_natural_key)]


def _is_weight(name: str, array: np.ndarray) -> bool:
    known = _split(name)[1] in _ALIASES
    return known or (array.ndim > 0 and array.dtype.kind == "f")


def _exact_pairs(names: list[str], spec: ParamSpec) -> Pairs | None:
    """Pairs names that are metanet's own paths; None if they are not."""
    by_path = {n.replace(".", "/"): n for n in names}
    if set(by_path) != set(spec.paths):
        return None
    return by_path


def _axis_order(path: str, key: str, array: np.ndarray) -> tuple[int, ...] | None:
    """Returns the transposition of an array to metanet's layout; None for none."""
    outputs_first = _split(key)[1] == "weight" and _split(path)[1] == "kernel"
    if not outputs_first or array.ndim < 2:
        return None
    return (*range(2, array.ndim), 1, 0)


def _transposed_shape(
    array: np.ndarray, order: tuple[int, ...] | None
) -> tuple[int, ...]:
    return array.shape if order is None else tuple(array.shape[i] for i in order)


def _pair_layer(file_layer: dict[str, str], layer: dict[str, str], file: str) -> Pairs:
    """Pairs the parameters of one layer by name."""
    unpaired, pairs = dict(layer), {}
    for last, name in file_layer.items():
        match = next((a for a in _ALIASES.get(last, ()) if a in unpaired), None)
        if match is None:
            raise MetanetError(
                f"{file}: {name}: unexpected array; this layer takes "
                f"{', '.join(sorted(layer.values()))}"
            )
        pairs[unpaired.pop(match)] = name
    for path in unpaired.values():
        raise MetanetError(
            f"{file}: no array for {path}; the layer has "
            f"{', '.join(sorted(file_layer.values()))}"
        )
    return pairs


def _pair_layers(
    names: list[str], arrays: Mapping[str, np.ndarray], spec: ParamSpec, file: str
) -> Pairs:
    """Pairs layers in order, each with the first free one of its shapes.

    Shapes matter because order alone can mislead: "head" sorts before "layers".
    """
    file_layers, free = _modules(names), _modules(list(spec.paths))
    shapes = dict(zip(spec.paths, spec.shapes, strict=True))

    def fits(file_layer: dict[str, str], layer: dict[str, str]) -> bool:
        try:
            pairs = _pair_layer(file_layer, layer, file)
        except MetanetError:
            return False
        for path, name in pairs.items():
            order = _axis_order(path, name, arrays[name])
            if _transposed_shape(arrays[name], order) != shapes[path]:
                return False
        return True

    pairs: Pairs = {}
    count = f"{len(file_layers)} layers, this architecture has {len(free)}"
    for file_layer in file_layers:
        if not free:
            name = next(iter(file_layer.values()))
            raise MetanetError(f"{file}: {name}: unexpected array; {count}")
        # If none fits, the message compares with the next in order.
        layer = next((c for c in free if fits(file_layer, c)), free[0])
        free.remove(layer)
        pairs |= _pair_layer(file_layer, layer, file)
    if free:
        path = next(iter(free[0].values()))
        raise MetanetError(f"{file}: no array for {path}; {count}")
    return pairs


def _to_parameter(
    array: np.ndarray, shape: tuple[int, ...], order: tuple[int, ...] | None, field: str
) -> np.ndarray:
    """Checks one array and converts it to metanet's layout and float32."""
    if _transposed_shape(array, order) != shape:
        expected = shape
        if order is not None and len(shape) > 1:
            expected = (shape[-1], shape[-2], *shape[:-2])
        raise MetanetError(
            f"{field}: shape {array.shape}, this architecture takes {expected}"
        )
    if array.dtype.kind not in "fiub":
        raise MetanetError(f"{field}: values of type {array.dtype} are not weights")
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    if not np.isfinite(values).all():
        kind = "NaN" if np.isnan(values).any() else "infinite values (in float32)"
        raise MetanetError(f"{field}: holds {kind}; the network cannot be used")
    return values if order is None else values.transpose(order)


def bind(arrays: Mapping[str, np.ndarray], spec: ParamSpec, name: str) -> Bound:
    """Binds the arrays of a file to an architecture.

    Arrays named by the architecture's own paths ("layers/0/kernel", "/" or ".") are
    taken as they are. Otherwise layers of the same shapes are paired in natural order
    of their names ("net.2" before "net.10") and parameters by name within a layer; an
    array called ``weight`` is PyTorch's and has its outputs first, so that it is
    transposed: ``(out, in)`` to ``(in, out)``, ``(out, in, h, w)`` to
    ``(h, w, in, out)``. The name decides, never the shape, because square matrices have
    no distinct shape. Numbers without axes and integer arrays that are no parameters are
    ignored and reported.

    Args:
        arrays: Arrays by name, as `read_arrays` returns them.
        spec: Paths and shapes of the architecture's parameters.
        name: The file's name, for messages.

    Raises:
        MetanetError: an array is missing, unexpected, of another shape, or not finite.
    """
    sources = _sources(arrays, spec, name)
    used = {source.key for source in sources.values()}
    ignored = tuple(key for key in arrays if key not in used)
    shapes = dict(zip(spec.paths, spec.shapes, strict=True))
    leaves = {}
    # In the order of the file, so that an error names the first array that is wrong.
    for path, (key, order) in sources.items():
        values = _to_parameter(arrays[key], shapes[path], order, f"{name}: {key}")
        leaves[path] = values.reshape(-1)
    return Bound(np.concatenate([leaves[path] for path in spec.paths]), ignored)


def unbind(
    vector: np.ndarray, arrays: Mapping[str, np.ndarray], spec: ParamSpec, name: str
) -> dict[str, np.ndarray]:
    """Converts parameters to the names, layouts and types of a file's arrays.

    The inverse of `bind`.

    Args:
        vector: Flat parameters ``[P]``.
        arrays: The arrays of the file, which decide names, layouts and types.
        spec: Paths and shapes of the architecture's parameters.
        name: The file's name, for messages.

    Returns:
        The new arrays; those of the file that are no parameters are missing.

    Raises:
        MetanetError: as `bind`.
    """
    sources = _sources(arrays, spec, name)
    result = {}
    for path, values in spec.arrays(vector).items():
        key, order = sources[path]
        if order is not None:
            values = values.transpose(np.argsort(order))
        result[key] = np.ascontiguousarray(values, arrays[key].dtype)
    return result


class _Source(NamedTuple):
    """Array of a file that holds a parameter, and its transposition to metanet's."""

    key: str
    order: tuple[int, ...] | None


def _sources(
    arrays: Mapping[str, np.ndarray], spec: ParamSpec, name: str
) -> dict[str, _Source]:
    """Returns the source of every parameter by its path."""
    names = [key for key, array in arrays.items() if _is_weight(key, array)]
    exact = _exact_pairs(names, spec)
    if exact is not None:
        return {path: _Source(key, None) for path, key in exact.items()}
    return {
        path: _Source(key, _axis_order(path, key, arrays[key]))
        for path, key in _pair_layers(names, arrays, spec, name).items()
    }
