"""Input networks: the fast sine, SIREN conventions, architectures by name."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metanet import symmetry
from metanet.errors import MetanetError
from metanet.networks import (
    ARCHITECTURES,
    Architecture,
    ParamSpec,
    TrainMode,
    abstract_network,
    activation,
    channel_dropout,
    coordinate_grid,
    create,
    fast_sin,
    sine_cosine_pi,
    to_targets,
    to_unit,
    train_mode,
)
from metanet.zoos import FAMILIES, ImageShape, draw_architectures

NAMES = list(ARCHITECTURES)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0, 1e3])
def test_fast_sine_and_derivative(scale):
    x = np.random.default_rng(0).uniform(-scale, scale, 20_000).astype(np.float32)
    wide = x.astype(np.float64)
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(fast_sin)))(x)
    np.testing.assert_allclose(value, np.sin(wide), atol=1e-5, rtol=0)
    np.testing.assert_allclose(slope, np.cos(wide), atol=1e-4, rtol=0)


def test_fast_sine_beyond_its_range():
    x = jnp.asarray([1e5, 1e8, -1e20, 3e38, -0.0, np.nan, np.inf], jnp.float32)
    y = np.asarray(jax.jit(fast_sin)(x))
    assert np.all(np.abs(y[:4]) <= 1) and y[4] == 0 and np.isnan(y[5:]).all()
    assert abs(y[0] - np.sin(1e5)) < 1e-4


def test_fast_sine_higher_derivatives():
    x = jnp.linspace(-9.0, 9.0, 61)
    second = jax.vmap(jax.grad(jax.grad(fast_sin)))(x)
    third = jax.vmap(jax.jacfwd(jax.grad(jax.grad(fast_sin))))(x)
    np.testing.assert_allclose(second, -np.sin(x), atol=1e-4)
    np.testing.assert_allclose(third, -np.cos(x), atol=1e-4)


def test_fast_sine_is_a_named_call_in_the_program():
    program = str(jax.make_jaxpr(fast_sin)(jnp.ones(3)))
    assert "custom_jvp_call" in program and "name=fast_sin" in program


def test_sine_cosine_of_half_turns():
    u = np.random.default_rng(1).uniform(-300, 300, 20_000).astype(np.float32)
    s, c = jax.jit(sine_cosine_pi)(u)
    np.testing.assert_allclose(s, np.sin(np.pi * u.astype(float)), atol=1e-5)
    np.testing.assert_allclose(c, np.cos(np.pi * u.astype(float)), atol=1e-5)


@pytest.mark.parametrize("convention", ["dws", "nfn"])
def test_siren_follows_its_convention(convention, key):
    """Against the formula of the public collections, written with NumPy."""
    arch = Architecture.of("siren", hidden=(7, 5), out_dim=3, convention=convention)
    network = create(arch, key)
    grid = coordinate_grid(4, 6, convention)
    # Pixel (row 1, column 4) in row order.
    row, column = -1 + 2 * 1 / 3, -1 + 2 * 4 / 5
    expected = (column, row) if convention == "dws" else (row, column)
    np.testing.assert_allclose(grid[1 * 6 + 4], expected, atol=1e-6)
    h = grid.astype(np.float64)
    layers = network.params["layers"]
    for i in range(3):
        h = h @ np.asarray(layers[i]["kernel"], float) + np.asarray(layers[i]["bias"])
        h = np.sin(30 * h) if i < 2 else h
    h = h + (0.5 if convention == "dws" else 0)
    np.testing.assert_allclose(network.apply_fn(network.params, grid), h, atol=1e-4)
    equations = jax.make_jaxpr(network.apply_fn)(network.params, grid).eqns
    names = {e.primitive.name for e in equations}
    assert "sin" in names  # known to discovery, unlike the fast sine


@pytest.mark.parametrize("convention", ["dws", "nfn"])
def test_siren_initialisation(convention, key):
    arch = Architecture.of("siren", hidden=(200, 200), convention=convention)
    layers = create(arch, key).params["layers"]
    middle = np.sqrt(6 / 200) / 30
    bounds = {"dws": (0.5, middle), "nfn": (2**-0.5, 200**-0.5)}[convention]
    for i, (weight, bias) in enumerate(zip((0.5, middle), bounds, strict=True)):
        kernel, shift = layers[i]["kernel"], layers[i]["bias"]
        assert 0.95 * weight < np.abs(kernel).max() <= weight
        assert 0.9 * bias < np.abs(shift).max() <= bias * 1.0001
        assert abs(np.mean(kernel)) < 0.1 * weight


@pytest.mark.parametrize("convention", ["dws", "nfn"])
def test_targets_and_intensities_are_inverse(convention):
    pixels = np.arange(256, dtype=np.uint8)
    targets = to_targets(pixels, convention)
    assert targets.min() == (0 if convention == "dws" else -1) and targets.max() == 1
    np.testing.assert_allclose(to_unit(targets, convention) * 255, pixels, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_architectures_run_and_round_trip(name, key):
    arch = Architecture.of(name)
    assert hash(arch) == hash(Architecture.from_json(arch.to_json()))
    assert Architecture.from_json(json.loads(json.dumps(arch.to_json()))) == arch
    network = create(arch, key)
    out = jax.jit(network.apply_fn)(network.params, *network.inputs)
    assert out.shape[0] == len(network.inputs[0]) and jnp.isfinite(out).all()
    spec = ParamSpec.of(network.params)
    assert any(p.endswith("/kernel") for p in spec.paths)
    again = spec.unflatten(spec.flatten(network.params))
    jax.tree.map(np.testing.assert_array_equal, again, network.params)
    same, other = create(arch, key).params, create(arch, jax.random.key(9)).params
    np.testing.assert_array_equal(spec.flatten(same), spec.flatten(network.params))
    assert not np.array_equal(spec.flatten(other), spec.flatten(same))


def test_small_cnn_has_the_size_of_the_zoo(key):
    network = create(Architecture.of("small_cnn"), key)
    assert ParamSpec.of(network.params).size == 4970


def test_fourier_features_are_constants_of_their_seed(key):
    x = jax.random.normal(key, (5, 2))

    def output(seed: int) -> jax.Array:
        network = create(Architecture.of("fourier_mlp", feature_seed=seed), key)
        return network.apply_fn(network.params, x)

    a, same, other = output(0), output(0), output(1)
    np.testing.assert_array_equal(a, same)
    assert not np.allclose(a, other)


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("sirn", {}, ("sirn", "siren")),
        ("siren", {"hiden": (8,)}, ("hiden", "hidden")),
        ("siren", {"w0": "thirty"}, ("w0", "thirty")),
        ("siren", {"hidden": 32}, ("hidden", "32")),
        ("siren", {"hidden": (8, -2)}, ("hidden", "-2")),
        ("siren", {"out_dim": 0}, ("out_dim", "0")),
        ("siren", {"convention": "dwz"}, ("dwz", "dws")),
        ("mlp", {"activation": "rel"}, ("rel", "relu")),
        ("small_cnn", {"activation": 3}, ("activation", "3")),
    ],
)
def test_invalid_architectures_are_explained(name, options, parts, key):
    with pytest.raises(MetanetError) as caught:
        create(Architecture.of(name, **options), key)
    message = str(caught.value)
    assert "\n" not in message and all(p in message for p in parts)


def test_dropout_zeroes_channels_of_images_and_rescales_the_others(key):
    x = jax.random.normal(key, (400, 3, 3, 20)) + 3.0
    mode = TrainMode(0, ("relu",), key, 0.25)
    with train_mode(mode):
        first, second = channel_dropout(x), channel_dropout(x)
    ratio = np.asarray(first / x)
    assert np.isclose(ratio, 0).any() and np.isclose(ratio, 1 / 0.75).any()
    assert (np.isclose(ratio, 0) | np.isclose(ratio, 1 / 0.75)).all()
    # All positions of a channel share a mask, images and calls do not.
    masks = ratio[:, 0, 0] > 0
    assert (masks[:, None, None] == (ratio > 0)).all()
    assert 0.72 < masks.mean() < 0.78
    assert len(np.unique(masks, axis=0)) > 300
    assert (np.asarray(second / x)[:, 0, 0] > 0).tolist() != masks.tolist()
    with train_mode(mode._replace(key=None)):
        np.testing.assert_array_equal(channel_dropout(x), x)
    np.testing.assert_array_equal(channel_dropout(x), x)


def test_a_train_mode_replaces_the_activation():
    x = jnp.linspace(-2.0, 2.0, 9)
    relu = activation("relu")
    np.testing.assert_array_equal(relu(x), jax.nn.relu(x))
    for index, expected in enumerate((jnp.tanh(x), jax.nn.gelu(x))):
        with train_mode(TrainMode(jnp.asarray(index), ("tanh", "gelu"))):
            np.testing.assert_allclose(relu(x), expected, atol=1e-6)
    np.testing.assert_array_equal(relu(x), jax.nn.relu(x))


@pytest.mark.parametrize("data", [{}, {"name": 3}, {"name": "mlp", "optoins": {}}])
def test_invalid_json_is_explained(data):
    with pytest.raises(MetanetError, match="name and options"):
        Architecture.from_json(data)


INRS = ("mlp", "siren", "fourier_mlp", "tanh_inr")


@pytest.mark.parametrize("name", [*FAMILIES, *INRS])
def test_symmetries_of_architectures_hold(name, key):
    """Discovered from shapes, checked on values: training skips the check."""
    architecture = Architecture.of(name) if name in INRS else None
    if architecture is None:
        shape = ImageShape(8, 1, 10)
        [(_, architecture)] = draw_architectures((name,), 1, shape, seed=1)
    shapes = abstract_network(architecture, 8)
    result = symmetry.discover(*shapes[:2], *shapes.inputs, check=False)
    network = create(architecture, key, 8)
    symmetry.check(result, *network[:2], *network.inputs)
    assert ParamSpec.of(shapes.params) == ParamSpec.of(network.params)
