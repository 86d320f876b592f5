"""Checkpoints: exact resume, damage, what is kept; metrics of a resumed run."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.training_cases import config, without_discovery, write_zoo

from metanet.errors import MetanetError
from metanet.training import Interrupted, read_metrics, train
from metanet.training.checkpoint import Checkpoints
from metanet.training.writers import MetricWriter

STEPS = 11
# Steps between evaluations, checkpoints and log lines that do not divide each other.
CONFIG = {
    "train": {"steps": STEPS, "log_every": 2, "eval_every": 3, "checkpoint_every": 4},
    "optimizer": {"ema_decay": 0.9, "learning_rate": 1e-2},
    "augment": {"noise": {"level": 0.01}},
}


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        without_discovery(patch)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole")
    train(config(**CONFIG), workdir, progress=False)
    return workdir


def _without_times(values: dict) -> dict:
    times = ("networks_per_second", "wall_seconds")
    return {key: value for key, value in values.items() if key not in times}


def outcome(workdir: Path) -> dict[str, Any]:
    """All of a run but times: final state to the bit, best state, metrics, result."""
    found: dict[str, Any] = {}
    for kind in ("latest", "best"):
        checkpoints = Checkpoints(workdir / "checkpoints" / kind, 2)
        step = checkpoints.steps()[-1]
        items = checkpoints._manager.restore(step)
        checkpoints.close()
        record = {
            k: v for k, v in items["record"].items() if k not in ("seconds", "rates")
        }
        leaves = jax.tree_util.tree_leaves_with_path(items["state"])
        arrays = {jax.tree_util.keystr(p): np.asarray(x).tobytes() for p, x in leaves}
        found[kind] = (step, record, arrays)
    found["metrics"] = [_without_times(line) for line in read_metrics(workdir)]
    result = json.loads((workdir / "result.json").read_text())
    found["result"] = _without_times(result)
    return found


def test_the_outcome_holds_what_it_should(whole):
    step, record, arrays = outcome(whole)["latest"]
    assert step == STEPS and record["best_step"] > 0
    assert len(arrays) > 10 and any("ema" in k for k in arrays)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_and_resumes_to_the_bit(
    whole, tmp_path, monkeypatch, number
):
    # The step after is none that logs, evaluates or saves by itself.
    write, at = MetricWriter.write, 6

    def write_and_stop(self, step, **metrics):
        write(self, step, **metrics)
        if step == at and "loss" in metrics:
            os.kill(os.getpid(), number)

    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(MetricWriter, "write", write_and_stop)
        with pytest.raises(Interrupted, match=f"step {at + 1}; the state is saved"):
            train(config(**CONFIG), tmp_path, progress=False)
    assert signal.getsignal(number) == handler
    assert not (tmp_path / "result.json").exists()
    # As if killed later: lines of steps that will be done again, one of them cut off.
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 99, "loss": 1.0}\n{"step": 1')
    train(config(**CONFIG), tmp_path, progress=False)
    resumed, expected = outcome(tmp_path), outcome(whole)
    # Stopping writes one line of metrics more and splits a window of steps.
    steps, expected_steps = (
        [line["step"] for line in lines.pop("metrics") if "loss" not in line]
        for lines in (resumed, expected)
    )
    assert steps == expected_steps
    assert resumed == expected


def damage(checkpoint: Path) -> None:
    """Halves the largest file."""
    files = [p for p in checkpoint.rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def test_a_damaged_checkpoint_falls_back(whole, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "result.json").unlink()
    latest = run / "checkpoints" / "latest"
    assert sorted(int(p.name) for p in latest.iterdir() if p.is_dir()) == [8, STEPS]
    damage(latest / str(STEPS))
    train(config(**CONFIG), run, progress=False)
    error = capsys.readouterr().err
    assert f"latest/{STEPS}: damaged checkpoint" in error and "falling back" in error
    resumed, expected = outcome(run), outcome(whole)
    # The step at which it fell back begins a window of metrics, as before.
    assert resumed == expected
    assert [x["step"] for x in read_metrics(run)] == [
        x["step"] for x in read_metrics(whole)
    ]


def test_all_checkpoints_damaged_is_an_error(whole, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints" / "best")
    with pytest.raises(MetanetError, match="best checkpoint is gone"):
        train(config(**CONFIG), run, progress=False)
    for step in (8, STEPS):
        damage(run / "checkpoints" / "latest" / str(step))
    with pytest.raises(MetanetError, match="every checkpoint is damaged"):
        train(config(**CONFIG), run, progress=False)
    assert not (run / "result.json").exists()


def state(value: float) -> dict[str, jax.Array]:
    return {"a": jnp.full(1000, value), "key": jnp.asarray(3, jnp.int32)}


def test_the_newest_are_kept_and_each_bit_is_checked(tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path, 2)
    assert checkpoints.restore(state(0.0)) is None
    for step in (1, 2, 3):
        checkpoints.save(step, state(step), {"at": step})
    checkpoints.save(3, state(3.5), {"at": 3})
    assert checkpoints.steps() == [2, 3]
    names = {p.name for p in tmp_path.iterdir()}
    assert {"2", "3", "2.sha256.json", "3.sha256.json"} == names
    held, record = checkpoints.restore(state(0.0)) or ({}, {})
    assert float(held["a"][0]) == 3.5 and record == {"at": 3}

    # One flipped bit anywhere, a missing file, no manifest.
    for path in [p for p in (tmp_path / "3").rglob("*") if p.is_file()]:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if content else b"x")
        held, record = checkpoints.restore(state(0.0)) or ({}, {})
        assert record == {"at": 2} and float(held["a"][0]) == 2
        path.unlink()
        assert (checkpoints.restore(state(0.0)) or ({}, {}))[1] == {"at": 2}
        path.write_bytes(content)
    assert "damaged checkpoint" in capsys.readouterr().err
    (tmp_path / "3.sha256.json").unlink()
    assert (checkpoints.restore(state(0.0)) or ({}, {}))[1] == {"at": 3}
    checkpoints.discard_after(2)
    assert checkpoints.steps() == [2]
    checkpoints.close()
    # What a killed process left is cleared away, but not by one that only reads.
    left = tmp_path / "4.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "2" / "state", left / "state")
    for writing in (False, True):
        checkpoints = Checkpoints(tmp_path, 2, writing=writing)
        assert checkpoints.steps() == [2] and left.exists() == (not writing)
        assert (checkpoints.restore(state(0.0)) or ({}, {}))[1] == {"at": 2}
        checkpoints.close()


def test_the_logger_of_another_library_keeps_its_level(tmp_path):
    logger = logging.getLogger("absl")
    before = logger.level
    try:
        logger.setLevel(logging.DEBUG)
        checkpoints = Checkpoints(tmp_path, 1)
        checkpoints.save(1, state(1.0), {})
        assert checkpoints.restore(state(0.0)) is not None
        checkpoints.close()
        assert logger.level == logging.DEBUG
    finally:
        logger.setLevel(before)


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    reason = "below.*: cannot be written: Not a directory"
    with pytest.raises(MetanetError, match=reason):
        Checkpoints(tmp_path / "file" / "below", 1)
    with pytest.raises(MetanetError, match=reason):
        train(config(), tmp_path / "file" / "below", progress=False)


PROGRAM = """
import resource, sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
sys.path.insert(0, TESTS)
from pathlib import Path
from helpers.training_cases import config
from metanet.errors import MetanetError
from metanet.training import train
LIMIT
try:
    train(config(Path(ZOO), **CONFIG), WORKDIR, progress=False)
except MetanetError as error:
    print(f"metanet: error: {error}", file=sys.stderr)
    sys.exit(error.status)
"""


def start(workdir: Path, zoo: Path, limit: str = "", **changes: Any):
    """A process that trains."""
    program = PROGRAM.replace("TESTS", repr(str(Path(__file__).parent)))
    program = program.replace("WORKDIR", repr(str(workdir)))
    program = program.replace("ZOO", repr(str(zoo))).replace("LIMIT", limit)
    program = program.replace("CONFIG", repr(CONFIG | changes))
    return subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True
    )


LONG = {"train": {**CONFIG["train"], "steps": 400}}


@pytest.mark.slow
def test_killed_at_random_steps_it_ends_in_the_same_bits(tmp_path):
    zoo = write_zoo(tmp_path / "zoo")
    whole = start(tmp_path / "whole", zoo, **LONG)
    assert whole.communicate()[1] is not None and whole.returncode == 0
    expected = outcome(tmp_path / "whole")
    rng = np.random.default_rng(0)
    for number, kind in enumerate([signal.SIGKILL] * 3 + [signal.SIGTERM]):
        workdir = tmp_path / f"killed-{number}"
        for target in sorted(rng.integers(1, 380, 2)):
            process = start(workdir, zoo, **LONG)
            metrics = workdir / "metrics.jsonl"
            while process.poll() is None:
                lines = metrics.read_text().splitlines() if metrics.is_file() else []
                if len(lines) > target // 2:
                    process.send_signal(kind)
                    break
                time.sleep(0.005)
            error = process.communicate()[1]
            assert process.returncode in (-kind, 128 + kind), error
            if kind == signal.SIGTERM:
                assert "the state is saved" in error
        last = start(workdir, zoo, **LONG)
        error = last.communicate()[1]
        assert last.returncode == 0, error
        found = outcome(workdir)
        if kind == signal.SIGTERM:
            found["metrics"] = expected["metrics"]
        assert found == expected


@pytest.mark.slow
def test_a_full_disk_is_one_clear_line(tmp_path):
    zoo = write_zoo(tmp_path / "zoo")
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, LIMIT_BYTES))"
    for size in (20, 2000, 6000):
        process = start(
            tmp_path / str(size), zoo, limit.replace("LIMIT_BYTES", str(size))
        )
        error = process.communicate()[1]
        assert process.returncode == 1
        assert error.splitlines()[-1].startswith("metanet: error: "), error
        assert "cannot be written" in error and "Traceback" not in error
