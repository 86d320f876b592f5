"""Augmentations: which preserve the function, which do not, and by how much."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metanet import symmetry as sym
from metanet.augment import AugmentConfig, AugmentFn, build_augmentation
from metanet.errors import MetanetError
from metanet.networks import Architecture, Params, create

NETWORKS = {
    "siren": Architecture.of("siren", hidden=(6,), w0=5.0),
    "mlp": Architecture.of("mlp", hidden=(6,)),
}
PARTS = {
    "siren": ("permutation", "sign", "phase"),
    "mlp": ("permutation", "scale"),
}
CASES = [
    ("siren", ("permutation",)),
    ("siren", ("sign",)),
    ("siren", ("phase",)),
    ("siren", PARTS["siren"]),
    ("mlp", ("scale",)),
    ("mlp", PARTS["mlp"]),
]


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
        self.params = jax.tree.map(
            lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape),
            self.network.params,
        )

    def output(self, params: Params) -> jax.Array:
        example = self.network.inputs[0]
        points = jax.random.uniform(jax.random.key(2), (20, *example.shape[1:]))
        return self.network.apply_fn(params, 2 * points - 1)

    def augmentation(self, **options: dict[str, object]) -> AugmentFn:
        augment = build_augmentation(AugmentConfig.from_json(options), self.symmetry)
        assert augment is not None
        return augment


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {name: Case(name) for name in NETWORKS}


def largest_change(a: Params, b: Params) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(jnp.abs(x - y).max()) for x, y in pairs)


@pytest.mark.parametrize(("name", "parts"), CASES)
def test_symmetries_preserve_the_function(cases, name, parts):
    case = cases[name]
    augment = case.augmentation(symmetry=dict.fromkeys(parts, True))
    keys = jax.random.split(jax.random.key(3), 8)
    augment_batch = jax.jit(jax.vmap(augment, (0, None)))
    batch = augment_batch(keys, case.params)
    outputs, expected = jax.vmap(case.output)(batch), case.output(case.params)
    assert jnp.abs(outputs - expected[None]).max() < 2e-5
    changes = [
        largest_change(jax.tree.map(lambda x, i=i: x[i], batch), case.params)
        for i in range(8)
    ]
    # Every network of a batch draws an element of its own.
    assert sum(c > 0.1 for c in changes) >= 7 and len(set(changes)) > 1
    again = augment_batch(keys[::-1], case.params)
    assert largest_change(again, jax.tree.map(lambda x: x[::-1], batch)) == 0


@pytest.mark.parametrize("options", [{}, {"symmetry": {}, "noise": {"level": 0.0}}])
def test_nothing_is_compiled_when_all_is_off(cases, options):
    config = AugmentConfig.from_json(options)
    assert build_augmentation(config, cases["siren"].symmetry) is None


@pytest.mark.parametrize(
    ("name", "part"), [("siren", "scale"), ("mlp", "sign"), ("mlp", "phase")]
)
def test_symmetries_that_a_network_lacks_change_nothing(cases, name, part):
    case = cases[name]
    augment = case.augmentation(symmetry={part: True})
    assert largest_change(augment(jax.random.key(0), case.params), case.params) == 0


def test_noise_is_relative_to_each_array(cases):
    augment = cases["mlp"].augmentation(noise={"level": 0.1})
    params = {"a": jnp.linspace(-1, 1, 4000).reshape(40, 100)}
    params["b"] = 1000 * params["a"]
    noisy = augment(jax.random.key(0), params)
    noise = {k: np.asarray(noisy[k] - params[k]) for k in params}
    for name, values in params.items():
        ratio = noise[name].std() / np.asarray(values).std()
        assert ratio == pytest.approx(0.1, rel=0.05)
        assert abs(noise[name].mean()) < 0.01 * np.asarray(values).std()
    correlation = np.corrcoef(noise["a"].ravel(), noise["b"].ravel())[0, 1]
    assert abs(correlation) < 0.1


def test_augmentations_apply_in_order_with_keys_of_their_own(cases):
    """Noise after a permutation is that noise on the permuted network."""
    case, key = cases["siren"], jax.random.key(4)
    both = case.augmentation(symmetry={"permutation": True}, noise={"level": 0.1})
    permute = case.augmentation(symmetry={"permutation": True})
    noise_only = case.augmentation(symmetry={}, noise={"level": 0.1})
    expected = noise_only(key, permute(key, case.params))
    assert largest_change(both(key, case.params), expected) == 0
    assert largest_change(noise_only(key, case.params), case.params) > 0.01
    # A config does not keep the order of its sections; noise comes last all the same.
    options = {"noise": {"level": 0.1}, "symmetry": {"permutation": True}}
    reversed_sections = case.augmentation(**options)
    assert largest_change(reversed_sections(key, case.params), expected) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nois": {}}, "'nois'.*\"noise\""),
        ({"noise": {"levl": 1.0}}, 'noise.levl: unknown key.*"level"'),
        ({"noise": {"level": -1.0}}, "noise.level: must be at least 0"),
        ({"noise": 0.1}, "noise: expected a section, got 0.1"),
    ],
)
def test_wrong_options_are_explained(options, message):
    with pytest.raises(MetanetError, match=message):
        AugmentConfig.from_json(options)


def test_options_survive_a_round_trip():
    options = {"noise": {"level": 0.1}, "symmetry": {"permutation": True}}
    config = AugmentConfig.from_json(options)
    assert list(config.to_json()) == ["symmetry", "noise"]
    assert AugmentConfig.from_json(config.to_json()) == config
