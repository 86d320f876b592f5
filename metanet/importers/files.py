"""Named arrays in files of other programs: npz, safetensors, PyTorch state dicts.

A loader reads files of one suffix, registered in `LOADERS`. It returns named arrays, or a
whole `Network` if the file holds a program. Nothing is ever unpickled into foreign
objects, and no file can make a reader allocate more than `MAX_BYTES`. A saver, in
`SAVERS`, writes a copy of a file with other values.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save as to_safetensors

from metanet.errors import MetanetError
from metanet.importers.torch_file import read_torch, to_torch, widen_bfloat16
from metanet.networks import Network
from metanet.registry import Registry

MAX_BYTES = 1 << 31

# Reads an existing file; keyword arguments are options of the format.
Loader = Callable[..., Mapping[str, np.ndarray] | Network]
LOADERS: Registry[Loader] = Registry("file format")
# (file, new values by name) -> content of a copy of the file with these values.
Saver = Callable[[Path, Mapping[str, np.ndarray]], bytes]
SAVERS: Registry[Saver] = Registry("file format")

_SAFETENSORS_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
    "BOOL": "|b1",
}


def read_file(path: str | Path, **options: Any) -> Mapping[str, np.ndarray] | Network:
    """Reads a file by the loader of its suffix.

    Args:
        path: The file.
        **options: Options of the loader.

    Raises:
        MetanetError: the file is missing, of an unknown format, too large or damaged.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in LOADERS:
        raise MetanetError(
            f"{path}: unknown format {suffix!r}; readable are {', '.join(LOADERS)}"
        )
    if not path.is_file():
        reason = "is a directory, not a file" if path.is_dir() else "no such file"
        raise MetanetError(f"{path}: {reason}")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise MetanetError(f"{path}: larger than {MAX_BYTES >> 30} GiB")
        return LOADERS[suffix](path, **options)
    except OSError as error:
        raise MetanetError(f"{path}: {error.strerror or error}") from None


def read_arrays(path: str | Path) -> Mapping[str, np.ndarray]:
    """Reads the named arrays of a file of weights (npz, safetensors, PyTorch).

    Names are those of the file; bfloat16 is widened to float32. Arrays may be read-only
    views.

    Raises:
        MetanetError: the file is missing, of another format, damaged, or holds anything
            but arrays of numbers.
    """
    content = read_file(path)
    if isinstance(content, Network):
        raise MetanetError(f"{path}: holds a network, not arrays alone")
    return content


@LOADERS.register(".npz")
def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Reads an npz archive.

    Raises:
        MetanetError: for damage, and for Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            if sum(info.file_size for info in infos) > MAX_BYTES:
                raise MetanetError(f"{path}: holds more than {MAX_BYTES >> 30} GiB")
            arrays = {}
            for info in infos:
                try:
                    name = info.filename.removesuffix(".npy")
                    arrays[name] = _read_npy_member(archive, info.filename)
                except ValueError as error:
                    raise MetanetError(f"{path}: {info.filename}: {error}") from None
    except MetanetError:
        raise
    except Exception as error:
        # zipfile reports damage through half a dozen exception types.
        raise MetanetError(f"{path}: not a readable npz archive ({error})") from None
    return arrays


def _read_npy_member(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    """Reads one ``.npy`` member after checking its header against its stored size."""
    info = archive.getinfo(member)
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise ValueError(f"npy format version {version}")
        shape, fortran, dtype = read_header(stream)
        if dtype.hasobject:
            raise ValueError("Python objects, which are not read")
        size = math.prod(shape) * dtype.itemsize
        if size != info.file_size - stream.tell():
            raise ValueError(f"shape {shape} does not fit its size in the file")
        values = np.frombuffer(stream.read(size), dtype)
    return values.reshape(shape, order="F" if fortran else "C")


@LOADERS.register(".safetensors")
def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Reads a safetensors file.

    Raises:
        MetanetError: for damage, and for values of less than a byte.
    """
    try:
        tensors = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise MetanetError(
            f"{path}: not a readable safetensors file ({error})"
        ) from None
    arrays = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in _SAFETENSORS_TYPES:
            raise MetanetError(
                f"{path}: {name}: values of type {tensor['dtype']} are not read; "
                "save them as float32"
            )
        values = np.frombuffer(tensor["data"], _SAFETENSORS_TYPES[tensor["dtype"]])
        if tensor["dtype"] == "BF16":
            values = widen_bfloat16(values)
        arrays[name] = values.reshape(tensor["shape"])
    return arrays


LOADERS.register(".pth", ".pt")(read_torch)


@SAVERS.register(".npz")
def _save_npz(source: Path, values: Mapping[str, np.ndarray]) -> bytes:
    data = io.BytesIO()
    np.savez(data, **{**read_npz(source), **values})  # type: ignore[arg-type]
    return data.getvalue()


@SAVERS.register(".safetensors")
def _save_safetensors(source: Path, values: Mapping[str, np.ndarray]) -> bytes:
    return to_safetensors({**read_safetensors(source), **values})


@SAVERS.register(".pth", ".pt")
def _save_torch(source: Path, values: Mapping[str, np.ndarray]) -> bytes:
    return to_torch({**read_torch(source), **values})
