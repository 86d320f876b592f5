"""Augmentations: what preserves the function, what does not, and by how much."""

from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metanet import symmetry as sym
from metanet.augment import AugmentConfig, build_augmentation
from metanet.networks import Architecture, create

NETWORKS = {
    "siren": Architecture.of("siren", hidden=(6,), w0=5.0),
    "mlp": Architecture.of("mlp", hidden=(6,)),
}
MOVES = {
    "siren": ("permutation", "sign", "phase"),
    "mlp": ("permutation", "scale"),
}
CASES = [("siren", "permutation"), ("siren", "sign"), ("siren", "phase"),
         ("siren", "all"), ("mlp", "scale"), ("mlp", "all")]  # fmt: skip


class Case:
    """A network with random biases, and its symmetry."""

    def __init__(self, name: str):
        self.network = create(NETWORKS[name], jax.random.key(0))
        self.symmetry = sym.discover(
            self.network.apply_fn,
            self.network.params,
            *self.network.inputs,
            check=False,
        )
        noisy = lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape)
        self.params = jax.tree.map(noisy, self.network.params)

    def output(self, params):
        example = self.network.inputs[0]
        points = jax.random.uniform(jax.random.key(2), (20, *example.shape[1:]))
        return self.network.apply_fn(params, 2 * points - 1)


@pytest.fixture(scope="module")
def cases():
    return {name: Case(name) for name in NETWORKS}


def moved(a, b) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(jnp.abs(x - y).max()) for x, y in pairs)


@pytest.mark.parametrize(("name", "move"), CASES)
def test_symmetries_preserve_the_function(cases, name, move):
    case = cases[name]
    on = MOVES[name] if move == "all" else (move,)
    config = AugmentConfig(**dict.fromkeys(on, True))
    augment = build_augmentation(config, case.symmetry)
    assert augment is not None
    keys = jax.random.split(jax.random.key(3), 8)
    run = jax.jit(jax.vmap(augment, (0, None)))
    batch = run(keys, case.params)
    outputs, expected = jax.vmap(case.output)(batch), case.output(case.params)
    assert jnp.abs(outputs - expected[None]).max() < 2e-5
    changes = [
        moved(jax.tree.map(lambda x, i=i: x[i], batch), case.params) for i in range(8)
    ]
    # Every network of a batch draws its own element.
    assert sum(c > 0.1 for c in changes) >= 7 and len(set(changes)) > 1
    again = run(keys[::-1], case.params)
    assert moved(again, jax.tree.map(lambda x: x[::-1], batch)) == 0


def test_what_is_off_does_nothing(cases):
    off = AugmentConfig()
    assert build_augmentation(off, cases["siren"].symmetry) is None
    # Moves that a network does not have leave it alone.
    for name, move in (("siren", "scale"), ("mlp", "sign"), ("mlp", "phase")):
        case = cases[name]
        augment = build_augmentation(replace(off, **{move: True}), case.symmetry)
        assert augment is not None
        assert moved(augment(jax.random.key(0), case.params), case.params) == 0
    assert all(f.default in (False, 0.0) for f in fields(AugmentConfig))


def test_noise_is_relative_to_each_array(cases):
    case = cases["mlp"]
    scaled = {"a": jnp.linspace(-1, 1, 4000).reshape(40, 100)}
    scaled["b"] = 1000 * scaled["a"]
    augment = build_augmentation(AugmentConfig(noise=0.1), case.symmetry)
    assert augment is not None
    noisy = augment(jax.random.key(0), scaled)
    noise = {k: np.asarray(noisy[k] - scaled[k]) for k in scaled}
    for name, values in scaled.items():
        ratio = noise[name].std() / np.asarray(values).std()
        assert ratio == pytest.approx(0.1, rel=0.05)
        assert abs(noise[name].mean()) < 0.01 * np.asarray(values).std()
    correlation = np.corrcoef(noise["a"].ravel(), noise["b"].ravel())[0, 1]
    assert abs(correlation) < 0.1
