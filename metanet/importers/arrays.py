"""Named arrays from files of other programs: npz, safetensors, PyTorch state dicts.

Nothing is ever unpickled into foreign objects, and no file can make the reader allocate
more than `MAX_BYTES`.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
import safetensors

from metanet.errors import MetanetError
from metanet.importers.torch_file import read_torch, widen_bfloat16

MAX_BYTES = 1 << 31
FORMATS = (".npz", ".safetensors", ".pth", ".pt")

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


def _read_member(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    """Reads one ``.npy`` member after checking its header against its stored size."""
    info = archive.getinfo(member)
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise ValueError(f"npy format version {version}")
        shape, fortran, dtype = read(stream)
        if dtype.hasobject:
            raise ValueError("Python objects, which are not read")
        size = math.prod(shape) * dtype.itemsize
        if size != info.file_size - stream.tell():
            raise ValueError(f"shape {shape} does not fit its size in the file")
        values = np.frombuffer(stream.read(size), dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            if sum(info.file_size for info in infos) > MAX_BYTES:
                raise MetanetError(f"{path}: holds more than {MAX_BYTES >> 30} GiB")
            arrays = {}
            for info in infos:
                try:
                    name = info.filename.removesuffix(".npy")
                    arrays[name] = _read_member(archive, info.filename)
                except ValueError as error:
                    raise MetanetError(f"{path}: {info.filename}: {error}") from None
    except MetanetError:
        raise
    except Exception as error:
        # zipfile reports damage through half a dozen exception types.
        raise MetanetError(f"{path}: not a readable npz archive ({error})") from None
    return arrays


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
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


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the named arrays of an npz, safetensors or PyTorch (.pth, .pt) file.

    Names are kept as the file has them; bfloat16 is widened to float32. Arrays may be
    read-only views.

    Raises:
        MetanetError: the file is missing, of another format, damaged, or holds anything
            but arrays of numbers.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a directory, not a file" if path.is_dir() else "no such file"
        raise MetanetError(f"{path}: {what}")
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise MetanetError(
            f"{path}: unknown format {suffix!r}; readable are {', '.join(FORMATS)}"
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise MetanetError(f"{path}: larger than {MAX_BYTES >> 30} GiB")
        if suffix == ".npz":
            return _read_npz(path)
        if suffix == ".safetensors":
            return _read_safetensors(path)
        return read_torch(path)
    except OSError as error:
        raise MetanetError(f"{path}: {error.strerror or error}") from None
