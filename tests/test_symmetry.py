"""Discovery yields the group derived on paper, and no false symmetry."""

import functools
import math
from math import factorial as fac
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from metanet import symmetry as sym
from metanet.errors import MetanetError
from metanet.networks import functionalize
from metanet.programs import PRIMITIVES

KEY = jax.random.key(7)
relu, tanh = jax.nn.relu, jnp.tanh


def array(index: int, *shape: int) -> jax.Array:
    return 0.5 * jax.random.normal(jax.random.fold_in(KEY, index), shape)


X = array(99, 5, 3)
NOISE = jax.random.key(3)


def attention(q, k, v):
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


def two_layers(activation):
    def f(p, x):
        h = activation(x @ p["w1"] + p["b1"][None])
        return activation(h @ p["w2"] + p["b2"][None]) @ p["w3"]

    p = {
        "w1": array(1, 3, 4),
        "b1": array(2, 4),
        "w2": array(3, 4, 4),
        "b2": array(4, 4),
        "w3": array(5, 4, 2),
    }
    return f, p, (X,)


class Residual(nnx.Module):
    """Two convolutions with BatchNorm around an identity or 1x1 shortcut."""

    def __init__(self, shortcut: bool):
        r = nnx.Rngs(0)

        def norm():
            return nnx.BatchNorm(4, use_running_average=True, rngs=r)

        self.c0, self.n0 = nnx.Conv(2, 4, (3, 3), rngs=r), norm()
        self.c1, self.n1 = nnx.Conv(4, 4, (3, 3), rngs=r), norm()
        self.c2, self.n2 = nnx.Conv(4, 4, (3, 3), rngs=r), norm()
        self.cs = nnx.Conv(4, 4, (1, 1), rngs=r) if shortcut else None
        self.d = nnx.Linear(4, 3, rngs=r)

    def __call__(self, x):
        x = relu(self.n0(self.c0(x)))
        h = relu(self.n1(self.c1(x)))
        h = self.n2(self.c2(h))
        x = relu((x if self.cs is None else self.cs(x)) + h)
        return self.d(x.mean((1, 2)))


class FlattenCNN(nnx.Module):
    def __init__(self):
        r = nnx.Rngs(0)
        self.c1 = nnx.Conv(2, 3, (3, 3), strides=2, rngs=r)
        self.c2 = nnx.Conv(3, 4, (3, 3), rngs=r)
        self.d = nnx.Linear(16, 2, rngs=r)

    def __call__(self, x):
        x = relu(self.c2(relu(self.c1(x))))
        x = nnx.max_pool(x, (2, 2), (2, 2))
        return self.d(x.reshape(x.shape[0], -1))


class Separable(nnx.Module):
    def __init__(self, groups: int):
        r = nnx.Rngs(0)
        self.a = nnx.Conv(2, 4, (1, 1), rngs=r)
        self.b = nnx.Conv(4, 4, (3, 3), feature_group_count=groups, rngs=r)
        self.c = nnx.Conv(4, 3, (1, 1), rngs=r)
        self.d = nnx.Linear(3, 2, rngs=r)

    def __call__(self, x):
        return self.d(relu(self.c(relu(self.b(relu(self.a(x)))))).mean((1, 2)))


def module(m, *inputs):
    network = functionalize(m, *inputs)
    return network.apply_fn, network.params, inputs


def heads(p, x):
    q, k, v = (
        (x @ p[n]).reshape(*x.shape[:2], 2, 3) for n in ("query", "key", "value")
    )
    return attention(q, k, v).reshape(*x.shape[:2], 6) @ p["out"]


def plain(function, **shapes):
    params = {n: array(i, *s) for i, (n, s) in enumerate(shapes.items())}
    return function, params, (X,)


def image(*shape: int) -> jax.Array:
    return array(98, *shape)


def three_parts(parts):
    """Three layers of 4 units in one array, cut in parts by a function."""

    def f(p, x):
        h = (x @ p["w"]).reshape(5, 3, 4) + p["bias"][None]
        first, second, third = parts(h)
        return tanh(first) @ p["a"] + relu(second) @ p["b"] + tanh(third) @ p["c"]

    shapes = {"w": (3, 12), "bias": (3, 4), "a": (4, 2), "b": (4, 2), "c": (4, 2)}
    return plain(f, **shapes)


PARTS = {"sign": 2, "positive": 1}
NETWORKS = {
    "mlp relu": (two_layers(relu), fac(4) ** 2, {"positive": 2}),
    "mlp tanh": (two_layers(tanh), fac(4) ** 2, {"sign": 2}),
    "siren": (
        two_layers(lambda h: jnp.sin(3.0 * h)),
        fac(4) ** 2,
        {"sign": 2, "phase": 2},
    ),
    "mlp gelu": (two_layers(jax.nn.gelu), fac(4) ** 2, {}),
    "cnn flatten": (module(FlattenCNN(), image(2, 8, 8, 2)), 6 * 24, {"positive": 2}),
    "depthwise": (module(Separable(4), image(2, 4, 4, 2)), 24 * 6, {"positive": 3}),
    "grouped": (
        module(Separable(2), image(2, 4, 4, 2)),
        2 * 4 * 4 * 6,
        {"positive": 3},
    ),
    "resnet": (
        module(Residual(False), image(2, 5, 5, 2)),
        24**2,
        {"positive": 5, "sign": 3},
    ),
    "resnet 1x1": (
        module(Residual(True), image(2, 5, 5, 2)),
        24**3,
        {"positive": 6, "sign": 3},
    ),
    "swiglu": (
        plain(
            lambda p, x: (jax.nn.silu(x @ p["g"]) * (x @ p["u"])) @ p["d"],
            g=(3, 4),
            u=(3, 4),
            d=(4, 2),
        ),
        24,
        {"positive": 1, "sign": 1},
    ),
    "attention": (
        (
            heads,
            {
                n: array(i, *s)
                for i, (n, s) in enumerate(
                    {
                        "query": (4, 6),
                        "key": (4, 6),
                        "value": (4, 6),
                        "out": (6, 2),
                    }.items()
                )
            },
            (array(97, 2, 5, 4),),
        ),
        2 * 6**2 * 6**2,
        {"positive": 2, "sign": 2},
    ),
    "lora": (
        plain(
            lambda p, x: relu(x @ (p["w"] + p["a"] @ p["b"])) @ p["o"],
            w=(3, 4),
            a=(3, 2),
            b=(2, 4),
            o=(4, 2),
        ),
        24 * 2,
        {"positive": 2, "sign": 1},
    ),
    "tied": (
        plain(
            lambda p, x: tanh(tanh(tanh(x @ p["i"]) @ p["w"]) @ p["w"]) @ p["o"],
            i=(3, 4),
            w=(4, 4),
            o=(4, 2),
        ),
        24,
        {"sign": 1},
    ),
    "reshape no-op": (
        plain(
            lambda p, x: tanh((x @ p["w"]).reshape(5, 3, 4)).reshape(5, 12) @ p["o"],
            w=(3, 12),
            o=(12, 2),
        ),
        fac(12),
        {"sign": 1},
    ),
    "group pooling": (
        plain(
            lambda p, x: tanh(x @ p["w"]).reshape(5, 3, 4).mean(-1) @ p["o"],
            w=(3, 12),
            o=(3, 2),
        ),
        24**3 * 6,
        {"sign": 1},
    ),
    "unstacked rows": (
        plain(
            lambda p, x: sum(h[None] @ p["o"] for h in jnp.unstack(tanh(x @ p["w"]))),
            w=(3, 4),
            o=(4, 2),
        ),
        24,
        {"sign": 1},
    ),
    "threshold after a loop": (
        plain(
            lambda p, x: (
                jnp.where(
                    jax.lax.scan(
                        lambda h, _: (relu(h @ p["v"] + x @ p["w"]), None),
                        jnp.zeros((5, 4)),
                        length=3,
                    )[0]
                    > 0.5,
                    1.0,
                    0.0,
                )
                @ p["o"]
            ),
            v=(4, 4),
            w=(3, 4),
            o=(4, 2),
        ),
        24,
        {},
    ),
    "relu by comparison": (
        plain(
            lambda p, x: (lambda h: jnp.where(h > 0, h, 0.0))(x @ p["w"]) @ p["o"],
            w=(3, 4),
            o=(4, 2),
        ),
        24,
        {"positive": 1},
    ),
    "product of units": (
        plain(
            lambda p, x: jnp.prod(tanh(x @ p["w"]), -1, keepdims=True) @ p["o"],
            w=(3, 4),
            o=(1, 2),
        ),
        24,
        {},
    ),
    "running maximum": (
        plain(
            lambda p, x: jax.lax.cummax(tanh(x @ p["w"]), 0) @ p["o"],
            w=(3, 4),
            o=(4, 2),
        ),
        24,
        {},
    ),
    "maximum of earlier units": (
        plain(
            lambda p, x: jax.lax.cummax(tanh(x @ p["w"]), 1) @ p["o"],
            w=(3, 4),
            o=(4, 2),
        ),
        1,
        {},
    ),
    "clamp": (
        plain(
            lambda p, x: jax.lax.clamp(0.0, x @ p["w"], 1.0) @ p["o"],
            w=(3, 4),
            o=(4, 2),
        ),
        24,
        {},
    ),
    "floor": (
        plain(lambda p, x: jnp.floor(jnp.exp(x @ p["w"])) @ p["o"], w=(3, 4), o=(4, 2)),
        24,
        {},
    ),
    "cond": (
        plain(
            lambda p, x: (
                tanh(jax.lax.cond(x.sum() > 0, lambda: x @ p["w"], lambda: x @ p["v"]))
                @ p["o"]
            ),
            w=(3, 4),
            v=(3, 4),
            o=(4, 2),
        ),
        24,
        {"sign": 1},
    ),
    "cond, zeros if false": (
        plain(
            lambda p, x: (
                jax.lax.cond(
                    (x * x).sum() > 0, lambda h: h, jnp.zeros_like, relu(x @ p["w"])
                )
                @ p["o"]
            ),
            w=(3, 4),
            o=(4, 2),
        ),
        24,
        {"positive": 1},
    ),
    "cond, zeros if true": (
        plain(
            lambda p, x: (
                jax.lax.cond(
                    (x * x).sum() < 0, jnp.zeros_like, lambda h: h, relu(x @ p["w"])
                )
                @ p["o"]
            ),
            w=(3, 4),
            o=(4, 2),
        ),
        24,
        {"positive": 1},
    ),
    "cond, ones if true": (
        plain(
            lambda p, x: (
                jax.lax.cond(
                    (x * x).sum() < 0, jnp.ones_like, lambda h: h, relu(x @ p["w"])
                )
                @ p["o"]
            ),
            w=(3, 4),
            o=(4, 2),
        ),
        24,
        {},
    ),
    "fused, unstack": (three_parts(lambda h: jnp.unstack(h, axis=1)), 24**3, PARTS),
    "fused, index": (three_parts(lambda h: [h[:, i] for i in range(3)]), 24**3, PARTS),
    "fused, split": (
        three_parts(lambda h: [y[:, 0] for y in jnp.split(h, 3, axis=1)]),
        24**3,
        PARTS,
    ),
    "scalar": (
        plain(
            lambda p, x: tanh(x @ p["w"]) * p["s"].sum().reshape(1, 1) @ p["o"],
            s=(2,),
            w=(3, 4),
            o=(4, 2),
        ),
        2 * 24,
        {"sign": 1},
    ),
    "array without values": (
        plain(
            lambda p, x: (
                jnp.concatenate([tanh(x @ p["w"]), x[:, :0] @ p["e"]], 1) @ p["o"]
            ),
            e=(0, 0),
            w=(3, 4),
            o=(4, 2),
        ),
        24,
        {"sign": 1},
    ),
    "siren, bias read twice": (
        plain(
            lambda p, x: (
                jnp.sin(x @ p["w"] + p["b"][None]) @ p["o"] + p["b"][None] @ p["v"]
            ),
            w=(3, 4),
            b=(4,),
            o=(4, 2),
            v=(4, 2),
        ),
        24,
        {"sign": 1},
    ),
    "argmax, one-hot": (
        plain(
            lambda p, x: jax.nn.one_hot(jnp.argmax(x @ p["w"], 1), 4) @ p["o"],
            w=(3, 4),
            o=(4, 2),
        ),
        24,
        {},
    ),
    "argmax, lookup": (
        plain(lambda p, x: p["o"][jnp.argmax(x @ p["w"], 1)], w=(3, 4), o=(4, 2)),
        24,
        {},
    ),
    "pooling of minor factors": (
        plain(
            lambda p, x: tanh(x @ p["w"]).reshape(5, 2, 3, 2).mean((1, 3)) @ p["o"],
            w=(3, 12),
            o=(3, 2),
        ),
        fac(4) ** 3 * fac(3),
        {"sign": 1},
    ),
    "less the mean": (
        plain(
            lambda p, x: (
                (lambda h: h - h.mean(-1, keepdims=True))(relu(x @ p["w"])) @ p["o"]
            ),
            w=(3, 4),
            o=(4, 2),
        ),
        24,
        {},
    ),
    "skip of a slice": (
        plain(
            lambda p, x: (
                lambda h: jnp.concatenate([h[:, :2], relu(h[:, 2:])], 1) @ p["o"]
            )(x @ p["w"]),
            w=(3, 6),
            o=(6, 2),
        ),
        2 * 24,
        {"positive": 2, "sign": 1},
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_finds_the_group_on_paper(name):
    (apply_fn, params, inputs), order, scaling_groups = NETWORKS[name]
    symmetry = sym.discover(apply_fn, params, *inputs)  # verifies itself in float64
    assert symmetry.order == order
    assert not symmetry.unknown
    kinds = [g.kind for g in symmetry.scaling_groups]
    assert {k: kinds.count(k) for k in kinds} == scaling_groups


# Programs for which a wrong rule would yield a false symmetry.
ADVERSARIAL = {
    "maxout": (
        lambda p: (X @ p["w"]).reshape(5, 4, 2).max(-1) @ p["o"],
        (3, 8),
        (4, 2),
    ),
    "shuffle": (
        lambda p: (
            tanh(X @ p["w"]).reshape(5, 2, 3).transpose(0, 2, 1).reshape(5, 6) @ p["o"]
        ),
        (3, 6),
        (6, 2),
    ),
    "stride": (lambda p: tanh(X @ p["w"])[:, ::2] @ p["o"], (3, 6), (3, 2)),
    "softmax": (lambda p: jax.nn.softmax(X @ p["w"]) @ p["o"], (3, 4), (4, 2)),
    "top k": (lambda p: jax.lax.top_k(X @ p["w"], 2)[0] @ p["o"], (3, 4), (2, 2)),
    "pad": (
        lambda p: jnp.pad(tanh(X @ p["w"]), ((0, 0), (1, 1))) @ p["o"],
        (3, 4),
        (6, 2),
    ),
    "fft": (lambda p: jnp.real(jnp.fft.fft(X @ p["w"])) @ p["o"], (3, 4), (4, 2)),
    "constant": (
        lambda p: (tanh(X @ p["w"]) * jnp.arange(1.0, 5)[None]) @ p["o"],
        (3, 4),
        (4, 2),
    ),
    "offset": (
        lambda p: tanh(X @ p["w"] + jnp.arange(1.0, 5)[None]) @ p["o"],
        (3, 4),
        (4, 2),
    ),
    "clip": (lambda p: jnp.clip(X @ p["w"], 0, 6) @ p["o"], (3, 4), (4, 2)),
    "threshold": (
        lambda p: jnp.where(X @ p["w"] > 0.5, X @ p["w"], 0.0) @ p["o"],
        (3, 4),
        (4, 2),
    ),
    "cumsum": (lambda p: jnp.cumsum(tanh(X @ p["w"]), 1) @ p["o"], (3, 4), (4, 2)),
    "rms": (
        lambda p: (
            (lambda h: h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True)))(X @ p["w"])
            @ p["o"]
        ),
        (3, 4),
        (4, 2),
    ),
    "self gate": (
        lambda p: (lambda h: tanh(h) * h[:, ::-1])(X @ p["w"]) @ p["o"],
        (3, 4),
        (4, 2),
    ),
    "crelu": (
        lambda p: (lambda h: jnp.concatenate([relu(h), relu(-h)], 1) @ p["o"])(
            X @ p["w"]
        ),
        (3, 4),
        (8, 2),
    ),
    "noise of a fixed key": (
        lambda p: tanh(X @ p["w"]) * jax.random.uniform(NOISE, (1, 4)) @ p["o"],
        (3, 4),
        (4, 2),
    ),
    "scan": (
        lambda p: jax.lax.scan(
            lambda h, _: (tanh(h @ p["o"]), None), X @ p["w"], length=3
        )[0],
        (3, 4),
        (4, 4),
    ),
}


# Orders of their permutation groups on paper.
ADVERSARIAL_ORDERS = {
    "maxout": 24 * 2**4,  # the units, and the pieces of each
    "shuffle": 720,
    "stride": 6 * 6,  # the columns that are read, and those that are not
    "top k": 24,
    "softmax": 24,
    "pad": 24,
    "constant": 1,
    "offset": 1,
    "clip": 24,
    "threshold": 24,
    "cumsum": 1,
    "rms": 24,
    "crelu": 24,
    "noise of a fixed key": 1,
    "scan": 1,  # the units are the outputs
}
# Programs whose group on paper is larger than 1, and is not found: a reflection, and pairs
# of units that are exchanged.
MISSED = {"fft": 2, "self gate": 8}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_programs_yield_no_false_symmetry(name):
    function, w, o = ADVERSARIAL[name]
    params = {"w": array(1, *w), "o": array(2, *o)}
    symmetry = sym.discover(lambda p: function(p), params)
    if name in MISSED:
        assert MISSED[name] % symmetry.order == 0
    else:
        assert symmetry.order == ADVERSARIAL_ORDERS[name]


def grouped_convolution(p):
    def conv(x, kernel, groups=1):
        numbers = ("NWC", "WIO", "NWC")
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (1,),
            "VALID",
            dimension_numbers=numbers,
            feature_group_count=groups,
        )

    x = X[:, :, None]
    h = jnp.concatenate([relu(conv(x, p["a"])), relu(conv(x, p["b"]))], -1)
    return relu(conv(h, p["c"], 2)).mean(1) @ p["o"]


def parts_and_means(first, second):
    """Six units are read as means of two triples, and as the first two and the others."""

    def f(p):
        h = tanh(X @ p["w"])
        means = h.reshape(5, 2, 3).mean(-1)
        return means @ p["m"] + first(h) @ p["a"] + second(h) @ p["b"]

    return f, {"w": (3, 6), "m": (2, 2), "a": (2, 2), "b": (4, 2)}


# Programs, and the orders of their groups on paper and of the part that discovery finds: an
# axis that is cut in two ways is cut where both agree, channels in the groups of several
# arrays of a convolution are permuted alike.
FOUND_IN_PART = {
    "split across a mean": (
        *parts_and_means(
            lambda h: jnp.split(h, [2], 1)[0], lambda h: jnp.split(h, [2], 1)[1]
        ),
        2 * 6,
        2,
    ),
    "slices across a mean": (
        *parts_and_means(lambda h: h[:, :2], lambda h: h[:, 2:]),
        2 * 6,
        2,
    ),
    "concatenation in a minor axis": (
        lambda p: (
            (
                jnp.concatenate([tanh(X @ p["u"]), relu(X @ p["v"])], 1)[:, None]
                * X[:, :, None]
            ).reshape(5, 15)
            @ p["o"]
        ),
        {"u": (3, 2), "v": (3, 3), "o": (15, 2)},
        2 * 6,
        2 * 6,
    ),
    "contraction of an axis that is also averaged in triples": (
        lambda p: (
            jnp.concatenate([tanh(X @ p["u"]), relu(X @ p["v"])], 1) @ p["o"]
            + (p["o"].reshape(2, 3, 2).mean(1) * jnp.array([[1.0], [2.0]])).sum(0)[None]
        ),
        {"o": (6, 2), "u": (3, 2), "v": (3, 4)},
        2 * 6,
        2,
    ),
    "groups of a concatenation": (
        grouped_convolution,
        {"a": (2, 1, 3), "b": (2, 1, 3), "c": (1, 3, 4), "o": (4, 2)},
        6 * 6 * 2 * 2,
        6 * 2,
    ),
}


@pytest.mark.parametrize("name", FOUND_IN_PART)
def test_axes_cut_in_two_ways_are_found_in_part(name):
    function, shapes, on_paper, order = FOUND_IN_PART[name]
    params = {n: array(i, *shape) for i, (n, shape) in enumerate(shapes.items())}
    symmetry = sym.discover(function, params)
    assert symmetry.order == order and on_paper % order == 0
    assert not symmetry.unknown


@pytest.fixture(scope="module")
def siren():
    apply_fn, params, inputs = two_layers(lambda h: jnp.sin(3.0 * h))
    return apply_fn, params, inputs, sym.discover(apply_fn, params, *inputs)


def distance(a, b) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(jnp.abs(x - y).max()) for x, y in pairs)


def test_check_rejects_a_broken_network(siren):
    apply_fn, params, inputs, symmetry = siren

    def broken(p, x):
        return apply_fn({**p, "b1": p["b1"] * jnp.arange(1.0, 5)}, x)

    with pytest.raises(sym.SymmetryError, match="permutations S4 of b1"):
        sym.check(symmetry, broken, params, *inputs)


def test_check_rejects_a_false_phase(siren):
    _, params, inputs, symmetry = siren
    other, _, _ = two_layers(lambda h: jnp.sin(3.1 * h))
    with pytest.raises(sym.SymmetryError, match="phase group"):
        sym.check(symmetry, other, params, *inputs)


@pytest.mark.parametrize("name", ["siren", "attention", "grouped", "resnet"])
@given(st.integers(0, 2**31), st.integers(0, 2**31))
@settings(max_examples=3, deadline=None, derandomize=True)
def test_group_laws(name, first, second):
    (apply_fn, params, inputs), _, _ = NETWORKS[name]
    symmetry = sym.discover(apply_fn, params, *inputs, check=False)
    a = sym.random_element(symmetry, jax.random.key(first))
    b = sym.random_element(symmetry, jax.random.key(second))
    act = jax.jit(functools.partial(sym.act, symmetry))
    product = jax.jit(functools.partial(sym.compose, symmetry))(a, b)
    assert distance(act(product, params), act(a, act(b, params))) < 1e-5
    inverse = jax.jit(functools.partial(sym.invert, symmetry))(a)
    assert distance(act(inverse, act(a, params)), params) < 1e-5
    assert distance(act(sym.identity(symmetry), params), params) == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_acting_leaves_the_function_unchanged_under_vmap(name):
    (apply_fn, params, inputs), _, _ = NETWORKS[name]
    symmetry = sym.discover(apply_fn, params, *inputs, check=False)

    @jax.jit
    @jax.vmap
    def outputs(key):
        return apply_fn(
            sym.act(symmetry, sym.random_element(symmetry, key), params), *inputs
        )

    reference = apply_fn(params, *inputs)
    moved = outputs(jax.random.split(KEY, 3))
    size = float(jnp.abs(reference).max())
    assert float(jnp.abs(moved - reference[None]).max()) < 1e-4 * size


@pytest.mark.parametrize("name", ["siren", "mlp tanh", "mlp relu", "resnet"])
def test_canonical_form_is_one_per_orbit(name):
    (apply_fn, params, inputs), _, _ = NETWORKS[name]
    symmetry = sym.discover(apply_fn, params, *inputs, check=False)
    canonical = jax.jit(functools.partial(sym.canonicalize, symmetry))
    reference = canonical(params)
    change = apply_fn(reference, *inputs) - apply_fn(params, *inputs)
    assert float(jnp.abs(change).max()) < 1e-5
    for seed in range(5):
        element = sym.random_element(symmetry, jax.random.key(seed), permutations=False)
        moved = canonical(sym.act(symmetry, element, params))
        assert distance(moved, reference) < 1e-5
        assert distance(canonical(reference), reference) < 1e-6


@pytest.mark.parametrize(
    "hidden_layer",
    [
        lambda p, h: jnp.sin(3.0 * (h + p["b"][None])) + p["b"][None],
        lambda p, h: (
            jnp.sin(3.0 * (h + p["b"][None])) * jnp.sin(2.0 * (h + p["b"][None]))
        ),
        lambda p, h: jnp.sin(3.0 * (h + p["b"][None]) ** 2),
        lambda p, h: tanh(h + p["b"][None]),
    ],
)
def test_no_phase_where_the_bias_is_used_otherwise(hidden_layer):
    params = {"w": array(1, 3, 4), "b": array(2, 4), "o": array(3, 4, 2)}
    symmetry = sym.discover(
        lambda p, x: hidden_layer(p, x @ p["w"]) @ p["o"], params, X
    )
    assert "phase" not in [g.kind for g in symmetry.scaling_groups]


def test_explain_names_equation_and_line(siren):
    symmetry = siren[-1]
    text = symmetry.explain("w2", 0)
    assert "free" in text and "dot_general" in text and "test_symmetry.py" in text
    assert "b1[0]" in text and "w1[1]" in text
    assert "an output of the network" in symmetry.explain("w3", 1)
    assert symmetry.explain("w3", -1) == symmetry.explain("w3", 1)
    with pytest.raises(MetanetError, match='Did you mean "w2"'):
        symmetry.explain("w22", 0)
    with pytest.raises(MetanetError, match="axis 5"):
        symmetry.explain("w2", 5)


@pytest.fixture
def registries():
    """Makes a primitive unknown; restores the tables of rules and traits."""
    with mock.patch.dict(sym.RULES), mock.patch.dict(PRIMITIVES):
        for table in (sym.RULES, PRIMITIVES):
            del table["bessel_i1e"]
        yield


def test_unknown_primitives_are_pinned_and_listed_with_their_cost(registries):
    params = {
        "u": array(1, 3, 4),
        "w": array(2, 4, 4),
        "b": array(3, 4),
        "o": array(4, 4, 2),
    }

    def apply_fn(p, x):
        h = tanh(x @ p["u"])
        return jax.lax.bessel_i1e(h @ p["w"] + p["b"][None]) @ p["o"]

    symmetry = sym.discover(apply_fn, params, X)
    coverage = symmetry.coverage()
    assert symmetry.order == fac(4)  # of h, which the primitive does not touch
    assert "test_symmetry.py" in coverage.unknown["bessel_i1e"]
    assert coverage.pinned_by_unknown == {"bessel_i1e": ("b[0]", "o[0]", "w[1]")}
    assert coverage.share == (12 + 16) / 40 and coverage.parameters == 40
    assert "pinned b[0], o[0], w[1]" in str(symmetry)


def bessel_rule(trace, eqn, inputs):
    return [trace.nonlinear(inputs[0], "bessel_i1e")]


def test_a_registered_rule_is_used(registries):
    params = {"w": array(1, 3, 4), "o": array(2, 4, 2)}

    def apply_fn(p, x):
        return jax.lax.bessel_i1e(x @ p["w"]) @ p["o"]

    assert sym.discover(apply_fn, params, X).order == 1
    sym.register_rule("bessel_i1e")(bessel_rule)
    assert sym.discover(apply_fn, params, X).order == fac(4)


def test_traits_of_a_registered_rule_are_used(registries):
    """A fused layer stays two layers through a primitive that is declared elementwise."""
    params = {"w": array(1, 3, 8), "a": array(2, 4, 2), "b": array(3, 4, 2)}

    def apply_fn(p, x):
        h = jax.lax.bessel_i1e((x @ p["w"]).reshape(5, 2, 4))
        return h[:, 0] @ p["a"] + h[:, 1] @ p["b"]

    sym.register_rule("bessel_i1e")(bessel_rule)
    # Without the trait the layers are a product: their units are permuted alike.
    assert sym.discover(apply_fn, params, X).order == fac(4)
    sym.register_rule("bessel_i1e", elementwise=True)(bessel_rule)
    assert sym.discover(apply_fn, params, X).order == fac(4) ** 2


def test_entrywise_axes_of_a_registered_rule_are_used(registries):
    """A primitive that is linear along an axis leaves its group part of GL."""
    params = {"w": array(1, 3, 4), "o": array(2, 4, 2)}

    def apply_fn(p, x):
        return jax.lax.copy_p.bind(x @ p["w"]) @ p["o"]

    def identity_rule(trace, eqn, inputs):
        return list(inputs)

    def first_axis(trace, eqn, inputs):
        return [inputs[0].axes[0]]

    assert sym.discover(apply_fn, params, X).groups[0].linear == "GL"
    del PRIMITIVES["copy"]
    sym.register_rule("copy")(identity_rule)
    assert sym.discover(apply_fn, params, X).groups[0].linear == ""
    sym.register_rule("copy", entrywise=first_axis)(identity_rule)
    assert sym.discover(apply_fn, params, X).groups[0].linear == "GL"


@pytest.mark.parametrize("name", NETWORKS)
def test_json_round_trip(name):
    (apply_fn, params, inputs), _, _ = NETWORKS[name]
    symmetry = sym.discover(apply_fn, params, *inputs, check=False)
    again = sym.Symmetry.from_json(symmetry.to_json())
    assert again == symmetry and hash(again) == hash(symmetry)
    assert str(symmetry).startswith("permutations: order")


def test_works_from_shapes_alone(siren):
    apply_fn, params, inputs, symmetry = siren
    shapes = jax.eval_shape(lambda: params)
    assert sym.discover(apply_fn, shapes, *inputs, check=False) == symmetry


def test_activations_are_those_of_the_network(siren):
    apply_fn, p, _, symmetry = siren
    x = array(5, 7, 3)
    first = jnp.sin(3.0 * (x @ p["w1"] + p["b1"][None]))
    second = jnp.sin(3.0 * (first @ p["w2"] + p["b2"][None]))
    expected = {4: [first.T, second.T], 2: [apply_fn(p, x).T]}
    values = jax.jit(lambda p, x: sym.compute_activations(apply_fn, symmetry, p, x))(
        p, x
    )
    captured = [v for v in values if v is not None]
    assert captured and values[0] is None
    for expected_value in expected[4] + expected[2]:
        assert any(
            v.shape == expected_value.shape
            and np.allclose(v, expected_value, atol=1e-5)
            for v in captured
        )

    def total(p):
        return sum(
            v.sum() for v in sym.compute_activations(apply_fn, symmetry, p, x)[1:]
        )

    gradient = jax.grad(total)(p)
    assert all(
        math.isfinite(float(jnp.abs(g).sum())) for g in jax.tree.leaves(gradient)
    )


def test_a_type_error_in_the_proof_is_not_hidden(siren, monkeypatch):
    """Only a program that cannot run in float64 is verified in float32."""
    apply_fn, p, _, symmetry = siren
    calls = []

    def broken(*args):
        calls.append(args)
        raise TypeError("defect of act")

    monkeypatch.setattr("metanet.symmetry.verification.act", broken)
    with pytest.raises(TypeError, match="defect of act"):
        sym.check(symmetry, apply_fn, p, array(5, 7, 3))
    assert len(calls) == 1
