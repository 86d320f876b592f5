"""Zoos of classifiers: the training program against definitions, and stored columns."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from metanet.errors import MetanetError
from metanet.networks import (
    Architecture,
    ParamSpec,
    TrainMode,
    convolve,
    create,
    train_mode,
)
from metanet.options import from_mapping
from metanet.zoos import (
    FAMILIES,
    Family,
    Hyperparameters,
    ImageShape,
    PopulationConfig,
    Zoo,
    draw_architectures,
    export,
    load_images,
    population,
    train_population,
    verify,
)
from metanet.zoos.hyperparameters import INITS, Settings
from metanet.zoos.optimizers import Moments, UpdateRule, update_step
from metanet.zoos.population import standardized_images
from metanet.zoos.program import (
    Images,
    RunInputs,
    RunProgram,
    compiled_runs,
    noisy_labels,
    run_inputs,
)

PLAIN = Settings(
    optimizer="sgd",
    learning_rate=0.05,
    weight_decay=1e-4,
    momentum=0.9,
    dropout=0.0,
    activation="relu",
    init="he_normal",
    init_scale=1.0,
    train_fraction=1.0,
    label_noise=0.0,
    batch_size=8,
)


@settings(max_examples=4, deadline=None)
@given(st.data())
def test_convolutions_by_patches_equal_those_of_xla(data):
    """In values and gradients."""
    dims = data.draw(st.integers(1, 2))
    kernel = data.draw(st.tuples(*[st.integers(1, 4)] * dims))
    strides = data.draw(st.tuples(*[st.integers(1, 3)] * dims))
    padding = data.draw(st.sampled_from(["SAME", "VALID", [(1, 2)] * dims]))
    inputs, outputs = data.draw(st.sampled_from([(1, 3), (2, 1), (3, 2)]))
    side = data.draw(st.integers(4, 7))
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, *[side] * dims, inputs))
    w = jax.random.normal(keys[1], (*kernel, inputs, outputs))
    numbers = ("NHWC", "HWIO", "NHWC") if dims == 2 else ("NWC", "WIO", "NWC")

    def energy(x, w):
        y = convolve(x, w, strides, padding, dimension_numbers=numbers)
        return jnp.sum(jnp.sin(y)), y

    def results():
        return jax.value_and_grad(energy, (0, 1), has_aux=True)(x, w)

    expected = results()
    with train_mode(TrainMode(0, ("relu",))):
        by_patches = results()
    pairs = zip(jax.tree.leaves(expected), jax.tree.leaves(by_patches), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("sgd", lambda s: optax.sgd(s.learning_rate, momentum=s.momentum)),
        ("adam", lambda s: optax.adam(s.learning_rate, eps=1e-7)),
        (
            "rmsprop",
            lambda s: optax.rmsprop(s.learning_rate, 0.9, eps=1e-7, eps_in_sqrt=False),
        ),
    ],
)
def test_update_rules_are_those_of_optax(name, reference):
    settings = dataclasses.replace(PLAIN, optimizer=name, weight_decay=0.0)
    inputs = inputs_of_one_run(settings, ("relu",), 64)
    params = {"w": jnp.linspace(-1, 1, 6).reshape(2, 3), "b": jnp.ones(3)}
    optimizer = reference(settings)
    state, expected, result = optimizer.init(params), params, params
    moments = Moments.zeros_like(params)
    rule = UpdateRule(
        inputs.optimizer, inputs.learning_rate, inputs.weight_decay, inputs.momentum
    )
    for i in range(5):
        gradient = jax.tree.map(lambda p, i=i: jnp.cos(3 * p + i), expected)
        update, state = optimizer.update(gradient, state, expected)
        expected = optax.apply_updates(expected, update)
        result, moments = update_step(result, gradient, moments, rule, jnp.asarray(i))
        pairs = zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def inputs_of_one_run(
    settings: Settings, activations: tuple[str, ...], images: int
) -> RunInputs:
    """Returns inputs without the axis of runs."""
    keys = jax.random.split(jax.random.key(3), 1)
    inputs = run_inputs(keys, [settings], activations, images)
    return jax.tree.map(lambda x: x[0], inputs)


def test_a_smaller_batch_repeats_its_images():
    """Repetition does not change the gradients, so that batch sizes can be data."""
    small = PopulationConfig(train_images=64, test_images=32)
    images = standardized_images(small, load_images("digits"))
    arch = Architecture.of("small_cnn", widths=(4, 4), padding="SAME")
    keys = jax.random.split(jax.random.key(0), 1)
    results = []
    for largest in (8, 24):
        program = compiled_runs(RunProgram(arch, ("relu",), (0, 2), largest, False))
        results.append(program(run_inputs(keys, [PLAIN], ("relu",), 64), images))
    np.testing.assert_allclose(results[0].weights, results[1].weights, atol=1e-5)
    assert np.abs(np.diff(results[0].weights[0], axis=0)).max() > 1e-2
    # Other shapes of images in the same process.
    more_images = standardized_images(
        dataclasses.replace(small, train_images=96), load_images("digits")
    )
    again = program(run_inputs(keys, [PLAIN], ("relu",), 96), more_images)
    assert again.weights.shape == results[1].weights.shape


@pytest.mark.parametrize("scheme", INITS)
def test_initial_kernels_have_the_deviation_of_their_scheme(scheme):
    settings = dataclasses.replace(PLAIN, init=scheme, init_scale=0.5)
    small = PopulationConfig(train_images=64, test_images=32)
    arch = Architecture.of("small_cnn", widths=(64, 64), padding="SAME")
    images = standardized_images(small, load_images("digits"))
    program = compiled_runs(RunProgram(arch, ("relu",), (0,), 8, has_dropout=False))
    keys = jax.random.split(jax.random.key(0), 1)
    weights = program(run_inputs(keys, [settings], ("relu",), 64), images).weights
    spec = ParamSpec.of(create(arch, keys[0]).params)
    kernel = np.asarray(spec.unflatten(weights[0, 0])["layers"][1]["kernel"])
    fan_in = fan_out = 9 * 64
    deviation = {
        "lecun_normal": fan_in**-0.5,
        "glorot_normal": (2 / (fan_in + fan_out)) ** 0.5,
        "he_normal": (2 / fan_in) ** 0.5,
        "normal": 1.0,
    }[scheme]
    assert kernel.std() == pytest.approx(0.5 * deviation, rel=0.02)
    assert abs(kernel.mean()) < 0.02 * deviation


def test_label_noise_replaces_a_share_of_the_training_labels():
    """By uniform labels, of which one in ten is the old one."""
    labels = jnp.zeros(20_000, jnp.int32)
    images = Images(jnp.zeros(0), labels, jnp.zeros(0), jnp.arange(10))
    noisy = np.asarray(noisy_labels(images, jnp.asarray(0.3), jax.random.key(0)))
    counts = np.bincount(noisy, minlength=10) / len(labels)
    np.testing.assert_allclose(counts, [0.73] + [0.03] * 9, atol=0.01)
    same = noisy_labels(images, jnp.asarray(0.0), jax.random.key(0))
    np.testing.assert_array_equal(same, labels)


def test_families_state_the_activation_that_architectures_do_not_name():
    vit = Architecture.of("vit")
    assert FAMILIES["vit"].default_activation(vit) == "gelu"
    tanh = Architecture.of("small_cnn", activation="tanh")
    assert FAMILIES["small_cnn"].default_activation(tanh) == "tanh"
    silent = Family(FAMILIES["vit"].draw, widths=("dim",))
    with pytest.raises(ValueError, match="fixed_activation"):
        silent.default_activation(vit)


TINY = PopulationConfig(
    families=("cnn", "row_rnn"),
    architectures=2,
    runs=6,
    train_images=96,
    test_images=64,
    epochs=(0, 1, 3),
    shard_runs=4,
    hyperparameters=Hyperparameters(
        activation=("relu", "tanh"), batch_size=(8, 16), label_noise=(0.0, 0.5)
    ),
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Zoo:
    return train_population(TINY, tmp_path_factory.mktemp("tiny"), progress=False)


def test_stored_networks_have_the_recorded_accuracy(tiny):
    """Evaluated outside the program that trained them, from weights and architecture."""
    images = standardized_images(TINY, load_images("digits"))
    table, architectures = tiny.read(), tiny.architectures
    names = {architecture.name for architecture in architectures.values()}
    assert len(table) == 18 and names == {"varying_cnn", "row_rnn"}
    for row, key in enumerate(table["architecture"]):
        network = create(architectures[key], jax.random.key(0))
        params = ParamSpec.of(network.params).unflatten(jnp.asarray(table.network(row)))
        logits = jnp.asarray(network.apply_fn(params, images.test))
        accuracy = float((logits.argmax(-1) == images.test_labels).mean())
        assert accuracy == pytest.approx(table["test_accuracy"][row], abs=1e-6)
        loss = optax.softmax_cross_entropy_with_integer_labels(
            logits, images.test_labels
        )
        recorded = table["test_loss"][row]
        assert float(loss.mean()) == pytest.approx(recorded, rel=1e-3, abs=1e-5)


def test_rows_and_splits_go_by_run(tiny):
    table = tiny.read()
    for run in range(6):
        rows = table["run"] == run
        assert table["epoch"][rows].tolist() == [0, 1, 3]
        assert len(set(table["split"][rows])) == 1
        last = table["test_accuracy"][rows][-1]
        assert (table["final_test_accuracy"][rows] == last).all()
        used = round(table["train_fraction"][rows][0] * 96)
        per_epoch = used // min(used, table["batch_size"][rows][0])
        assert table["step"][rows].tolist() == [0, per_epoch, 3 * per_epoch]
        architecture = tiny.architectures[table["architecture"][rows][0]]
        family = FAMILIES[table["family"][rows][0]]
        assert (table["width"][rows] == family.width(architecture)).all()
        if architecture.name == "varying_cnn":
            assert architecture.option("activation") == table["activation"][rows][0]
        else:
            assert table["activation"][rows][0] == "tanh"


def files(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


def test_an_interrupted_zoo_ends_with_the_same_bytes(tiny, tmp_path, monkeypatch):
    """Shards of another size hold the same weights."""
    write = population.ZooWriter.write
    calls: list[int] = []

    def die(self: Any, shard: int, *rest: Any) -> None:
        if calls:
            raise KeyboardInterrupt
        calls.append(shard)
        write(self, shard, *rest)

    monkeypatch.setattr(population.ZooWriter, "write", die)
    with pytest.raises(KeyboardInterrupt):
        train_population(TINY, tmp_path, progress=False)
    monkeypatch.undo()
    with pytest.raises(MetanetError, match="unfinished"):
        Zoo.open(tmp_path)
    train_population(TINY, tmp_path, progress=False)
    assert files(tmp_path) == files(tiny.path)

    other = dataclasses.replace(TINY, shard_runs=6)
    again = train_population(other, tmp_path / "other", progress=False).read()
    np.testing.assert_array_equal(again.values, tiny.read().values)


def test_runs_that_diverge_are_marked(tmp_path):
    unstable = Hyperparameters(
        optimizer=("sgd",),
        learning_rate=(1e3, 1e3),
        weight_decay=(1e3, 1e3),
        train_fraction=(1.0,),
        batch_size=(8,),
    )
    config = PopulationConfig(
        runs=3, train_images=64, test_images=32, epochs=(0, 2), hyperparameters=unstable
    )
    zoo = train_population(config, tmp_path, progress=False)
    table = zoo.read(skip_broken=True)
    assert (table["diverged"] == (table["epoch"] > 0)).all()
    with pytest.raises(MetanetError, match="row 1 holds NaN"):
        zoo.read()


@pytest.mark.parametrize("name", list(FAMILIES))
@pytest.mark.parametrize("side", [8, 28])
def test_families_draw_networks_of_the_images(name, side):
    shape = ImageShape(side, 1, 10)
    drawn = draw_architectures((name,), 6, shape, seed=0)
    assert drawn == draw_architectures((name,), 6, shape, seed=0)
    assert len({a for _, a in drawn}) == len(drawn) == (1 if name == "small_cnn" else 6)
    for drawn_from, architecture in drawn:
        x = jnp.ones((2, side, side, 1))

        def logits(key, architecture=architecture, x=x):
            network = create(architecture, key)
            return network.apply_fn(network.params, x)

        result = jax.eval_shape(logits, jax.random.key(0))
        assert drawn_from == name and result.shape == (2, 10)
        assert FAMILIES[name].width(architecture) >= 4


def test_settings_are_drawn_from_their_ranges():
    ranges = Hyperparameters(batch_size=(4, 8), momentum=(0.5, 0.9))
    drawn = [ranges.draw(np.random.default_rng([0, i]), ("relu",)) for i in range(200)]
    for name in ("learning_rate", "weight_decay", "momentum", "dropout", "init_scale"):
        low, high = getattr(ranges, name)
        values = np.asarray([getattr(s, name) for s in drawn])
        assert low <= values.min() < values.max() <= high
        assert len(np.unique(values)) == 200
    rates = np.log10([s.learning_rate for s in drawn])
    assert np.median(rates) == pytest.approx(np.log10(5e-3), abs=0.15)
    assert {s.optimizer for s in drawn} == {"sgd", "adam", "rmsprop"}
    assert {s.batch_size for s in drawn} == {4, 8}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"families": ["small_cn"]}, "'small_cn'.*\"small_cnn\""),
        ({"epochs": [3, 1]}, "epochs: expected ascending"),
        (
            {"hyperparameters": {"optimizer": ["adm"]}},
            "optimizer: unknown choice 'adm'.*\"adam\"",
        ),
        (
            {"hyperparameters": {"dropout": [0.5, 0.1]}},
            r"dropout: expected \(low, high\)",
        ),
        ({"hyperparameters": {"batch_size": [3, 8]}}, "batch_size: each must divide"),
        ({"hyperparameters": {"train_fraction": [1.5]}}, "train_fraction: must lie"),
    ],
)
def test_impossible_configurations_are_explained(change, message):
    with pytest.raises(MetanetError, match=message):
        from_mapping(PopulationConfig, change, "config")


def test_verification_detects_changes(tiny, tmp_path):
    result = verify(tiny, sample=6)
    assert result.networks == 18 and result.sample == 6 and result.worst < 1e-6
    copy = tmp_path / "copy"
    shutil.copytree(tiny.path, copy)
    shard = copy / "shard-00000.parquet"
    table = pq.read_table(shard)
    column = table.column_names.index("test_accuracy")
    wrong = pa.array([0.99] * len(table), pa.float32())
    pq.write_table(table.set_column(column, "test_accuracy", wrong), shard)
    with pytest.raises(MetanetError, match="checksum"):
        verify(Zoo.open(copy))
    digest = hashlib.sha256(shard.read_bytes()).hexdigest()
    shard.with_name(f"{shard.name}.sha256").write_text(f"{digest}  {shard.name}\n")
    with pytest.raises(MetanetError, match=r"test_accuracy: network \d+ has .*0.9900"):
        verify(Zoo.open(copy), sample=18)


@pytest.mark.parametrize("format_name", ["torch", "npz", "safetensors", "hf"])
def test_exports_hold_the_same_numbers(tiny, tmp_path, format_name):
    table = tiny.read()
    for path in export(tiny, tmp_path, format_name):
        assert path.stat().st_size > 0
    if format_name == "hf":
        parts = [pq.read_table(f) for f in sorted((tmp_path / "data").glob("*"))]
        exported = pa.concat_tables(parts).sort_by("id")
        assert exported.column("id").to_pylist() == table["id"].tolist()
        for row in (0, 7, 17):
            weights = np.asarray(exported.column("weights")[row].as_py(), np.float32)
            np.testing.assert_array_equal(weights, table.network(row))
        assert "data/train-*.parquet" in (tmp_path / "README.md").read_text()
        return
    with (tmp_path / "networks.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(r["id"]) for r in rows] == table["id"].tolist()
    suffix = "npz" if format_name == "npz" else "safetensors"
    checked = 0
    for key, leaves in tiny.info["leaves"].items():
        file = tmp_path / f"networks-{key}.{suffix}"
        if not file.exists():
            continue
        arrays = dict(np.load(file)) if suffix == "npz" else load_file(file)
        for position, row in enumerate(arrays["id"]):
            parts = []
            for leaf in leaves:
                name = leaf["path"]
                if format_name == "torch":
                    name = torch_name(name)
                value = arrays[name][position]
                if format_name == "torch" and leaf["path"].endswith("kernel"):
                    value = np.moveaxis(value, (0, 1), (-1, -2))
                assert value.shape == tuple(leaf["shape"])
                parts.append(value.ravel())
            np.testing.assert_array_equal(
                np.concatenate(parts), table.network(int(row))
            )
            checked += 1
    assert checked == 18


def torch_name(path: str) -> str:
    module, _, last = path.rpartition("/")
    names = {"kernel": "weight", "scale": "weight"}
    names |= {"mean": "running_mean", "var": "running_var"}
    return f"{module.replace('/', '.')}.{names.get(last, last)}"


@pytest.mark.slow
def test_killed_ten_times_and_shared_by_two_processes(tmp_path):
    """Shards are those of an uninterrupted process, byte for byte."""
    config = Path(__file__).parent.parent / "configs" / "zoo.py"
    program = "import sys; from metanet.cli import main; sys.exit(main())"

    def start(out: Path) -> subprocess.Popen[bytes]:
        options = ["--config.runs=60", "--config.epochs=(0,30)", "--out", str(out)]
        command = ["zoo", "train", "--config", f"{config}:smoke", *options]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([sys.executable, "-c", program, *command], **quiet)

    assert start(tmp_path / "whole").wait() == 0
    rng, killed = random.Random(0), 0
    while killed < 10:
        process = start(tmp_path / "killed")
        try:
            process.wait(rng.uniform(5, 16))
            break  # it came to its end before it could be killed again
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
    assert killed > 2 and start(tmp_path / "killed").wait() == 0
    both = [start(tmp_path / "both") for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    expected = files(tmp_path / "whole")
    assert len(expected) == 31  # zoo.json, 15 shards and their checksums
    for name in ("killed", "both"):
        assert files(tmp_path / name) == expected
