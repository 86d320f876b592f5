"""Every parameter set has the representative of its orbit, and group elements compose."""

from __future__ import annotations

import functools
import itertools
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.metanetworks import build, graphs_of, model_inputs, scale_equivariant
from helpers.symmetry_families import FAMILIES
from helpers.symmetry_libraries import LINEN
from helpers.symmetry_networks import NETWORKS, Case, array, case, relu, tanh

from metanet import symmetry as sym
from metanet.symmetry import canonicalization

X = array(5, 3, seed=9)


def sine(x: jax.Array) -> jax.Array:
    return jnp.sin(2.0 * x)


def derivative(p, x):
    """The derivative of a sine network with respect to its inputs."""

    def total(x):
        h = sine(x @ p["w"] + p["b"][None])
        return (sine(h @ p["u"] + p["c"][None]) @ p["v"]).sum()

    return jax.grad(total)(x)


def complex_layer() -> Case:
    shapes = {"w": (3, 4), "v": (4, 2)}
    params = {
        name: jax.lax.complex(array(*shape), array(*shape, seed=1))
        for name, shape in shapes.items()
    }

    def apply_fn(p, x):
        return (jax.lax.complex(x, x) @ p["w"] @ p["v"]).real

    return Case(apply_fn, params, (X,), 24, {"positive": 1, "sign": 1})


# Phases whose sign later layers see, and groups that act along several axes of one array.
COUPLED = {
    "rectified sine": lambda: case(
        lambda p, x: relu(sine(x @ p["w"] + p["b"][None])) @ p["v"],
        24,
        {"phase": 1},
        w=(3, 4),
        b=(4,),
        v=(4, 2),
    ),
    "sine of positive values": lambda: case(
        lambda p, x: relu(sine(jnp.exp(x @ p["w"]) + p["b"][None])) @ p["v"],
        24,
        {"phase": 1},
        w=(3, 4),
        b=(4,),
        v=(4, 2),
    ),
    "product of sines": lambda: case(
        lambda p, x: relu(sine(x + p["a"][None]) * sine(x + p["b"][None])) @ p["v"],
        1,
        {"phase": 2},
        a=(3,),
        b=(3,),
        v=(3, 2),
    ),
    "product of sine layers": lambda: case(
        lambda p, x: (
            relu(sine(x @ p["w"] + p["a"][None]) * sine(x @ p["u"] + p["b"][None]))
            @ p["v"]
        ),
        24,
        {"sign": 1, "phase": 2},
        w=(3, 4),
        u=(3, 4),
        a=(4,),
        b=(4,),
        v=(4, 2),
    ),
    "derivative of sines": lambda: case(
        derivative,
        24 * 24,
        {"sign": 2, "phase": 2},
        w=(3, 4),
        b=(4,),
        u=(4, 4),
        c=(4,),
        v=(4, 1),
    ),
    "scaled kernel": lambda: case(
        lambda p, x: jnp.einsum("bik,oik->bo", x, p["w"] * p["s"][..., None]),
        1,
        {"positive": 2, "sign": 2},
        (5, 3, 4),
        w=(2, 3, 4),
        s=(2, 3),
    ),
    "scaled hidden kernel": lambda: case(
        lambda p, x: (
            relu(jnp.einsum("bik,oik->bo", x, p["w"] * p["s"][..., None])) @ p["v"]
        ),
        24,
        {"positive": 3, "sign": 2},
        (5, 3, 4),
        w=(4, 3, 4),
        s=(4, 3),
        v=(4, 2),
    ),
    "complex layer": complex_layer,
    "matrix that nothing reads": lambda: case(
        lambda p, x: tanh(x @ p["w"]) @ p["o"], 0, {}, w=(3, 4), o=(4, 2), u=(4, 5)
    ),
}
ALL = {
    **{f"{name} (jnp)": c for name, c in {**NETWORKS, **FAMILIES}.items()},
    **{f"{name} (Linen)": c for name, c in LINEN.items()},
    **COUPLED,
}


@cache
def discovered(name: str) -> tuple[Case, sym.Symmetry]:
    network = ALL[name]()
    symmetry = sym.discover(
        network.apply_fn, network.params, *network.inputs, check=False
    )
    return network, symmetry


@pytest.mark.parametrize("name", COUPLED)
def test_finds_the_group_on_paper(name):
    network, symmetry = discovered(name)
    sym.check(symmetry, network.apply_fn, network.params, *network.inputs)
    if network.scaling_groups:
        kinds = [g.kind for g in symmetry.scaling_groups]
        assert {k: kinds.count(k) for k in kinds} == network.scaling_groups
        assert symmetry.order == network.order


def elements(symmetry: sym.Symmetry, count: int) -> sym.Element:
    """Returns the identity and random elements, stacked."""
    keys = jax.random.split(jax.random.key(3), count)
    drawn = [sym.random_element(symmetry, key) for key in keys]
    return jax.tree.map(
        lambda *x: jnp.stack([jnp.asarray(y, x[-1].dtype) for y in x]),
        sym.identity(symmetry),
        *drawn,
    )


def assert_near(actual: Any, expected: Any, tolerance: float) -> None:
    """Compares all arrays, relative to the largest entry of each."""
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        if y.size:
            scale = np.abs(y).max()
            np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * scale + 1e-30)


QUICK = [*COUPLED, *list(ALL)[::4]]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in ALL],
)
def test_an_orbit_has_one_representative(name):
    network, symmetry = discovered(name)
    form = assert_one_representative(symmetry, network.params)
    # It is a member of the orbit: the function does not change.
    two = jax.tree.map(lambda *x: jnp.stack(x), network.params, form)
    run = jax.jit(jax.vmap(lambda p: network.apply_fn(p, *network.inputs)))
    outputs = jax.tree.leaves(run(two))[0]
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-3, atol=1e-5)


def assert_one_representative(symmetry: sym.Symmetry, params: Any) -> Any:
    """Compares the representatives of equal parameters; returns that of the given ones."""
    act = jax.jit(jax.vmap(functools.partial(sym.act, symmetry), (0, 0)))
    canonicalize = jax.jit(jax.vmap(functools.partial(sym.canonicalize, symmetry)))
    element = elements(symmetry, 3)
    forms = canonicalize(
        act(element, jax.tree.map(lambda x: jnp.stack([x] * 4), params))
    )
    assert_near(canonicalize(forms), forms, 2e-6)
    # Permutations move the representative along.
    factors = jax.tree.map(lambda x: x[:1].repeat(4, 0), element.factors)
    first = jax.tree.map(lambda x: x[:1].repeat(4, 0), forms)
    permuted = act(element._replace(factors=factors), first)
    assert_near(forms, permuted, 1e-5)
    return jax.tree.map(lambda x: x[0], forms)


@pytest.mark.parametrize(
    "name", ["mlp (jnp)", "scaled hidden kernel", "query-key norm (jnp)"]
)
def test_zeros_do_not_change_the_representative(name):
    """Biases are 0, as at the start of training, and some weights, as after pruning."""
    network, symmetry = discovered(name)
    rng = np.random.default_rng(0)

    def pruned(x: jax.Array) -> jax.Array:
        return x * (rng.uniform(size=x.shape) > 0.2)

    params = {
        name: jnp.zeros_like(x) if name in ("b1", "b2") else pruned(x)
        for name, x in network.params.items()
    }
    assert_one_representative(symmetry, params)


# Orbits by hand: equivalent parameters, which no element of the library made.
B, K = jnp.array([0.3, -0.6, 0.5, -0.2]), np.pi / 2  # a half turn of sin(2 (h + b))


def equal_parameters() -> dict[str, list[dict[str, Any]]]:
    w, u, v = array(3, 4), array(3, 4, seed=1), array(4, 2)
    a = array(4, seed=4)
    kernel, scale = array(2, 3, 4), array(2, 3, seed=1)
    rows, columns = jnp.array([2.0, -0.5]), jnp.array([-3.0, 0.2, 1.5])
    factors = rows[:, None] * columns[None]
    heads = {n: array(4, 6, seed=i) for i, n in enumerate("qkv")}
    gains = {"gq": jnp.array([1.2, -0.7, 0.4]), "gk": jnp.array([0.8, 0.5, -1.1])}
    normed = {**heads, **gains, "o": array(6, 2, seed=7)}
    per_head = jnp.repeat(jnp.array([1.0, -1.0]), 3)[None]
    channels = jnp.array([-1.0, 1.0, -1.0])
    return {
        "rectified sine": [
            {"w": w, "b": B, "v": v},
            {"w": w, "b": B + 2 * K, "v": v},
            {"w": -w, "b": K - B, "v": v},
            {"w": -w, "b": -3 * K - B, "v": v},
        ],
        "sine of positive values": [
            {"w": w, "b": B, "v": v},
            {"w": w, "b": B - 4 * K, "v": v},
        ],
        "product of sine layers": [
            {"w": w, "a": a, "u": u, "b": B, "v": v},
            {"w": -w, "a": -a, "u": -u, "b": -B, "v": v},
            {"w": w, "a": a + K, "u": u, "b": B - K, "v": v},
            {"w": w, "a": a - K, "u": -u, "b": 2 * K - B, "v": v},
        ],
        "scaled kernel": [
            {"w": kernel, "s": scale},
            {"w": kernel * factors[..., None], "s": scale / factors},
        ],
        "query-key norm (jnp)": [
            normed,
            {**normed, "q": heads["q"] * per_head, "k": heads["k"] * per_head},
            {
                **normed,
                "k": heads["k"] * jnp.tile(channels, 2)[None],
                "gk": gains["gk"] * channels,
            },
            {**normed, "gq": gains["gq"] * channels, "gk": gains["gk"] * channels},
        ],
    }


@pytest.mark.parametrize("name", equal_parameters())
def test_equal_parameters_by_hand_have_one_representative(name):
    network, symmetry = discovered(name)
    canonicalize = jax.jit(functools.partial(sym.canonicalize, symmetry))
    first, *others = equal_parameters()[name]
    outputs = network.apply_fn(first, *network.inputs)
    for other in others:
        same = network.apply_fn(other, *network.inputs)
        np.testing.assert_allclose(same, outputs, atol=1e-5)
        assert_near(canonicalize(other), canonicalize(first), 1e-5)


@pytest.mark.parametrize("empty", [False, True])
def test_scales_along_rows_and_columns_balance(empty):
    """The norms of a factor's slices have the geometric mean 1, zeros left out."""
    network, symmetry = discovered("scaled kernel")
    params = network.params
    if empty:
        params = {"w": params["w"].at[0, 1].set(0), "s": params["s"].at[1, 2].set(0)}
    form = jax.jit(functools.partial(sym.canonicalize, symmetry))(params)
    kernel, scale = jnp.linalg.norm(form["w"], axis=2), jnp.abs(form["s"])
    logs = [jnp.where(x > 0, jnp.log(x), 0.0) for x in (kernel, scale)]
    for axis in (0, 1):
        np.testing.assert_allclose(*(x.sum(axis) for x in logs), atol=2e-6)


@pytest.mark.parametrize(
    "shape", [(3, 4), (2, 3, 2), (4, 4)], ids=["matrix", "cube", "symmetric"]
)
def test_signs_of_the_largest_values_are_positive(shape):
    """All signs are tried: the signs of the values, by size, come first in the alphabet."""
    rng = np.random.default_rng(0)
    for zeros in (0, 0, 4):
        values = rng.normal(size=shape).astype(np.float32)
        if shape == (4, 4):  # both axes have the signs of one index
            numbers = np.broadcast_to(np.arange(4), (2, 4))
        else:
            starts = np.cumsum([0, *shape[:-1]])
            numbers = [a + np.arange(n) for a, n in zip(starts, shape, strict=True)]
        values.flat[:zeros] = 0
        grid = np.meshgrid(*numbers, indexing="ij")
        members = np.stack([g.ravel() for g in grid], 1)
        count = int(members.max()) + 1
        solution = canonicalization._solve_signs(
            jnp.asarray(values.ravel()), members, count
        )

        def signed(signs: np.ndarray, values=values, members=members) -> np.ndarray:
            changed = values.ravel() * (1 - 2 * signs)[members].prod(1)
            return changed[np.argsort(-np.abs(values.ravel()))]

        best = max(
            (signed(np.array(s)) for s in itertools.product((0, 1), repeat=count)),
            key=lambda x: tuple(x > 0),
        )
        np.testing.assert_array_equal(signed(np.asarray(solution, int)), best)


SINES = ("sine rnn (jnp)", "implicit function (jnp)", *list(COUPLED)[:5])


@pytest.mark.parametrize("name", SINES)
def test_group_laws_with_phases(name):
    network, symmetry = discovered(name)
    act = jax.jit(functools.partial(sym.act, symmetry))
    compose = jax.jit(functools.partial(sym.compose, symmetry))
    invert = jax.jit(functools.partial(sym.invert, symmetry))
    for seed in range(4):
        a, b = (
            sym.random_element(symmetry, jax.random.key(2 * seed + i)) for i in (0, 1)
        )
        moved = act(a, act(b, network.params))
        assert_near(act(compose(a, b), network.params), moved, 1e-5)
        assert_near(act(invert(a), act(a, network.params)), network.params, 1e-5)
        for product in (compose(invert(a), a), compose(a, invert(a))):
            assert_near(product, sym.identity(symmetry), 1e-6)


@pytest.mark.parametrize(
    "name", ["scaled kernel", "product of sine layers", "query-key norm (jnp)"]
)
def test_representatives_are_differentiable(name):
    """A function of the representative does not change along the orbit, and does else."""
    network, symmetry = discovered(name)
    directions = jax.tree.map(lambda x: array(*x.shape, seed=3), network.params)

    @jax.jit
    def loss(params: Any) -> jax.Array:
        form = sym.canonicalize(symmetry, params)
        products = jax.tree.map(lambda x, y: jnp.sin(x * y).sum(), form, directions)
        return sum(jax.tree.leaves(products))

    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jnp.asarray(x, np.float64), network.params)
        gradient = jax.jit(jax.grad(loss))(params)
        step = 1e-5
        for seed in range(3):
            direction = jax.tree.map(lambda x, s=seed: array(*x.shape, seed=s), params)
            along = jax.tree.map(jnp.vdot, gradient, direction)
            ends = [
                jax.tree.map(lambda x, d, s=s: x + s * d, params, direction)
                for s in (step, -step)
            ]
            slope = (loss(ends[0]) - loss(ends[1])) / (2 * step)
            np.testing.assert_allclose(sum(jax.tree.leaves(along)), slope, rtol=1e-5)
        element = sym.identity(symmetry)
        for i, scaling_group in enumerate(symmetry.scaling_groups):
            if scaling_group.kind == "positive":
                size = element.factors[i].shape

                def scaled(logs: jax.Array, i: int = i) -> jax.Array:
                    factors = list(element.factors)
                    factors[i] = jnp.exp(logs)
                    moved = element._replace(factors=tuple(factors))
                    return loss(sym.act(symmetry, moved, params))

                slope = jax.jit(jax.grad(scaled))(jnp.zeros(size))
                np.testing.assert_allclose(slope, 0, atol=1e-10)


METANETWORKS = [
    ("scale_gmn_b", "rectified sine"),
    ("scale_gmn_b", "scaled hidden kernel"),
    ("scale_product_gmn", "product of sine layers"),
    *(
        pytest.param(*pair, marks=pytest.mark.slow)
        for pair in (
            ("scale_gmn_b", "derivative of sines"),
            ("scale_product_gmn", "query-key norm (jnp)"),
            ("product_gmn", "derivative of sines"),
            ("product_gmn", "query-key norm (jnp)"),
        )
    ),
]


@pytest.mark.parametrize(("model", "name"), METANETWORKS)
def test_metanetworks_are_invariant(model, name):
    case = model_inputs(ALL[name]())
    net = build(model, [case])
    graphs = graphs_of(case, scale_equivariant(model))

    def act(key: jax.Array, params: Any) -> Any:
        element = sym.random_element(case.symmetry, key)
        return sym.act(case.symmetry, element, params)

    @nnx.jit
    def run(net):
        moved = jax.vmap(act)(jax.random.split(jax.random.key(5), 3), case.params)
        both = jax.tree.map(lambda *x: jnp.concatenate(x), case.params, moved)
        batch = graphs(both)
        net.set_statistics(batch)
        return net(batch).pooled

    before, after = np.split(np.asarray(run(net)), 2)
    scale = np.abs(before).max()
    assert np.abs(before - after).max() < 1e-5 * scale
    assert np.abs(before[0] - before[1]).max() > 1e-3 * scale
