"""Experiment configs and config files: defaults stand once, mistakes name their field."""

import ast
import math
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from metanet.augment import AugmentConfig, NoiseConfig, RandomSymmetryConfig
from metanet.cli.train import load_config
from metanet.errors import MetanetError
from metanet.networks import Architecture
from metanet.options import from_mapping, to_mapping
from metanet.report.files import flatten
from metanet.training import (
    DataConfig,
    ExperimentConfig,
    NamedConfig,
    OptimizerConfig,
    SweepConfig,
    TrainConfig,
    ZooConfig,
    experiment_config,
    experiment_of,
    find_config_file,
    parse_argument,
    read_config_file,
    trials,
)
from metanet.training.io import read_config, write_config
from metanet.zoos import FitConfig, PopulationConfig

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
EXPERIMENTS = [
    path for path in CONFIGS if path.stem in ("classify_inr", "predict_accuracy")
]

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
    assert config.train == TrainConfig(batch_size=32, micro_batch=8)
    assert ExperimentConfig.from_mapping(config.to_json()) == config
    assert hash(config) == hash(ExperimentConfig.from_mapping(config.to_json()))
    write_config(tmp_path, config, {})
    write_config(tmp_path, config, {})
    assert read_config(tmp_path) == config
    with pytest.raises(FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]
    assert ExperimentConfig.from_mapping({}) == ExperimentConfig()


def test_options_of_models_and_tasks_are_completed():
    config = ExperimentConfig(model=NamedConfig.of("scale_gmn_b", dim=16))
    options = dict(config.model.options)
    assert options["dim"] == 16 and options["depth"] == 4
    assert options["directions"] == "both"  # what the name stands for
    assert dict(config.task.options) == {"hidden": 128, "label_smoothing": 0.0}
    named = NamedConfig.of("scale_gmn_b", dim=16, directions="both", depth=4)
    assert ExperimentConfig(model=named) == config


def change(path: str, value: object) -> dict:
    """Returns `FULL` with the value of one dotted field changed."""
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
        ("optimizer.schedule", "cosin", r"config\.optimizer\.schedule: .*\"cosine\""),
        ("train.batch_size", "x", r"config\.train\.batch_size: expected int, got 'x'"),
        ("train.batch_size", 1.5, r"config\.train\.batch_size: expected int, got 1.5"),
        ("train.batch_size", True, r"config\.train\.batch_size: expected int"),
        ("augment.noise.level", "x", r"augment\.noise\.level: expected float, got 'x'"),
        ("augment.symmetry.sign", 1, r"augment\.symmetry\.sign: expected bool, got 1"),
        ("model.dim", "x", r"config\.model\.dim: expected int, got 'x'"),
        ("model.readout", "max", r"config\.model\.readout: .*'max'.*attention"),
        ("task.hidden", None, r"config\.task\.hidden: expected int, got None"),
        ("train", 3, r"config\.train: expected a section, got 3"),
        ("model", {"dim": 3}, r"config\.model\.name: expected str, got None"),
        ("train.steps", 0, r"config\.train\.steps: must be at least 1"),
        ("train.micro_batch", 5, r"config\.train\.micro_batch: 5 does not divide"),
        ("train.micro_batch", -1, r"config\.train\.micro_batch: must be at least 0"),
        ("optimizer.ema_decay", 1.0, r"config\.optimizer\.ema_decay: "),
        ("optimizer.learning_rate", math.nan, r"config\.optimizer\.learning_rate"),
        ("zoo.population", {}, r"config\.zoo\.fit: needs this section or population"),
        ("zoo.fit.views", 0, r"config\.zoo\.fit\.views: must be at least 1"),
        ("zoo.fit.learning_rate", -1.0, r"config\.zoo\.fit\.learning_rate: must be"),
        ("model.depth", 0, r"config\.model\.depth: must be at least 1, got 0"),
        ("model.heads", 3, r"config\.model\.heads: 3 does not divide dim \(8\)"),
        ("task.label_smoothing", 2.0, r"label_smoothing: must lie in \[0, 1\)"),
        ("zoo.fit.architecture.name", "sirne", r"config\.zoo\.fit.*'sirne'.*\"siren\""),
        ("imports", ["no_such_module"], r"config\.imports: module 'no_such_module'"),
    ],
)
def test_mistakes_are_named(path, value, message):
    with pytest.raises(MetanetError, match=message) as error:
        ExperimentConfig.from_mapping(change(path, value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainConfig(steps=0), "steps: must be at least 1, got 0"),
        (lambda: TrainConfig(batch_size=-3), "batch_size: must be at least 1, got -3"),
        (lambda: TrainConfig(keep=0), "keep: must be at least 1, got 0"),
        (lambda: OptimizerConfig(ema_decay=7.0), r"ema_decay: must lie in \[0, 1\)"),
        (lambda: OptimizerConfig(warmup_steps=-1), "warmup_steps: must be at least 0"),
        (lambda: DataConfig(fraction=0.0), r"fraction: must lie in \(0, 1\]"),
        (lambda: DataConfig(where=("a",)), "where: expected conditions like"),
        (lambda: NoiseConfig(level=-1.0), "level: must be at least 0, got -1.0"),
        (lambda: ZooConfig(), "fit: needs this section or population"),
        (lambda: FitConfig(steps=0), "steps: must be at least 1, got 0"),
        (lambda: PopulationConfig(runs=2), "runs: must be at least 3, got 2"),
        (
            lambda: ExperimentConfig(model=NamedConfig("gnm")),
            "model.name: unknown model 'gnm'. Did you mean \"gmn\"",
        ),
        (
            lambda: ExperimentConfig(model=NamedConfig.of("gmn", depth=0)),
            "model.depth: must be at least 1, got 0",
        ),
        (
            lambda: SweepConfig(values={"train.steps": 3}),
            "values.train.steps: expected a list of choices, got 3",
        ),
        (lambda: SweepConfig(alternatives=()), "alternatives: needs at least one"),
    ],
)
def test_options_check_themselves_in_code(make, message):
    with pytest.raises(MetanetError, match=message):
        make()


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


def typed(
    path: Path, config: ConfigDict
) -> ExperimentConfig | PopulationConfig | SweepConfig:
    """Returns the dataclass of a config file's ConfigDict."""
    kinds = {"zoo": PopulationConfig, "sweep_accuracy": SweepConfig}
    return from_mapping(
        kinds.get(path.stem, ExperimentConfig), config.to_dict(), "config"
    )


def variants_of(path: Path) -> tuple[str, ...]:
    """Returns the variants of a config file, which asking for an unknown one lists."""
    with pytest.raises(MetanetError, match="no such variant") as error:
        read_config_file(f"{path}:-")
    return tuple(str(error.value).rpartition("Known: ")[2].rstrip(".").split(", "))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_variant_of_every_config_builds(path):
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    command = {"zoo": "metanet zoo train", "sweep_accuracy": "metanet sweep"}
    assert command.get(path.stem, "metanet train") + " --config" in docstring
    variants = variants_of(path)
    assert "smoke" in variants and len(variants) > 3
    for variant in variants:
        assert variant in docstring
        config = typed(path, read_config_file(f"{path}:{variant}"))
        smallest = variant == "smoke"
        if isinstance(config, SweepConfig):
            planned = trials(config)
            assert len({trial.name for trial in planned}) == len(planned)
            assert (len(planned) < 5) == smallest
            for trial in planned[:40]:
                experiment_of(trial)
        elif isinstance(config, PopulationConfig):
            assert (config.runs < 50) == smallest
        else:
            assert (config.train.steps < 100) == smallest
            assert ExperimentConfig.from_mapping(config.to_json()) == config
    with pytest.raises(MetanetError, match='smoek.*"smoke"'):
        read_config_file(f"{path}:smoek")


@pytest.mark.parametrize(
    "config",
    [
        "classify_inr:model=gnm",
        "predict_accuracy:model=gnm",
        "sweep_accuracy:models=gnm",
    ],
)
def test_unknown_models_in_arguments_are_named(config):
    with pytest.raises(MetanetError, match="unknown model 'gnm'.*\"gmn\""):
        read_config_file(config)


def test_settings_reach_their_fields():
    inr = read_config_file(
        "classify_inr:mnist,model=flat_mlp,augment=1,seed=3,data_root=D"
    )
    assert inr.seed == 3 and inr.zoo.fit.data_root == "D" and inr.model.dim == 320
    drawn = {"permutation": True, "sign": True, "phase": True, "scale": False}
    assert inr.augment.symmetry.to_dict() == drawn and not inr.canonicalize
    probing = read_config_file("classify_inr:digits,probes=3")
    assert probing.model.probes == 3 and probing.canonicalize
    assert not any(probing.augment.symmetry.to_dict().values())
    accuracy = read_config_file(
        "predict_accuracy:diverse,images=mnist,fraction=0.1,wider=1,runs=77,"
        "where=activation=relu,model=dws"
    )
    assert accuracy.zoo.path == "zoos/mnist-diverse"
    assert accuracy.zoo.population.images == "mnist"
    assert accuracy.zoo.population.runs == 77 and accuracy.data.fraction == 0.1
    assert accuracy.data.wider == "width" and accuracy.data.where == (
        "activation=relu",
    )
    assert accuracy.model.name == "dws" and accuracy.model.reduce == "max"
    zoo = read_config_file("zoo:small_cnn,images=cifar10,seed=2")
    assert zoo.images == "cifar10" and zoo.seed == 2
    assert read_config_file("zoo:small_cnn,images=mnist").epochs[-1] == 18
    assert read_config_file("zoo:small_cnn").epochs[-1] == 45
    assert read_config_file("zoo:rnn,smoke=1").architectures == 2


@pytest.mark.parametrize("path", [*EXPERIMENTS, *CONFIGS[-1:]], ids=lambda p: p.stem)
def test_every_field_can_be_set_on_the_command_line(path):
    """Sets all fields at once, each to a value that it does not have."""
    default = read_config_file(str(path))
    whole = typed(path, default)
    complete = to_mapping(whole)
    assert flatten(default.to_dict()).keys() == flatten(complete).keys()
    changed, overrides = {}, []
    for name, value in flatten(default.to_dict()).items():
        changed[name] = other_value(name, value)
        overrides.append(f"--config.{name}={changed[name]}")
    config, recorded = load_config(str(path), overrides)
    values = flatten(config.to_dict())
    assert values == changed and recorded == changed
    assert {type(value) for value in values.values()} >= {bool, int, str, tuple}


def other_value(name: str, value: object) -> object:
    """Returns another value of the same type."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}x"
        case ():
            return ("a=b",)
        case tuple():
            return (*value, value[0])
    raise AssertionError(f"{name}: a field of type {type(value)} in a config")


def test_a_config_outside_the_package(tmp_path, monkeypatch):
    """Defaults, options of its own, models from a module beside it, and arguments."""
    (tmp_path / "mymodels.py").write_text(
        "from dataclasses import dataclass\n"
        "from metanet.models import MODELS\n"
        "from metanet.options import Options, PositiveInt\n"
        "@dataclass(frozen=True)\n"
        "class TinyConfig(Options):\n"
        "    dim: PositiveInt = 7\n"
        "class Tiny:\n"
        "    Config = TinyConfig\n"
    )
    file = tmp_path / "mine.py"
    file.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from metanet.options import Options, PositiveInt\n"
        "from metanet.training import experiment_config\n"
        "@dataclass(frozen=True)\n"
        "class Size(Options):\n"
        "    steps: PositiveInt = 5\n"
        "def get_config(argument=''):\n"
        "    model = {'name': argument or 'mymodels:Tiny'}\n"
        "    return experiment_config(model=model, train={'steps': Size().steps})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = ExperimentConfig.from_mapping(read_config_file(str(file)).to_dict())
    assert config == ExperimentConfig(
        model=NamedConfig.of("mymodels:Tiny", dim=7), train=TrainConfig(steps=5)
    )
    assert read_config_file(f"{file}:mymodels:Tiny").model.dim == 7
    assert read_config_file(f"{file}:gmn").model.bias == "node"


def test_configs_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config_file("classify_inr") == CONFIGS[0]
    assert read_config_file("predict_accuracy:smoke").train.steps == 20
    with pytest.raises(
        MetanetError, match='clasify_inr: no such config.*"classify_inr"'
    ):
        find_config_file("clasify_inr")
    with pytest.raises(MetanetError, match=r"configs/zoo\.py: no such config file"):
        find_config_file("configs/zoo.py")
    (tmp_path / "classify_inr").write_text("")
    with pytest.raises(MetanetError, match="a config is a Python file"):
        read_config_file("classify_inr")  # an existing file comes first
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(MetanetError, match="empty.py: defines no function get_config"):
        read_config_file("empty.py")
    (tmp_path / "plain.py").write_text(
        "from metanet.training import experiment_config\n"
        "def get_config():\n"
        "    return experiment_config(seed=3)\n"
    )
    assert read_config_file("plain.py").seed == 3
    with pytest.raises(MetanetError, match="plain.py: takes no argument, got 'smoke'"):
        read_config_file("plain.py:smoke")


def test_experiment_config_names_mistakes():
    with pytest.raises(MetanetError, match=r'config\.train\.step: .*"steps"'):
        experiment_config(train={"step": 3})
    with pytest.raises(MetanetError, match=r"config\.model\.name: .*\"gmn\""):
        experiment_config(model={"name": "gnm"})


def test_arguments():
    def parse(text: str | None) -> tuple[str, dict]:
        return parse_argument(text, ("a", "b"), n=1, rate=0.5, on=False)

    assert parse(None) == parse("") == ("a", {"n": 1, "rate": 0.5, "on": False})
    assert parse("b, n=3,on=true,rate=2") == ("b", {"n": 3, "rate": 2.0, "on": True})
    assert type(parse("rate=2")[1]["rate"]) is float
    assert parse("on=0")[1]["on"] is False and parse("on=1")[1]["on"] is True
    for text, message in (
        ("c", "'c': no such variant"),
        ("m=1", "'m': no such setting"),
        ("n=1.5", "n: expected int, got '1.5'"),
        ("on=maybe", "on: expected bool, got 'maybe'"),
    ):
        with pytest.raises(MetanetError, match=message):
            parse(text)
