"""Configs: every mistake is named with its field, and what is right is kept."""

import importlib.util
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from metanet.augment import AugmentConfig, NoiseConfig, RandomSymmetryConfig
from metanet.errors import MetanetError
from metanet.networks import Architecture
from metanet.options import from_mapping
from metanet.training import ExperimentConfig, parse_argument
from metanet.training.files import read_config, write_config
from metanet.training.sweep import SweepConfig, experiment_of, trials
from metanet.zoos import FitConfig, PopulationConfig

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))

FULL = {
    "seed": 7,
    "canonicalize": False,
    "zoo": {
        "path": "zoos/a",
        "fit": {
            "images": "mnist",
            "learning_rate": 1,
            "architecture": {"name": "siren", "options": {"hidden": [8, 8]}},
        },
    },
    "model": {"name": "product_gmn", "dim": 8, "readout": "attention", "dropout": 0},
    "task": {"name": "classification", "label_smoothing": 0.1},
    "augment": {"symmetry": {"permutation": True}, "noise": {"level": 0.1}},
    "optimizer": {"name": "contrib.muon", "learning_rate": 1e-2},
    "train": {"batch_size": 32, "micro_batch": 8},
}


def test_round_trip(tmp_path):
    config = ExperimentConfig.from_mapping(FULL)
    assert config.zoo.fit == FitConfig(
        images="mnist",
        learning_rate=1.0,
        architecture=Architecture.of("siren", hidden=(8, 8)),
    )
    assert isinstance(config.zoo.fit.learning_rate, float)
    assert config.augment == AugmentConfig(
        (
            ("symmetry", RandomSymmetryConfig(permutation=True)),
            ("noise", NoiseConfig(level=0.1)),
        )
    )
    assert config.train.batch_size == 32 and config.train.steps == 1000
    assert dict(config.model.options)["readout"] == "attention"
    assert ExperimentConfig.from_mapping(config.to_json()) == config
    assert hash(config) == hash(ExperimentConfig.from_mapping(config.to_json()))
    write_config(tmp_path, config, {})
    write_config(tmp_path, config, {})
    assert read_config(tmp_path) == config
    with pytest.raises(FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]
    assert ExperimentConfig.from_mapping({}) == ExperimentConfig()


def change(path: str, value) -> dict:
    """`FULL` with one value changed."""
    new: dict = {**FULL}
    node = new
    *sections, last = path.split(".")
    for name in sections:
        node[name] = dict(node[name])
        node = node[name]
    node[last] = value
    return new


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sed", 1, r'config\.sed: unknown key\. Did you mean "seed"'),
        ("train.batchsize", 1, r'config\.train\.batchsize: .*"batch_size"'),
        ("zoo.fit.image", "a", r'config\.zoo\.fit\.image: .*"images"'),
        ("model.dims", 1, r'config\.model\.dims: .*"dim"'),
        ("task.hiden", 1, r'config\.task\.hiden: .*"hidden"'),
        ("model.name", "gnm", r"config\.model\.name: .*'gnm'.*\"gmn\""),
        ("task.name", "clas", r"config\.task\.name: .*'clas'.*classification"),
        ("train.batch_size", "x", r"config\.train\.batch_size: expected int, got 'x'"),
        ("train.batch_size", 1.5, r"config\.train\.batch_size: expected int, got 1.5"),
        ("train.batch_size", True, r"config\.train\.batch_size: expected int"),
        ("augment.noise.level", "x", r"augment\.noise\.level: expected float, got 'x'"),
        ("augment.symmetry.sign", 1, r"augment\.symmetry\.sign: expected bool, got 1"),
        ("model.dim", "x", r"config\.model\.dim: expected int, got 'x'"),
        (
            "model.readout",
            "max",
            r"config\.model\.readout: unknown choice 'max'.*attention",
        ),
        ("task.hidden", None, r"config\.task\.hidden: expected int, got None"),
        ("train", 3, r"config\.train: expected a section, got 3"),
        ("model", {"dim": 3}, r"config\.model\.name: expected str, got None"),
        ("train.steps", 0, r"config\.train\.steps: must be at least 1"),
        ("train.micro_batch", 5, r"config\.train\.micro_batch: 5 does not divide"),
        ("train.micro_batch", -1, r"config\.train\.micro_batch: must be at least 0"),
        ("optimizer.ema_decay", 1.0, r"config\.optimizer\.ema_decay: "),
        ("optimizer.learning_rate", float("nan"), r"config\.optimizer\.learning_rate"),
        ("zoo.fit.views", 0, r"config\.zoo\.fit\.views: must be at least 1"),
        ("zoo.fit.learning_rate", -1.0, r"config\.zoo\.fit\.learning_rate: must be"),
        ("model.depth", 0, r"config\.model\.depth: must be at least 1, got 0"),
        ("task.label_smoothing", 2.0, r"label_smoothing: must lie in \[0, 1\)"),
        ("zoo.fit.architecture.name", "sirne", r"config\.zoo\.fit.*'sirne'.*\"siren\""),
    ],
)
def test_mistakes_are_named(path, value, message):
    with pytest.raises(MetanetError, match=message) as error:
        ExperimentConfig.from_mapping(change(path, value))
    assert "\n" not in str(error.value)


def test_a_directory_belongs_to_one_config(tmp_path):
    write_config(tmp_path, ExperimentConfig.from_mapping(FULL), {})
    before = (tmp_path / "config.json").read_bytes()
    for path, value in (("train.batch_size", 64), ("model.dim", 16)):
        other = ExperimentConfig.from_mapping(change(path, value))
        with pytest.raises(MetanetError, match=rf"config\.{path}: \d+, now {value}"):
            write_config(tmp_path, other, {})
    assert (tmp_path / "config.json").read_bytes() == before
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(MetanetError, match=r"config\.json: not readable as JSON"):
        read_config(tmp_path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_files(path):
    """Every variant of every config is valid; each has a small one."""
    spec = importlib.util.spec_from_file_location("config_under_test", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kind = path.stem.partition("_")[0]
    command = {"zoo": "metanet zoo train", "sweep": "experiments/sweep.py"}
    words = command.get(kind, "metanet train")
    assert "smoke" in module.VARIANTS and words in (module.__doc__ or "")
    for variant in module.VARIANTS:
        given = module.get_config(variant).to_dict()
        if kind == "sweep":
            planned = trials(from_mapping(SweepConfig, given, "config"))
            assert len({t.name for t in planned}) == len(planned)
            assert (len(planned) < 5) == (variant == "smoke")
            for trial in planned[:40]:
                experiment_of(trial)
        elif kind == "zoo":
            population = from_mapping(PopulationConfig, given, "config")
            assert (population.runs < 50) == (variant == "smoke")
        else:
            config = ExperimentConfig.from_mapping(given)
            assert (config.train.steps < 100) == (variant == "smoke")
    with pytest.raises(MetanetError, match='smoek.*"smoke"'):
        module.get_config("smoek")


def test_arguments():
    parse = lambda text: parse_argument(text, ("a", "b"), n=1, rate=0.5, on=False)
    assert parse(None) == parse("") == ("a", {"n": 1, "rate": 0.5, "on": False})
    assert parse("b, n=3,on=true,rate=2") == ("b", {"n": 3, "rate": 2.0, "on": True})
    for text, message in (
        ("c", "'c': no such variant"),
        ("m=1", "'m': no such setting"),
        ("n=1.5", "n: expected int, got '1.5'"),
        ("on=maybe", "on: expected bool, got 'maybe'"),
    ):
        with pytest.raises(MetanetError, match=message):
            parse(text)
