"""Writes files as ``torch.save`` does, without PyTorch: zip, pickle protocol 2."""

from __future__ import annotations

import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class View:
    """A tensor that views ``storage``; ``claimed`` overstates the storage's length."""

    storage: np.ndarray
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    claimed: int | None = None


@dataclass(frozen=True)
class BFloat16:
    """A tensor stored as the upper halves of these float32 values."""

    values: np.ndarray


@dataclass(frozen=True)
class Parameter:
    """A tensor wrapped as torch.nn.Parameter."""

    values: np.ndarray


_TYPES = {
    "f8": "DoubleStorage",
    "f4": "FloatStorage",
    "f2": "HalfStorage",
    "i8": "LongStorage",
    "i4": "IntStorage",
    "u1": "ByteStorage",
    "b1": "BoolStorage",
}


def _fake_torch() -> dict[str, types.ModuleType]:
    """Modules whose functions and classes pickle under the names of PyTorch's."""
    torch = types.ModuleType("torch")
    utils = types.ModuleType("torch._utils")
    for name in (*_TYPES.values(), "BFloat16Storage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def named(name: str) -> Any:
        def function(*args: Any) -> None:
            del args

        function.__module__, function.__qualname__ = "torch._utils", name
        function.__name__ = name
        return function

    for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        setattr(utils, name, named(name))
    torch._utils = utils  # pyright: ignore[reportAttributeAccessIssue]
    return {"torch": torch, "torch._utils": utils}


class _Reduced:
    """Pickles as the call that it is given."""

    def __init__(self, function: Any, args: tuple[Any, ...]):
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


class _StorageRef:
    def __init__(self, pid: tuple[Any, ...]):
        self.pid = pid


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return obj.pid if isinstance(obj, _StorageRef) else None


def save(path: Path, tree: dict[str, Any]) -> None:
    """Writes a nested dict of arrays (or of `View` and the like) to a .pth file."""
    modules = _fake_torch()
    torch, utils = modules["torch"], modules["torch._utils"]
    storages: list[bytes] = []

    def tensor(view: View, kind: str, raw: bytes) -> _Reduced:
        count = view.claimed or view.storage.size
        storages.append(raw)
        key = str(len(storages) - 1)
        ref = _StorageRef(("storage", getattr(torch, kind), key, "cpu", count))
        args = (ref, view.offset, view.shape, view.strides, False, OrderedDict())
        return _Reduced(utils._rebuild_tensor_v2, args)

    def convert(value: Any) -> Any:
        if isinstance(value, dict):
            return type(value)((k, convert(v)) for k, v in value.items())
        if isinstance(value, Parameter):
            inner = convert(value.values)
            return _Reduced(utils._rebuild_parameter, (inner, True, OrderedDict()))
        if isinstance(value, BFloat16):
            bits = (value.values.view(np.uint32) >> 16).astype(np.uint16)
            view = View(bits, 0, bits.shape, (1,))
            return tensor(view, "BFloat16Storage", bits.tobytes())
        if isinstance(value, (np.ndarray, np.generic)):
            array = np.asarray(value)
            # Transposed arrays stay strided views of their storage, as in PyTorch.
            if not array.T.flags.c_contiguous:
                array = np.ascontiguousarray(array)
            strides = tuple(n // array.itemsize for n in array.strides)
            value = View(array.ravel(order="K"), 0, array.shape, strides)
        if isinstance(value, View):
            kind = _TYPES[value.storage.dtype.str[1:]]
            return tensor(value, kind, value.storage.tobytes())
        return value

    converted = convert(tree)
    saved = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        with zipfile.ZipFile(path, "w") as archive:
            with archive.open("archive/data.pkl", "w") as stream:
                _Pickler(stream, protocol=2).dump(converted)
            for key, raw in enumerate(storages):
                archive.writestr(f"archive/data/{key}", raw)
            archive.writestr("archive/byteorder", "little")
            archive.writestr("archive/version", "3\n")
    finally:
        for name, module in saved.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
