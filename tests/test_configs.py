"""Every config's smoke variant, run end to end through the command line."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from metanet.cli import main
from metanet.cli.train import load_config
from metanet.models import MODELS, model_config
from metanet.options import from_mapping
from metanet.report.files import flatten
from metanet.training import ExperimentConfig
from metanet.zoos import SPLITS, PopulationConfig, Zoo

FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(p for p in FOLDER.glob("*.py") if not p.stem.startswith("sweep_"))
ZOOS = [path for path in CONFIGS if path.stem.startswith("zoo_")]
EXPERIMENTS = [path for path in CONFIGS if path not in ZOOS]


@pytest.mark.parametrize("config", EXPERIMENTS, ids=lambda p: p.stem)
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
    assert {"test", "validation", "best_step", "parameters", "networks_per_second",
            "wall_seconds", "seed"} <= result.keys()  # fmt: skip
    for name in ("config.json", "metrics.jsonl", "report.html"):
        assert (run / name).stat().st_size > 0
    assert list((run / "tensorboard").iterdir())
    assert list((run / "checkpoints" / "best").iterdir())

    # A finished run is shown again, not trained again.
    assert main(train) == 0

    assert main(["evaluate", str(run), "--split", "test"]) == 0
    loss = f"{result['test']['loss']:.4f}"
    assert loss in capsys.readouterr().out

    # A network of the zoo, and the same as a file; in a mixed run the file of weights
    # alone fits several architectures.
    file = tmp_path / "network.npz"
    _export(zoo, 3, file)
    files, mixed = [f"{zoo}:3", str(file)], config.stem == "predict_accuracy"
    assert main(["predict", str(run), *files, "--json"]) == (1 if mixed else 0)
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 2
    if mixed:
        assert found[0]["low"] <= found[0]["accuracy"] <= found[0]["high"]
        assert "architectures; export the network to ONNX" in found[1]["error"]
    else:
        assert found[0]["class"] == found[1]["class"]
        probability = pytest.approx(found[1]["probability"], abs=1e-5)
        assert found[0]["probability"] == probability

    assert main(["inspect", str(run), "--plot", str(tmp_path / "graph.png")]) == 0
    assert list(tmp_path.glob("graph*.png"))


QUICK = ("zoo_diverse",)  # the experiments make the small ones


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(p, id=p.stem, marks=[] if p.stem in QUICK else pytest.mark.slow)
        for p in ZOOS
    ],
)
def test_smoke_variant_of_a_zoo(config, tmp_path, capsys):
    make = [
        "zoo",
        "train",
        "--config",
        f"{config}:smoke",
        "--out",
        str(tmp_path / "zoo"),
    ]
    assert main([*make, "--config.runs=3"]) == 0
    zoo = Zoo.open(tmp_path / "zoo")
    table = zoo.read(skip_broken=True)
    assert len(zoo) == 6 and set(table["epoch"]) == {0, 1}
    assert ((table["test_accuracy"] >= 0) & (table["test_accuracy"] <= 1)).all()
    assert set(table["split"]) == set(SPLITS)
    assert "families" in capsys.readouterr().out
    page = tmp_path / "card.html"
    assert main(["zoo", "info", str(zoo.path), "--html", str(page)]) == 0
    assert "test accuracy" in page.read_text() and not list(zoo.path.glob("*.html"))
    capsys.readouterr()
    assert main([*make, "--config.runs=4"]) == 1  # holds another zoo
    assert "runs 3, not 4" in capsys.readouterr().err


def _export(path: Path, row: int, file: Path) -> None:
    """One network of a zoo as named arrays, as a user would write them."""
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
    path = Path(__file__).parent.parent / "configs" / "classify_inr.py"
    for variant in ("mnist", "fashion_mnist", "digits", "smoke"):
        config, _ = load_config(f"{path}:{variant},model={model}")
        options = dict(config.model)
        assert options.pop("name") == model
        model_config(model, options)


@pytest.mark.slow
@pytest.mark.parametrize("model", list(MODELS))
def test_every_model_trains_from_its_config(model, tmp_path):
    path = Path(__file__).parent.parent / "configs" / "classify_inr.py"
    zoo = f"--config.zoo.path={tmp_path / 'zoo'}"
    run = tmp_path / "run"
    train = ["train", "--config", f"{path}:smoke,model={model}", zoo]
    assert main([*train, "--workdir", str(run)]) == 0
    result = json.loads((run / "result.json").read_text())
    assert 0 <= result["test"]["accuracy"] <= 1


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
def test_every_field_can_be_set_on_the_command_line(config):
    given, _ = load_config(str(config))
    if config in ZOOS:
        whole = asdict(from_mapping(PopulationConfig, given.to_dict(), "config"))
    else:
        whole = ExperimentConfig.from_mapping(given.to_dict()).to_json()
    assert flatten(given.to_dict()).keys() == flatten(whole).keys()
