"""CIFAR-10 in each of its published layouts. Nothing in a file is executed."""

from __future__ import annotations

import io
import lzma
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from metanet.zoos.images.files import ImageFiles, damaged_file
from metanet.zoos.images.image_set import IMAGE_SETS, ImageSource, LabelledImages

_ARCHIVE = "cifar-10-binary.tar.gz"
_RECORD = 1 + 3 * 32 * 32
_TRAIN_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))


@IMAGE_SETS.register("cifar10")
class CIFAR10(ImageSource):
    """CIFAR-10 (Krizhevsky 2009), 60,000 images."""

    side, channels = 32, 3
    class_names = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    url = "https://www.cs.toronto.edu/~kriz/"
    checksums = {
        "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
        "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
        "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
        "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
        "train_images_1.npy.xz": "ad7a2bc3e00592509a3b4f66cf6490d3",
        "train_images_2.npy.xz": "6e23d32d667589818c7f02cd437378e6",
        "train_images_3.npy.xz": "3c9ac770cd5bfe424d3287a446855ecb",
        "train_images_4.npy.xz": "8b78e85fa70728ab6146da5270c0442e",
        "train_images_5.npy.xz": "7af3b63295511a0dc69ffda7082129c6",
        "train_labels.npy": "d8a79c8333fefa2cd9199b5600e31a11",
        "test_images.npy.xz": "378fed4fb68101ae9e4c84c802f9e04e",
        "test_labels.npy": "4d74f74122593901101910f6a0b5d403",
    }

    @classmethod
    def read(cls, files: ImageFiles) -> tuple[LabelledImages, LabelledImages]:
        """Reads the first layout whose files are there, else the archive."""
        if files.exists("train_labels.npy"):
            return _read_npy_layout(files)
        if files.exists("cifar-10-batches-py"):
            return _read_batches(files, "cifar-10-batches-py/{}", read_python_batch)
        if files.exists("cifar-10-batches-bin"):
            return _read_batches(
                files, "cifar-10-batches-bin/{}.bin", read_binary_batch
            )
        return read_archive(files.find(_ARCHIVE))


def _read_npy_layout(files: ImageFiles) -> tuple[LabelledImages, LabelledImages]:
    parts = [read_npy(files.find(f"train_images_{i}.npy.xz")) for i in range(1, 6)]
    train_labels = read_npy(files.find("train_labels.npy"))
    test_images = read_npy(files.find("test_images.npy.xz"))
    test_labels = read_npy(files.find("test_labels.npy"))
    return (
        LabelledImages(np.concatenate(parts), train_labels),
        LabelledImages(test_images, test_labels),
    )


def _read_batches(
    files: ImageFiles, pattern: str, read: Callable[[Path], LabelledImages]
) -> tuple[LabelledImages, LabelledImages]:
    train = [read(files.find(pattern.format(batch))) for batch in _TRAIN_BATCHES]
    return _joined(train), read(files.find(pattern.format("test_batch")))


def _joined(batches: list[LabelledImages]) -> LabelledImages:
    return LabelledImages(
        np.concatenate([batch.images for batch in batches]),
        np.concatenate([batch.labels for batch in batches]),
    )


def read_npy(path: Path) -> np.ndarray:
    """Reads a ``.npy`` or ``.npy.xz`` array; object arrays are refused.

    Raises:
        MetanetError: for a damaged file, and for object arrays.
    """
    try:
        opener = lzma.open if path.suffix == ".xz" else open
        with opener(path, "rb") as stream:
            return np.load(io.BytesIO(stream.read()), allow_pickle=False)
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise damaged_file(path, error) from error


def read_binary_batch(path: Path) -> LabelledImages:
    """Reads a batch of the "binary version".

    Raises:
        MetanetError: for a damaged file.
    """
    return _parse_records(path.read_bytes(), path)


def read_archive(path: Path) -> tuple[LabelledImages, LabelledImages]:
    """Reads training and test part of the publisher's ``cifar-10-binary.tar.gz``.

    Raises:
        MetanetError: for a damaged file.
    """
    batches = []
    try:
        with tarfile.open(path) as archive:
            for batch in (*_TRAIN_BATCHES, "test_batch"):
                name = f"cifar-10-batches-bin/{batch}.bin"
                member = archive.extractfile(name)
                if member is None:
                    raise damaged_file(path, f"no member {name}")
                batches.append(_parse_records(member.read(), f"{path}: {name}"))
    except (OSError, EOFError, KeyError, tarfile.TarError) as error:
        raise damaged_file(path, error) from error
    return _joined(batches[:5]), batches[5]


def _parse_records(data: bytes, path: Path | str) -> LabelledImages:
    if not data or len(data) % _RECORD:
        raise damaged_file(path, f"{len(data)} bytes are no multiple of {_RECORD}")
    rows = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    return LabelledImages(_from_planes(rows[:, 1:]), rows[:, 0].copy())


def _from_planes(rows: np.ndarray) -> np.ndarray:
    """Converts planes ``[N, 3 * 32 * 32]`` to images ``[N, 32, 32, 3]``."""
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy()


class _Array:
    """Stand-in for a NumPy array while a batch is unpickled."""

    def __init__(self) -> None:
        self.data: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if isinstance(data, str):
            data = data.encode("latin1")
        if dtype.code not in ("u1", "|u1") or fortran:
            raise pickle.UnpicklingError("an array that is not of plain bytes")
        self.data = np.frombuffer(data, np.uint8).reshape(shape)


class _Dtype:
    """Stand-in for a NumPy dtype while a batch is unpickled."""

    def __init__(self, code: str, *args: object):
        self.code = code

    def __setstate__(self, state: object) -> None:
        del state


def _reconstruct(*args: object) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding if encoding in ("latin1", "ascii") else "latin1")


class _BatchReader(pickle.Unpickler):
    """Unpickler that resolves the names of a plain byte array to stand-ins.

    Every other name is refused, so that nothing can be executed.
    """

    _ALLOWED: ClassVar[dict[tuple[str, str], Callable[..., Any]]] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"refused name {module}.{name}") from None

    def persistent_load(self, pid: object) -> Any:
        raise pickle.UnpicklingError("refused persistent reference")


def read_python_batch(path: Path) -> LabelledImages:
    """Reads a batch of the "python version" without executing pickled code.

    Raises:
        MetanetError: for a damaged file, and for anything but byte arrays in it.
    """
    try:
        with path.open("rb") as stream:
            batch = _BatchReader(stream, encoding="latin1").load()
        images, labels = batch["data"].data, np.asarray(batch["labels"], np.uint8)
        if images is None or images.shape != (len(labels), 3072):
            raise ValueError("data and labels do not match")
    except Exception as error:  # a damaged pickle can raise any exception
        raise damaged_file(path, error) from error
    return LabelledImages(_from_planes(images), labels)
