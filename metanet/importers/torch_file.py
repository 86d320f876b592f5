"""PyTorch state dicts, read and written without PyTorch, executing nothing.

A file written by ``torch.save`` is a zip archive: ``NAME/data.pkl`` is a pickle in
which each tensor is a call of ``torch._utils._rebuild_tensor_v2`` on a storage whose raw
bytes are in ``NAME/data/KEY``. The unpickler resolves the few names that this needs to
inert stand-ins and refuses every other name.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from metanet.errors import MetanetError

# Typed storages: element type, and bfloat16 as its bits.
_STORAGES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
}
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "params")
_LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_MAX_PICKLE = 64 << 20
_MAX_ENTRIES = 100_000
_MAX_DEPTH = 16


class _Refused(Exception):
    """The pickle asks for something that a state dict does not need."""


class _OrderedDict(dict):
    """Stand-in for collections.OrderedDict; drops PyTorch's ``_metadata`` attribute."""

    def __setstate__(self, state: Any) -> None:
        del state


class _StorageType(NamedTuple):
    name: str


class _Storage(NamedTuple):
    values: np.ndarray


class _Call(NamedTuple):
    """A function that a pickle can call but, being a tuple, cannot alter."""

    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


def widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Converts bfloat16 values (uint16 bit patterns) to float32, exactly."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _rebuild_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, *_: Any
) -> np.ndarray:
    """Returns a strided view of a storage after checking that it stays inside."""
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or len(size) != len(stride):
        raise ValueError("malformed tensor")
    if not all(type(n) is int and 0 <= n < 1 << 40 for n in numbers):
        raise ValueError("tensor with an invalid offset, shape or stride")
    available = storage.values.size
    count = math.prod(size)
    if count:
        last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        # An expanded tensor (stride 0) could claim any size at no cost in the file.
        if last >= available or count > available:
            raise ValueError(
                f"tensor of shape {tuple(size)} reaches outside its {available} values"
            )
    step = storage.values.itemsize
    return np.lib.stride_tricks.as_strided(
        storage.values[offset:] if count else storage.values[:0],
        tuple(size),
        tuple(s * step for s in stride),
        writeable=False,
    )


def _rebuild_parameter(data: np.ndarray, *_: object) -> np.ndarray:
    return data


_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Call(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _Call(_rebuild_parameter),
    **{("torch", name): _StorageType(name) for name in _STORAGES},
}


class _Unpickler(pickle.Unpickler):
    """Unpickler that resolves the names in `_GLOBALS` only."""

    def __init__(self, data: bytes, archive: zipfile.ZipFile, prefix: str):
        super().__init__(io.BytesIO(data))
        self._archive = archive
        self._prefix = prefix
        self._storages: dict[str, _Storage] = {}
        order = prefix + "byteorder"
        big = order in archive.namelist() and archive.read(order) == b"big"
        self._byteorder: Literal[">", "<"] = ">" if big else "<"

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return _GLOBALS[module_name, global_name]
        except KeyError:
            raise _Refused(f"{module_name}.{global_name}") from None

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, count = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType):
            raise ValueError("malformed storage")
        if key not in self._storages:
            dtype = np.dtype(_STORAGES[storage_type.name])
            raw = self._archive.read(f"{self._prefix}data/{key}")
            if len(raw) < count * dtype.itemsize:
                raise ValueError(f"storage {key} is shorter than its {count} values")
            values = np.frombuffer(raw, dtype.newbyteorder(self._byteorder), count)
            values = values.astype(dtype, copy=False)
            if storage_type.name == "BFloat16Storage":
                values = widen_bfloat16(values)
            self._storages[key] = _Storage(values)
        return self._storages[key]


def _check_pickle(data: bytes) -> None:
    """Refuses pickles that would make the unpickler itself allocate without bound."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name.endswith("PUT") and int(argument or 0) > len(data):
            raise ValueError("invalid memo index")


def _flatten(tree: dict[object, object]) -> dict[str, np.ndarray]:
    """Collects the arrays and plain numbers of nested dicts under dotted names."""
    out: dict[str, np.ndarray] = {}
    visited = 0

    def visit(branch: dict[object, object], prefix: str, depth: int) -> None:
        # Shared or cyclic dicts take little space in the file and endless time to visit.
        nonlocal visited
        visited += len(branch)
        if depth > _MAX_DEPTH or visited > _MAX_ENTRIES:
            raise ValueError("nested too deeply or too many entries")
        for key, value in branch.items():
            if isinstance(value, dict):
                visit(value, f"{prefix}{key}.", depth + 1)
            elif isinstance(value, (np.ndarray, bool, int, float)):
                out[f"{prefix}{key}"] = np.asarray(value)

    visit(tree, "", 0)
    return out


def _load(path: Path, archive: zipfile.ZipFile) -> Any:
    infos = archive.infolist()
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        raise ValueError("compressed entries, which PyTorch does not write")
    names = [info.filename for info in infos]
    if any(name.endswith("/constants.pkl") for name in names):
        raise MetanetError(
            f"{path}: a TorchScript program; save model.state_dict() instead"
        )
    pickles = [name for name in names if name.endswith("data.pkl")]
    if len(pickles) != 1 or archive.getinfo(pickles[0]).file_size > _MAX_PICKLE:
        raise ValueError("no data.pkl of a state dict")
    data = archive.read(pickles[0])
    _check_pickle(data)
    return _Unpickler(data, archive, pickles[0].removesuffix("data.pkl")).load()


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """Reads a state dict, also one nested under a key such as "state_dict".

    Returns:
        Arrays by parameter name ("net.0.linear.weight"), in the order of the file.
        Numbers outside tensors become arrays without axes; text and None are left out.

    Raises:
        MetanetError: not a file of ``torch.save``, damaged, or in need of classes other
            than tensors (which are named, and never imported).
    """
    with path.open("rb") as stream:
        start = stream.read(len(_LEGACY_MAGIC))
    if start == _LEGACY_MAGIC:
        raise MetanetError(
            f"{path}: the PyTorch format of before version 1.6; load it in PyTorch and "
            "save it again with torch.save"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            tree = _load(path, archive)
        if not isinstance(tree, dict):
            raise ValueError(f"a {type(tree).__name__} where a state dict is expected")
        wrapped = [tree[w] for w in _WRAPPERS if isinstance(tree.get(w), dict)]
        return _flatten(wrapped[0] if wrapped else tree)
    except MetanetError:
        raise
    except _Refused as refused:
        raise MetanetError(
            f"{path}: refused to load {refused}: only tensors in dicts are read; "
            "save model.state_dict() alone"
        ) from None
    except Exception as error:
        # A damaged pickle can raise any exception.
        raise MetanetError(f"{path}: not a readable PyTorch file ({error})") from None


_STORAGE_NAMES = {
    np.dtype(code): name
    for name, code in _STORAGES.items()
    if name != "BFloat16Storage"
}


def to_torch(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Returns the content of a file that ``torch.load`` reads as a dict of tensors.

    Raises:
        MetanetError: for a type that PyTorch lacks.
    """
    program = _PickleWriter()
    storages = []
    for name, array in arrays.items():
        dtype = array.dtype.newbyteorder("=")
        if dtype not in _STORAGE_NAMES:
            raise MetanetError(f"{name}: PyTorch has no type {array.dtype}")
        values = np.ascontiguousarray(array, dtype)
        program.add_tensor(
            name, _STORAGE_NAMES[dtype], len(storages), values.shape, values.size
        )
        storages.append(values.astype(dtype.newbyteorder("<")).tobytes())
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("archive/data.pkl", program.finish())
        for key, raw in enumerate(storages):
            archive.writestr(f"archive/data/{key}", raw)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return data.getvalue()


class _PickleWriter:
    """Writes a pickle (protocol 2) of a dict of tensors, operation by operation.

    `pickle.Pickler` would have to import PyTorch to name its functions.
    """

    def __init__(self) -> None:
        self._out = [pickle.PROTO + b"\x02", pickle.EMPTY_DICT]

    def finish(self) -> bytes:
        """Returns the pickle."""
        return b"".join([*self._out, pickle.STOP])

    def add_tensor(
        self, name: str, storage: str, key: int, shape: tuple[int, ...], count: int
    ) -> None:
        """Adds a contiguous tensor whose values are in the storage ``key``."""
        self._text(name)
        self._global("torch._utils", "_rebuild_tensor_v2")
        self._out.append(pickle.MARK)
        self._out.append(pickle.MARK)
        self._text("storage")
        self._global("torch", storage)
        self._text(str(key))
        self._text("cpu")
        self._integer(count)
        self._out += [pickle.TUPLE, pickle.BINPERSID]
        self._integer(0)  # offset
        self._integers(shape)
        self._integers([math.prod(shape[i + 1 :]) for i in range(len(shape))])
        self._out.append(pickle.NEWFALSE)  # requires_grad
        self._global("collections", "OrderedDict")  # backward hooks
        self._out += [pickle.EMPTY_TUPLE, pickle.REDUCE]
        self._out += [pickle.TUPLE, pickle.REDUCE, pickle.SETITEM]

    def _text(self, text: str) -> None:
        data = text.encode()
        self._out.append(pickle.BINUNICODE + struct.pack("<I", len(data)) + data)

    def _global(self, module: str, name: str) -> None:
        self._out.append(pickle.GLOBAL + f"{module}\n{name}\n".encode())

    def _integers(self, values: Sequence[int]) -> None:
        self._out.append(pickle.MARK)
        for value in values:
            self._integer(value)
        self._out.append(pickle.TUPLE)

    def _integer(self, value: int) -> None:
        data = value.to_bytes(8, "little", signed=True)
        self._out.append(pickle.LONG1 + bytes([len(data)]) + data)
