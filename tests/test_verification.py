"""The numerical check accepts right symmetries and refuses false ones, in any precision."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers.symmetry_networks import array, attention, by_head, relu, tanh
from jax import lax

from metanet import symmetry as sym
from metanet.importers import from_module

X = array(5, 3, seed=9)
PARAMS = {"w": array(3, 4, seed=1), "b": array(4, seed=2), "o": array(4, 2, seed=3)}
DTYPES = [jnp.float16, jnp.bfloat16, jnp.float32]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)
GAINS = np.array([[1.0, 1.05, 1.0, 1.0]], np.float32)


def layers(activation, dtype):
    """Returns two layers that compute in a precision, with parameters in float32."""

    def apply_fn(p, x):
        p = jax.tree.map(lambda a: a.astype(dtype), p)
        h = activation(x.astype(dtype) @ p["w"] + p["b"][None])
        return (h @ p["o"]).astype(jnp.float32)

    return apply_fn


@functools.cache
def symmetry_of(kind):
    """Returns the symmetry of two layers in float32: permutations, and a scaling group."""
    activation = {"positive": relu, "sign": tanh, "phase": lambda h: jnp.sin(3.0 * h)}
    apply_fn = layers(activation[kind], jnp.float32)
    return sym.discover(apply_fn, PARAMS, X, check=False)


RIGHT = {
    "relu": ("positive", relu),
    "leaky relu": ("positive", lambda h: jnp.where(h > 0, h, 0.1 * h)),
    "tanh": ("sign", tanh),
    "arctangent": ("sign", jnp.arctan),
    "sine": ("phase", lambda h: jnp.sin(3.0 * h)),
}
# A unit that differs from the others, a function that lacks the symmetry, or nearly has it.
FALSE = {
    "one gain": ("sign", "permutations S4", lambda h: tanh(h) * GAINS.astype(h.dtype)),
    "not odd": ("sign", "sign group", lambda h: tanh(h) + 0.01 * h * h),
    "softplus": ("positive", "positive group", jax.nn.softplus),
    "elu": ("positive", "positive group", jax.nn.elu),
    "other frequency": ("phase", "phase group", lambda h: jnp.sin(3.1 * h)),
    "neighbours": ("sign", "permutations S4", lambda h: tanh(h + 0.01 * h[:, ::-1])),
}


@dtypes
@pytest.mark.parametrize("name", RIGHT)
def test_right_symmetries_are_accepted_in_any_precision(name, dtype):
    kind, activation = RIGHT[name]
    symmetry = symmetry_of(kind)
    assert kind in {g.kind for g in symmetry.scaling_groups}
    result = sym.check(symmetry, layers(activation, dtype), PARAMS, X)
    assert len(result.groups) >= 2 and not result.unproven
    assert result.deviation < 1e-12


@dtypes
@pytest.mark.parametrize("name", FALSE)
def test_false_symmetries_are_refused_in_any_precision(name, dtype):
    kind, group, activation = FALSE[name]
    with pytest.raises(sym.SymmetryError, match=f"{group} of b.*is not a symmetry"):
        sym.check(symmetry_of(kind), layers(activation, dtype), PARAMS, X)


class Attention(nn.Module):
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        h = nn.LayerNorm(dtype=self.dtype)(nn.Dense(4, dtype=self.dtype)(x))
        h = h + nn.MultiHeadDotProductAttention(2, dtype=self.dtype)(h, h)
        return nn.Dense(2, dtype=self.dtype)(nn.gelu(h).mean(1))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_modules_that_compute_in_16_bits(dtype):
    network = from_module(Attention(dtype), array(2, 3, 3))
    symmetry = sym.discover(network.apply_fn, network.params, *network.inputs)
    assert symmetry.order > 1


CONSTANT = np.asarray(array(5, 4, seed=4))
# Programs that cannot run in float64, or do so only in part.
FIXED_TYPES = {
    "a constant in float32": (
        lambda p, x: (
            tanh(lax.add(lax.dot(x, p["w"]), CONSTANT[:, :1] * np.ones((1, 4))))
            @ p["o"]
        ),
        (X,),
    ),
    "integers whose type changes with that of numbers": (
        lambda p, i: (
            tanh(jax.nn.one_hot(lax.rem(lax.add(i, jnp.arange(5)), 3), 3) @ p["w"])
            @ p["o"]
        ),
        (jnp.arange(5),),
    ),
    "a state in float32": (
        lambda p, x: (
            lax.scan(
                lambda h, r: (tanh(h + r @ p["w"]).astype(jnp.float32), None),
                jnp.zeros(4, jnp.float32),
                x,
            )[0]
            @ p["o"]
        ),
        (X,),
    ),
    "a random key": (
        lambda p, x, key: tanh(x @ p["w"] + jax.random.normal(key, (5, 1))) @ p["o"],
        (X, jax.random.key(0)),
    ),
    "a seed": (
        lambda p, x, key: tanh(x @ p["w"] + jax.random.normal(key, (5, 1))) @ p["o"],
        (X, jax.random.PRNGKey(0)),
    ),
    "masks": (
        lambda p, x, mask: jnp.where(mask[:, None], tanh(x @ p["w"]), 0) @ p["o"],
        (X, np.array([True, True, False, True, True])),
    ),
    "complex numbers": (
        lambda p, x: jnp.abs(((x @ p["w"]) * jnp.exp(1j * x[:, :1])) @ p["o"]),
        (X,),
    ),
    "bits of a number": (
        lambda p, x: (
            tanh(
                (x @ p["w"])
                * lax.bitcast_convert_type(np.int32(1065353217), jnp.float32)
            )
            @ p["o"]
        ),
        (X,),
    ),
}


@pytest.mark.parametrize("name", FIXED_TYPES)
def test_programs_of_fixed_types(name):
    apply_fn, inputs = FIXED_TYPES[name]
    params = {k: PARAMS[k] for k in ("w", "o")}
    symmetry = sym.discover(apply_fn, params, *inputs, check=False)
    assert symmetry.order == 24
    assert sym.check(symmetry, apply_fn, params, *inputs).deviation < 1e-12

    def broken(p, *inputs):
        return apply_fn({**p, "o": p["o"] * GAINS.T}, *inputs)

    with pytest.raises(sym.SymmetryError, match="permutations S4 of o"):
        sym.check(symmetry, broken, params, *inputs)


def test_parameters_that_are_no_real_numbers():
    """Keys, integers, booleans and empty arrays among the parameters."""
    params = {
        **PARAMS,
        "key": jax.random.key(1),
        "count": jnp.arange(1, 5),
        "mask": jnp.array([True, False, True, True]),
        "empty": jnp.zeros((0, 3)),
        "narrow": jnp.zeros((3, 0)),
    }

    def apply_fn(p, x):
        noise = jax.random.normal(p["key"], (5, 1))
        h = tanh(x @ p["w"] + noise) * p["count"][None] * p["mask"][None]
        return h @ p["o"] + p["b"].sum() + p["empty"].sum() + (x @ p["narrow"]).sum()

    symmetry = sym.discover(apply_fn, params, X, check=False)
    result = sym.check(symmetry, apply_fn, params, X)
    assert result.deviation < 1e-12
    units = next(g for g in result.groups if "count[0]" in g.name)
    assert units.provable and units.breaking > 1e-3

    def broken(p, x):
        return apply_fn({**p, "count": p["count"] + jnp.arange(4)}, x)

    with pytest.raises(sym.SymmetryError, match="S4 of count"):
        sym.check(symmetry, broken, params, X)


def test_the_tolerance_follows_a_program_that_amplifies_rounding():
    """Forty doublings of a chaotic map leave four of sixteen digits."""

    def apply_fn(p, x):
        y = jnp.sin(20 * layers(tanh, jnp.float32)(p, x)) ** 2
        return lax.fori_loop(0, 40, lambda i, y: 4 * y * (1 - y), y)

    result = sym.check(symmetry_of("sign"), apply_fn, PARAMS, X)
    assert 1e-9 < result.deviation < 1 and result.rounding > 1e-9


@dtypes
def test_a_change_far_below_the_rounding_of_the_program_is_seen(dtype):
    """Relu, less homogeneous by one part in 10^6."""
    activation = lambda h: relu(h) * (1 + 1e-6 * h)
    with pytest.raises(sym.SymmetryError, match=r"positive group.*e-0[567]"):
        sym.check(symmetry_of("positive"), layers(activation, dtype), PARAMS, X)


def of_scores(scores):
    """Returns a network that looks up a row of a table by the greatest of four scores."""
    return lambda p, x: p["e"][jnp.argmax(scores(p, x), 1)]


SCORED = {
    "w": array(3, 4, seed=1),
    "v": array(3, 3, seed=2),
    "b": array(4, seed=3),
    "e": array(4, 2, seed=4),
}


@functools.cache
def symmetry_of_scores():
    """Returns the symmetry of generic scores: the rows move with the columns of w."""
    apply_fn = of_scores(lambda p, x: jnp.tanh(x @ p["v"]) @ p["w"] + p["b"][None])
    symmetry = sym.discover(apply_fn, SCORED, X, check=False)
    assert any(
        {"e[0]", "w[1]"} <= {*symmetry.axes_of(g.indices)} for g in symmetry.groups
    )
    return symmetry


# On paper: no two scores are equal, with probability one.
DIFFERENT_SCORES = {
    "generic": lambda p, x: tanh(x @ p["v"]) @ p["w"] + p["b"][None],
    "softmax": lambda p, x: jax.nn.softmax(tanh(x @ p["v"]) @ p["w"] + p["b"][None]),
    "saturated": lambda p, x: tanh(3 * (tanh(x @ p["v"]) @ p["w"] + p["b"][None])),
    "biased after a rectifier": lambda p, x: (
        tanh(x @ p["v"]).sum(1, keepdims=True)
        + relu(tanh(x @ p["v"]) @ p["w"])
        + p["b"][None]
    ),
    "of features in 16 bits": lambda p, x: (
        tanh(x @ p["v"]).astype(jnp.bfloat16).astype(jnp.float32) @ p["w"]
        + p["b"][None]
    ),
}
# On paper: two of the greatest scores are equal with positive probability.
EQUAL_SCORES = {
    "rectified": lambda h: relu(h),
    "rectified, plus a number": lambda h: relu(h) + 3.0,
    "rectified, plus a value per example": lambda h: relu(h) + h.sum(1, keepdims=True),
    "cut off above": lambda h: jnp.minimum(h, 0.1),
    "rounded": lambda h: jnp.round(h),
    "signs": lambda h: jnp.sign(h),
    "integers": lambda h: h.astype(jnp.int32).astype(jnp.float32),
    "converted to 16 bits": lambda h: h.astype(jnp.bfloat16).astype(jnp.float32),
    "computed in 16 bits": lambda h: h.astype(jnp.float16) * 2,
    "of fewer bits": lambda h: lax.reduce_precision(h, 8, 7),
    "equal": lambda h: h - lax.stop_gradient(h),
}


@pytest.mark.parametrize("name", DIFFERENT_SCORES)
def test_scores_that_differ_are_accepted(name):
    """Zero and equal rows, which tie the scores, are a null set and do not count."""
    apply_fn = of_scores(DIFFERENT_SCORES[name])
    for seed in range(3):
        sym.check(symmetry_of_scores(), apply_fn, SCORED, X, seed=seed)


@pytest.mark.parametrize("name", EQUAL_SCORES)
def test_scores_that_may_be_equal_are_refused(name):
    apply_fn = of_scores(
        lambda p, x: EQUAL_SCORES[name](tanh(x @ p["v"]) @ p["w"] + p["b"][None])
    )
    for seed in range(3):
        with pytest.raises(sym.SymmetryError, match=r"permutations S4 of .*e\[0\]"):
            sym.check(symmetry_of_scores(), apply_fn, SCORED, X, seed=seed)


def test_sixteen_rectified_scores_are_refused():
    """All sixteen are 0 in one of 65,536 examples of generic parameters."""
    params = {"w": array(3, 16, seed=1), "e": array(16, 2, seed=2)}
    right = of_scores(lambda p, x: x @ p["w"])
    symmetry = sym.discover(right, params, X)
    with pytest.raises(sym.SymmetryError, match="S16.*of one sign"):
        sym.check(symmetry, of_scores(lambda p, x: relu(x @ p["w"])), params, X)


def test_padding_rows_are_tried():
    """A network that adds something else to each unit of rows that are zero."""

    def apply_fn(p, x):
        h = tanh(x @ p["w"] + p["b"][None])
        empty = (x == 0).all(1, keepdims=True)
        return jnp.where(empty, h + GAINS, h) @ p["o"]

    with pytest.raises(
        sym.SymmetryError, match="S4.*on zero, equal and very large rows"
    ):
        sym.check(symmetry_of("sign"), apply_fn, PARAMS, X)


def test_tokens_are_drawn_from_the_whole_vocabulary():
    """A network that treats its units alike for the tokens 0 and 1 alone."""
    params = {**PARAMS, "e": array(10, 3, seed=5)}

    def text(gains):
        def apply_fn(p, tokens):
            h = tanh(p["e"][tokens] @ p["w"])
            return jnp.where(tokens[:, None] > 1, h * gains, h) @ p["o"]

        return apply_fn

    tokens = jnp.array([0, 1, 1, 0])
    symmetry = sym.discover(text(1.0), params, tokens)
    assert sym.check(symmetry, text(1.0), params, tokens).deviation < 1e-12
    with pytest.raises(sym.SymmetryError, match="S4.*on other integers"):
        sym.check(symmetry, text(GAINS), params, tokens)


def hidden_axes(result):
    return {axis for group in result.unproven for axis in group.hidden}


def attending(p, x):
    q, k, v = (by_head(x @ p[n], 2) for n in "qkv")
    return jnp.tanh(attention(q, k, v).sum((1, 2))) @ p["o"]


ATTENTION = {n: array(4, 6, seed=i) for i, n in enumerate("qkv")} | {"o": array(3, 2)}


def test_groups_that_the_inputs_hide_are_reported():
    """Attention over one token does not depend on queries and keys."""
    one, several = array(2, 1, 4), array(2, 3, 4)
    symmetry = sym.discover(attending, ATTENTION, several)
    result = sym.check(symmetry, attending, ATTENTION, several)
    assert not result.unproven and min(g.breaking for g in result.groups) > 1e-6
    symmetry = sym.discover(attending, ATTENTION, one)
    result = sym.check(symmetry, attending, ATTENTION, one)
    # The heads are summed, so that values do not show them either.
    assert hidden_axes(result) == {"q[1]", "k[1]", "v[1]"}
    provable = [g.name for g in result.groups if g.provable]
    assert provable == ["permutations S3 of o[0], v[1]", "sign group of o[0], v[1]"]
    assert "not provable on these inputs: permutations S3 of k[1], q[1]" in str(result)


@pytest.mark.parametrize("operations", [0.0, math.inf])
def test_axes_that_no_input_shows_are_reported(operations, monkeypatch):
    """The bias before a softmax, and an unused table; each in its groups alone.

    Derivatives and outputs agree on it.
    """
    monkeypatch.setattr("metanet.symmetry.verification._MANY_OPERATIONS", operations)
    params = {**PARAMS, "c": array(4, seed=4), "unused": array(4, 3, seed=5)}

    def apply_fn(p, x):
        h = tanh(x @ p["w"] + p["b"][None])
        scores = h @ h.T + (h @ p["c"])[:, None]
        return jax.nn.softmax(scores) @ h @ p["o"]

    symmetry = sym.discover(apply_fn, params, X)
    result = sym.check(symmetry, apply_fn, params, X)
    assert hidden_axes(result) == {
        "c[0]",
        "unused[0], unused[1]",
        "unused[1]",
    }
    for group in result.groups:
        assert group.provable == (not group.hidden)
        assert (group.breaking > 0) == group.provable


def test_a_group_on_one_axis_alone_is_provable():
    """The sum over the rows of a table: permuting them is an element of the group."""
    params = {"e": array(4, 2)}
    apply_fn = lambda p, x: x[:, :1] * p["e"].sum(0)[None]
    symmetry = sym.discover(apply_fn, params, X)
    result = sym.check(symmetry, apply_fn, params, X)
    assert [g.name for g in result.groups] and not result.unproven


def test_programs_without_derivatives_are_broken_by_their_outputs(monkeypatch):
    """A loop until a condition holds, and a look-up whose derivative is 0."""
    monkeypatch.setattr("metanet.symmetry.verification._MANY_OPERATIONS", 0.0)

    def looped(p, x):
        h = tanh(x @ p["w"] + p["b"][None])
        halved = lax.while_loop(lambda h: (h * h).sum() > 1, lambda h: h / 2, h)
        return halved @ p["o"]

    symmetry = sym.discover(looped, PARAMS, X, check=False)
    assert not sym.check(symmetry, looped, PARAMS, X).unproven
    apply_fn = of_scores(DIFFERENT_SCORES["generic"])
    result = sym.check(symmetry_of_scores(), apply_fn, SCORED, X)
    assert not result.unproven


def test_networks_without_numbers_as_outputs_cannot_be_checked():
    with pytest.raises(sym.SymmetryError, match="not finite"):
        sym.check(symmetry_of("sign"), lambda p, x: jax.random.key(0), PARAMS, X)
