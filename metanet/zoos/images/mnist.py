"""MNIST and sets in its format (gzip-compressed idx files)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from metanet.zoos.images.digits import DIGIT_NAMES
from metanet.zoos.images.files import ImageFiles, damaged_file
from metanet.zoos.images.image_set import IMAGE_SETS, ImageSource, LabelledImages


@IMAGE_SETS.register("mnist")
class MNIST(ImageSource):
    """MNIST (LeCun et al. 1998), 70,000 images."""

    side, channels = 28, 1
    class_names = DIGIT_NAMES
    url = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    checksums = {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    }

    @classmethod
    def read(cls, files: ImageFiles) -> tuple[LabelledImages, LabelledImages]:
        """Reads the four idx files."""
        train, test = (
            LabelledImages(
                read_idx(files.find(f"{prefix}-images-idx3-ubyte.gz")),
                read_idx(files.find(f"{prefix}-labels-idx1-ubyte.gz")),
            )
            for prefix in ("train", "t10k")
        )
        return train, test


@IMAGE_SETS.register("fashion_mnist")
class FashionMNIST(MNIST):
    """Fashion-MNIST (Xiao et al. 2017), 70,000 images."""

    class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    url = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    checksums = {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    }


def read_idx(path: Path) -> np.ndarray:
    """Reads bytes ``[N]`` or ``[N, rows, columns]`` from a gzip-compressed idx file.

    Raises:
        MetanetError: for a damaged file.
    """
    try:
        with gzip.open(path) as stream:
            data = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise damaged_file(path, error) from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != 8:
        raise damaged_file(path, "no idx header of unsigned bytes")
    rank = data[3]
    start = 4 + 4 * rank
    if len(data) < start:
        raise damaged_file(path, "header ends early")
    shape = struct.unpack(f">{rank}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise damaged_file(path, f"{len(data) - start} bytes for shape {shape}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
