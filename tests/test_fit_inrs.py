"""Fitting INRs: gradients, quality, determinism, resumption, the stored zoo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file
from scipy.ndimage import zoom

from metanet.errors import MetanetError
from metanet.networks import Architecture, ParamSpec, coordinate_grid, create
from metanet.progress import track
from metanet.zoos import (
    FitConfig,
    Zoo,
    describe,
    error_gradient,
    fit_inrs,
    fit_networks,
    load_images,
    open_or_make,
    reconstruct,
)
from metanet.zoos.images.mnist import read_idx

DATA = Path(__file__).parent.parent / "data"
SMALL = Architecture.of("siren", hidden=(8, 8), w0=5.0)
CONFIG = FitConfig(
    limit=12,
    views=2,
    steps=15,
    learning_rate=1e-2,
    batch=3,
    shard_size=10,
    architecture=SMALL,
)


def files(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Zoo:
    path = tmp_path_factory.mktemp("fitted") / "zoo"
    return fit_inrs(CONFIG, path, progress=False)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"convention": "nfn", "out_dim": 3},
        {"hidden": (5,), "w0": 7.0},
        {"hidden": (4, 6, 3), "out_dim": 2},
    ],
)
def test_gradients_by_hand_equal_automatic_ones(options, key):
    arch = Architecture.of("siren", **options)
    grid = coordinate_grid(5, 7)
    apply_fn = create(arch, key).apply_fn
    init = jax.jit(jax.vmap(lambda k: create(arch, k).params))
    params = init(jax.random.split(key, 3))
    targets = jax.random.uniform(key, (3, 35, arch.option("out_dim")))

    def error(p, t):
        return jnp.mean(jnp.square(apply_fn(p, jnp.asarray(grid)) - t))

    expected = jax.jit(jax.vmap(jax.grad(error)))(params, targets)
    result = jax.jit(error_gradient(arch, grid))(params, targets)
    assert jax.tree.structure(result) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(b).max())


@pytest.mark.parametrize("convention", ["dws", "nfn"])
def test_images_of_28x28_reach_30_db_in_200_steps(convention):
    """With the default configuration; PSNR is checked against a NumPy rendering."""
    digits = load_images("digits").images[:2, :, :, 0].astype(float)
    images = zoom(digits, (1, 3.5, 3.5), order=1).astype(np.uint8)[..., None]
    arch = Architecture.of("siren", convention=convention)
    config = FitConfig(architecture=arch)
    assert config.steps == 200
    views = np.zeros(2, int)
    weights, psnr = fit_networks(config, images, np.arange(2), views)
    assert psnr.min() > 30
    spec = ParamSpec.of(create(arch, jax.random.key(0)).params)
    h = coordinate_grid(28, 28, convention).astype(float)
    layers = spec.unflatten(weights[1])["layers"]
    for i in range(3):
        h = h @ layers[i]["kernel"].astype(float) + layers[i]["bias"]
        h = np.sin(30 * h) if i < 2 else h
    rendered = h + 0.5 if convention == "dws" else (h + 1) / 2
    mse = np.mean((rendered.reshape(28, 28) - images[1, :, :, 0] / 255) ** 2)
    assert abs(psnr[1] + 10 * np.log10(mse)) < 0.05


def best_constant_psnr(images: np.ndarray) -> np.ndarray:
    """Returns the PSNR of the mean intensity as a prediction of every pixel."""
    pixels = images / 255
    variance = np.var(pixels, axis=(1, 2, 3))
    return -10 * np.log10(variance)


@pytest.mark.parametrize(("name", "gain"), [("fourier_mlp", 30), ("tanh_inr", 8)])
def test_other_inrs_beat_the_best_constant_image(name, gain):
    """Every image by ``gain`` dB: a network that ignores its coordinates gains none."""
    images = load_images("digits").images[:3]
    config = replace(CONFIG, architecture=Architecture.of(name), steps=400)
    _, psnr = fit_networks(config, images, np.arange(3), np.zeros(3, int))
    assert (psnr > best_constant_psnr(images) + gain).all()


def test_tanh_inrs_draw_their_images():
    """The weights, rendered by NumPy, have the recorded PSNR."""
    images = load_images("digits").images[:2]
    arch = Architecture.of("tanh_inr", hidden=(16,))
    config = replace(CONFIG, architecture=arch, steps=100)
    weights, psnr = fit_networks(config, images, np.arange(2), np.zeros(2, int))
    spec = ParamSpec.of(create(arch, jax.random.key(0)).params)
    for vector, image, recorded in zip(weights, images, psnr, strict=True):
        layers = spec.unflatten(vector.astype(float))["mlp"]["layers"]
        h = 4.0 * coordinate_grid(8, 8).astype(float)
        h = np.tanh(h @ layers[0]["kernel"] + layers[0]["bias"])
        y = h @ layers[1]["kernel"] + layers[1]["bias"]
        mse = np.mean((y.reshape(8, 8) - image[..., 0] / 255) ** 2)
        assert recorded == pytest.approx(-10 * np.log10(mse), abs=0.05)


def test_zoo_content(fitted):
    table, images = fitted.read(), load_images("digits")
    assert len(fitted) == 24 and table.weights.shape == (24, 105)
    pairs = set(zip(table["image"].tolist(), table["view"].tolist(), strict=True))
    assert len(pairs) == 24 and set(table["view"]) == {0, 1}
    np.testing.assert_array_equal(table["label"], images.labels[table["image"]])
    for image in set(table["image"].tolist()):
        assert len(set(table["split"][table["image"] == image])) == 1
    assert set(table["split"]) == {"train", "validation", "test"}
    assert len(np.unique(table.weights, axis=0)) == 24
    assert fitted.info["config"]["seed"] == 0 and set(table["seed"]) == {0}
    rendered = reconstruct(fitted, table.weights[:5])
    expected = images.images[table["image"][:5]] / 255
    mse = np.mean((rendered - expected) ** 2, axis=(1, 2, 3))
    assert np.all(-10 * np.log10(mse) > table["psnr"][:5] - 0.05)


def test_a_network_depends_on_its_image_view_and_seed_only(fitted):
    images = load_images("digits").images
    for row in (5, 17):
        weights, columns = fitted.row(row)
        ids, views = np.array([columns["image"]]), np.array([columns["view"]])
        alone, psnr = fit_networks(CONFIG, images[ids], ids, views)
        np.testing.assert_allclose(alone[0], weights, atol=1e-5)
        assert abs(psnr[0] - columns["psnr"]) < 1e-2
        other, _ = fit_networks(replace(CONFIG, seed=1), images[ids], ids, views)
        assert np.abs(other[0] - weights).max() > 0.1


def test_lost_shards_are_made_again_byte_for_byte(fitted, tmp_path):
    path = tmp_path / "zoo"
    fit_inrs(CONFIG, path, progress=False)
    assert files(path) == files(fitted.path)
    (path / "shard-00001.parquet").unlink()
    (path / "shard-00002.parquet").write_bytes(b"half of it")
    open_or_make(path, CONFIG, progress=False)
    assert files(path) == files(fitted.path)


def test_open_or_make_reuses_a_complete_zoo(fitted, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the image files are not needed")

    monkeypatch.setattr("metanet.zoos.fit.load_images", refuse)
    assert len(open_or_make(fitted.path, CONFIG, progress=False)) == 24
    other_access = replace(CONFIG, data_root="elsewhere", download=True)
    assert len(open_or_make(fitted.path, other_access, progress=False)) == 24
    other = replace(CONFIG, steps=16, views=3)
    with pytest.raises(MetanetError, match=r"steps 15, not 16.*directory") as caught:
        open_or_make(fitted.path, other, progress=False)
    assert "views 2, not 3" in str(caught.value) and "seed" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            {"architecture": Architecture.of("siren", out_dim=3)},
            ("out_dim", "1 channel"),
        ),
        ({"architecture": Architecture.of("small_cnn")}, ("small_cnn", "coordinates")),
        ({"architecture": Architecture.of("mlp", in_dim=3)}, ("mlp", "coordinates")),
        ({"learning_rate": 1e30}, ("diverged", "learning rate")),
        ({"images": "digitz"}, ("digitz", "digits")),
        ({"limit": 2}, ("limit",)),
        ({"views": 0}, ("views",)),
        ({"steps": 0}, ("steps",)),
        ({"shard_size": 0}, ("shard_size",)),
        ({"batch": -1}, ("batch",)),
    ],
)
def test_unusable_configurations_leave_nothing(change, parts, tmp_path):
    with pytest.raises(MetanetError) as caught:
        fit_inrs(replace(CONFIG, **change), tmp_path / "zoo", progress=False)
    message = str(caught.value)
    assert "\n" not in message and all(p in message for p in parts)
    assert not list(tmp_path.glob("zoo/*.parquet"))


def test_data_card(fitted):
    console = Console(width=120, record=True, file=open(os.devnull, "w"))
    with console.file:
        console.print(*describe(fitted))
    text = console.export_text()
    for part in ("networks", "24", "siren", "PSNR", "validation", "seed"):
        assert part in text


@pytest.mark.parametrize("name", ["dws_inr.safetensors", "nfn_inr.npz"])
def test_sample_networks_draw_a_three(name):
    path = DATA / name
    arrays = load_file(path) if path.suffix == ".safetensors" else dict(np.load(path))
    convention = name[:3]
    weights = [a for n, a in sorted(arrays.items()) if n.endswith("weight")]
    biases = [a for n, a in sorted(arrays.items()) if n.endswith("bias")]
    h = coordinate_grid(28, 28, convention)
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        h = h @ weight.T + bias
        h = np.sin(30 * h) if i < 2 else h
    rendered = (h + 0.5 if convention == "dws" else (h + 1) / 2).reshape(28, 28)
    digit = read_idx(DATA / "digits-images-idx3-ubyte.gz")[3].astype(float)
    large = zoom(digit, 3.5, order=1, grid_mode=True, mode="nearest") / 255
    assert -10 * np.log10(np.mean((rendered - large) ** 2)) > 35


def test_progress_without_a_terminal_is_plain_lines(capsys, monkeypatch):
    monkeypatch.setattr("metanet.progress._LOG_SECONDS", 0.0)
    with track(10, "fitting", unit="INRs", done=4) as bar:
        bar.advance(3)
        bar.advance(3, psnr=31.234567)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("fitting: 7/10 INRs, ") and "s left" in lines[0]
    assert lines[1].startswith("fitting: 10/10") and lines[1].endswith("psnr 31.23")


@pytest.mark.slow
def test_killed_at_random_moments_ends_with_the_same_files(fitted, tmp_path):
    path = tmp_path / "zoo"
    code = (
        "import sys; from metanet.zoos import *; from metanet.networks import *\n"
        "fit_inrs(FitConfig(limit=12, views=2, steps=15, learning_rate=1e-2, batch=3,"
        " shard_size=10, architecture=Architecture.of('siren', hidden=(8, 8), w0=5.0)),"
        " sys.argv[1], progress=False)"
    )
    command = [sys.executable, "-c", code, str(path)]
    rng = np.random.default_rng()
    for _ in range(4):
        process = subprocess.Popen(command)
        begun = time.monotonic()
        while not path.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1.5 * (time.monotonic() - begun)))
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True)
    assert files(path) == files(fitted.path)
