"""Axes whose indices are refined remain partitions of the array's axis."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.symmetry_networks import array, relu, tanh
from hypothesis import given, settings
from hypothesis import strategies as st

from metanet import symmetry as sym
from metanet.graphs import build_topology, to_graph, to_params
from metanet.symmetry.indices import Indices, Occurrence

X = array(5, 3, seed=9)


def entries(indices, axis):
    """Returns the entries of each segment of an axis."""
    axis = indices.normal(axis)
    return [
        indices.part_of(start, segment).entries()
        for start, segment in zip(indices.starts(axis), axis, strict=True)
    ]


def new_axis(indices, size):
    return [[Occurrence(indices.new(size))]]


CUT = st.tuples(st.just("cut"), st.integers(1, 23))
FACTOR = st.tuples(st.just("factor"), st.sampled_from([2, 3, 4, 6, 8, 12]))
FEW = st.tuples(st.just("every few"), st.sampled_from([2, 3, 4]))


@given(st.lists(st.one_of(CUT, FACTOR, FEW), max_size=4))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_segments_of_a_refined_axis_partition_it(refinements):
    indices = Indices()
    axis = new_axis(indices, 24)
    for kind, size in refinements:
        if kind == "cut":
            parts = indices.split_axis(axis, [size, 24 - size], "")
            if parts:
                assert [indices.axis_size(p) for p in parts] == [size, 24 - size]
        elif kind == "factor":
            contents = indices.factor_axis(axis, [24 // size, size], "")
            if contents:
                assert {indices.axis_size(a) for a in contents[1]} == {size}
        elif part := indices.every_few(axis, 1, size, ""):
            assert indices.axis_size(part) == 24 // size
        assert sorted(np.concatenate(entries(indices, axis))) == [*range(24)]


@given(
    st.lists(st.sampled_from([2, 3, 4]), min_size=2, max_size=3),
    st.lists(st.integers(0, 2), max_size=3),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_factors_of_a_product_are_its_axes(sizes, cut):
    """A concatenation in any of the factors does not hinder their recovery."""
    indices = Indices()
    axes = [new_axis(indices, n) for n in sizes]
    for k in cut:
        if k < len(sizes):
            indices.split_axis(axes[k], [1, sizes[k] - 1], "")
    flat = indices.product(axes)
    positions = [
        np.arange(math.prod(sizes)).reshape(sizes)[np.ix_(*choice)].ravel()
        for choice in itertools.product(*(entries(indices, a) for a in axes))
    ]
    assert sorted(map(tuple, entries(indices, flat))) == sorted(map(tuple, positions))
    contents = indices.factor_axis(flat, sizes, "")
    assert contents is not None
    for axis, alternatives in zip(axes, contents, strict=True):
        for other in alternatives:
            members = [[o.axis_index for o in s] for s in indices.normal(other)]
            assert members == [[o.axis_index for o in s] for s in indices.normal(axis)]


def rotated(h):
    """Rotates the first two channels of every head by the position."""
    cos, sin = np.cos(np.arange(5.0)), np.sin(np.arange(5.0))
    cos, sin = (jnp.asarray(a, h.dtype)[:, None] for a in (cos, sin))
    a, b = h[..., 0], h[..., 1]
    pair = jnp.stack([a * cos - b * sin, a * sin + b * cos], -1)
    return jnp.concatenate([pair, h[..., 2:]], -1)


def attend(q, k, v):
    weights = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", q, k))
    return jnp.einsum("hqk,khd->qhd", weights, v).reshape(5, -1)


def fused_per_head(p, x):
    q, k, v = jnp.split((x @ p["w"]).reshape(5, 2, 12), 3, -1)
    return attend(rotated(q), rotated(k), v) @ p["o"]


def partly_rotated(p, x):
    q, k, v = ((x @ p[n]).reshape(5, 2, 4) for n in "qkv")
    return attend(rotated(q), rotated(k), v) @ p["o"]


def unequal_widths(p, x):
    t = (x @ p["w"]).reshape(5, 2, 11)
    return attend(t[..., :4], t[..., 4:8], t[..., 8:]) @ p["o"]


def keys_and_values(p, x):
    q = (x @ p["q"]).reshape(5, 2, 4)
    t = (relu(x @ p["c"]) @ p["w"]).reshape(5, 2, 7)
    return attend(q, t[..., :4], t[..., 4:]) @ p["o"]


def one_key_head(p, x):
    t = (x @ p["w"]).reshape(5, 5, 4)
    q, k, v = t[:, :3], t[:, 3:4], t[:, 4:5]
    weights = jax.nn.softmax(jnp.einsum("qhd,kd->hqk", q, k[:, 0]))
    return jnp.einsum("hqk,kd->qhd", weights, v[:, 0]).reshape(5, 12) @ p["o"]


def even_and_odd(p, x):
    h = tanh(x @ p["w"])
    return h[:, ::2] @ p["a"] + h[:, 1::2] @ p["b"]


# Networks, shapes of their parameters, and the orders of their groups on paper.
NETWORKS = {
    # Heads; per head two pairs of channels without a rotation, and four of the values.
    "fused per head": (fused_per_head, {"w": (3, 24), "o": (8, 2)}, 2 * (2 * 24) ** 2),
    "partial rotation": (
        partly_rotated,
        {"q": (3, 8), "k": (3, 8), "v": (3, 8), "o": (8, 2)},
        2 * (2 * 24) ** 2,
    ),
    "unequal widths": (unequal_widths, {"w": (3, 22), "o": (6, 2)}, 2 * (24 * 6) ** 2),
    "keys and values": (
        keys_and_values,
        {"q": (3, 8), "c": (3, 5), "w": (5, 14), "o": (6, 2)},
        120 * 2 * (24 * 6) ** 2,
    ),
    "one key head": (one_key_head, {"w": (3, 20), "o": (12, 2)}, 6 * 24 * 24),
    "even and odd": (even_and_odd, {"w": (3, 6), "a": (3, 2), "b": (3, 2)}, 36),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_parts_of_the_channels_of_every_head(name):
    apply_fn, shapes, order = NETWORKS[name]
    params = {n: array(*shape, seed=i) for i, (n, shape) in enumerate(shapes.items())}
    symmetry = sym.discover(apply_fn, params, X)
    assert symmetry.order == order
    assert sym.Symmetry.from_json(symmetry.to_json()) == symmetry


ORDER = np.array([2, 0, 5, 1, 4, 3])
SHAPES = {"w": (3, 6), "v": (6, 4), "o": (4, 2)}


def reordered(h, p):
    return relu(h @ p["v"]) @ p["o"]


def reversed_twice(p, x):
    return reordered(relu(relu(x @ p["w"])[:, ::-1])[:, ::-1], p)


def met_by_its_reverse(p, x):
    h = relu(x @ p["w"])
    return reordered(h * h[:, ::-1], p)


def reversed_in_pairs(p, x):
    return relu(relu(x @ p["w"])[:, ::-1].reshape(5, 3, 2).sum(1) @ p["v"][:2]) @ p["o"]


# Networks that read units in another order, and the orders of their groups on paper. Rows of
# v that nothing reads are permuted in each of its four columns.
REORDERED = {
    "reversed": (lambda p, x: reordered(relu(x @ p["w"])[:, ::-1], p), 720 * 24),
    "in a constant order": (
        lambda p, x: reordered(relu(x @ p["w"])[:, ORDER], p),
        720 * 24,
    ),
    "some": (
        lambda p, x: relu(relu(x @ p["w"])[:, ORDER[:4]] @ p["v"][:4]) @ p["o"],
        18432,
    ),
    "reversed twice": (reversed_twice, 720 * 24),
    # Three pairs are exchanged or reversed on paper; an index that meets itself is pinned.
    "met by its reverse": (met_by_its_reverse, 24),
    "reversed in pairs": (reversed_in_pairs, 6 * 6 * 2 * 24 * 24**4),
}


@pytest.mark.parametrize("name", REORDERED)
def test_units_in_another_order(name):
    apply_fn, order = REORDERED[name]
    params = {n: array(*shape, seed=i) for i, (n, shape) in enumerate(SHAPES.items())}
    symmetry = sym.discover(apply_fn, params, X)
    assert symmetry.order == order
    assert sym.Symmetry.from_json(symmetry.to_json()) == symmetry
    graph = to_graph(build_topology(symmetry), params)
    restored = to_params(graph, params)
    assert all((restored[n] == params[n]).all() for n in params)


MASK = np.array([1, 0, 1, 1, 0, 0], np.float32)


def masked_weights(p, x):
    """Half of the weights are masked, alike for three units each."""
    mask = np.stack([MASK, 1 - MASK, MASK])
    return reordered(relu(x @ (p["w"] * mask)), p)


# Units that a constant treats alike are permuted: the others are in another class.
CONSTANTS = {
    "mask of units": (
        lambda p, x: reordered(relu(x @ p["w"]) * MASK[None], p),
        36 * 24,
    ),
    "factors of units": (
        lambda p, x: reordered(tanh(x @ p["w"]) * (1 + MASK[None]), p),
        36 * 24,
    ),
    "mask of weights": (masked_weights, 36 * 24),
    "one unit apart": (
        lambda p, x: reordered(
            tanh(x @ p["w"] + np.eye(6, dtype=np.float32)[None, 2]), p
        ),
        120 * 24,
    ),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_units_that_a_constant_treats_alike(name):
    apply_fn, order = CONSTANTS[name]
    params = {n: array(*shape, seed=i) for i, (n, shape) in enumerate(SHAPES.items())}
    assert sym.discover(apply_fn, params, X).order == order


def summed_in_a_loop(p, x):
    """Six experts with four channels each, in three forms of a loop."""

    def step(total, weights):
        up, down = weights
        return total + relu(x @ up) @ down, None

    return jax.lax.scan(step, jnp.zeros((5, 2)), (p["up"], p["down"]))[0]


def summed_after_a_map(p, x):
    rows = jax.lax.map(lambda w: relu(x @ w[0]) @ w[1], (p["up"], p["down"]))
    return rows.sum(0)


def in_order(p, x):
    """The turns depend on each other."""

    def step(total, weights):
        up, down = weights
        return tanh(total + relu(x @ up) @ down), None

    return jax.lax.scan(step, jnp.zeros((5, 2)), (p["up"], p["down"]))[0]


LOOPS = {
    "sum": (summed_in_a_loop, 720 * 24**6),
    "map": (summed_after_a_map, 720 * 24**6),
    "in order": (in_order, 24**6),
}


@pytest.mark.parametrize("name", LOOPS)
def test_turns_of_a_loop_without_an_order(name):
    apply_fn, order = LOOPS[name]
    params = {"up": array(6, 3, 4), "down": array(6, 4, 2)}
    assert sym.discover(apply_fn, params, X).order == order


def group_norm(h, groups, p):
    t = h.reshape(5, groups, -1)
    t = t - t.mean(2, keepdims=True)
    t = t / jnp.sqrt((t * t).mean(2, keepdims=True) + 1e-3)
    return t.reshape(h.shape) * p["g"][None]


def norm_of_two(p, x):
    """Groups of two channels, two of the first array and four of the second."""
    h = jnp.concatenate([tanh(x @ p["a"]), relu(x @ p["b"])], 1)
    return group_norm(h, 6, p) @ p["o"]


def norm_across(p, x):
    """A group of four channels is half of each array."""
    h = jnp.concatenate([tanh(x @ p["a"]), relu(x @ p["b"])], 1)
    return group_norm(h, 3, p) @ p["o"]


def heads_of_two(p, x):
    h = jnp.concatenate([x @ p["a"], relu(x @ p["b"])], 1).reshape(5, 3, 4)
    return jax.nn.softmax(h, -1).reshape(5, 12) @ p["o"]


SEAMS = {
    "groups of two arrays": (norm_of_two, (3, 4), (3, 8), 2 * 2**2 * 24 * 2**4),
    "heads of two arrays": (heads_of_two, (3, 4), (3, 8), 24 * 2 * 24**2),
}


@pytest.mark.parametrize("name", SEAMS)
def test_groups_between_the_seams_of_a_concatenation(name):
    apply_fn, a, b, order = SEAMS[name]
    params = {"a": array(*a), "b": array(*b, seed=1), "o": array(12, 2)}
    if name.startswith("groups"):
        params["g"] = array(12, seed=2)
    assert sym.discover(apply_fn, params, X).order == order


def test_a_group_across_a_seam_is_not_cut():
    params = {
        "a": array(3, 6),
        "b": array(3, 6, seed=1),
        "o": array(12, 2),
        "g": array(12),
    }
    order = sym.discover(norm_across, params, X).order
    # On paper: whole groups of four, and twice two channels of the group across the seam.
    assert (24 * 2 * 2 * 24) % order == 0
