"""Labelled image sets by name.

An image set is a class below `ImageSource` that knows its files and how to read them,
registered in `IMAGE_SETS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from metanet.errors import MetanetError, suggest
from metanet.registry import Registry
from metanet.zoos.images.files import ImageFiles
from metanet.zoos.images.folder import read_folder


@dataclass(frozen=True)
class ImageSet:
    """Images with labels.

    Attributes:
        name: Name of the set.
        images: ``[N, height, width, channels]``, bytes.
        labels: ``[N]``, class indices.
        official_test: ``[N]`` booleans, the publisher's test images; None if the set has
            no official split.
        class_names: Name of each class.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    official_test: np.ndarray | None
    class_names: tuple[str, ...]


class LabelledImages(NamedTuple):
    """Images ``[N, side, side]`` or ``[N, side, side, channels]``, and labels ``[N]``."""

    images: np.ndarray
    labels: np.ndarray


class ImageSource(ABC):
    """Base class of image sets.

    Attributes:
        side: Height and width in pixels.
        channels: 1 (grey) or 3.
        class_names: Name of each class.
        url: Publisher's address of the files; "" if they are not published.
        checksums: MD5 by file, for the files whose content is known.
    """

    side: ClassVar[int]
    channels: ClassVar[int]
    class_names: ClassVar[tuple[str, ...]]
    url: ClassVar[str] = ""
    checksums: ClassVar[Mapping[str, str]] = {}

    @classmethod
    @abstractmethod
    def read(cls, files: ImageFiles) -> tuple[LabelledImages, LabelledImages | None]:
        """Reads training and test part; the second is None without an official split."""


IMAGE_SETS: Registry[type[ImageSource]] = Registry(
    "image set", requires=("read", "side", "channels", "class_names")
)


def load_images(
    name: str, data_root: str | Path | None = None, *, download: bool = False
) -> ImageSet:
    """Loads an image set by name, or a folder with one sub-folder of images per class.

    Args:
        name: A name in `IMAGE_SETS` or a path.
        data_root: Folder that holds the sets' folders, or their files directly.
        download: Fetch missing files from their publishers, by known checksums.

    Raises:
        MetanetError: for an unknown name, and missing, truncated or altered files.
    """
    if name in IMAGE_SETS or (":" in name and not Path(name).is_dir()):
        source = IMAGE_SETS[name]
        root = Path(data_root) if data_root else None
        files = ImageFiles(name, source.url, source.checksums, root, download=download)
        return _joined(name, source, *source.read(files))
    if Path(name).is_dir():
        images, labels, class_names = read_folder(Path(name))
        return ImageSet(Path(name).name, images, labels, None, class_names)
    raise MetanetError(
        f"unknown image set {name!r}: no set and no folder of that name."
        f"{suggest(name, IMAGE_SETS)}"
    )


def _joined(
    name: str,
    source: type[ImageSource],
    train: LabelledImages,
    test: LabelledImages | None,
) -> ImageSet:
    parts = [train] if test is None else [train, test]
    for images, labels in parts:
        if len(images) != len(labels):
            raise MetanetError(
                f"{name}: {len(images)} images but {len(labels)} labels; the files do "
                "not belong together"
            )
    images = np.concatenate([part.images for part in parts])
    if images.ndim == 3:
        images = images[..., None]
    expected = (source.side, source.side, source.channels)
    if images.shape[1:] != expected:
        raise MetanetError(
            f"{name}: images of shape {images.shape[1:]}, not {expected}"
        )
    labels = np.concatenate([part.labels for part in parts]).astype(np.int32)
    official_test = None
    if test is not None:
        official_test = np.arange(len(images)) >= len(train.images)
    return ImageSet(name, images, labels, official_test, source.class_names)
