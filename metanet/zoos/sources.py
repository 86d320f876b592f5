"""Where image files come from: known names, checksums, publishers' addresses."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pooch

from metanet.errors import MetanetError

# Publishers' addresses; the environment variable METANET_MIRROR replaces all of them by
# a folder or server that holds the sets' folders.
_BASE = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion_mnist": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "cifar10": "https://www.cs.toronto.edu/~kriz/",
}

# MD5 of known files, by set.
CHECKSUMS = {
    "mnist": {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    "cifar10": {
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
    },
}


def find_file(name: str, file: str, root: Path | None, download: bool) -> Path:
    """The path of a set's file, verified against its known checksum.

    Looked for in ``root/name/file``, then ``root/file``.

    Raises:
        MetanetError: for a missing or altered file, with the command that gets it.
    """
    places = [root / name / file, root / file] if root else []
    for path in places:
        if path.is_file():
            _verify(name, file, path)
            return path
    if download:
        return _download(name, file, root)
    where = f"not found as {' or '.join(map(str, places))}" if places else "missing"
    raise MetanetError(
        f"{name}: {file}: {where}; give the folder that holds it with --data-root, or "
        f"fetch it with: metanet zoo fit-inrs --images {name} --download --out DIR"
    )


def _verify(name: str, file: str, path: Path) -> None:
    expected = CHECKSUMS[name].get(file)
    if expected is None:
        return
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "md5").hexdigest()
    if found != expected:
        raise MetanetError(
            f"{path}: checksum {found} is not the publisher's {expected}; the file is "
            "truncated or altered: delete it and fetch it again"
        )


def _download(name: str, file: str, root: Path | None) -> Path:
    mirror = os.environ.get("METANET_MIRROR")
    base = f"{mirror.rstrip('/')}/{name}/" if mirror else _BASE[name]
    target = (root or Path(pooch.os_cache("metanet"))) / name
    try:
        path = pooch.retrieve(
            base + file,
            known_hash=f"md5:{CHECKSUMS[name][file]}",
            fname=file,
            path=target,
        )
    except Exception as error:  # pooch raises what its transport raises
        raise MetanetError(f"{name}: {file}: download failed: {error}") from error
    return Path(path)
