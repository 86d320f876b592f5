"""Every config's smoke variant, run end to end through the command line."""

import json
from pathlib import Path

import numpy as np
import pytest

from metanet.cli import main
from metanet.cli.train import load_config
from metanet.errors import MetanetError
from metanet.models import MODELS
from metanet.options import to_mapping
from metanet.training import ExperimentConfig
from metanet.zoos import SPLITS, Zoo

EXPERIMENTS = ("classify_inr", "predict_accuracy")
RECIPES = ("small_cnn", "varying", "diverse", "wild_park", "rnn", "transformer")
DEFAULT_RECIPES = ("diverse",)  # the experiments train the others' networks


def losses(run: Path) -> list[float]:
    """Returns the training losses of a run's log lines."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize(
    "config", [EXPERIMENTS[0], pytest.param(EXPERIMENTS[1], marks=pytest.mark.slow)]
)
def test_smoke_variant_runs_end_to_end(config, tmp_path, capsys):
    run, zoo = tmp_path / "run", tmp_path / "zoo"
    train = [
        "train",
        "--config",
        f"{config}:smoke",
        f"--config.zoo.path={zoo}",
        "--workdir",
        str(run),
    ]
    assert main(train) == 0
    assert str(run / "report.html") in capsys.readouterr().out.replace("\n", "")

    result = json.loads((run / "result.json").read_text())
    assert result["steps"] == 20 and result["best_step"] in (10, 20)
    assert result["parameters"] > 0 and result["networks_per_second"] > 0
    steps = losses(run)
    assert len(steps) == 4 and steps[-1] < steps[0]
    for name in ("config.json", "metrics.jsonl", "report.html"):
        assert (run / name).stat().st_size > 0
    assert list((run / "tensorboard").iterdir())
    assert list((run / "checkpoints" / "best").iterdir())

    # A finished run is shown again, not trained again.
    assert main(train) == 0

    test, networks = result["test"], Zoo.open(zoo).read(skip_broken=True)
    if config == "classify_inr":
        confusion = np.asarray(test["confusion"])
        assert confusion.sum() == (networks["split"] == "test").sum()
        assert test["accuracy"] == np.trace(confusion) / confusion.sum()
    else:
        low, high = test["intervals"]["mae"]
        assert 0 < low <= test["mae"] <= high < 1

    assert main(["evaluate", str(run), "--split", "test"]) == 0
    assert f"{test['loss']:.4f}" in capsys.readouterr().out

    # A network of the zoo, and the same network as a file; the weights alone fit several
    # architectures of a run on mixed networks.
    file = tmp_path / "network.npz"
    _export(zoo, 3, file)
    files, mixed = [f"{zoo}:3", str(file)], config == "predict_accuracy"
    assert main(["predict", str(run), *files, "--json"]) == (1 if mixed else 0)
    predictions = json.loads(capsys.readouterr().out)
    first, second = predictions
    if mixed:
        assert first["low"] <= first["accuracy"] <= first["high"]
        assert "architectures; export the network to ONNX" in second["error"]
    else:
        assert first["class"] == second["class"]
        assert first["probability"] == pytest.approx(second["probability"], abs=1e-5)

    assert main(["inspect", str(run), "--plot", str(tmp_path / "graph.png")]) == 0
    assert list(tmp_path.glob("graph*.png"))


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(name, marks=[] if name in DEFAULT_RECIPES else pytest.mark.slow)
        for name in RECIPES
    ],
)
def test_smallest_zoo_of_every_recipe(recipe, tmp_path, capsys):
    config = ["--config", f"zoo:{recipe},smoke=1"]
    train = ["zoo", "train", *config, "--out", str(tmp_path / "zoo")]
    assert main([*train, "--config.runs=3"]) == 0
    zoo = Zoo.open(tmp_path / "zoo")
    table = zoo.read(skip_broken=True)
    assert len(zoo) == 6 and set(table["epoch"]) == {0, 1}
    first, last = (table["train_loss"][table["epoch"] == epoch] for epoch in (0, 1))
    assert np.median(last) < np.median(first)
    assert ((table["test_accuracy"] >= 0) & (table["test_accuracy"] <= 1)).all()
    assert set(table["split"]) == set(SPLITS)
    assert "families" in capsys.readouterr().out
    page = tmp_path / "card.html"
    assert main(["zoo", "info", str(zoo.path), "--html", str(page)]) == 0
    assert "test accuracy" in page.read_text() and not list(zoo.path.glob("*.html"))
    capsys.readouterr()
    assert main([*train, "--config.runs=4"]) == 1  # the directory contains another zoo
    assert "runs 3, not 4" in capsys.readouterr().err


def _export(path: Path, row: int, file: Path) -> None:
    """Writes one network of a zoo as named arrays, as users have them."""
    zoo = Zoo.open(path)
    weights, columns = zoo.row(row)
    arrays, start = {}, 0
    for leaf in zoo.info["leaves"][columns["architecture"]]:
        size = int(np.prod(leaf["shape"]))
        arrays[leaf["path"]] = weights[start : start + size].reshape(leaf["shape"])
        start += size
    np.savez(file, **arrays)


@pytest.mark.parametrize("model", list(MODELS))
def test_every_model_has_a_config(model):
    for config in ("classify_inr:mnist", "classify_inr:digits", "predict_accuracy"):
        loaded, _ = load_config(f"{config}{',' if ':' in config else ':'}model={model}")
        experiment = ExperimentConfig.from_mapping(loaded.to_dict())
        assert experiment.model.name == model
        options = MODELS.configure(model, dict(experiment.model.options))
        assert to_mapping(options) == dict(experiment.model.options)


@pytest.mark.slow
@pytest.mark.parametrize("model", list(MODELS))
def test_every_model_trains_from_its_config(model, tmp_path):
    run, zoo = tmp_path / "run", f"--config.zoo.path={tmp_path / 'zoo'}"
    train = ["train", "--config", f"classify_inr:smoke,model={model}", zoo]
    longer = ["--config.train.steps=60", "--config.train.log_every=20"]
    assert main([*train, *longer, "--workdir", str(run)]) == 0
    steps = losses(run)
    assert len(steps) == 3 and steps[-1] < steps[0]
    result = json.loads((run / "result.json").read_text())
    confusion = np.asarray(result["test"]["confusion"])
    assert result["test"]["accuracy"] == np.trace(confusion) / confusion.sum()


def test_a_sweep_from_the_command_line(tmp_path, capsys, monkeypatch):
    """Runs each combination with the fields that all share, and reports failures."""
    trained: list[tuple[str, int, int]] = []

    def record(config: ExperimentConfig, workdir: Path, **_: object) -> None:
        if config.seed == 1:
            raise MetanetError("no such zoo")
        trained.append((workdir.name, config.seed, config.train.steps))

    monkeypatch.setattr("metanet.training.sweep.train", record)
    sweep = ["sweep", "--config", "sweep_accuracy:smoke,seeds=3"]
    command = [*sweep, "--set", "train.steps=7", "--out", str(tmp_path)]
    assert main(command) == 1
    assert trained == [("seed=0", 0, 7), ("seed=2", 2, 7)]
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["seed=0: done", "seed=1: failed: no such zoo", "seed=2: done"]
    assert (tmp_path / "seed=1" / "error.txt").read_text() == "no such zoo\n"
    assert main([*sweep, "--set", "train.step=7", "--out", str(tmp_path)]) == 1
    assert "no key 'step'. Did you mean \"steps\"?" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*sweep, "--set", "train.steps", "--out", str(tmp_path)])
