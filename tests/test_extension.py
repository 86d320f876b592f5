"""The page docs/extending.md: its files in an empty folder, its commands run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r'```python title="(\w+\.py)"\n(.*?)```', PAGE, re.DOTALL))
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
# Runs the lines of standard input as a shell would, in one process: compiling and importing
# once is most of the time.
RUNNER = """
import runpy, shlex, sys
from metanet.cli import main
for line in sys.stdin:
    print(">>>", line.strip(), flush=True)
    program, *arguments = shlex.split(line)
    if program == "metanet":
        assert main(arguments) == 0, line
    else:
        sys.path.insert(0, "")
        runpy.run_path(arguments[0], run_name="__main__")
"""


def run(folder: Path, *command: str, text: str = "") -> str:
    """Output of a command in a folder; the package and the configs of this checkout."""
    done = subprocess.run(
        command,
        cwd=folder,
        input=text,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the page's files."""
    path = tmp_path_factory.mktemp("extension")
    for name, content in FILES.items():
        (path / name).write_text(content, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def outputs(folder) -> dict[str, str]:
    """Output of each of the page's commands."""
    text = run(folder, sys.executable, "-c", RUNNER, text="\n".join(COMMANDS))
    parts = text.split(">>> ")[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def output(outputs: dict[str, str], word: str) -> str:
    """Output of the only command that contains a word."""
    (text,) = (text for command, text in outputs.items() if word in command)
    return text


def result(folder: Path, name: str) -> dict:
    return json.loads((folder / "runs" / name / "result.json").read_text())


def test_every_kind_has_a_file_and_a_command():
    used = " ".join(COMMANDS)
    modules = {name.removesuffix(".py") for name in FILES}
    assert modules == {
        "mymodel",
        "mytask",
        "myfamily",
        "myimages",
        "myaugment",
        "myrule",
        "userule",
        "myoperator",
        "makemodel",
        "mysection",
    }
    assert all(module in used for module in modules - {"myrule"})


def test_a_model_and_packed_training(folder, outputs):
    assert output(outputs, "runs/packed")
    config = json.loads((folder / "runs" / "packed" / "config.json").read_text())
    assert config["config"]["model"]["name"] == "mymodel:MeanGNN"
    assert config["config"]["model"]["dim"] == 16  # from the config's own model options
    inputs = json.loads((folder / "runs" / "packed" / "inputs.json").read_text())
    names = {a["name"] for a in inputs["architectures"].values()}
    assert names == {"row_mean", "small_cnn"}
    assert 0 <= result(folder, "model")["test"]["accuracy"] <= 1


def test_a_task_reports_its_metrics(folder, outputs):
    test = result(folder, "task")["test"]
    assert test["error"] == -test["minus_error"] > 0


def test_images_become_classes(folder, outputs):
    assert len(result(folder, "images")["test"]["confusion"]) == 2


def test_an_augmentation_changes_training(folder, outputs):
    plain, pruned = (
        (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()[0]
        for name in ("model", "augment")
    )
    assert json.loads(plain)["loss"] != json.loads(pruned)["loss"]
    config = json.loads((folder / "runs" / "augment" / "config.json").read_text())
    assert config["config"]["augment"]["prune"] == {"rate": 0.2}


def test_a_rule_finds_the_symmetry(outputs):
    assert output(outputs, "userule").strip() == "120"


def test_an_operator_is_evaluated(outputs):
    text = output(outputs, "custom.onnx")
    assert re.search(r"\b6\b", text), text  # S_6 on the hidden units


def test_a_section_stands_in_the_report(folder, outputs):
    page = (folder / "runs" / "model" / "report.html").read_text(encoding="utf-8")
    assert "Data and seed" in page and "training networks" in page


@pytest.mark.parametrize(
    "tests",
    [
        "mean_gnn and (siren or RNN)",
        pytest.param("mean_gnn", marks=pytest.mark.slow),
    ],
)
def test_the_generic_tests_take_the_model(folder, tests):
    command = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-p",
        "mymodel",
        "-m",
        "not slow",
        str(ROOT / "tests" / "test_metanetworks.py"),
        "-k",
        tests,
    )
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert re.search(r"[2-9] passed", done.stdout), done.stdout
