"""Several processes over loopback give the numbers of one process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.training_cases import write_zoo

from metanet.training import read_metrics

TRAIN = {"steps": 8, "log_every": 2, "eval_every": 4, "checkpoint_every": 4}
PROGRAM = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", DEVICES)
sys.path.insert(0, TESTS)
from pathlib import Path
from helpers.training_cases import config
from metanet.training import ProcessConfig, start_processes, train
if COUNT > 1:
    start_processes(ProcessConfig("127.0.0.1:PORT", COUNT, INDEX))
assert jax.process_count() == COUNT and jax.device_count() == 4
chosen = config(Path(ZOO), train=TRAIN, optimizer={"ema_decay": 0.9})
result = train(chosen, WORKDIR, progress=False)
print(result.test["loss"])
"""


def run(workdir: Path, zoo: Path, count: int) -> list[str]:
    """Trains in ``count`` processes with four devices together; the last line each prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for index in range(count):
        program = PROGRAM
        for name, value in {
            "TESTS": repr(str(Path(__file__).parent)),
            "ZOO": repr(str(zoo)),
            "WORKDIR": repr(str(workdir)),
            "DEVICES": 4 // count,
            "COUNT": count,
            "INDEX": index,
            "PORT": port,
            "=TRAIN": f"={TRAIN}",
        }.items():
            program = program.replace(name, str(value))
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", program],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    outputs = []
    try:
        for process in processes:
            out, error = process.communicate(timeout=300)
            assert process.returncode == 0, error
            outputs.append(out.splitlines()[-1])
    finally:
        for process in processes:
            process.kill()
    return outputs


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path):
    zoo = write_zoo(tmp_path / "zoo")
    run(tmp_path / "one", zoo, 1)
    outputs = run(tmp_path / "two", zoo, 2)
    assert outputs[0] == outputs[1]
    one, two = (
        json.loads((tmp_path / name / "result.json").read_text())
        for name in ("one", "two")
    )
    for split in ("test", "validation"):
        assert one[split]["confusion"] == two[split]["confusion"]
        assert np.isclose(one[split]["loss"], two[split]["loss"], rtol=1e-5)
    # One process writes.
    lines = [read_metrics(tmp_path / name) for name in ("one", "two")]
    assert [x["step"] for x in lines[0]] == [x["step"] for x in lines[1]]
    for a, b in zip(*lines, strict=True):
        for name in a.keys() - {"networks_per_second"}:
            assert np.isclose(a[name], b[name], rtol=1e-5), (name, a, b)
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1

    # What two processes saved goes on in one.
    (tmp_path / "two" / "result.json").unlink()
    run(tmp_path / "two", zoo, 1)
    again = json.loads((tmp_path / "two" / "result.json").read_text())
    assert again["test"]["confusion"] == two["test"]["confusion"]
