"""Image readers and splits: every format, checksums, hostile and damaged files."""

from __future__ import annotations

import gc
import gzip
import hashlib
import io
import lzma
import os
import pickle
import struct
import tarfile
import threading
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from metanet.errors import MetanetError
from metanet.zoos import IMAGE_SETS, SPLITS, ImageSet, choose_images, load_images
from metanet.zoos.images.cifar10 import read_npy, read_python_batch
from metanet.zoos.images.mnist import read_idx

DATA = Path(__file__).parent.parent / "data"
RNG = np.random.default_rng(0)
IDX_FILES = [
    f"{part}-{kind}.gz"
    for part in ("train", "t10k")
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
]


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


def write_mnist(root: Path, monkeypatch) -> tuple[np.ndarray, np.ndarray]:
    """Writes a small MNIST and registers its checksums."""
    images = RNG.integers(0, 256, (12, 28, 28), np.uint8)
    labels = (np.arange(12) % 10).astype(np.uint8)
    parts = (images[:9], labels[:9], images[9:], labels[9:])
    root.mkdir(parents=True)
    checksums = {}
    for file, array in zip(IDX_FILES, parts, strict=True):
        (root / file).write_bytes(idx_bytes(array))
        checksums[file] = hashlib.md5((root / file).read_bytes()).hexdigest()
    monkeypatch.setattr(IMAGE_SETS["mnist"], "checksums", checksums)
    return images, labels


def assert_explained(call, *parts: str) -> None:
    """Asserts that the call fails with one line that contains these parts."""
    with pytest.raises(MetanetError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_documented_sets_are_those_of_the_code():
    text = (DATA / "README.md").read_text()
    for name in IMAGE_SETS:
        source = IMAGE_SETS[name]
        size = f"{source.side}x{source.side}x{source.channels}"
        (row,) = (x for x in text.splitlines() if x.startswith(f"| `{name}` |"))
        assert size in row


def test_digits():
    digits = load_images("digits")
    assert digits.images.shape == (1797, 8, 8, 1) and digits.images.dtype == np.uint8
    assert digits.images.min() == 0 and digits.images.max() == 255
    assert digits.labels.dtype == np.int32 and digits.official_test is None


def test_sample_files_hold_digits():
    digits = load_images("digits")
    images = read_idx(DATA / "digits-images-idx3-ubyte.gz")
    labels = read_idx(DATA / "digits-labels-idx1-ubyte.gz")
    np.testing.assert_array_equal(labels, np.arange(10))
    for image, label in zip(images, labels, strict=True):
        first = np.argmax(digits.labels == label)
        np.testing.assert_array_equal(digits.images[first, :, :, 0], image)


def test_documented_checksums_are_those_of_the_code():
    text = (DATA / "README.md").read_text()
    for name in IMAGE_SETS:
        for file, checksum in IMAGE_SETS[name].checksums.items():
            (line,) = (x for x in text.splitlines() if checksum in x)
            assert name in line and f"`{file}`" in line


@pytest.mark.parametrize("below", ["mnist", ""])
def test_mnist(below, tmp_path, monkeypatch):
    images, labels = write_mnist(tmp_path / "root" / below, monkeypatch)
    loaded = load_images("mnist", tmp_path / "root")
    np.testing.assert_array_equal(loaded.images[..., 0], images)
    np.testing.assert_array_equal(loaded.labels, labels)
    np.testing.assert_array_equal(loaded.official_test, np.arange(12) >= 9)


def test_missing_files_name_the_command(tmp_path):
    for root in (None, tmp_path):
        assert_explained(
            partial(load_images, "fashion_mnist", root),
            "train-images-idx3-ubyte.gz",
            "metanet zoo fit-inrs --images fashion_mnist --download",
            "--data-root",
        )
    assert_explained(partial(load_images, "mnits"), "mnits", "mnist")


def test_altered_files_are_found_by_checksum(tmp_path, monkeypatch):
    write_mnist(tmp_path / "mnist", monkeypatch)
    path = tmp_path / "mnist" / IDX_FILES[0]
    path.write_bytes(path.read_bytes()[:-3])
    assert_explained(partial(load_images, "mnist", tmp_path), str(path), "checksum")


def test_truncated_and_foreign_files_are_explained(tmp_path):
    whole = idx_bytes(np.zeros((4, 3, 3), np.uint8))
    raw = gzip.decompress(whole)
    damaged = (
        whole[:-4],
        whole[: len(whole) // 2],
        b"",
        b"text",
        gzip.compress(b"abc"),
    )
    for data in (*damaged, gzip.compress(raw[:-1]), gzip.compress(raw + b"0")):
        path = tmp_path / "x.gz"
        path.write_bytes(data)
        assert_explained(partial(read_idx, path), str(path), "truncated")
    objects = tmp_path / "x.npy"
    np.save(objects, np.array([{}], object), allow_pickle=True)
    assert_explained(lambda: read_npy(objects), str(objects))
    objects.write_bytes(lzma.compress(b"no array"))
    assert_explained(lambda: read_npy(objects), str(objects))


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Serves ``tmp_path / "served"`` on the loopback device; yields the folder."""
    root = tmp_path / "served"
    root.mkdir()
    handler = type(
        "Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *a: None}
    )
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(handler, directory=str(root))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("METANET_MIRROR", f"http://127.0.0.1:{server.server_port}")
    yield root
    server.shutdown()
    thread.join()
    server.server_close()
    with warnings.catch_warnings():  # pooch leaves failed responses to the collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


# Pooch leaves failed responses to the collector, which may come during the test.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)
def test_downloads_are_verified_and_reused(mirror, tmp_path, monkeypatch):
    images, _ = write_mnist(mirror / "mnist", monkeypatch)
    root = tmp_path / "fresh"
    loaded = load_images("mnist", root, download=True)
    np.testing.assert_array_equal(loaded.images[..., 0], images)
    (mirror / "mnist" / IDX_FILES[0]).unlink()
    load_images("mnist", root)  # no network needed any more

    (root / "mnist" / IDX_FILES[0]).unlink()
    assert_explained(
        lambda: load_images("mnist", root, download=True), "download failed"
    )
    (mirror / "mnist" / IDX_FILES[0]).write_bytes(b"not the file")
    assert_explained(
        lambda: load_images("mnist", root, download=True), "download failed"
    )
    assert not (root / "mnist" / IDX_FILES[0]).exists()


def cifar_parts() -> tuple[np.ndarray, np.ndarray]:
    images = RNG.integers(0, 256, (12, 32, 32, 3), np.uint8)
    return images, (np.arange(12) % 10).astype(np.uint8)


def planes(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def write_cifar_binary(root: Path, images, labels) -> None:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    rows = np.concatenate([labels[:, None], planes(images)], axis=1)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    for name, part in zip(names, np.split(rows, 6), strict=True):
        (folder / name).write_bytes(part.tobytes())


def write_cifar_python(root: Path, images, labels) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    parts = zip(names, np.split(images, 6), np.split(labels, 6), strict=True)
    for name, pixels, classes in parts:
        batch = {"data": planes(pixels), "labels": classes.tolist()}
        batch["batch_label"] = name
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))


def write_cifar_npy(root: Path, images, labels) -> None:
    root.mkdir(parents=True)
    for i, part in enumerate(np.split(images[:10], 5), 1):
        write_npy_xz(root / f"train_images_{i}.npy.xz", part)
    write_npy_xz(root / "test_images.npy.xz", images[10:])
    np.save(root / "train_labels.npy", labels[:10])
    np.save(root / "test_labels.npy", labels[10:])


def write_npy_xz(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    path.write_bytes(lzma.compress(buffer.getvalue(), preset=0))


def write_cifar_archive(root: Path, images, labels) -> None:
    write_cifar_binary(root / "unpacked", images, labels)
    with tarfile.open(root / "cifar-10-binary.tar.gz", "w:gz") as archive:
        folder = root / "unpacked" / "cifar-10-batches-bin"
        archive.add(folder, "cifar-10-batches-bin")


@pytest.mark.parametrize(
    "write",
    [write_cifar_binary, write_cifar_python, write_cifar_npy, write_cifar_archive],
)
def test_all_layouts_of_cifar10_are_equal(write, tmp_path, monkeypatch):
    monkeypatch.setattr(IMAGE_SETS["cifar10"], "checksums", {})
    images, labels = cifar_parts()
    write(tmp_path / "cifar10", images, labels)
    loaded = load_images("cifar10", tmp_path)
    np.testing.assert_array_equal(loaded.images, images)
    np.testing.assert_array_equal(loaded.labels, labels)
    assert loaded.official_test is not None and loaded.official_test.sum() == 2
    assert loaded.class_names[labels[3]] == "cat"


class Evil:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize(
    "content",
    [
        lambda mark: Evil(os.system, f"touch {mark}"),
        lambda mark: {"data": Evil(open, mark, "w"), "labels": [1]},
        lambda mark: {"data": Evil(eval, f"open({mark!r}, 'w')"), "labels": [1]},
        lambda mark: {"data": np.zeros((1, 3072), np.float32), "labels": [1]},
        lambda mark: {"data": np.zeros((2, 3072), np.uint8), "labels": [1]},
        lambda mark: {"labels": [1]},
        lambda mark: [1, 2],
    ],
)
def test_python_batches_execute_nothing(content, tmp_path):
    mark, path = tmp_path / "ran", tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps(content(str(mark)), protocol=2))
    assert_explained(lambda: read_python_batch(path), str(path))
    assert not mark.exists()


@pytest.mark.parametrize("protocol", range(5))
def test_python_batches_of_all_protocols(protocol, tmp_path):
    images, labels = cifar_parts()
    path = tmp_path / "batch"
    batch = {"data": planes(images), "labels": labels.tolist()}
    path.write_bytes(pickle.dumps(batch, protocol=protocol))
    batch_images, batch_labels = read_python_batch(path)
    np.testing.assert_array_equal(batch_images, images)
    np.testing.assert_array_equal(batch_labels, labels)


def test_folder_of_images(tmp_path):
    from PIL import Image

    pixels = RNG.integers(0, 256, (2, 3, 5, 6, 3), np.uint8)
    for i, name in enumerate(("cats", "dogs")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("no image")
        for j in range(3):
            Image.fromarray(pixels[i, j]).save(tmp_path / name / f"{j}.png")
    loaded = load_images(str(tmp_path))
    np.testing.assert_array_equal(loaded.images, pixels.reshape(6, 5, 6, 3))
    np.testing.assert_array_equal(loaded.labels, [0, 0, 0, 1, 1, 1])
    assert loaded.class_names == ("cats", "dogs")

    Image.fromarray(pixels[0, 0, :4]).save(tmp_path / "dogs" / "9.png")
    assert_explained(lambda: load_images(str(tmp_path)), str(tmp_path), "shapes")
    (tmp_path / "dogs" / "9.png").write_bytes(b"broken")
    assert_explained(lambda: load_images(str(tmp_path)), "9.png")
    (tmp_path / "empty").mkdir()
    assert_explained(lambda: load_images(str(tmp_path / "empty")), "no images")


def labelled(count: int, tests: int | None) -> ImageSet:
    labels = RNG.integers(0, 10, count).astype(np.int32)
    official = None if tests is None else np.arange(count) >= count - tests
    names = tuple("abcdefghij")
    return ImageSet("x", np.zeros((count, 1, 1, 1), np.uint8), labels, official, names)


@pytest.mark.parametrize(
    ("dataset", "limit", "expected"),
    [
        (labelled(7000, 1000), 0, (5500, 500, 1000)),
        (labelled(7000, 1000), 700, (550, 50, 100)),
        (labelled(1797, None), 0, (1258, 180, 359)),
        (labelled(1797, None), 100, (70, 10, 20)),
        (labelled(1797, None), 3, (1, 1, 1)),
    ],
)
def test_splits(dataset, limit, expected):
    chosen, split = choose_images(dataset, limit, seed=3)
    assert len(set(chosen.tolist())) == len(chosen)
    counts = [int(np.sum(split == name)) for name in SPLITS]
    assert sum(counts) == (limit or len(dataset.images))
    assert np.abs(np.subtract(counts, expected)).max() <= 1
    if dataset.official_test is not None:
        assert np.all(dataset.official_test[chosen] == (split == "test"))
    again = choose_images(dataset, limit, seed=3)
    np.testing.assert_array_equal(again[0], chosen)
    np.testing.assert_array_equal(again[1], split)
    if limit != 3:
        assert not np.array_equal(choose_images(dataset, limit, seed=4)[0], chosen)
        for name in SPLITS:  # the classes have the shares of the official part
            pool = dataset.labels
            if dataset.official_test is not None:
                pool = pool[dataset.official_test == (name == "test")]
            share = np.bincount(pool, minlength=10) / len(pool)
            counts = np.bincount(dataset.labels[chosen[split == name]], minlength=10)
            assert np.abs(counts - share * counts.sum()).max() <= 2


def test_a_limit_does_not_change_the_split_of_an_image():
    dataset = labelled(900, None)
    splits = dict(zip(*(a.tolist() for a in choose_images(dataset, 0, 0)), strict=True))
    for image, name in zip(*choose_images(dataset, 90, 0), strict=True):
        assert splits[image] == name


def test_limits_that_cannot_be_split():
    for limit in (-1, 1, 2):
        assert_explained(partial(choose_images, labelled(50, None), limit, 0), "limit")


@pytest.mark.skipif(
    not os.environ.get("METANET_DATA_ROOT"), reason="METANET_DATA_ROOT is not set"
)
def test_real_image_sets():
    root = os.environ["METANET_DATA_ROOT"]
    for name, mean in (("mnist", 33.4), ("fashion_mnist", 72.9)):
        loaded = load_images(name, root)
        assert loaded.images.shape == (70000, 28, 28, 1)
        assert abs(loaded.images.mean() - mean) < 0.5
        chosen, split = choose_images(loaded, 0, 0)
        assert [np.sum(split == s) for s in SPLITS] == [55000, 5000, 10000]
