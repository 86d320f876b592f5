"""Single primitives: axes that they do not touch stay free, the others are pinned.

Each program is compared with its group on paper; the numerical check of `discover` proves
what is found. A program for which a coarser rule would find too much stands beside one
that really has the larger group: the check refuses that group for the former.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.symmetry_networks import array, relu, tanh
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from metanet import symmetry as sym
from metanet.errors import MetanetError
from metanet.graphs import parameter_graph, stack, to_graph
from metanet.models import GMN
from metanet.networks import Network, with_real_params

KEY = jax.random.key(3)
X = array(5, 3, seed=9)
ROWS = np.array([0, 2], np.int32)
GRID = np.linspace(-1.0, 1.0, 6, dtype=np.float32)
LOWER = np.tril(np.random.default_rng(0).normal(size=(5, 5))).astype(np.float32)
LOWER += 2 * np.eye(5, dtype=np.float32)
MATRIX = LOWER @ LOWER.T
SHAPES = {"w": (3, 4), "o": (4, 2)}


class Case(NamedTuple):
    """Program ``f(params, *inputs)`` and its group on paper."""

    function: Callable[..., Any]
    order: int = 24
    scaling_groups: dict[str, int] = {"sign": 1}
    params: dict[str, Any] = SHAPES
    inputs: tuple[Any, ...] = (X,)

    def drawn(self) -> dict[str, Any]:
        """Returns the parameters, those that are given as shapes at random."""
        return {
            name: array(*value, seed=i) if isinstance(value, tuple) else value
            for i, (name, value) in enumerate(self.params.items())
        }


def units(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Case:
    """Returns a program in which a function acts on the array [5, 4] of tanh units."""
    return Case(
        lambda p, x, *more: function(tanh(x @ p["w"]), *more) @ p["o"], *args, **kwargs
    )


def linear(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Case:
    """Returns a program in which a function acts on the array [5, 4] of linear units."""
    return Case(
        lambda p, x, *more: function(x @ p["w"], *more) @ p["o"], *args, **kwargs
    )


def complex_array(*shape: int, seed: int = 0) -> jax.Array:
    """Returns random complex numbers."""
    return lax.complex(array(*shape, seed=seed), array(*shape, seed=seed + 50))


def along_rows(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function of ``[5, units]`` that acts on every unit's column."""
    return jax.vmap(function, 1, 1)


def on_two_devices(function: Callable[..., Any], *specs: P) -> Callable[..., Any]:
    """Returns a function that two devices run, each on its part of the operands."""
    mesh = jax.make_mesh((2,), ("i",), axis_types=(AxisType.Auto,))
    *inputs, output = specs
    return jax.shard_map(function, mesh=mesh, in_specs=tuple(inputs), out_specs=output)


# Fourier neural operator and diagonal complex state space.


def fourier_operator(p, x):
    h = x @ p["w"]
    modes = jnp.fft.rfft(h, axis=0)
    mixed = jnp.fft.irfft(jnp.einsum("kc,kcd->kd", modes, p["modes"]), 5, axis=0)
    return jax.nn.gelu(mixed + h @ p["v"]) @ p["o"]


def complex_state_space(length):
    def f(p, x):
        decay = jnp.exp(lax.complex(-jnp.exp(p["rate"]), p["angle"]))
        driven = lax.complex(x @ p["re"], x @ p["im"])
        decays = jnp.broadcast_to(decay[None], driven.shape)
        _, states = lax.associative_scan(
            lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1]), (decays, driven)
        )
        return (states @ p["out"]).real

    params = {
        "rate": (4,),
        "angle": (4,),
        "re": (3, 4),
        "im": (3, 4),
        "out": complex_array(4, 2),
    }
    scales = {"positive": 1, "sign": 1}
    return Case(f, 24, scales, params, (array(length, 3, seed=8),))


# Mixture of two experts whose rows are sorted by expert.


def experts(p, x, sizes):
    h = tanh(lax.ragged_dot(x, p["w"], sizes))
    return lax.ragged_dot(h, p["o"], sizes)


def gradient_of_depthwise(p, x):
    h = (x @ p["w"])[None]

    def loss(kernel):
        y = lax.conv_general_dilated(
            h,
            kernel,
            (1,),
            "VALID",
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=4,
        )
        return (relu(y) ** 2).sum()

    return jnp.einsum("wic,co->wo", jax.grad(loss)(p["kernel"]), p["o"])


def special_functions(h):
    z = 1 + h * h
    return (
        lax.igamma(z, z)
        + lax.igammac(z, 2 * z)
        + lax.polygamma(jnp.ones_like(z), z)
        + lax.zeta(1 + z, z)
        + lax.betainc(z, z, jax.nn.sigmoid(h))
        + lax.nextafter(h, jnp.ones_like(h))
        + lax.population_count(jnp.floor(99 * z).astype(jnp.int32)).astype(h.dtype)
        + lax.clamp(-0.5, h, 0.5)
    )


def maximum_of_pairs(h):
    return lax.reduce_window(h, -jnp.inf, lax.max, (2, 1), (1, 1), "VALID")


def per_unit_matrices(decompose):
    """A decomposition of a matrix per unit makes the unit's gain."""

    def f(p, x):
        matrices = jnp.exp(p["e"])[:, None, None] * MATRIX[None, :3, :3].astype(x.dtype)
        gains = decompose(matrices).reshape(4, -1).sum(1)
        return tanh(x @ p["w"]) * gains[None] @ p["o"]

    return Case(f, 24, {"sign": 1}, SHAPES | {"e": (4,)})


def dropped(noise):
    """Noise is multiplied to the units, whose columns it does not tell apart."""
    return units(lambda h, key: h * noise(key).astype(h.dtype), inputs=(X, KEY))


def fused_layers(p, x):
    p = jax.device_put(p)
    h = (x @ p["w"]).reshape(5, 2, 4)
    return tanh(h[:, 0]) @ p["o"][0] + relu(h[:, 1]) @ p["o"][1]


@jax.custom_batching.custom_vmap
def batched_square(h):
    return h * jnp.abs(h)


batched_square.def_vmap(lambda size, batched, h: (h * jnp.abs(h), True))


def updated_memory(p, x, start):
    written = lax.dynamic_update_slice(p["memory"], x @ p["w"], (start, 0))
    return relu(written) @ p["o"]


def loop(p, x):
    def step(state):
        return state[0] + 1, tanh(state[1] @ p["v"])

    return lax.while_loop(lambda s: s[0] < 3, step, (0, x @ p["w"]))[1] @ p["o"]


def unit_noise(keys):
    return jax.vmap(lambda key: jax.random.normal(key, (5,)), out_axes=1)(keys)


def keyed_units(p, x):
    return tanh(x @ p["w"]) * unit_noise(p["keys"]).astype(x.dtype) @ p["o"]


def overwritten(h):
    array = jax.new_ref(h)
    array[...] = tanh(h) * jnp.arange(1.0, 5.0, dtype=h.dtype)[None]
    return array[...]


FREE = {
    # Copies.
    "tile of rows": units(lambda h: jnp.tile(h, (2, 1))),
    # The two weights of a unit into one output may be exchanged as well.
    "tile of units": units(
        lambda h: jnp.tile(h, (1, 2)), 24 * 2**8, params={"w": (3, 4), "o": (8, 2)}
    ),
    "tile of one row": units(lambda h: h + jnp.tile(h[:1], (5, 1))),
    "padding by nothing": units(lambda h: jnp.pad(h, ((1, 2), (0, 0)), mode="edge")),
    "choice by platform": units(
        lambda h: lax.platform_dependent(h, cpu=jnp.negative, default=jnp.positive)
    ),
    "device_put": units(jax.device_put),
    # Two fused layers, which stay two through the copy.
    "device_put of fused layers": Case(
        fused_layers, 24**2, {"positive": 1, "sign": 1}, {"w": (3, 8), "o": (2, 4, 2)}
    ),
    "custom_vmap": units(batched_square),
    "name": units(lambda h: checkpoint_name(h, "h")),
    "preferred type": Case(
        lambda p, x: tanh(lax.dot(x, p["w"], preferred_element_type=x.dtype)) @ p["o"]
    ),
    # Updates by index.
    "dynamic_update_slice": units(
        lambda h, start: lax.dynamic_update_slice(
            jnp.zeros((8, 4), h.dtype), h, (start, 0)
        ),
        inputs=(X, 2),
    ),
    "dynamic_update_slice of a parameter": Case(
        updated_memory,
        scaling_groups={"positive": 1},
        params=SHAPES | {"memory": (8, 4)},
        inputs=(X, 2),
    ),
    "scatter-sub": units(lambda h: h.at[ROWS].subtract(h[:2])),
    "scatter-mul": units(lambda h: h.at[ROWS].multiply(X[:2, :1].astype(h.dtype))),
    "scatter-apply": units(lambda h: h.at[ROWS].apply(jnp.exp), scaling_groups={}),
    "take_along_axis": units(
        lambda h: jnp.take_along_axis(h, jnp.argsort(X[:, :1], 0), 0)
    ),
    "lookup of every entry": linear(
        lambda h: jnp.asarray(GRID, h.dtype)[jnp.clip(h * 3, 0, 5).astype(jnp.int32)],
        scaling_groups={},
    ),
    **{
        f"searchsorted, {method}": linear(
            lambda h, method=method: jnp.searchsorted(
                GRID.astype(h.dtype), h, method=method
            ).astype(h.dtype),
            scaling_groups={},
        )
        for method in ("scan", "scan_unrolled", "compare_all")
    },
    "searchsorted in a grid per unit": Case(
        lambda p, x: (
            jax.vmap(jnp.searchsorted, (1, 1), 1)(p["grid"], x @ p["w"]).astype(x.dtype)
            @ p["o"]
        ),
        scaling_groups={},
        params=SHAPES | {"grid": (6, 4)},
    ),
    # Complex numbers.
    "fft": linear(
        lambda h: jnp.fft.fft(h, axis=0).real, scaling_groups={"positive": 1, "sign": 1}
    ),
    "fft of two axes": linear(
        lambda h: jnp.fft.fft2(h.reshape(1, 5, 4), axes=(0, 1)).imag.reshape(5, 4),
        scaling_groups={"positive": 1, "sign": 1},
    ),
    "fourier neural operator": Case(
        fourier_operator,
        24 * 24,
        {"positive": 1, "sign": 1},
        {"w": (3, 4), "modes": complex_array(3, 4, 4), "v": (4, 4), "o": (4, 2)},
    ),
    **{
        f"complex state space, {length} steps": complex_state_space(length)
        for length in (2, 4, 5, 8)
    },
    "absolute value of complex units": linear(
        jnp.abs,
        scaling_groups={"positive": 1, "sign": 1},
        params={"w": complex_array(3, 4), "o": (4, 2)},
    ),
    "conj": linear(
        lambda z: (z * z.conj()).real,
        scaling_groups={"positive": 1, "sign": 1},
        params={"w": complex_array(3, 4), "o": (4, 2)},
    ),
    # Contractions. (On paper the channels of each expert move on their own.)
    "ragged_dot": Case(
        experts,
        params={"w": (2, 3, 4), "o": (2, 4, 2)},
        inputs=(X, np.array([2, 3])),
    ),
    "gradient of a depthwise convolution": Case(
        gradient_of_depthwise,
        scaling_groups={"positive": 2, "sign": 1},
        params=SHAPES | {"kernel": (3, 1, 4)},
    ),
    # Named axes.
    "pmean": units(
        jax.vmap(lambda r: r - lax.pmean(r, "i"), axis_name="i"),
    ),
    "pmax": linear(
        lambda h: tanh(
            jax.vmap(lambda r: r / lax.pmax(jnp.abs(r), "i"), axis_name="i")(h)
        ),
        scaling_groups={"positive": 1, "sign": 1},
    ),
    "psum over units": linear(
        jax.vmap(lambda c: jnp.exp(c) / lax.psum(jnp.exp(c), "i"), 1, 1, axis_name="i"),
        scaling_groups={},
    ),
    "all_gather": units(
        lambda h: jax.vmap(lambda r: lax.all_gather(r, "i").max(0) + r, axis_name="i")(
            h
        ),
        scaling_groups={},
    ),
    "rows on two devices": units(
        lambda h: on_two_devices(
            lambda r: (
                lax.psum(jnp.sum(r * lax.axis_index("i"), 0), "i")[None]
                + lax.ppermute(r, "i", [(0, 1), (1, 0)])
            ),
            P("i"),
            P("i"),
        )(h[:4])
    ),
    # Random numbers.
    "dropout of rows": dropped(lambda key: jax.random.bernoulli(key, 0.5, (5, 1))),
    "noise of a key that is split": dropped(
        lambda key: jax.random.normal(jax.random.split(key)[1], (5, 1))
    ),
    "noise of a key that is folded": dropped(
        lambda key: jax.random.gamma(jax.random.fold_in(key, 3), 2.0, (5, 1))
    ),
    "noise of a raw key": units(
        lambda h, key: h * jax.random.uniform(key, (5, 1), h.dtype),
        inputs=(X, jax.random.PRNGKey(0)),
    ),
    "noise of a constant key": units(
        lambda h: h * jax.random.uniform(KEY, (5, 1), h.dtype)
    ),
    "permutation of rows": units(
        lambda h, key: jax.random.permutation(key, h), inputs=(X, KEY)
    ),
    "keys of units": Case(
        keyed_units, params=SHAPES | {"keys": jax.random.split(KEY, 4)}
    ),
    "raw keys of units": Case(
        keyed_units,
        params=SHAPES | {"keys": jax.random.key_data(jax.random.split(KEY, 4))},
    ),
    "bits of numbers": linear(
        lambda h: (
            lax.bitcast_convert_type(h.astype(jnp.float32), jnp.int32) >> 20
        ).astype(h.dtype),
        scaling_groups={},
    ),
    # Elementwise functions.
    "special functions": linear(special_functions, scaling_groups={}),
    "odd functions": linear(
        lambda h: lax.bessel_i1e(h) + jnp.arcsin(tanh(h)) + lax.erf_inv(tanh(h) / 2)
    ),
    "even functions": linear(lambda h: lax.bessel_i0e(h) + jnp.cosh(h)),
    # Reductions.
    "reduce_xor": linear(
        lambda h: h * lax.reduce_xor((h > 0).astype(jnp.int32), (0,))[None],
        scaling_groups={"positive": 1},
    ),
    "reduce": units(
        lambda h: (
            h
            + lax.reduce(h, np.array(0, h.dtype), lambda a, b: jnp.hypot(a, b), (0,))[
                None
            ]
        ),
        scaling_groups={},
    ),
    "reduce_window": linear(
        lambda h: lax.reduce_window(
            h, np.array(0, h.dtype), jnp.hypot, (2, 1), (1, 1), "VALID"
        ),
        scaling_groups={},
    ),
    "gradient of a maximum over windows": linear(
        lambda h: jax.grad(lambda h: (maximum_of_pairs(h) * X[:4, :1]).sum())(h),
        scaling_groups={"positive": 1},
    ),
    "cumlogsumexp": linear(lambda h: lax.cumlogsumexp(h, 0), scaling_groups={}),
    "approx_top_k": linear(
        lambda h: lax.approx_max_k(h, 2, reduction_dimension=0)[0], scaling_groups={}
    ),
    # Matrices per unit, and solvers of many columns.
    "cholesky": per_unit_matrices(jnp.linalg.cholesky),
    "eigh": per_unit_matrices(lambda m: jnp.linalg.eigh(m)[0] ** 2),
    "svd": per_unit_matrices(lambda m: jnp.linalg.svd(m, compute_uv=False) ** 2),
    "qr": per_unit_matrices(lambda m: jnp.linalg.qr(m)[1]),
    "lu": per_unit_matrices(lambda m: lax.linalg.lu(m)[0]),
    "inverse": per_unit_matrices(jnp.linalg.inv),
    "triangular_solve": units(
        lambda h: jax.scipy.linalg.solve_triangular(
            LOWER.astype(h.dtype), h, lower=True
        )
    ),
    "custom_linear_solve": units(lambda h: jnp.linalg.solve(MATRIX.astype(h.dtype), h)),
    "conjugate gradients": units(
        lambda h: jax.scipy.sparse.linalg.cg(lambda v: MATRIX.astype(h.dtype) @ v, h)[0]
    ),
    "custom_root": linear(
        lambda h: lax.custom_root(
            lambda y: y**3 + y - h,
            h,
            lambda f, y: functools.reduce(
                lambda z, _: z - f(z) / (3 * z * z + 1), range(8), y
            ),
            lambda g, y: y / g(jnp.ones_like(y)),
        )
    ),
    # Loops and counters.
    "while with a counter": Case(loop, params=SHAPES | {"v": (4, 4)}),
    "iota along rows": units(
        lambda h: h * lax.broadcasted_iota(jnp.int32, (5, 4), 0).astype(h.dtype)
    ),
    **{
        f"associative_scan, {length} steps": Case(
            lambda p, x: lax.associative_scan(jnp.maximum, x @ p["w"]) @ p["o"],
            scaling_groups={"positive": 1},
            inputs=(array(length, 3, seed=7),),
        )
        for length in (2, 4, 5, 8)
    },
}


@pytest.mark.parametrize("name", FREE)
def test_axes_that_a_primitive_does_not_touch_stay_free(name):
    case = FREE[name]
    params = case.drawn()
    symmetry = sym.discover(case.function, params, *case.inputs)
    assert not symmetry.unknown
    assert symmetry.order == case.order
    kinds = [g.kind for g in symmetry.scaling_groups]
    assert {k: kinds.count(k) for k in kinds} == case.scaling_groups


# Programs of which a coarser rule would find the group of the second program.
ALONE, JOINT = 1, 24
TIED: dict[str, tuple[Case, Case]] = {
    "fft of units": (
        linear(lambda h: jnp.fft.fft(h).real, ALONE, {}),
        linear(lambda h: jnp.fft.fft(h, axis=0).real),
    ),
    "real fft of units": (
        linear(lambda h: jnp.fft.irfft(jnp.fft.rfft(h)[:, :3] ** 2, 4), ALONE, {}),
        linear(lambda h: jnp.fft.irfft(jnp.fft.rfft(h, axis=0) ** 2, 5, axis=0)),
    ),
    "real and imaginary parts side by side": (
        linear(
            lambda z: jnp.concatenate([z.real[:, :2], z.imag[:, 2:]], 1),
            4,
            params={"w": complex_array(3, 4), "o": (4, 2)},
        ),
        linear(lambda z: z.real, params={"w": complex_array(3, 4), "o": (4, 2)}),
    ),
    "complex with a constant part": (
        linear(lambda h: jnp.abs(lax.complex(h, jnp.ones_like(h))), JOINT, {}),
        linear(lambda h: jnp.abs(lax.complex(h, jnp.zeros_like(h)))),
    ),
    "update within units": (
        units(
            lambda h, start: lax.dynamic_update_slice(h, relu(h[:, 1:]), (0, start)),
            ALONE,
            inputs=(X, 1),
        ),
        units(
            lambda h, start: lax.dynamic_update_slice(h, h, (start, 0)), inputs=(X, 0)
        ),
    ),
    "update that scales otherwise": (
        linear(
            lambda h: lax.dynamic_update_slice(h, jnp.exp(h[:2]), (X.shape[0] - 3, 0)),
            JOINT,
            {},
        ),
        linear(lambda h: lax.dynamic_update_slice(h, 2 * h[:2], (2, 0))),
    ),
    "function of some rows": (
        linear(lambda h: h.at[ROWS].apply(tanh), JOINT, {}),
        linear(lambda h: h),
    ),
    "product with some rows": (
        linear(lambda h: h.at[ROWS].multiply(h[:2]), JOINT, {}),
        linear(lambda h: h.at[ROWS].multiply(X[:2, :1].astype(h.dtype))),
    ),
    "difference from some rows": (
        linear(lambda h: h.at[ROWS].subtract(jnp.exp(h[:2])), JOINT, {}),
        linear(lambda h: h.at[ROWS].subtract(h[:2])),
    ),
    "lookup by a unit's number": (
        linear(lambda h: h * jnp.asarray(GRID, h.dtype)[jnp.arange(4)][None], ALONE),
        linear(lambda h: h * jnp.asarray(GRID, h.dtype)[jnp.arange(5)][:, None]),
    ),
    "searchsorted among units": (
        linear(
            lambda h: h * jnp.searchsorted(h[0], h[1])[None].astype(h.dtype), ALONE, {}
        ),
        linear(lambda h: h * jnp.searchsorted(GRID[:4], h[1])[None].astype(h.dtype)),
    ),
    "experts in order": (
        Case(
            experts,
            params={"w": (2, 3, 4), "o": (2, 4, 2)},
            inputs=(X, np.array([2, 3])),
        ),
        Case(
            lambda p, x, sizes: jnp.einsum(
                "ebh,eho->bo", tanh(jnp.einsum("bi,eih->ebh", x, p["w"])), p["o"]
            ),
            params={"w": (2, 3, 4), "o": (2, 4, 2)},
            inputs=(X, np.array([2, 3])),
        ),
    ),
    "number of a unit": (
        linear(jax.vmap(lambda c: c * lax.axis_index("i"), 1, 1, axis_name="i"), ALONE),
        linear(lambda h: jax.vmap(lambda r: r * lax.axis_index("i"), axis_name="i")(h)),
    ),
    "units on two devices": (
        linear(
            lambda h: on_two_devices(
                lambda c: c * (1.0 + lax.axis_index("i")), P(None, "i"), P(None, "i")
            )(h),
            ALONE,
        ),
        linear(lambda h: on_two_devices(lambda c: c * 2.0, P(), P())(h)),
    ),
    "neighbours of units": (
        units(
            lambda h: on_two_devices(
                lambda c: c * lax.ppermute(c, "i", [(0, 1), (1, 0)]),
                P(None, "i"),
                P(None, "i"),
            )(h),
            ALONE,
        ),
        units(lambda h: on_two_devices(lambda c: c * c, P(), P())(h)),
    ),
    "noise of units": (
        units(
            lambda h, key: h * jax.random.normal(key, (1, 4), h.dtype),
            ALONE,
            inputs=(X, KEY),
        ),
        units(
            lambda h, key: h * jax.random.normal(key, (5, 1), h.dtype), inputs=(X, KEY)
        ),
    ),
    "constant keys of units": (
        units(
            lambda h: h * unit_noise(jax.random.split(KEY, 4)).astype(h.dtype), ALONE
        ),
        units(lambda h: h * unit_noise(jnp.broadcast_to(KEY, (4,))).astype(h.dtype)),
    ),
    "keys folded with the number of a unit": (
        units(
            lambda h, key: (
                h
                * unit_noise(
                    jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(4))
                ).astype(h.dtype)
            ),
            ALONE,
            inputs=(X, KEY),
        ),
        units(
            lambda h, key: h * jax.random.normal(key, (5, 1), h.dtype), inputs=(X, KEY)
        ),
    ),
    "category among units": (
        linear(
            lambda h, key: jax.nn.one_hot(
                jax.random.categorical(key, h), 4, dtype=h.dtype
            ),
            ALONE,
            {},
            inputs=(X, KEY),
        ),
        linear(
            lambda h, key: jax.nn.one_hot(jnp.argmax(h, 1), 4, dtype=h.dtype),
            inputs=(X, KEY),
        ),
    ),
    "constant permutation that sorting makes": (
        linear(lambda h: h * jax.random.permutation(KEY, h, axis=1), ALONE),
        linear(lambda h: h * jax.random.permutation(KEY, h)),
    ),
    "cumulated constant indices": (
        linear(lambda h: h * h[:, jnp.cumsum(jnp.arange(4)) % 4], ALONE),
        linear(lambda h: h * h[:, jnp.arange(4)]),
    ),
    "bytes of numbers": (
        linear(
            lambda h: (
                lax.bitcast_convert_type(h.astype(jnp.float32), jnp.uint8)
                .sum(0)
                .astype(h.dtype)
            ),
            ALONE,
            {},
        ),
        linear(jnp.abs),
    ),
    "order of a reduction": (
        linear(
            lambda h: (
                lax.reduce(h, np.array(0, h.dtype), lambda a, b: a / 2 + b, (1,))[
                    :, None
                ]
                * jnp.ones_like(h)
            ),
            24**2,  # of `o`, one per output
            {},
        ),
        linear(lambda h: h.sum(1, keepdims=True) * jnp.ones_like(h)),
    ),
    "windows over units": (
        linear(
            lambda h: lax.reduce_window(
                h, np.array(0, h.dtype), jnp.hypot, (1, 2), (1, 1), "SAME"
            ),
            ALONE,
            {},
        ),
        linear(jnp.abs),
    ),
    "gradient of windows over units": (
        linear(lambda h: h * jax.grad(lambda h: maximum_of_pairs(h.T).sum())(h), ALONE),
        linear(lambda h: h * jax.grad(lambda h: maximum_of_pairs(h).sum())(h)),
    ),
    "sums of earlier units": (
        linear(lambda h: lax.cumlogsumexp(h, 1), ALONE, {}),
        linear(lambda h: lax.cumlogsumexp(h, 0)),
    ),
    "matrix of units": (
        linear(lambda h: jnp.linalg.qr(h)[0], ALONE, {}),
        linear(lambda h: h / jnp.sqrt((h * h).sum())),
    ),
    "solution across units": (
        linear(
            lambda h: (
                jax.scipy.linalg.solve_triangular(
                    LOWER[:4, :4].astype(h.dtype), h.T, lower=True
                ).T
            ),
            ALONE,
            {},
        ),
        linear(
            lambda h: jax.scipy.linalg.solve_triangular(
                LOWER.astype(h.dtype), h, lower=True
            )
        ),
    ),
    "mutable array": (
        linear(overwritten, ALONE, {}),
        linear(lambda h: h),
    ),
}


@pytest.mark.parametrize("name", TIED)
def test_what_a_primitive_ties_is_not_free(name):
    case, coarser = TIED[name]
    params = case.drawn()
    symmetry = sym.discover(case.function, params, *case.inputs)
    assert symmetry.order == case.order
    larger = sym.discover(coarser.function, params, *case.inputs)
    more_scales = len(larger.scaling_groups) > len(symmetry.scaling_groups)
    assert larger.order > case.order or more_scales
    with pytest.raises(sym.SymmetryError, match="not a symmetry"):
        sym.check(larger, case.function, params, *case.inputs)


@pytest.mark.parametrize(
    "name", ["ragged_dot", "noise of a raw key", "triangular_solve"]
)
def test_programs_of_these_primitives_have_graphs(name):
    case = FREE[name]
    params = case.drawn()
    graph = parameter_graph(case.function, params, *case.inputs)
    assert {edge.name for edge in graph.topology.edges} >= set(params)


def test_complex_parameters_have_graphs_as_real_ones():
    case = FREE["absolute value of complex units"]
    network = Network(case.function, case.drawn(), case.inputs)
    with pytest.raises(MetanetError, match=r"w: complex.*with_real_params"):
        parameter_graph(network.apply_fn, network.params, *network.inputs)
    real = with_real_params(network)
    assert real.params["w"].shape == (3, 4, 2)
    outputs = [f(p, *x) for f, p, x in (network, real)]
    np.testing.assert_array_equal(*outputs)
    symmetry = sym.discover(*real[:2], *real.inputs)
    assert symmetry.order == case.order
    graph = parameter_graph(real.apply_fn, real.params, *real.inputs)
    model = GMN.for_graphs([graph.topology], dim=8, rngs=nnx.Rngs(0))
    element = sym.random_element(symmetry, KEY, scales=False, signs=False)
    moved = jax.jit(functools.partial(sym.act, symmetry))(element, real.params)
    batch = stack([graph, to_graph(graph.topology, moved)])
    first, second = nnx.jit(lambda model, batch: model(batch).pooled)(model, batch)
    np.testing.assert_allclose(first, second, atol=1e-5)
