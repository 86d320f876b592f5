"""Bad input to the commands: one clear line, a failing status, no files left behind.

One tiny run is trained for the whole module; each test damages a copy of it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import torch_writer
from helpers.html_pages import parse

from metanet.cli import main

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        "seed": 0,
        "zoo": {
            "path": "ZOO",
            "fit": {
                "images": "digits", "limit": 40, "steps": 20, "data_root": "",
                "architecture": {"name": "siren", "options": {"hidden": [8, 8]}},
            },
        },
        "model": {"name": "flat_mlp", "dim": 8},
        "train": {
            "steps": 4, "batch_size": 8, "log_every": 2, "eval_every": 2,
            "checkpoint_every": 2,
        },
    })
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Makes a directory with a config, a zoo and a finished run."""
    root = tmp_path_factory.mktemp("trained")
    write_config(root)
    assert main(train_command(root)) == 0
    return root


def write_config(root: Path) -> None:
    (root / "tiny.py").write_text(CONFIG.replace("ZOO", str(root / "zoo")))


def train_command(root: Path, *more: str) -> list[str]:
    config, workdir = str(root / "tiny.py"), str(root / "run")
    return ["train", "--config", config, "--workdir", workdir, *more]


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """Copies the trained directory, for damage."""
    root = tmp_path / "copy"
    shutil.copytree(trained, root)
    for path in (root / "tiny.py", root / "run" / "config.json"):
        path.write_text(path.read_text().replace(str(trained), str(root)))
    return root


def listing(root: Path) -> dict[str, bytes]:
    """Returns the content of every file below ``root``."""
    return {
        str(p.relative_to(root)): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file() and "tensorboard" not in p.parts
    }


def fails(capsys, command: list[str], *parts: str, status: int = 1) -> None:
    """Runs the command; checks its status and its one line of error."""
    capsys.readouterr()
    assert main(command) == status
    lines = [x for x in capsys.readouterr().err.splitlines() if "error: " in x]
    assert len(lines) == 1 and lines[0].startswith("metanet: error: ")
    for part in parts:
        assert part in lines[0]


def restart(root: Path) -> None:
    """Removes the finished run."""
    shutil.rmtree(root / "run")


def test_truncated_shard(copy, capsys):
    restart(copy)
    shard = next((copy / "zoo").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-100])
    before = listing(copy)
    fails(capsys, ["zoo", "info", str(copy / "zoo")], str(shard), "truncated")
    fails(capsys, ["inspect", f"{copy / 'zoo'}:0"], str(shard), "truncated")
    assert listing(copy) == before


def rewrite_shard(root: Path, change) -> Path:
    """Changes the weights of a shard and rewrites its checksum."""
    shard = next((root / "zoo").glob("*.parquet"))
    table = pq.read_table(shard)
    rows = np.array(table.column("weights").to_pylist(), np.float32)
    rows = change(rows)
    width = rows.shape[1]
    values = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), width)
    column = table.column_names.index("weights")
    pq.write_table(table.set_column(column, "weights", values), shard)
    digest = hashlib.sha256(shard.read_bytes()).hexdigest()
    shard.with_name(f"{shard.name}.sha256").write_text(f"{digest}  {shard.name}\n")
    return shard


def test_nan_weights_in_a_zoo(copy, capsys):
    restart(copy)

    def insert_nan(rows):
        rows[3, 7] = np.nan
        return rows

    shard = rewrite_shard(copy, insert_nan)
    fails(capsys, train_command(copy), str(shard), "row 3", "NaN")
    assert not (copy / "run").exists()


def test_wrong_shapes_in_a_zoo(copy, capsys):
    restart(copy)
    shard = rewrite_shard(copy, lambda rows: rows[:, :-1])
    fails(capsys, train_command(copy), str(shard), "weights")
    assert not (copy / "run").exists()


@pytest.mark.parametrize(
    ("override", "status", "parts"),
    [
        ("--config.train.step=3", 2, ("config.train", "'step'", '"steps"')),
        ("--config.model.name=gnm", 1, ("'gnm'", '"gmn"')),
        ("--config.model={'name':'gmn','dmi':8}", 1, ("dmi", '"dim"')),
        ("--config.zoo.fit.architecture.name=sirne", 1, ("'sirne'", '"siren"')),
        ("--config.zoo.fit.images=digit", 1, ("'digit'", '"digits"')),
        ("--config.zoo.fit.images=mnist", 1, ("mnist", "download")),
        ("--config.train.steps=0", 1, ("config.train.steps", "at least 1")),
        ("--config.train.steps=many", 2, ("config.train.steps", "many")),
    ],
)
def test_config_values(tmp_path, capsys, override, status, parts):
    write_config(tmp_path)
    before = listing(tmp_path)
    fails(capsys, train_command(tmp_path, override), *parts, status=status)
    assert listing(tmp_path) == before


def test_unknown_key_in_a_config_file(tmp_path, capsys):
    write_config(tmp_path)
    path = tmp_path / "tiny.py"
    path.write_text(path.read_text().replace('"batch_size"', '"batchsize"'))
    fails(capsys, train_command(tmp_path), "config.train.batchsize", '"batch_size"')
    assert list(tmp_path.iterdir()) == [path]


def test_missing_config_and_data_files(tmp_path, capsys):
    write_config(tmp_path)
    missing = ["train", "--config", str(tmp_path / "tony.py")]
    fails(capsys, missing, "tony.py: no such config file", "tiny.py")
    images = ["--images", "mnist", "--data-root", str(tmp_path)]
    command = ["zoo", "fit-inrs", *images, "--out", str(tmp_path / "zoo")]
    fails(capsys, command, "train-images-idx3-ubyte.gz")
    command = ["zoo", "fit-inrs", "--images", "mnits", "--out", str(tmp_path / "zoo")]
    fails(capsys, command, "'mnits'", '"mnist"')
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.py"]


def test_directories_that_cannot_be_written(copy, capsys):
    # A path below a file cannot be written even by root.
    below = copy / "tiny.py" / "run"
    before = listing(copy)
    command = ["train", "--config", str(copy / "tiny.py"), "--workdir", str(below)]
    fails(capsys, command, str(below))
    command = ["zoo", "fit-inrs", "--images", "digits", "--limit", "16", "--out"]
    fails(capsys, [*command, str(below)], str(below))
    fails(capsys, ["inspect", "siren", "--plot", str(below / "a.png")], str(below))
    assert listing(copy) == before


def damage(checkpoint: Path) -> None:
    largest = max(
        (p for p in checkpoint.rglob("*") if p.is_file()),
        key=lambda p: p.stat().st_size,
    )
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def test_corrupt_checkpoints(copy, capsys):
    run = copy / "run"
    expected = json.loads((run / "result.json").read_text())
    (run / "result.json").unlink()
    damage(run / "checkpoints" / "latest" / "4")
    assert main(train_command(copy)) == 0
    error = capsys.readouterr().err
    assert "checkpoints/latest/4: damaged checkpoint" in error
    assert "falling back" in error
    resumed = json.loads((run / "result.json").read_text())
    assert resumed["test"] == expected["test"]
    assert resumed["best_step"] == expected["best_step"]

    (run / "result.json").unlink()
    for step in ("2", "4"):
        damage(run / "checkpoints" / "latest" / step)
    fails(capsys, train_command(copy), "every checkpoint is damaged")
    assert not (run / "result.json").exists()


def test_another_config_in_the_same_directory(copy, capsys):
    before = listing(copy)
    command = train_command(copy, "--config.train.steps=6")
    fails(capsys, command, "run of another config", "config.train.steps")
    assert listing(copy) == before


def siren(rows: int = 8) -> dict[str, np.ndarray]:
    shapes = {"0.weight": (rows, 2), "0.bias": (rows,), "1.weight": (8, rows)}
    shapes |= {"1.bias": (8,), "2.weight": (1, 8), "2.bias": (1,)}
    rng = np.random.default_rng(0)
    return {f"seq.{k}": rng.standard_normal(s).astype("f4") for k, s in shapes.items()}


def test_predict_skips_unreadable_files(trained, tmp_path, capsys):
    good, wide, nan, text = (tmp_path / f"{n}.pth" for n in ("a", "w", "n", "t"))
    torch_writer.save(good, siren())
    torch_writer.save(wide, siren(64))
    torch_writer.save(nan, siren() | {"seq.2.bias": np.array([np.nan], "f4")})
    text.write_text("no weights")
    zoo = trained / "zoo"
    command = ["predict", str(trained / "run"), str(good), f"{zoo}:3", "--json"]
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["file"] for r in rows] == [str(good), f"{zoo}:3"]
    assert all(r["class"] == str(r["label"]) for r in rows)
    assert all(0.1 <= r["probability"] <= 1 for r in rows)

    bad = [str(wide), str(nan), str(text), f"{zoo}:999", f"{zoo}:x", "absent.npz"]
    assert main([*command[:-1], *bad]) == 1
    out, err = capsys.readouterr()
    assert str(good) in out and str(wide) not in out
    # Random weights are no fitted SIREN: predicted with a warning.
    warning, *lines = err.splitlines()
    assert "outside what the run was trained on" in warning and str(good) in warning
    assert len(lines) == len(bad)
    expected = (
        "seq.0.weight: shape (64, 2), this architecture takes (8, 2)",
        "seq.2.bias: holds NaN",
        "not a readable PyTorch file",
        "id 999",
        "is a number",
        "no such file",
    )
    for line, part in zip(lines, expected, strict=True):
        assert line.startswith("metanet: error: ") and part in line


def test_directories_without_a_run_or_zoo(tmp_path, capsys):
    for command in (["evaluate"], ["report"]):
        fails(capsys, [*command, str(tmp_path)], str(tmp_path))
    fails(capsys, ["predict", str(tmp_path), "a.npz"], str(tmp_path))
    fails(capsys, ["zoo", "info", str(tmp_path)], str(tmp_path), "not a zoo")
    fails(capsys, ["inspect", "sirne"], "sirne", '"siren"')
    fails(capsys, ["inspect", "siren:hiden=3"], "hiden", '"hidden"')
    assert not list(tmp_path.iterdir())


def test_the_finished_run(trained, capsys):
    """The undamaged run works with the commands of the tests above."""
    run, zoo = str(trained / "run"), str(trained / "zoo")
    assert main(["evaluate", run, "--split", "validation"]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main(["report", run]) == 0
    page = parse(trained / "run" / "report.html")
    for title in (
        "Learning curves",
        "Confusion matrix",
        "Networks of the test split",
        "Parameter graph",
        "Symmetries",
        "How to repeat it",
    ):
        assert title in page
    plot = trained / "graph.png"
    for network in (run, zoo, f"{zoo}:0", str(trained / "tiny.py"), "siren:hidden=8,8"):
        assert main(["inspect", network, "--plot", str(plot)]) == 0
        out = capsys.readouterr().out
        assert "S_8" in out and "Node sets" in out
        assert plot.read_bytes().startswith(b"\x89PNG")
        plot.unlink()
