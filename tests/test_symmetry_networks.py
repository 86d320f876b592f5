"""Every kind of network has the group derived on paper, and no false symmetry."""

from __future__ import annotations

from functools import cache
from math import factorial as fac

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.expanded_graphs import expand
from helpers.symmetry_families import FAMILIES
from helpers.symmetry_networks import NETWORKS as FIRST
from helpers.symmetry_networks import Case, array, case, relu, tanh

from metanet import symmetry as sym
from metanet.graphs import build_topology

X = array(5, 3, seed=9)
NETWORKS = {**FIRST, **FAMILIES}


@cache
def discovered(name: str) -> tuple[Case, sym.Symmetry]:
    network = NETWORKS[name]()
    symmetry = sym.discover(
        network.apply_fn, network.params, *network.inputs, check=False
    )
    return network, symmetry


@pytest.mark.parametrize("name", NETWORKS)
def test_finds_the_group_on_paper(name):
    network, symmetry = discovered(name)
    assert symmetry.order == network.order
    kinds = [g.kind for g in symmetry.scaling_groups]
    assert {k: kinds.count(k) for k in kinds} == network.scaling_groups
    sym.check(symmetry, network.apply_fn, network.params, *network.inputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_automorphisms_of_the_graph_are_the_group(name):
    pytest.importorskip("pynauty")
    network, symmetry = discovered(name)
    graph = expand(build_topology(symmetry))
    assert graph.automorphisms() == pytest.approx(network.order, rel=1e-6)


def shifted(h):
    """Each row plus its successor."""
    return h + h[np.array([1, 2, 3, 4, 0])]


def windows(h):
    pooled = jax.lax.reduce_window(
        h, -jnp.inf, jax.lax.max, (3, 1), (1, 1), ((1, 1), (0, 0))
    )
    return h + pooled


# One index in two roles: an axis is mixed with itself. A permutation of the columns of
# ``p`` that differs from row to row, which each single array would allow, is false.
TWO_ROLES = {
    "reversed": lambda p, x: (p["p"] + p["p"][::-1]) ** 2 @ p["o"],
    "shifted": lambda p, x: shifted(p["p"]) ** 2 @ p["o"],
    "running sum": lambda p, x: tanh(p["p"] + jnp.cumsum(p["p"], 0)) @ p["o"],
    "sorted": lambda p, x: tanh(p["p"] * jnp.sort(p["p"], 0)) @ p["o"],
    "window": lambda p, x: windows(p["p"]) @ p["o"],
    "similarity": lambda p, x: relu(x @ x.T @ p["p"]) @ p["o"],
    "attended": lambda p, x: relu(jax.nn.softmax(x @ x.T) @ p["p"] + p["p"]) @ p["o"],
    "dynamic": lambda p, x: (
        (p["p"] + jax.lax.dynamic_slice(p["p"], (jnp.int32(x[0, 0]), 0), (1, 6))) ** 2
        @ p["o"]
    ),
    "state": lambda p, x: (
        jax.lax.scan(lambda c, row: (tanh(c + row), None), jnp.zeros(6), p["p"])[0][
            None
        ]
        @ p["o"]
    ),
}


@pytest.mark.parametrize("name", TWO_ROLES)
def test_an_index_in_two_roles_is_no_parent(name):
    network = case(TWO_ROLES[name], fac(6), {}, p=(5, 6), o=(6, 2))
    symmetry = sym.discover(network.apply_fn, network.params, *network.inputs)
    assert symmetry.order == network.order


# An index that depends on the row in every array may be permuted row by row.
def test_an_index_beside_everywhere_is_a_parent():
    network = case(
        lambda p, x: (relu(p["p"]) * p["o"]).sum(1), 0, {}, p=(5, 6), o=(5, 6)
    )
    symmetry = sym.discover(network.apply_fn, network.params, *network.inputs)
    assert symmetry.order == fac(6) ** 5


def quadratic(p, x):
    h = tanh(x @ p["w"])
    return jnp.einsum("bi,ij,bj->b", h, p["o"], h)


def doubled(p, x):
    h = tanh(x @ p["w"])
    return h.reshape(5, 2, 2).transpose(0, 2, 1).reshape(5, 4) * h @ p["o"]


def joined(p, x):
    h = jnp.concatenate([tanh(x @ p["a"]), tanh(x @ p["b"])], 1)
    return h.reshape(5, 2, 3).sum(1) @ p["o"]


PROGRAMS = {
    "outer": (
        lambda p, x: (
            jnp.einsum("bi,bj->bij", tanh(x @ p["w"]), tanh(x @ p["v"])).reshape(5, 12)
            @ p["o"]
        ),
        dict(w=(3, 3), v=(3, 4), o=(12, 2)),
        6 * 24,
    ),
    "quadratic": (quadratic, dict(w=(3, 4), o=(4, 4)), 24),
    "slope": (
        lambda p, x: (
            (lambda h: jnp.where(h > 0, h, p["s"][None] * h))(x @ p["w"]) @ p["o"]
        ),
        dict(w=(3, 4), s=(4,), o=(4, 2)),
        24,
    ),
    "size-1 parameter": (
        lambda p, x: tanh(p["k"] * (x @ p["w"])[:, :, None]).sum(1) @ p["o"],
        dict(w=(3, 4), k=(1, 1, 5), o=(5, 2)),
        24 * 120,
    ),
    "size-1 unit": (
        lambda p, x: tanh(x @ p["w"] + p["b"][None]) @ p["o"],
        dict(w=(3, 1), b=(4,), o=(4, 2)),
        24,
    ),
    "autoencoder": (lambda p, x: tanh(x @ p["w"]) @ p["w"].T, dict(w=(3, 4)), 24),
    "generated": (
        lambda p, x: tanh(x @ jnp.einsum("k,kij->ij", p["z"], p["h"])) @ p["o"],
        dict(z=(2,), h=(2, 3, 4), o=(4, 2)),
        24 * 2,
    ),
    "gram": (lambda p, x: (lambda h: h @ h.T)(relu(x @ p["w"])), dict(w=(3, 4)), 24),
    "linear": (lambda p, x: (x @ p["w"]) @ p["o"], dict(w=(3, 4), o=(4, 2)), 24),
    "summed first": (
        lambda p, x: jnp.einsum("bi,ijk->bj", x, p["w"]) @ p["o"],
        dict(w=(3, 4, 5), o=(4, 2)),
        24 * 120**12,
    ),
    "columns": (
        lambda p, x: (
            jnp.concatenate([tanh(x @ p["a"]), tanh(x @ p["b"])], 1)
            * tanh(x @ p["c"])
            @ p["o"]
        ),
        dict(a=(3, 2), b=(3, 4), c=(3, 6), o=(6, 2)),
        2 * 24,
    ),
    "chosen unit": (
        lambda p, x: jax.nn.one_hot(jnp.argmax(x @ p["w"], -1), 4) @ p["o"],
        dict(w=(3, 4), o=(4, 2)),
        24,
    ),
    "chosen row": (
        lambda p, x: p["o"][jnp.argmax(x @ p["w"], -1)],
        dict(w=(3, 4), o=(4, 2)),
        24,
    ),
    # Only part of the group is discovered; the rest is pinned.
    "index swapped": (doubled, dict(w=(3, 4), o=(4, 2)), 2),
    "cut across": (joined, dict(a=(3, 2), b=(3, 4), o=(3, 2)), 2),  # of 4
    "chosen rectified": (
        lambda p, x: jax.nn.one_hot(jnp.argmax(relu(x @ p["w"] - 9), -1), 4) @ p["o"],
        dict(w=(3, 4), o=(4, 2)),
        1,
    ),
    "counted on": (
        lambda p, x: jax.nn.one_hot(jnp.argmax(x @ p["w"], -1) + 1, 4) @ p["o"],
        dict(w=(3, 4), o=(4, 2)),
        1,
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_have_the_stated_order(name):
    function, shapes, order = PROGRAMS[name]
    network = case(function, order, {}, **shapes)
    symmetry = sym.discover(network.apply_fn, network.params, *network.inputs)
    assert symmetry.order == order


@pytest.mark.parametrize("name", ["mlp", "lstm", "grouped query", "u-net"])
def test_no_leaf_can_be_left_behind(name):
    """An element that does not act on one of its leaves changes the outputs."""
    network, symmetry = discovered(name)
    element = sym.random_element(symmetry, jax.random.key(1), phases=False)
    run = jax.jit(network.apply_fn)
    leaves, treedef = jax.tree.flatten(network.params)
    moved = jax.tree.leaves(sym.act(symmetry, element, network.params))
    reference = run(network.params, *network.inputs)
    changed = 0
    for i, leaf in enumerate(leaves):
        if np.array_equal(moved[i], leaf):
            continue
        changed += 1
        broken = jax.tree.unflatten(treedef, [*moved[:i], leaf, *moved[i + 1 :]])
        outputs = run(broken, *network.inputs)
        assert float(jnp.abs(outputs - reference).max()) > 1e-4, symmetry.leaves[i].path
    assert changed > 2


def test_activations_are_those_that_all_readers_see():
    def apply_fn(p, x):
        h = x @ p["a"] + p["c"][None]
        h = h + tanh(relu(h) @ p["b"])
        return relu(h) @ p["o"]

    network = case(apply_fn, 24, {}, a=(3, 4), c=(4,), b=(4, 4), o=(4, 2))
    p = network.params
    symmetry = sym.discover(apply_fn, p, X, check=False)
    x = array(7, 3, seed=4)
    values = sym.compute_activations(apply_fn, symmetry, p, x)
    h = x @ p["a"] + p["c"][None]
    branch = tanh(relu(h) @ p["b"])
    # Read without and with relu: the value itself. Read once: as its reader reads it.
    for expected in (
        x @ p["a"],
        h,
        branch,
        relu(h + branch),
        relu(h + branch) @ p["o"],
    ):
        near = [v for v in values if v is not None and v.shape == expected.T.shape]
        assert any(np.allclose(v, expected.T, atol=1e-5) for v in near)
    assert len(values) == len(symmetry.activations)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_node_has_activations(name):
    network, symmetry = discovered(name)
    values = sym.compute_activations(
        network.apply_fn, symmetry, network.params, *network.inputs
    )
    for activation, value in zip(symmetry.activations, values, strict=True):
        sizes = tuple(symmetry.indices[a].size for a in activation.units)
        assert (value is None) == (activation.kind == "input")
        assert value is None or value.shape[: len(sizes)] == sizes


def near(values, expected) -> bool:
    same = [v for v in values if v is not None and v.shape == expected.shape]
    return any(np.allclose(v, expected, atol=1e-5) for v in same)


def test_activations_inside_loops():
    network, symmetry = discovered("rnn")
    p, (xs,) = network.params, network.inputs
    h, states = jnp.broadcast_to(p["start"][None], (xs.shape[1], 4)), []
    for x in xs:
        states.append(h)
        h = tanh(x @ p["wi"] + h @ p["wh"] + p["b"][None])
    run = jax.jit(lambda p: sym.compute_activations(network.apply_fn, symmetry, p, xs))
    # Units, iterations, batch: the state before each iteration.
    assert near(run(p), jnp.stack(states).transpose(2, 0, 1))
    gradient = jax.grad(lambda p: sum(v.sum() for v in run(p) if v is not None))(p)
    assert all(bool(jnp.abs(g).max() > 0) for g in jax.tree.leaves(gradient["wh"]))


def test_activations_of_stacked_layers_have_the_layer_as_a_unit():
    network, symmetry = discovered("stacked layers")
    p, (x,) = network.params, network.inputs
    h, layers = x @ p["i"], []
    for i in range(2):
        q = jax.tree.map(lambda a, i=i: a[i], p["layers"])
        layers.append(relu(h @ q["w"] + q["b"][None]))
        h = h + layers[-1] @ q["v"]
    values = sym.compute_activations(network.apply_fn, symmetry, p, x)
    assert near(values, jnp.stack(layers).transpose(2, 0, 1))


def test_activations_of_a_while_are_those_of_the_last_iteration():
    network, symmetry = discovered("loop")
    p, (x,) = network.params, network.inputs
    h = x @ p["w"]
    for _ in range(x.shape[0]):
        before, h = h, tanh(h @ p["u"])
    values = sym.compute_activations(network.apply_fn, symmetry, p, x)
    assert near(values, before.T)


def test_activations_keep_custom_derivatives():
    @jax.custom_jvp
    def odd(x):
        return jnp.sin(x)

    odd.defjvp(lambda primals, tangents: (odd(*primals), 7.0 * tangents[0]))
    network = case(lambda p, x: odd(x @ p["w"]) @ p["o"], 24, {}, w=(3, 4), o=(4, 2))
    symmetry = sym.discover(network.apply_fn, network.params, X, check=False)

    def total(x):
        values = sym.compute_activations(network.apply_fn, symmetry, network.params, x)
        return next(v for v in values if v is not None and v.shape[0] == 4).sum()

    expected = 7.0 * network.params["w"].sum(1)
    np.testing.assert_allclose(
        jax.grad(total)(X), jnp.broadcast_to(expected[None], X.shape), rtol=1e-5
    )


def test_check_never_draws_the_identity():
    """With two units, half of all permutations are trivial."""
    network = case(lambda p, x: tanh(x @ p["w"]) @ p["o"], 2, {}, w=(3, 2), o=(2, 1))
    symmetry = sym.discover(network.apply_fn, network.params, X)

    def broken(p, x):
        return tanh(x @ p["w"]) * jnp.array([[1.0, 1.1]]) @ p["o"]

    for seed in range(4):
        with pytest.raises(sym.SymmetryError, match="S2"):
            sym.check(symmetry, broken, network.params, X, seed=seed)


def test_check_reports_outputs_that_are_not_finite():
    network = case(lambda p, x: jnp.log(-jnp.exp(x @ p["w"])), 1, {}, w=(3, 2))
    with pytest.raises(sym.SymmetryError, match="not finite"):
        sym.discover(network.apply_fn, network.params, X)
