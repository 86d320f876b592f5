"""Zoos on disk: round trip, checksums, resumption, reports of damage."""

from __future__ import annotations

import hashlib
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metanet.errors import MetanetError
from metanet.files import write_file
from metanet.networks import Architecture
from metanet.zoos import SPLITS, Zoo, ZooWriter, completed

ROWS, SIZE = 23, 10
ARCH = Architecture.of("siren", hidden=(2,))
LEAVES = [
    {"path": "layers/0/bias", "shape": [2]},
    {"path": "layers/0/kernel", "shape": [2, 2]},
    {"path": "layers/1/bias", "shape": [1]},
    {"path": "layers/1/kernel", "shape": [2, 1]},
]

COLUMNS = {"label": "int32", "image": "int32", "view": "int32", "psnr": "float32"}


def description(**config) -> dict:
    return {
        "kind": "inr",
        "config": {"seed": 0, "steps": 5, **config},
        "architectures": {"0": ARCH.to_json()},
        "leaves": {"0": LEAVES},
        "columns": COLUMNS,
        "convention": "dws",
        "image_shape": [4, 4, 1],
        "class_names": ["a", "b"],
        "rows": ROWS,
        "shard_size": SIZE,
    }


def content() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "id": np.arange(ROWS),
        "weights": rng.normal(size=(ROWS, 9)).astype(np.float32),
        "label": rng.integers(0, 2, ROWS),
        "image": rng.permutation(ROWS),
        "view": np.arange(ROWS) % 3,
        "split": np.array([SPLITS[i % 3] for i in range(ROWS)]),
        "psnr": rng.normal(30, 1, ROWS).astype(np.float32),
        "architecture": np.full(ROWS, "0"),
    }


def write(path: Path, shards: int | None = None, **config) -> ZooWriter:
    """Writes a zoo, or its first ``shards`` shards."""
    writer, columns = ZooWriter(path, description(**config)), content()
    weights = list(columns.pop("weights"))
    for count, (i, rows) in enumerate(writer.shards()):
        if count == shards:
            break
        part = {k: v[rows] for k, v in columns.items()}
        writer.write(i, [weights[r] for r in rows], part)
    return writer


@pytest.fixture
def zoo(tmp_path) -> Zoo:
    return write(tmp_path / "zoo").finish()


def files(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


def assert_explained(call, *parts: str) -> None:
    """Asserts that the call fails with one line that contains these parts."""
    with pytest.raises(MetanetError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def alter_shard(zoo: Zoo, shard: int, change) -> None:
    """Changes a shard's table and rewrites its checksum."""
    path = zoo.path / f"shard-{shard:05d}.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")


def with_weights(table: pa.Table, weights) -> pa.Table:
    return table.set_column(table.column_names.index("weights"), "weights", weights)


def test_round_trip(zoo):
    opened, expected = Zoo.open(zoo.path), content()
    assert len(opened) == ROWS and opened.architecture == ARCH
    assert opened.class_names == ("a", "b")
    table = opened.read()
    assert table.weights.dtype == np.float32 and table.weights.flags.c_contiguous
    np.testing.assert_array_equal(table.weights, expected["weights"])
    for name in expected.keys() - {"weights"}:
        np.testing.assert_array_equal(table[name], expected[name])
    for row in (0, 9, 10, 22):
        weights, columns = opened.row(row)
        np.testing.assert_array_equal(weights, expected["weights"][row])
        assert columns["id"] == row and columns["split"] == SPLITS[row % 3]


def test_splits_and_columns(zoo):
    expected = content()
    for split in SPLITS:
        table = zoo.read(split, ("label",))
        rows = expected["split"] == split
        assert set(table.columns) == {"label"}
        np.testing.assert_array_equal(table.weights, expected["weights"][rows])
        np.testing.assert_array_equal(table["label"], expected["label"][rows])


def test_other_readers_open_the_shards(zoo):
    table = pq.read_table(zoo.path / "shard-00001.parquet")
    assert pa.types.is_list(table.schema.field("weights").type)
    assert table.column("id").to_pylist() == list(range(10, 20))
    whole = pq.read_table(sorted(zoo.path.glob("*.parquet")))
    assert len(whole) == ROWS


def test_writing_is_deterministic_and_resumes(tmp_path, zoo):
    write(tmp_path / "part", shards=1)
    resumed = ZooWriter(tmp_path / "part", description())
    assert resumed.done == SIZE
    (tmp_path / "part" / ".zoo.json.77.tmp").write_text("left by a killed writer")
    write(tmp_path / "part").finish()
    assert files(tmp_path / "part") == files(zoo.path)
    result = subprocess.run(
        ["sha256sum", "-c", *sorted(p.name for p in zoo.path.glob("*.sha256"))],
        cwd=zoo.path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and result.stdout.count(": OK") == 3


def test_two_processes_share_the_shards(tmp_path):
    """Each writes the shards that the other does not; both open the complete zoo."""
    path, written = tmp_path / "zoo", []
    weights = list(content()["weights"])

    def work(name: str) -> None:
        writer = ZooWriter(path, description())
        for shard, rows in writer.shards():
            written.append((shard, name))
            time.sleep(0.05)
            columns = {k: v[rows] for k, v in content().items() if k != "weights"}
            writer.write(shard, [weights[r] for r in rows], columns)
        assert len(writer.finish().read()) == ROWS

    threads = [threading.Thread(target=work, args=(n,)) for n in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(shard for shard, _ in written) == [0, 1, 2]
    assert {name for _, name in written} == {"a", "b"}


def test_a_damaged_shard_is_written_again(zoo):
    before = files(zoo.path)
    path = zoo.path / "shard-00001.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    assert completed(zoo.path, description()["config"]) is None
    assert ZooWriter(zoo.path, description()).done == ROWS - SIZE
    write(zoo.path).finish()
    assert files(zoo.path) == before
    assert completed(zoo.path, description()["config"]) is not None


def test_another_configuration_is_refused(zoo):
    before = files(zoo.path)
    parts = ("steps", "5", "6", str(zoo.path))
    assert_explained(lambda: ZooWriter(zoo.path, description(steps=6)), *parts)
    assert_explained(
        lambda: completed(zoo.path, description(steps=6)["config"]), *parts
    )
    assert files(zoo.path) == before


def test_directories_without_a_zoo_are_explained(tmp_path):
    assert_explained(lambda: Zoo.open(tmp_path), str(tmp_path), "not a zoo")
    (tmp_path / "zoo.json").write_text("{nonsense")
    assert_explained(lambda: Zoo.open(tmp_path), "zoo.json", "JSON")
    (tmp_path / "zoo.json").write_text('{"format": 99}')
    assert_explained(lambda: Zoo.open(tmp_path), "zoo.json", "format")
    (tmp_path / "zoo.json").write_text('{"format": 2}')
    assert_explained(lambda: Zoo.open(tmp_path), "zoo.json", "kind: missing")
    assert_explained(lambda: Zoo.open(tmp_path / "zoo.json"), "zoo.json")
    write(tmp_path / "part", shards=1)
    assert_explained(lambda: Zoo.open(tmp_path / "part"), "2 of 3 shards", "again")


def test_unknown_names(zoo):
    assert_explained(lambda: zoo.read("tset"), "tset", "test")
    assert_explained(lambda: zoo.read(columns=("lable",)), "lable", "label")
    for row in (-1, ROWS):
        assert_explained(lambda row=row: zoo.row(row), str(row), "0..22")


def test_truncated_and_missing_shards(zoo):
    path = zoo.path / "shard-00002.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    assert_explained(zoo.read, str(path), "checksum")
    assert_explained(lambda: zoo.row(21), str(path), "checksum")
    zoo.row(3)
    path.unlink()
    assert_explained(zoo.read, str(path), "missing")


def test_not_finite_weights_name_the_row(zoo):
    def insert_nan(table):
        weights = np.stack(table.column("weights").to_numpy()).copy()
        weights[4, 2] = np.nan
        return with_weights(table, pa.array(list(weights), table["weights"].type))

    alter_shard(zoo, 1, insert_nan)
    zoo = Zoo.open(zoo.path)
    assert_explained(zoo.read, "shard-00001", "weights", "row 14", "NaN")
    assert_explained(lambda: zoo.row(14), "row 14")
    zoo.row(13)
    table = zoo.read(skip_broken=True)
    np.testing.assert_array_equal(table["id"], np.delete(np.arange(ROWS), 14))


def test_wrong_lengths_name_the_row(zoo):
    def ragged(table):
        rows = table.column("weights").to_pylist()
        rows[0], rows[3] = rows[0] + [1.0], rows[3][:-1]
        return with_weights(table, pa.array(rows, pa.list_(pa.float32())))

    alter_shard(zoo, 1, ragged)
    assert_explained(Zoo.open(zoo.path).read, "shard-00001", "row 10", "10 values", "9")


def test_foreign_shards_are_explained(zoo):
    alter_shard(zoo, 0, lambda table: table.drop_columns(["weights"]))
    assert_explained(Zoo.open(zoo.path).read, "shard-00000", "weights")
    alter_shard(zoo, 1, lambda table: table.slice(0, 4))
    assert_explained(lambda: Zoo.open(zoo.path).row(12), "shard-00001", "4 rows")

    def replace_weights_by_text(table: pa.Table) -> pa.Table:
        text = pa.array([["a"] * 9] * len(table), pa.list_(pa.string()))
        return with_weights(table, text)

    alter_shard(zoo, 2, replace_weights_by_text)
    assert_explained(lambda: Zoo.open(zoo.path).row(22), "shard-00002")


def test_lists_of_one_size_are_read_too(zoo):
    fixed = pa.list_(pa.float32(), 9)
    alter_shard(zoo, 0, lambda t: with_weights(t, t["weights"].cast(fixed)))
    np.testing.assert_array_equal(
        Zoo.open(zoo.path).read().weights, content()["weights"]
    )


def test_networks_of_several_architectures(tmp_path):
    """Rows of different lengths are read as they were written, in every split."""
    wide = Architecture.of("siren", hidden=(3,))
    wide_leaves = [{"path": "a", "shape": [5]}, {"path": "b", "shape": [4, 2]}]
    info = description() | {
        "architectures": {"0": ARCH.to_json(), "1": wide.to_json()},
        "leaves": {"0": LEAVES, "1": wide_leaves},
    }
    writer, columns = ZooWriter(tmp_path, info), content()
    kinds = np.arange(ROWS) % 2
    columns["architecture"] = kinds.astype(str)
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=13 if k else 9).astype(np.float32) for k in kinds]
    del columns["weights"]
    for shard, rows in writer.shards():
        part = {k: v[rows] for k, v in columns.items()}
        writer.write(shard, [weights[r] for r in rows], part)
    zoo = writer.finish()
    for split in (*SPLITS, None):
        table = zoo.read(split)
        rows = [i for i in range(ROWS) if split in (None, columns["split"][i])]
        assert len(table) == len(rows)
        for index, row in enumerate(rows):
            np.testing.assert_array_equal(table.network(index), weights[row])
    assert_explained(lambda: zoo.read().weights, "2 sizes")
    np.testing.assert_array_equal(zoo.row(11)[0], weights[11])


def test_files_are_written_atomically(tmp_path):
    path = tmp_path / "new" / "file"
    write_file(path, b"content")
    assert path.read_bytes() == b"content" and len(list(path.parent.iterdir())) == 1
    assert_explained(lambda: write_file(path / "below", b"x"), str(path / "below"))
    (tmp_path / "folder").mkdir()
    assert_explained(lambda: write_file(tmp_path / "folder", b"x"), "folder")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "new"]
