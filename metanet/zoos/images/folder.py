"""Folders of image files, one sub-folder per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from metanet.errors import MetanetError
from metanet.zoos.images.files import damaged_file

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


def read_folder(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Reads images ``[N, height, width, channels]``, labels ``[N]`` and class names.

    Raises:
        MetanetError: for a folder without images, unreadable images, or images of
            different shapes.
    """
    classes = sorted(p for p in path.iterdir() if p.is_dir())
    images, labels = [], []
    for label, folder in enumerate(classes):
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() in _SUFFIXES:
                images.append(read_picture(file))
                labels.append(label)
    if not images:
        raise MetanetError(
            f"{path}: no images; expected one sub-folder of PNG or JPEG files per class"
        )
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise MetanetError(
            f"{path}: images of different shapes {sorted(shapes)}; resize them first"
        )
    names = tuple(folder.name for folder in classes)
    return np.stack(images), np.asarray(labels, np.int32), names


def read_picture(path: Path) -> np.ndarray:
    """Reads a PNG or JPEG file as bytes ``[height, width, channels]``.

    Raises:
        MetanetError: for a damaged file.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            is_grey = picture.mode in ("1", "L", "I", "I;16", "F", "LA")
            pixels = np.asarray(picture.convert("L" if is_grey else "RGB"), np.uint8)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise damaged_file(path, error) from error
    return pixels[..., None] if is_grey else pixels
