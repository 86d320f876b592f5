"""The command: what it prints, what it refuses, and with which exit status."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metanet.cli import main
from metanet.cli.console import UsageError
from metanet.cli.train import default_workdir, load_config
from metanet.errors import MetanetError
from metanet.zoos import FitConfig

CONFIG = """
from ml_collections import ConfigDict
from metanet.errors import MetanetError

def get_config(arg=None):
    if arg not in (None, "", "smoke"):
        raise MetanetError(f"no variant {arg!r}")
    config = ConfigDict()
    config.seed = 0
    config.rate = 1e-3
    config.model = ConfigDict({"name": "product_gmn", "dim": 64, "norm": True})
    config.model.shape = (1, 2)
    config.smoke = arg == "smoke"
    return config
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "toy.py"
    path.write_text(CONFIG)
    return str(path)


def test_overrides_are_typed_and_recorded(config):
    options = ["--config.model.dim=128", "--config.rate", "-1", "--noconfig.model.norm"]
    options += ["--config.model.shape=(3,4,5)"]
    loaded, overrides = load_config(f"{config}:smoke", options)
    assert loaded.model.dim == 128 and loaded.rate == -1.0 and loaded.smoke
    assert loaded.model.norm is False and loaded.model.shape == (3, 4, 5)
    assert overrides["model.dim"] == 128 and "seed" not in overrides
    again, none = load_config(config)
    assert again.model.dim == 64 and not none and not again.smoke


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--config.model.dims=1", r'config\.model has no key \'dims\'.*"dim"'),
        ("--config.modle.dim=1", r'config has no key \'modle\'.*"model"'),
        ("--config.model.dim=1.5", r"config\.model\.dim"),
        ("--config.model.dim=wide", r"config\.model\.dim"),
        ("--config.model.dim.x=1", r"config\.model\.dim"),
        ("--confg.model.dim=1", r"--confg\.model\.dim"),
        ("stray", r"unrecognized.*stray"),
    ],
)
def test_wrong_overrides_are_one_clear_line(config, option, message):
    with pytest.raises(UsageError, match=message) as error:
        load_config(config, [option])
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_config_files_that_do_not_load(config, tmp_path):
    with pytest.raises(MetanetError, match=r"no such config file.*toy\.py"):
        load_config(str(tmp_path / "toi.py"))
    with pytest.raises(MetanetError, match="no variant 'smok'"):
        load_config(f"{config}:smok")


@pytest.mark.parametrize(
    ("config", "workdir"),
    [
        ("configs/a.py", "runs/a"),
        ("a.py:smoke", "runs/a-smoke"),
        ("a.py:mnist,seed=1", "runs/a-mnist-seed=1"),
        ("a.py:../../x", "runs/a-..-..-x"),
    ],
)
def test_default_workdir(config, workdir):
    assert default_workdir(config) == Path(workdir)


COMMANDS = [
    [],
    ["train"],
    ["evaluate"],
    ["report"],
    ["predict"],
    ["inspect"],
    ["zoo"],
    ["zoo", "info"],
    ["zoo", "fit-inrs"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_explains(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert out.startswith(" ".join(["usage: metanet", *command]))
    assert all(len(line) <= 90 for line in out.splitlines())
    if command not in ([], ["zoo"]):
        assert "examples:\n  metanet " + " ".join(command) in out


def test_help_of_fit_inrs_tells_the_defaults(capsys):
    with pytest.raises(SystemExit):
        main(["zoo", "fit-inrs", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    plain = FitConfig()
    for name in ("views", "seed", "steps", "learning_rate"):
        option = "--" + name.replace("_", "-")
        told = re.search(rf"{option} [A-Z]+ [^-]*?\(default: ([^)]*)\)", out)
        assert told and float(told[1]) == getattr(plain, name), option
    options = dict(plain.architecture.complete().options)
    assert "(default: {})".format(",".join(map(str, options["hidden"]))) in out
    assert f"(default: {options['w0']:g})" in out
    assert f"(default: {options['convention']})" in out


def test_help_is_fast_and_loads_nothing_heavy():
    code = (
        "import sys; from metanet.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('jax', 'flax', 'numpy', 'matplotlib', 'pyarrow') "
        "if m in sys.modules])"
    )
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("[]\n")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "command",
    [
        ["trian"],
        ["train"],
        ["evaluate", "runs/a", "--split", "tset"],
        ["report"],
        ["inspect", "siren", "--plots", "a.png"],
        ["zoo", "fit-inrs", "--images", "digits", "--out", "x", "--hidden", "32,a"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    assert "metanet" in capsys.readouterr().err
