"""Labelled image sets: digits, MNIST, Fashion-MNIST, CIFAR-10, folders of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metanet.errors import MetanetError, suggest
from metanet.zoos import readers
from metanet.zoos.sources import find_file

_CIFAR_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()
_FASHION_CLASSES = (
    "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
).split(",")
_DIGITS = [str(i) for i in range(10)]


@dataclass(frozen=True)
class ImageSet:
    """Images with labels.

    Attributes:
        name: Name of the set.
        images: ``[N, height, width, channels]``, bytes.
        labels: ``[N]``, class indices.
        official_test: ``[N]`` booleans, the publisher's test images; None where the set
            has no official split.
        class_names: Name of each class.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    official_test: np.ndarray | None
    class_names: tuple[str, ...]


Loader = Callable[[Path | None, bool], ImageSet]


def load_images(
    name: str, data_root: str | Path | None = None, download: bool = False
) -> ImageSet:
    """Loads an image set by name, or a folder with one sub-folder of images per class.

    Args:
        name: "digits" (comes with scikit-learn), "mnist", "fashion_mnist", "cifar10",
            or a path.
        data_root: Folder that holds the sets' folders, or their files directly.
        download: Fetch missing files from their publishers, by known checksums.

    Raises:
        MetanetError: for an unknown name, and missing, truncated or altered files.
    """
    if name in _LOADERS:
        root = Path(data_root) if data_root else None
        return _LOADERS[name](root, download)
    if Path(name).is_dir():
        return _folder(Path(name))
    raise MetanetError(
        f"unknown image set {name!r}: no set and no folder of that name."
        f"{suggest(name, _LOADERS)}"
    )


def _digits(root: Path | None, download: bool) -> ImageSet:
    from sklearn.datasets import load_digits  # heavy, and needed for this set only

    values, labels = load_digits(return_X_y=True)
    values = np.asarray(values).reshape(-1, 8, 8, 1) * (255 / 16)
    pixels, labels = np.rint(values).astype(np.uint8), np.asarray(labels, np.int32)
    return ImageSet("digits", pixels, labels, None, tuple(_DIGITS))


def _idx_set(name: str, classes: Sequence[str]) -> Loader:
    def load(root: Path | None, download: bool) -> ImageSet:
        parts = []
        for prefix in ("train", "t10k"):
            images = find_file(name, f"{prefix}-images-idx3-ubyte.gz", root, download)
            labels = find_file(name, f"{prefix}-labels-idx1-ubyte.gz", root, download)
            parts.append((readers.read_idx(images), readers.read_idx(labels)))
        return _joined(name, parts, classes)

    return load


def _cifar10(root: Path | None, download: bool) -> ImageSet:
    found = _first_layout(root)
    if found == "npy":
        parts = _cifar_npy(root)
    elif found == "python":
        files = [f"cifar-10-batches-py/data_batch_{i}" for i in range(1, 6)]
        parts = _cifar_batches(root, files, "cifar-10-batches-py/test_batch", "python")
    elif found == "binary":
        files = [f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)]
        test = "cifar-10-batches-bin/test_batch.bin"
        parts = _cifar_batches(root, files, test, "binary")
    else:
        archive = find_file("cifar10", "cifar-10-binary.tar.gz", root, download)
        parts = readers.read_cifar_archive(archive)
    return _joined("cifar10", parts, _CIFAR_CLASSES)


def _cifar_folders(root: Path | None) -> list[Path]:
    return [root / "cifar10", root] if root else []


def _first_layout(root: Path | None) -> str | None:
    for folder in _cifar_folders(root):
        for layout, marker in (
            ("npy", "train_labels.npy"),
            ("python", "cifar-10-batches-py"),
            ("binary", "cifar-10-batches-bin"),
        ):
            if (folder / marker).exists():
                return layout
    return None


def _cifar_npy(root: Path | None) -> list[tuple[np.ndarray, np.ndarray]]:
    read = lambda file: readers.read_npy(find_file("cifar10", file, root, False))
    train = [read(f"train_images_{i}.npy.xz") for i in range(1, 6)]
    return [
        (np.concatenate(train), read("train_labels.npy")),
        (read("test_images.npy.xz"), read("test_labels.npy")),
    ]


def _cifar_batches(
    root: Path | None, train: list[str], test: str, form: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    read = readers.read_cifar_python if form == "python" else readers.read_cifar_binary
    pairs = [read(find_file("cifar10", file, root, False)) for file in train]
    images, labels = zip(*pairs, strict=True)
    last = read(find_file("cifar10", test, root, False))
    return [(np.concatenate(images), np.concatenate(labels)), last]


def _joined(
    name: str, parts: list[tuple[np.ndarray, np.ndarray]], classes: Sequence[str]
) -> ImageSet:
    for images, labels in parts:
        if len(images) != len(labels):
            raise MetanetError(
                f"{name}: {len(images)} images but {len(labels)} labels; the files do "
                "not belong together"
            )
    images = np.concatenate([p[0] for p in parts])
    labels = np.concatenate([p[1] for p in parts]).astype(np.int32)
    test = np.arange(len(images)) >= len(parts[0][0])
    if images.ndim == 3:
        images = images[..., None]
    return ImageSet(name, images, labels, test, tuple(classes))


def _folder(path: Path) -> ImageSet:
    classes = sorted(p for p in path.iterdir() if p.is_dir())
    images, labels = [], []
    for label, folder in enumerate(classes):
        files = (f for f in folder.iterdir() if f.suffix.lower() in readers.SUFFIXES)
        for file in sorted(files):
            images.append(readers.read_picture(file))
            labels.append(label)
    if not images:
        raise MetanetError(
            f"{path}: no images; expected one sub-folder of PNG or JPEG files per class"
        )
    shapes = {i.shape for i in images}
    if len(shapes) > 1:
        raise MetanetError(
            f"{path}: images of different shapes {sorted(shapes)}; resize them first"
        )
    names = tuple(c.name for c in classes)
    return ImageSet(
        path.name, np.stack(images), np.asarray(labels, np.int32), None, names
    )


_LOADERS: dict[str, Loader] = {
    "digits": _digits,
    "mnist": _idx_set("mnist", _DIGITS),
    "fashion_mnist": _idx_set("fashion_mnist", _FASHION_CLASSES),
    "cifar10": _cifar10,
}
