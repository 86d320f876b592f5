"""Runs on zoos of several architectures: selection, training, resuming, predicting."""

from __future__ import annotations

import dataclasses
import json
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from metanet.cli import main
from metanet.errors import MetanetError
from metanet.files import lock
from metanet.networks import Architecture, ParamSpec, create
from metanet.options import to_mapping
from metanet.report import compare, write_report
from metanet.training import (
    DataConfig,
    Experiment,
    ExperimentConfig,
    InputArchitecture,
    load_run,
    read_transfers,
    train,
)
from metanet.training import loop as loop_module
from metanet.training.packed import PackedSource
from metanet.training.selection import select
from metanet.training.sources import make_source
from metanet.training.support import out_of_range_reasons, training_support
from metanet.training.sweep import SweepConfig, run_sweep, trials
from metanet.zoos import Hyperparameters, PopulationConfig, Zoo, train_population
from metanet.zoos import population as population_module
from metanet.zoos.program import RunOutputs

POPULATION = PopulationConfig(
    families=("cnn", "pixel_set"),
    architectures=2,
    runs=24,
    train_images=64,
    test_images=64,
    epochs=(0, 2),
    hyperparameters=Hyperparameters(activation=(), batch_size=(16,)),
)


def config(zoo: Path, **changes) -> ExperimentConfig:
    mapping = {
        "zoo": {
            "path": str(zoo),
            "population": to_mapping(POPULATION),
        },
        "model": {"name": "product_gmn", "dim": 8, "heads": 2, "depth": 1},
        "task": {"name": "accuracy", "hidden": 8},
        "train": {
            "steps": 12,
            "batch_size": 8,
            "log_every": 2,
            "eval_every": 4,
            "checkpoint_every": 4,
        },
        "optimizer": {"ema_decay": 0.5, "warmup_steps": 2},
    }
    for section, values in changes.items():
        old = {} if section == "model" else mapping.get(section, {})
        mapping[section] = {**old, **values} if isinstance(values, dict) else values
    return ExperimentConfig.from_mapping(mapping)


def drawn(config, runs, images, bar) -> list[RunOutputs]:
    """In the place of training: random weights, larger where accuracy is higher."""
    out, checkpoints = [], len(config.epochs)
    for run in runs:
        rng = np.random.default_rng([config.seed, run.number])
        spec = ParamSpec.of(create(run.architecture, jax.random.key(0)).params)
        accuracy = np.sort(rng.uniform(size=checkpoints)).astype(np.float32)
        weights = rng.normal(size=(checkpoints, spec.size)) * 0.3
        scaled = (weights * (1 + accuracy[:, None])).astype(np.float32)
        out.append(RunOutputs(scaled, *[accuracy] * 4))  # type: ignore[arg-type]
    return out


def make_zoo(population: PopulationConfig, path: Path) -> Zoo:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(population_module, "train_shard", drawn)
        return train_population(population, path, progress=False)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> Zoo:
    return make_zoo(POPULATION, tmp_path_factory.mktemp("mixed") / "zoo")


@pytest.fixture(scope="module")
def finished(zoo, tmp_path_factory) -> Path:
    """The directory of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("mixed") / "run"
    train(config(zoo.path), workdir, progress=False)
    return workdir


def test_a_resumed_run_ends_with_the_same_bits(zoo, finished, tmp_path, monkeypatch):
    """Stopped within an epoch, whose order continues where it was."""

    class Stops(loop_module._Stop):
        asked = 0

        @property
        def number(self):
            Stops.asked += 1
            return 15 if Stops.asked > 5 else None

    monkeypatch.setattr(loop_module, "_Stop", Stops)
    with pytest.raises(loop_module.Interrupted, match="goes on from here"):
        train(config(zoo.path), tmp_path, progress=False)
    monkeypatch.undo()
    result = train(config(zoo.path), tmp_path, progress=False)
    whole = json.loads((finished / "result.json").read_text())
    changing = {"wall_seconds", "networks_per_second"}
    for name in whole.keys() - changing:
        assert json.loads(json.dumps(getattr(result, name))) == whole[name], name
    a, b = (load_run(path) for path in (finished, tmp_path))
    assert (a.split_outputs("test") == b.split_outputs("test")).all()


def test_an_epoch_has_every_network_once(finished):
    """Also when batches are read from a position within an epoch on."""
    run = load_run(finished)
    experiment, tables = run.experiment, run.tables
    targets = {
        name: experiment.task.targets(run.zoo, table) for name, table in tables.items()
    }
    net = nnx.eval_shape(experiment.build)
    source = make_source(experiment, tables, targets, net)
    with closing(source.batches([0, 0])) as batches:
        read = [next(batches)]
        while read[-1].position != [2, 0]:
            read.append(next(batches))
    epochs = [[] for _ in range(2)]
    for before, batch in zip([[0, 0], *(b.position for b in read)], read, strict=False):
        epochs[before[0]].append(batch.ids)
    everything = np.sort(tables["train"]["id"])
    for parts in epochs:
        assert (np.sort(np.concatenate(parts)) == everything).all()
    assert len(epochs[0]) > 1 and np.any(
        epochs[0][0] != epochs[1][0][: len(epochs[0][0])]
    )
    with closing(source.batches(read[0].position)) as batches:
        for batch in read[1:]:
            assert (next(batches).ids == batch.ids).all()


def test_packed_outputs_are_those_of_single_networks(zoo, finished):
    run = load_run(finished)
    outputs, table = run.split_outputs("test"), run.tables["test"]
    assert len(run.experiment.inputs) == 2 and len(outputs) == len(table)
    for place in range(0, len(table), 3):
        one = run.experiment.inputs[table["architecture"][place]]
        alone = run.outputs(table.network(place)[None], one)[0]
        np.testing.assert_allclose(outputs[place], alone, atol=1e-5)
    again = run.evaluate("test")
    recorded = json.loads((finished / "result.json").read_text())["test"]
    assert again["loss"] == pytest.approx(recorded["loss"], rel=1e-5)
    assert again["coverage"] == recorded["coverage"]


@pytest.mark.parametrize("field", ["activations", "depths"])
def test_graphs_tell_activation_and_depth_if_asked(zoo, field):
    relu = Architecture.of("small_cnn", padding="SAME", widths=(4, 4, 4))
    for told in (True, False):
        one = config(zoo.path, graph={field: told})
        types = [
            {
                (n.depth, n.nonlinearity)
                for n in InputArchitecture.of(a, one).topology.nodes
            }
            for a in (relu, relu.with_option("activation", "tanh"))
        ]
        depths = {depth for depth, _ in types[0]}
        assert (types[0] != types[1]) == (told or field == "depths")
        assert (len(depths) > 1) == (told or field == "activations")


def test_fan_in_makes_widths_alike(zoo):
    """Initial weights have deviation 1 in every width."""
    one, deviations = config(zoo.path, graph={"fan_in": True}, canonicalize=False), []
    for width in (16, 64):
        arch = Architecture.of("small_cnn", padding="SAME", widths=(width,) * 3)
        found = InputArchitecture.of(arch, one)
        network = create(arch, jax.random.key(0))
        params = found.spec.flatten(network.params)
        scaled = found.preprocess(params[None])
        kernels = [x.ravel() for x in jax.tree.leaves(scaled) if x.ndim > 2]
        deviations.append(float(jnp.concatenate(kernels).std()))
        np.testing.assert_allclose(
            jnp.ravel(network.apply_fn(network.params, jnp.ones((1, 8, 8, 1)))),
            jnp.ravel(
                found.probe().activations(
                    jax.tree.map(lambda p: p[0], scaled), jnp.ones((1, 8, 8, 1))
                )[-1]
            ),
            rtol=1e-5,
        )
    np.testing.assert_allclose(deviations, 1.0, atol=0.05)


def test_weights_in_a_file_are_those_in_memory(zoo, finished):
    known, drawn = load_run(finished).experiment, []
    for memory in (0.0, 1e-9):
        one = config(zoo.path, data={"memory": memory})
        experiment = Experiment(one, known.inputs, known.task)
        tables = select(zoo, one.data, ("test_accuracy",))
        assert isinstance(tables["train"].values, np.memmap) == (memory > 0)
        targets = {s: {"test_accuracy": t["test_accuracy"]} for s, t in tables.items()}
        source = PackedSource(experiment, tables, targets, experiment.build())
        with closing(source.batches([0, 0])) as batches:
            drawn.append([next(batches) for _ in range(5)])
    for left, right in zip(*drawn, strict=True):
        assert left.position == right.position
        jax.tree.map(np.testing.assert_array_equal, left.items, right.items)


def test_another_zoo_is_evaluated(finished, tmp_path, capsys):
    """Metrics are those of single networks, and the comparison of runs has them."""
    kinds = dataclasses.replace(POPULATION, architectures=1, runs=6, seed=3)
    sets = dataclasses.replace(kinds, families=("pixel_set",))
    other = make_zoo(sets, tmp_path / "other")
    assert main(["evaluate", str(finished), "--zoo", str(other.path)]) == 0
    run = load_run(finished)
    table = select(other, DataConfig(), ("test_accuracy",))["test"]
    one = InputArchitecture.of(other.architecture, run.config)
    outputs = run.outputs(table.weights, one)
    expected = run.experiment.task.metrics(
        outputs, {"test_accuracy": table["test_accuracy"]}
    )
    found = read_transfers(finished)["other"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    compared = compare([finished], tmp_path / "comparison.html")
    assert "on other r2" in compared.header
    report = write_report(finished).read_text()
    assert "Other zoos" in report
    assert "groups change the outputs by" in report
    (finished / "on-other.json").unlink()

    strange = dataclasses.replace(kinds, families=("row_rnn",))
    make_zoo(strange, tmp_path / "rnn")
    capsys.readouterr()
    assert main(["evaluate", str(finished), "--zoo", str(tmp_path / "rnn")]) == 1
    assert "does not know" in capsys.readouterr().err


def test_new_architectures_are_predicted_or_refused(finished):
    run = load_run(finished)
    known = [a for a in run.architectures.values() if a.name == "varying_cnn"][0]
    wider = known.with_option("widths", tuple(w + 1 for w in known.option("widths")))
    other = InputArchitecture.of(wider, run.config)
    weights = np.full((1, other.spec.size), 0.1, np.float32)
    assert run.predict(weights, other).shape == (1, 3)
    strange = InputArchitecture.of(Architecture.of("row_rnn", side=8), run.config)
    vector = np.full((1, strange.spec.size), 0.1, np.float32)
    with pytest.raises(MetanetError, match="does not know"):
        run.predict(vector, strange)


@pytest.mark.parametrize("spoil", [lambda w: 0 * w + 0.1, lambda w: 1e20 * w])
def test_weights_unlike_any_are_noticed(finished, spoil):
    run = load_run(finished)
    table = run.tables["train"]
    one = run.experiment.inputs[table["architecture"][0]]
    assert run.warnings(table.network(0), one) == []
    reasons = run.warnings(spoil(table.network(0)), one)
    assert reasons and all("training had" in r for r in reasons)


def test_programs_unlike_any_are_noticed(finished):
    """Padding and images of another size: the same weights and parameter graph."""
    run = load_run(finished)
    table = run.tables["train"]
    place = list(table["family"]).index("cnn")
    weights, key = table.network(place), table["architecture"][place]

    def reasons(more: int, side: int) -> str:
        around = ((0, 0), (more, more), (more, more), (0, 0))
        known = create(run.architectures[key], jax.random.key(0))
        network = known._replace(
            apply_fn=lambda p, x: known.apply_fn(p, jnp.pad(x, around)),
            inputs=(jnp.zeros((2, side, side, 1)),),
        )
        other = InputArchitecture.of_network(network, run.config)
        assert np.isfinite(run.predict(weights[None], other)).all()
        return " ".join(run.warnings(weights, other))

    assert reasons(0, 8) == ""
    assert "padding" in reasons(1, 8) and "training had" in reasons(1, 8)
    assert "over 16 x 16 positions (training had 8 x 8)" in reasons(0, 16)


def test_selection(zoo):
    whole = select(zoo, DataConfig(), ("test_accuracy",))
    assert sum(map(len, whole.values())) == len(zoo)
    for split, table in whole.items():
        assert set(table["split"]) == {split}
    some = select(zoo, DataConfig(where=("family=cnn",)), ("test_accuracy",))
    assert all(set(t["family"]) == {"cnn"} for t in some.values())
    half = select(zoo, DataConfig(fraction=0.5), ("test_accuracy",))
    runs, all_runs = (len(np.unique(t["train"]["run"])) for t in (half, whole))
    assert runs == round(all_runs / 2)
    assert len(half["train"]) == 2 * runs
    assert len(half["test"]) == len(whole["test"])
    cut = select(zoo, DataConfig(wider="width"), ("test_accuracy",))
    assert cut["train"]["width"].max() < cut["test"]["width"].min()
    for data, message in (
        (DataConfig(where=("famly=cnn",)), "no column 'famly'.*family"),
        (DataConfig(where=("family=cn",)), 'no network has family=cn.*"cnn"'),
        (DataConfig(where=("epoch=0",), wider="epoch"), "all networks have epoch 0"),
    ):
        with pytest.raises(MetanetError, match=message):
            select(zoo, data, ("test_accuracy",))
    with pytest.raises(MetanetError, match="no column 'accuracy'"):
        select(zoo, DataConfig(), ("accuracy",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"augment": {"noise": {"level": 0.1}}},
            "config.augment: takes networks of one",
        ),
        ({"model": {"name": "statnn"}}, "reads networks of one architecture"),
    ],
)
def test_what_a_mixed_run_refuses(zoo, tmp_path, changes, message):
    with pytest.raises(MetanetError, match=message):
        train(config(zoo.path, **changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "config.json").exists()


def test_weights_out_of_the_range_of_the_training_set_are_named(zoo):
    table = zoo.read()
    inputs = {
        k: InputArchitecture.of(a, config(zoo.path))
        for k, a in zoo.architectures.items()
    }
    support = training_support(table, inputs)
    for place in range(len(table)):
        spec = inputs[table["architecture"][place]].spec
        weights = table.network(place)
        assert out_of_range_reasons(support, weights, spec) == []
        # The first array is a bias.
        (reason,) = out_of_range_reasons(support, _scaled_leaf(weights, spec, 0), spec)
        assert "bias or gain is" in reason and "training had" in reason


def _scaled_leaf(weights: np.ndarray, spec, leaf: int) -> np.ndarray:
    """Weights of which one array is a thousand times as large."""
    start = sum(spec.sizes[:leaf])
    out = np.array(weights)
    out[start : start + spec.sizes[leaf]] *= 1000
    return out


def test_two_processes_do_not_train_one_run(zoo, tmp_path):
    with lock(tmp_path / ".lock"):
        with pytest.raises(MetanetError, match="another process is training here"):
            train(config(zoo.path), tmp_path, progress=False)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.slow
def test_a_sweep_runs_every_combination_once(zoo, tmp_path, capsys):
    """Failures are told and do not stop it; what is finished is not run again."""
    file = tmp_path / "base.py"
    mapping = config(zoo.path).to_json()
    file.write_text(
        "from ml_collections import ConfigDict\n"
        f"def get_config(argument=''): return ConfigDict({mapping!r})\n"
    )
    sweep = SweepConfig(
        config=str(file),
        values={"seed": [0, 1]},
        fixed={"train.steps": 4},
        alternatives=({}, {"optimizer.learning_rate": 1e37}),
    )
    names = [t.name for t in trials(sweep)]
    assert names[:2] == ["seed=0", "seed=0-learning_rate=1e+37"]
    assert len(set(names)) == 4
    outcomes = [outcome for _, outcome in run_sweep(sweep, tmp_path / "runs")]
    assert [o.split(":")[0] for o in outcomes] == ["done", "failed"] * 2
    error = (tmp_path / "runs" / names[1] / "error.txt").read_text()
    assert "loss or gradient is not finite" in error
    again = [outcome for _, outcome in run_sweep(sweep, tmp_path / "runs")]
    assert again.count("finished before") == 2

    runs = sorted((tmp_path / "runs").glob("seed=[01]"))
    assert [load_run(run).config.train.steps for run in runs] == [4, 4]
    table = compare(runs, by=("model.depth",))
    assert len(table.rows) == 1 and table.header[:2] == ("model.depth", "runs")
    assert table.rows[0][1] == "2" and "±" in table.rows[0][2]
    with pytest.raises(MetanetError, match=r"no field 'model.dept'.*depth"):
        compare(runs, by=("model.dept",))

    # A setting that no run can have is refused before the first run.
    wrong = dataclasses.replace(sweep, values={"optimizer.name": ["adam", "nonesuch"]})
    with pytest.raises(MetanetError, match="optax has no optimiser 'nonesuch'"):
        list(run_sweep(wrong, tmp_path / "other"))
    assert not (tmp_path / "other").exists()
    wrong = dataclasses.replace(sweep, values={"train.stps": [1]})
    with pytest.raises(
        MetanetError, match=r"config.train has no key 'stps'.*\"steps\""
    ):
        list(run_sweep(wrong, tmp_path / "other"))
