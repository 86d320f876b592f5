"""Equivariant linear maps: as many as there are, and no others."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.symmetry_networks import NETWORKS, Case, array, deep_mlp, tanh

from metanet import symmetry as sym
from metanet.errors import MetanetError
from metanet.models.equivariant_maps import array_specs, number_of_maps, partitions
from metanet.models.functionals import EquivariantLinear


def convolutions() -> Case:
    """A convolution of kernel 2, channels, and a second one; 3! permutations."""
    params = {"a": array(2, 1, 3), "b": array(2, 3, 2)}

    def run(p, x):
        numbers = ("NWC", "WIO", "NWC")
        for name in "ab":
            x = jax.lax.conv_general_dilated(
                x, p[name], (1,), "VALID", dimension_numbers=numbers
            )
            x = tanh(x) if name == "a" else x
        return x.mean(1)

    return Case(run, params, (array(2, 4, 1),), 6, {})


CASES = {
    "mlp": NETWORKS["mlp"],
    "deep mlp": deep_mlp,
    "rnn": NETWORKS["rnn"],
    "heads": NETWORKS["fused, reshape"],
    "deep sets": NETWORKS["deep sets"],
    "experts": NETWORKS["experts"],
    "convolutions": convolutions,
}


def spaces(name):
    case = CASES[name]()
    found = sym.discover(case.apply_fn, case.params, *case.inputs, check=False)
    return case, found, array_specs(found)


def flat_arrays(specs, params):
    """Parameters as the arrays that maps read, ``[1, *axes, dense]``, and back."""
    leaves = jax.tree.leaves(params)
    out = []
    for spec in specs:
        x = leaves[spec.leaf][np.ix_(*(part.entries() for part in spec.parts))]
        x = x.reshape(spec.split).transpose(spec.order)
        out.append(x.reshape(1, *spec.shape, spec.dense))
    return out


def permutation_of(found, specs, params, element):
    """Returns the permutation of the entries of the flattened arrays."""
    sizes = [x.size for x in jax.tree.leaves(params)]
    numbers = iter(np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1]))
    numbered = jax.tree.map(
        lambda x: jnp.asarray(next(numbers).reshape(x.shape), jnp.float32), params
    )

    def join(params):
        arrays = [np.asarray(x).ravel() for x in flat_arrays(specs, params)]
        return np.concatenate(arrays).astype(int)

    before = join(numbered)
    after = join(sym.act(found, element, numbered))
    place = np.empty(len(before), int)
    place[before] = np.arange(len(before))
    return place[after]


def elements(found, count=16):
    only = {"signs": False, "scales": False, "phases": False}
    return [sym.random_element(found, jax.random.key(i), **only) for i in range(count)]


@pytest.mark.parametrize("name", CASES)
def test_dimension_is_that_of_all_commuting_matrices(name):
    case, found, specs = spaces(name)
    sizes = [int(np.prod(s.shape)) * s.dense for s in specs]
    total = sum(sizes)
    perms = [permutation_of(found, specs, case.params, e) for e in elements(found)]
    # A matrix M commutes with all permutations exactly if it is constant on the orbits
    # of pairs of entries; so many are the dimensions.
    pair = np.arange(total * total).reshape(total, total)
    label = pair.copy()
    while True:
        new = label
        for p in perms:
            new = np.minimum(new, new[np.ix_(p, p)])
            inverse = np.argsort(p)
            new = np.minimum(new, new[np.ix_(inverse, inverse)])
        if (new == label).all():
            break
        label = new
    expected = len(np.unique(label))
    if total <= 24:
        constraints = [
            np.kron(np.eye(total)[p], np.eye(total)[p]) - np.eye(total**2)
            for p in perms
        ]
        rank = np.linalg.matrix_rank(np.concatenate(constraints))
        assert total**2 - rank == expected

    layer = EquivariantLinear(specs, 1, 1, bias=False, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(layer)
    vector, unravel = jax.flatten_util.ravel_pytree(state)
    # Every entry alone, as a batch: the matrix of the map.
    basis, start = [], 0
    for spec, size in zip(specs, sizes, strict=True):
        unit = jnp.zeros((total, size)).at[start : start + size].set(jnp.eye(size))
        basis.append(unit.reshape(total, *spec.shape, spec.dense))
        start += size

    @jax.jit
    @jax.vmap
    def matrix(weights):
        out = nnx.merge(graphdef, unravel(weights))(basis)
        return jnp.concatenate([y.reshape(total, -1) for y in out], 1).ravel()

    maps = np.concatenate(
        [matrix(w) for w in np.array_split(np.eye(len(vector), dtype=np.float32), 8)]
    ).astype(np.float64)
    scale = np.abs(maps).max(1)
    assert (scale > 0).all()
    maps /= scale[:, None]
    assert np.linalg.matrix_rank(maps, tol=1e-4) == expected
    # All of them commute: they are constant on the orbits.
    for row in maps:
        low = np.full(total * total, np.inf)
        high = -low
        np.minimum.at(low, label.ravel(), row)
        np.maximum.at(high, label.ravel(), row)
        seen = np.isfinite(low)
        np.testing.assert_allclose(low[seen], high[seen], atol=1e-5)


def test_published_counts_for_mlps():
    """NFN (Zhou et al. 2023, theorem 3.1), NP: weights of a layer read their own by 4
    maps, those of neighbours by 2, others' by 1; biases likewise by 2, 2 and 1."""
    case = deep_mlp()
    found = sym.discover(case.apply_fn, case.params, *case.inputs, check=False)
    specs = array_specs(found, "permuted")
    paths = [found.leaves[s.leaf].path for s in specs]
    weights, biases = ([paths.index(f"{k}{i}") for i in range(4)] for k in "wb")
    for i, j in itertools.product(range(4), range(4)):
        near = {0: 4, 1: 2}.get(abs(i - j), 1)
        assert number_of_maps(specs, weights[i], weights[j]) == near
        assert number_of_maps(specs, biases[i], biases[j]) == (2 if i == j else 1)
        # The bias beside a weight's columns, and before the next weight's rows.
        shared = 2 if j in (i, i + 1) else 1
        assert number_of_maps(specs, biases[i], weights[j]) == shared
        assert number_of_maps(specs, weights[j], biases[i]) == shared


def test_partitions_are_counted_by_bell_numbers():
    assert [len(list(partitions(n))) for n in range(7)] == [1, 1, 2, 5, 15, 52, 203]


def test_arrays_of_many_equal_axes_are_refused():
    params = {"t": array(2, 2, 2, 2, 2, 2), "v": array(3, 2), "o": array(2, 2)}
    letters = "abcdef"

    def run(p, x):
        h = tanh(x @ p["v"])
        operands = ",".join(f"z{letter}" for letter in letters)
        y = jnp.einsum(f"{letters},{operands}->z", p["t"], *[h] * 6)
        return y[:, None] + h @ p["o"]

    found = sym.discover(run, params, array(5, 3), check=False)
    with pytest.raises(MetanetError, match="6 permuted axes"):
        EquivariantLinear(array_specs(found), 1, 1, rngs=nnx.Rngs(0))
