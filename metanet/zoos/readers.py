"""Readers of single image files. None of them executes what a file contains."""

from __future__ import annotations

import gzip
import io
import lzma
import math
import pickle
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from metanet.errors import MetanetError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_CIFAR_RECORD = 1 + 3 * 32 * 32


def _broken(path: Path | str, why: object) -> MetanetError:
    return MetanetError(f"{path}: truncated or not of the expected format: {why}")


def read_idx(path: Path) -> np.ndarray:
    """Bytes of a gzip-compressed idx file: ``[N]`` or ``[N, rows, columns]``."""
    try:
        with gzip.open(path) as stream:
            data = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise _broken(path, error) from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != 8:
        raise _broken(path, "no idx header of unsigned bytes")
    rank = data[3]
    start = 4 + 4 * rank
    if len(data) < start:
        raise _broken(path, "header ends early")
    shape = struct.unpack(f">{rank}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise _broken(path, f"{len(data) - start} bytes for shape {shape}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_npy(path: Path) -> np.ndarray:
    """A ``.npy`` or ``.npy.xz`` array; object arrays are refused."""
    try:
        opener = lzma.open if path.suffix == ".xz" else open
        with opener(path, "rb") as stream:
            return np.load(io.BytesIO(stream.read()), allow_pickle=False)
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise _broken(path, error) from error


def read_picture(path: Path) -> np.ndarray:
    """A PNG or JPEG file as ``[height, width, channels]`` bytes, 1 or 3 channels."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            grey = picture.mode in ("1", "L", "I", "I;16", "F", "LA")
            pixels = np.asarray(picture.convert("L" if grey else "RGB"), np.uint8)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise _broken(path, error) from error
    return pixels[..., None] if grey else pixels


def read_cifar_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A binary CIFAR-10 batch: images ``[N, 32, 32, 3]`` and labels ``[N]``."""
    return _cifar_records(path.read_bytes(), path)


def read_cifar_archive(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and test part of the publisher's ``cifar-10-binary.tar.gz``."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    parts = []
    try:
        with tarfile.open(path) as archive:
            for name in names:
                member = archive.extractfile(f"cifar-10-batches-bin/{name}")
                if member is None:
                    raise _broken(path, f"no member {name}")
                parts.append(_cifar_records(member.read(), f"{path}: {name}"))
    except (OSError, EOFError, KeyError, tarfile.TarError) as error:
        raise _broken(path, error) from error
    train = tuple(np.concatenate(p) for p in zip(*parts[:5], strict=True))
    return [(train[0], train[1]), parts[5]]


def _cifar_records(data: bytes, path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    if not data or len(data) % _CIFAR_RECORD:
        raise _broken(path, f"{len(data)} bytes are no multiple of {_CIFAR_RECORD}")
    rows = np.frombuffer(data, np.uint8).reshape(-1, _CIFAR_RECORD)
    return _planes(rows[:, 1:]), rows[:, 0].copy()


def _planes(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy()


class _Array:
    """Stands for a NumPy array while a batch is read."""

    def __init__(self, *args: Any):
        self.data: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if isinstance(data, str):
            data = data.encode("latin1")
        if dtype.code not in ("u1", "|u1") or fortran:
            raise pickle.UnpicklingError("an array that is not of plain bytes")
        self.data = np.frombuffer(data, np.uint8).reshape(shape)


class _Dtype:
    """Stands for a NumPy dtype while a batch is read."""

    def __init__(self, code: str, *args: Any):
        self.code = code

    def __setstate__(self, state: Any) -> None:
        pass


def _encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding if encoding in ("latin1", "ascii") else "latin1")


class _BatchReader(pickle.Unpickler):
    """Reads the values of a CIFAR batch; every name in the file maps to a stub above,
    and any name beside those of a plain byte array is refused, so nothing can run."""

    _ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"): lambda *args: _Array(),
        ("numpy._core.multiarray", "_reconstruct"): lambda *args: _Array(),
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"refused name {module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("refused persistent reference")


def read_cifar_python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A "python version" CIFAR-10 batch, read without executing pickled code."""
    try:
        with path.open("rb") as stream:
            batch = _BatchReader(stream, encoding="latin1").load()
        images, labels = batch["data"].data, np.asarray(batch["labels"], np.uint8)
        if images is None or images.shape != (len(labels), 3072):
            raise ValueError("data and labels do not match")
    except Exception as error:  # a hostile stream can raise nearly anything
        raise _broken(path, error) from error
    return _planes(images), labels
