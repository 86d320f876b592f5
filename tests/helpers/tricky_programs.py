"""Small programs on which discovery may err, each with two sets of 4 units, by name.

`helpers.brute_force` compares their discovered groups with all pairs of permutations.
Most are two layers, ``x @ w1``, a tricky operation, ``tanh(h @ w2) @ o``, or a table
that is read at an index which the first layer's units decide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from helpers.brute_force import Arrays, Program, Slot
from helpers.symmetry_networks import array

lax = jax.lax
relu, tanh, sigmoid = jax.nn.relu, jnp.tanh, jax.nn.sigmoid
Params = dict[str, Any]

X = array(5, 3, seed=9)
COUNTED = np.arange(1.0, 5.0)
ORDER = (2, 0, 3, 1)
FLIPPED = (3, 2, 1, 0)
LAST, FIRST = -1, 0

FIRST_LAYER = (Slot("w1", 1), Slot("w2", 0))
SECOND_LAYER = (Slot("w2", 1), Slot("o", 0))
SHAPES = {"w1": (3, 4), "w2": (4, 4), "o": (4, 2)}

PROGRAMS: dict[str, Program] = {}


def parameters(**shapes: Any) -> Params:
    return {
        name: array(*shape, seed=i + 1) if isinstance(shape, tuple) else shape
        for i, (name, shape) in enumerate(shapes.items())
    }


def add(
    name: str,
    function: Callable[..., Any],
    first: tuple[Slot, ...],
    second: tuple[Slot, ...] = (),
    inputs: tuple[Any, ...] = (X,),
    *,
    ordered: bool = False,
    looped: bool = False,
    tolerance: float = 1e-8,
    transform: Callable[[Arrays, np.ndarray, np.ndarray], Arrays] | None = None,
    **shapes: Any,
) -> None:
    """Adds a program by its function and the shapes of its parameters."""
    if name in PROGRAMS:
        raise ValueError(name)
    params = parameters(**shapes)
    PROGRAMS[name] = Program(
        function, params, inputs, first, second, transform, tolerance, ordered, looped
    )


def between(
    name: str,
    operation: Callable[..., Any],
    more: tuple[Slot, ...] = (),
    first: tuple[Slot, ...] = FIRST_LAYER,
    w2: tuple[int, ...] = (4, 4),
    ordered: bool = False,
    looped: bool = False,
    tolerance: float = 1e-8,
    **shapes: Any,
) -> None:
    """Adds a network with an operation between two layers, ``operation(h, p, x)``."""

    def function(p, x):
        h = operation(x @ p["w1"], p, x)
        return tanh(h @ p["w2"]) @ p["o"]

    add(
        name,
        function,
        (*first, *more),
        SECOND_LAYER,
        ordered=ordered,
        looped=looped,
        tolerance=tolerance,
        **SHAPES | {"w2": w2} | shapes,
    )


def lookup(
    name: str,
    operation: Callable[..., Any],
    first: tuple[Slot, ...] = (Slot("w1", 1), Slot("e", 0)),
    size: int = 4,
    index: Callable[..., Any] = lambda h: jnp.argmax(h, 1),
    **shapes: Any,
) -> None:
    """Adds a table that is read where ``operation(h, p, x)`` is greatest."""

    def function(p, x):
        h = operation(x @ p["w1"], p, x)
        return tanh(p["e"][index(h)]) @ p["o"]

    second = (Slot("e", 1), Slot("o", 0))
    shapes = {"w1": (3, 4), "e": (size, 4), "o": (4, 2)} | shapes
    add(name, function, first, second, ordered=True, **shapes)


def ranked(
    name: str,
    operation: Callable[..., Any],
    first: tuple[Slot, ...] = (Slot("w1", 1), Slot("e", 0)),
    **shapes: Any,
) -> None:
    """Adds a table whose rows are summed with weights by their rank in an operation.

    Equal entries are ranked by their position, so that no permutation exchanges them.
    """

    def function(p, x):
        order = lax.top_k(operation(x @ p["w1"], p, x), 4)[1]
        return tanh(jnp.einsum("tre,r->te", p["e"][order], p["r"])) @ p["o"]

    second = (Slot("e", 1), Slot("o", 0))
    shapes = {"w1": (3, 4), "e": (4, 4), "r": (4,), "o": (4, 2)} | shapes
    add(name, function, first, second, ordered=True, **shapes)


def number(value: Any, like: jax.Array) -> jax.Array:
    """Returns a constant with the type of an array."""
    return jnp.asarray(value, like.dtype)


def row(value: Any, like: jax.Array) -> jax.Array:
    return number(value, like)[None]


# Ties: an index that units decide moves along with them only if no two are equal.

SUM = lambda h: h.sum(1, keepdims=True)
ARGMAX = {
    "itself": lambda h, p, x: h,
    "relu times a scalar": lambda h, p, x: relu(h) * p["s"][None, None],
    "at most zero": lambda h, p, x: jnp.minimum(h, 0),
    "at most zero plus a constant along the units": lambda h, p, x: (
        jnp.minimum(h, 0) + x[:, :1]
    ),
    "in bfloat16": lambda h, p, x: (h + 30.0).astype(jnp.bfloat16),
    "in bfloat16 and back": lambda h, p, x: (
        (h + 30.0).astype(jnp.bfloat16).astype(h.dtype)
    ),
    "in float16": lambda h, p, x: (h + 300.0).astype(jnp.float16),
    "in integers": lambda h, p, x: h.astype(jnp.int32),
    "in integers and back": lambda h, p, x: h.astype(jnp.int32).astype(h.dtype),
    "reduced precision": lambda h, p, x: lax.reduce_precision(h, 5, 3),
    "mean over nothing": lambda h, p, x: h[:, None].mean(1),
    "over its absolute value": lambda h, p, x: h / jnp.abs(h),
    "to the power 3": lambda h, p, x: lax.integer_pow(h, 3),
    "rounded": lambda h, p, x: jnp.round(h),
    "floor": lambda h, p, x: jnp.floor(h),
    "ceil": lambda h, p, x: jnp.ceil(h),
    "sign": lambda h, p, x: jnp.sign(h),
    "clipped": lambda h, p, x: jnp.clip(h, -0.5, 0.5),
    "at most a scalar": lambda h, p, x: jnp.minimum(h, p["s"][None, None]),
    "positive": lambda h, p, x: h > 0,
    "selected or a sum": lambda h, p, x: jnp.where(h > 0, SUM(h), h),
    "tanh": lambda h, p, x: tanh(h),
    "softmax": lambda h, p, x: jax.nn.softmax(h),
    "centred": lambda h, p, x: h - h.mean(1, keepdims=True),
    "leaky": lambda h, p, x: jax.nn.leaky_relu(h),
    "floored quotient": lambda h, p, x: h // 0.5,
    "bits": lambda h, p, x: (h > 0).astype(jnp.int32) << 2,
    "population count": lambda h, p, x: lax.population_count(h.astype(jnp.int32)),
}
RANKED = {
    "itself": lambda h, p, x: h,
    "relu": lambda h, p, x: relu(h),
    "relu plus a constant along the units": lambda h, p, x: relu(h) + x[:, :1],
    "relu plus a scalar": lambda h, p, x: relu(h) + p["s"][None, None],
    "relu twice": lambda h, p, x: relu(h) + relu(h),
    "relu after a bias": lambda h, p, x: relu(h + p["b"][None]),
    "bias": lambda h, p, x: h + p["b"][None],
    "bias only": lambda h, p, x: jnp.broadcast_to(p["b"][None], h.shape),
    "in bfloat16": lambda h, p, x: (h + 30.0).astype(jnp.bfloat16),
    "in integers": lambda h, p, x: h.astype(jnp.int32),
    "reduced precision": lambda h, p, x: lax.reduce_precision(h, 5, 3),
    "broadcast sum": lambda h, p, x: jnp.broadcast_to(SUM(h), h.shape),
    "broadcast in dim": lambda h, p, x: lax.broadcast_in_dim(h.sum(1), h.shape, (0,)),
    "less its own copy": lambda h, p, x: h - lax.stop_gradient(h),
    "less its copy behind a barrier": lambda h, p, x: h - lax.optimization_barrier(h),
    "less its mean over nothing": lambda h, p, x: h - h[:, None].mean(1),
    "less its greatest over nothing": lambda h, p, x: h - h[:, None].max(1),
    "less its double": lambda h, p, x: 2 * h - (h + h),
    "less its transpose twice": lambda h, p, x: h - h.T.T,
    "less the same product": lambda h, p, x: h - x @ p["w1"],
    "less the product of copies": lambda h, p, x: h - (x * 1.0) @ (p["w1"] + 0.0),
    "over its absolute value": lambda h, p, x: h / jnp.abs(h),
    "over its square root squared": lambda h, p, x: h / jnp.sqrt(h * h),
    "to the power 0": lambda h, p, x: lax.integer_pow(h, 0),
    "to the real power 0": lambda h, p, x: jnp.abs(h) ** 0.0,
    "cosine squared and sine squared": lambda h, p, x: jnp.round(
        jnp.cos(h) ** 2 + jnp.sin(h) ** 2
    ),
    "selected": lambda h, p, x: jnp.where(h > 0, h, 0),
    "times zero": lambda h, p, x: 0 * h,
    "times a mask over rows": lambda h, p, x: h * (x[:, :1] > 0),
    "times a relu over rows": lambda h, p, x: h * relu(x[:, :1]),
    "times its own sign": lambda h, p, x: relu(h) * jnp.sign(h),
    "greater of two neighbours": lambda h, p, x: jnp.maximum(h, jnp.roll(h, 1, 1)),
    "differences of neighbours, added": lambda h, p, x: (
        (h - h[:, ::-1]) + (h[:, ::-1] - h)
    ),
    "greatest so far": lambda h, p, x: lax.cummax(h, axis=1),
    "first unit everywhere": lambda h, p, x: h[:, np.zeros(4, int)],
    "first unit broadcast": lambda h, p, x: jnp.broadcast_to(h[:, :1], h.shape),
    "real part of a power": lambda h, p, x: jnp.real((h + 0j) ** 0),
    "exp of a masked": lambda h, p, x: jnp.exp(jnp.where(h > 0, h, -jnp.inf)),
    "relu shifted along rows": lambda h, p, x: relu(h) + jnp.roll(relu(h), 1, 0),
    "sum of relus over rows": lambda h, p, x: jnp.broadcast_to(
        relu(h).sum(0, keepdims=True), h.shape
    ),
    "count of greater relus": lambda h, p, x: (
        relu(h)[:, :, None] > relu(h)[:, None]
    ).sum(2),
    "one hot of a relu": lambda h, p, x: jax.nn.one_hot(jnp.argmax(relu(h), 1), 4),
    "finite or not": lambda h, p, x: jnp.isfinite(h).astype(jnp.int32),
    "infinite": lambda h, p, x: jnp.full_like(h, jnp.inf) * jnp.abs(h),
    "product with relus": lambda h, p, x: relu(h) @ p["u"],
    "relu in a loop": lambda h, p, x: lax.fori_loop(0, 2, lambda i, g: relu(g) + 1, h),
    "relu in a scan": lambda h, p, x: lax.scan(lambda c, r: (c, relu(r)), 0, h)[1],
    "relu in a branch": lambda h, p, x: lax.cond(x[0, 0] > 0, relu, jnp.sin, h),
    "relu under vmap": lambda h, p, x: jax.vmap(relu)(h),
    "relu of a checkpoint": lambda h, p, x: jax.checkpoint(relu)(h),
    "gradient of a relu": lambda h, p, x: jax.grad(lambda h: relu(h).sum())(h),
    "tangent of a relu": lambda h, p, x: jax.jvp(relu, (h,), (h,))[1],
    "padded and cut": lambda h, p, x: jnp.pad(h, ((0, 0), (4, 0)))[:, :4],
    "row updated": lambda h, p, x: jnp.zeros_like(h).at[:2].set(h[:2]),
    "rows by index": lambda h, p, x: jax.ops.segment_sum(
        h, np.array([0, 0, 1, 1, 3]), 5
    ),
    "maxima by index": lambda h, p, x: jnp.zeros_like(h).at[:3].max(h[:3]),
    "tokens out of bounds": lambda h, p, x: h.at[np.array([9, 0, 1, 2, 9])].get(
        mode="fill", fill_value=0
    ),
    "window along rows": lambda h, p, x: lax.reduce_window(
        relu(h), 0.0, lax.add, (2, 1), (1, 1), "SAME"
    ),
    "absolute value": lambda h, p, x: jnp.abs(h),
    "square": lambda h, p, x: h * h,
    "clamped": lambda h, p, x: lax.clamp(number(-0.3, h), h, number(0.3, h)),
    "int8": lambda h, p, x: (8 * h).astype(jnp.int8),
    "quantized and back": lambda h, p, x: jnp.round(h * 4) / 4,
    "straight-through": lambda h, p, x: h + lax.stop_gradient(jnp.round(h) - h),
    "bits of a float": lambda h, p, x: (
        lax.bitcast_convert_type(h.astype(jnp.float32), jnp.int32) >> 22
    ),
    "random signs": lambda h, p, x: (
        jnp.abs(h) * 0 + jax.random.rademacher(jax.random.key(1), (5, 1), h.dtype)
    ),
    "logits of a softplus far out": lambda h, p, x: jax.nn.relu6(3 * h),
    "fft of zeros": lambda h, p, x: jnp.real(jnp.fft.fft(relu(h), axis=0)),
}
MORE_LEAVES: dict[str, dict[str, tuple[int, ...]]] = {
    "relu plus a scalar": {"s": ()},
    "relu times a scalar": {"s": ()},
    "at most a scalar": {"s": ()},
    "relu after a bias": {"b": (4,)},
    "bias": {"b": (4,)},
    "bias only": {"b": (4,)},
    "product with relus": {"u": (4, 4)},
}
TABLE = (Slot("w1", 1), Slot("e", 0))
BIASED = (*TABLE, Slot("b", 0))
FIRST_OF = {
    "relu after a bias": BIASED,
    "bias": BIASED,
    "bias only": (Slot("b", 0), Slot("e", 0)),
    "product with relus": (Slot("u", 1), Slot("e", 0)),
}
for name, operation in ARGMAX.items():
    leaves = MORE_LEAVES.get(name, {})
    lookup(f"argmax: {name}", operation, FIRST_OF.get(name, TABLE), **leaves)
for name, operation in RANKED.items():
    leaves = MORE_LEAVES.get(name, {})
    ranked(f"ranked: {name}", operation, FIRST_OF.get(name, TABLE), **leaves)

lookup("argmin", lambda h, p, x: h, index=lambda h: jnp.argmin(h, 1))
lookup(
    "argmin of a square", lambda h, p, x: relu(h) ** 2, index=lambda h: jnp.argmin(h, 1)
)
lookup(
    "argmax of repeated units",
    lambda h, p, x: jnp.repeat(h, 2, axis=1),
    first=(Slot("w1", 1), Slot("e", 0, shape=(4, 2, 4))),
    size=8,
)
lookup(
    "greatest two",
    lambda h, p, x: h,
    index=lambda h: lax.top_k(h, 2)[1][:, 1],
)
lookup("first of argsort", lambda h, p, x: h, index=lambda h: jnp.argsort(h, 1)[:, 0])
lookup(
    "first of argsort of a relu",
    lambda h, p, x: relu(h),
    index=lambda h: jnp.argsort(h, 1)[:, 0],
)
lookup(
    "index within a type",
    lambda h, p, x: h,
    index=lambda h: jnp.argmax(h, 1).astype(jnp.uint8),
)
lookup(
    "index of greatest through a float",
    lambda h, p, x: h,
    index=lambda h: jnp.argmax(h, 1).astype(h.dtype).astype(jnp.int32),
)
lookup(
    "index from a search",
    lambda h, p, x: jnp.sort(h, 1),
    first=(Slot("w1", 1),),
    size=5,
    index=lambda h: jax.vmap(jnp.searchsorted)(h, 0 * h[:, 0]),
)
lookup(
    "index from a count",
    lambda h, p, x: h,
    first=(Slot("w1", 1),),
    size=5,
    index=lambda h: (h > 0).sum(1),
)
between(
    "index as a value",
    lambda h, p, x: h * (1.0 + jnp.argmax(h, 1)[:, None]),
    ordered=True,
)
between("index added", lambda h, p, x: h + jnp.argmax(h, 1)[:, None], ordered=True)
between(
    "one hot times units",
    lambda h, p, x: h * jax.nn.one_hot(jnp.argmax(h, 1), 4, dtype=h.dtype),
    ordered=True,
)
between(
    "eye at an index",
    lambda h, p, x: h * jnp.eye(4, dtype=h.dtype)[jnp.argmax(h, 1)],
    ordered=True,
)
between(
    "eye at an index of bfloat16",
    lambda h, p, x: (
        h * jnp.eye(4, dtype=h.dtype)[jnp.argmax((h + 30.0).astype(jnp.bfloat16), 1)]
    ),
    ordered=True,
)
between(
    "routed",
    lambda h, p, x: h * jax.nn.one_hot(lax.top_k(h, 2)[1], 4, dtype=h.dtype).sum(1),
    ordered=True,
)
between(
    "greatest value by index",
    lambda h, p, x: relu(h) - jnp.take_along_axis(h, jnp.argmax(h, 1)[:, None], 1),
    ordered=True,
)
between(
    "value at another's argmax",
    lambda h, p, x: (
        relu(h) - jnp.take_along_axis(h, jnp.argmax(-relu(h), 1)[:, None], 1)
    ),
    ordered=True,
)
between(
    "sorted by argsort",
    lambda h, p, x: relu(h) + jnp.take_along_axis(h, jnp.argsort(h, 1), 1)[:, :1],
)
between(
    "sorted with a payload",
    lambda h, p, x: relu(h) + lax.sort((relu(h), h), dimension=1, num_keys=1)[1][:, :1],
    ordered=True,
)
between(
    "median",
    lambda h, p, x: h - jnp.sort(h, 1)[:, 1:2],
)
between(
    "greatest set to zero",
    lambda h, p, x: h.at[jnp.arange(5), jnp.argmax(h, 1)].set(0.0),
    ordered=True,
)
between(
    "first relu minimum set to one",
    lambda h, p, x: h.at[jnp.arange(5), jnp.argmin(relu(h), 1)].set(1.0),
    ordered=True,
)
between("sorted layer", lambda h, p, x: jnp.sort(h, 1), first=(Slot("w1", 1),))

# Integer and boolean leaves have no scales.
INT8 = jnp.asarray(np.random.default_rng(3).integers(-9, 9, (4, 4)), jnp.int8)
MASK = jnp.asarray(np.random.default_rng(3).integers(0, 2, (3, 4)), bool)


def quantized(p, x):
    return tanh(x @ p["w1"]) @ (p["q"].astype(x.dtype) * p["s"][None]) @ p["o"]


QUANTIZED = {"w1": (3, 4), "q": INT8, "s": (4,), "o": (4, 2)}
QUANTIZED_SLOTS = (
    (Slot("w1", 1), Slot("q", 0)),
    (Slot("q", 1), Slot("s", 0), Slot("o", 0)),
)
add("int8 weights", quantized, *QUANTIZED_SLOTS, **QUANTIZED)


def quantized_relu(p, x):
    h = relu(x @ p["w1"]) @ p["q"].astype(x.dtype)
    return relu(h * p["s"][None]) @ p["o"]


add("int8 weights and relu", quantized_relu, *QUANTIZED_SLOTS, **QUANTIZED)


def zero_point(p, x):
    w = (p["q"] - p["z"][None]).astype(x.dtype) * p["s"][None]
    return relu(relu(x @ p["w1"]) @ w) @ p["o"]


add(
    "int8 weights less a zero point",
    zero_point,
    QUANTIZED_SLOTS[0],
    (*QUANTIZED_SLOTS[1], Slot("z", 0)),
    **QUANTIZED,
    z=jnp.asarray([1, -2, 0, 3], jnp.int8),
)
between(
    "boolean mask of weights",
    lambda h, p, x: relu(x @ (p["w1"] * p["m"])),
    (Slot("m", 1),),
    m=MASK,
)
between(
    "boolean mask selects weights",
    lambda h, p, x: relu(x @ jnp.where(p["m"], p["w1"], 0)),
    (Slot("m", 1),),
    m=MASK,
)
between(
    "boolean mask of units",
    lambda h, p, x: tanh(h) * p["m"][None],
    (Slot("m", 0),),
    m=MASK[0],
)
between(
    "integer shifts of units",
    lambda h, p, x: relu(h) * (2.0 ** p["k"].astype(h.dtype))[None],
    (Slot("k", 0),),
    k=jnp.asarray([1, -1, 0, 2], jnp.int32),
)
add(
    "stored ids of a table",
    lambda p, x: tanh(p["e"][p["k"]] + x[:4, :1]) @ p["o"],
    (Slot("e", 0, part=(slice(0, 4),)),),
    (Slot("e", 1), Slot("o", 0)),
    e=(4, 4),
    k=jnp.asarray([1, 3, 0, 2], jnp.int32),
    o=(4, 2),
)

# Precision.
between(
    "bfloat16 inside",
    lambda h, p, x: relu(h).astype(jnp.bfloat16).astype(h.dtype),
    tolerance=2e-2,
)
between(
    "bfloat16 products",
    lambda h, p, x: (relu(h).astype(jnp.bfloat16) @ p["u"].astype(jnp.bfloat16)).astype(
        h.dtype
    ),
    first=(Slot("w1", 1), Slot("u", 0)),
    u=(4, 4),
    tolerance=5e-2,
)
PROGRAMS["bfloat16 products"] = PROGRAMS["bfloat16 products"]._replace(
    second=(Slot("u", 1), Slot("w2", 0))
)
between(
    "float32 inside",
    lambda h, p, x: relu(h).astype(jnp.float32).astype(h.dtype),
    tolerance=1e-5,
)
between(
    "float32 constant",
    lambda h, p, x: relu(h) * jnp.float32(2.0),
)
between(
    "float16 sums",
    lambda h, p, x: (
        relu(h) + relu(h).astype(jnp.float16).sum(1, keepdims=True).astype(h.dtype)
    ),
    tolerance=2e-2,
)
between(
    "integers inside",
    lambda h, p, x: h * jnp.round(4 * h).astype(jnp.int32).sum(1, keepdims=True),
)
between(
    "float32 dot",
    lambda h, p, x: lax.dot_general(
        relu(h).astype(jnp.float32),
        p["u"].astype(jnp.float32),
        (((1,), (0,)), ((), ())),
        preferred_element_type=jnp.float32,
    ),
    first=(Slot("w1", 1), Slot("u", 0)),
    u=(4, 4),
    tolerance=1e-4,
)
PROGRAMS["float32 dot"] = PROGRAMS["float32 dot"]._replace(
    second=(Slot("u", 1), Slot("w2", 0))
)

# Scales, signs and phases beside ties.
for name, function in {
    "sine": jnp.sin,
    "cosine": jnp.cos,
    "relu of a sine": lambda h: relu(jnp.sin(h)),
    "absolute value": jnp.abs,
    "square": jnp.square,
    "gelu": jax.nn.gelu,
    "leaky relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "sign": jnp.sign,
    "hard tanh": lambda h: jnp.clip(h, -1, 1),
    "round": jnp.round,
    "floor": jnp.floor,
    "over its absolute value": lambda h: h / (jnp.abs(h) + 1e-3),
    "exactly over its absolute value": lambda h: h / jnp.abs(h),
    "sinc": jnp.sinc,
    "sinusoid of double": lambda h: jnp.sin(2 * h) + jnp.sin(h),
    "sine and cosine": lambda h: jnp.sin(h) * jnp.cos(h),
    "copysign": lambda h: jnp.copysign(number(1.0, h), h),
    "sine of an absolute value": lambda h: jnp.sin(jnp.abs(h)),
    "greater than zero": lambda h: (h > 0).astype(h.dtype),
    "at least zero": lambda h: (h >= 0).astype(h.dtype),
    "equal to zero": lambda h: h + (h == 0),
    "heaviside": lambda h: jnp.heaviside(h, number(0.3, h)),
    "square root of an absolute value": lambda h: jnp.sqrt(jnp.abs(h)),
    "log of an absolute value": lambda h: jnp.log(jnp.abs(h) + 1e-3),
    "power": lambda h: jnp.abs(h) ** 1.5,
    "cube": lambda h: h**3,
    "arctangent": lambda h: jnp.arctan2(h, number(1.0, h)),
}.items():
    between(
        f"biased {name}",
        lambda h, p, x, function=function: function(h + p["b"][None]),
        (Slot("b", 0),),
        b=(4,),
    )


def slope(h, p, x):
    """Returns the derivative of a layer along the first input."""
    return jax.jvp(
        lambda x: jnp.sin(x @ p["w1"] + p["b"][None]), (x,), (jnp.ones_like(x),)
    )[1]


between("derivative of a sine", slope, (Slot("b", 0),), b=(4,))


def whole_slope(p, x):
    def value(row):
        return (jnp.sin(jnp.sin(row @ p["w1"] + p["b"]) @ p["w2"]) @ p["o"])[0]

    return jax.vmap(jax.grad(value))(x)


add(
    "gradient of a sine network",
    whole_slope,
    (*FIRST_LAYER, Slot("b", 0)),
    SECOND_LAYER,
    **SHAPES,
    b=(4,),
)


def tanh_slope(p, x):
    def value(row):
        return (tanh(tanh(row @ p["w1"]) @ p["w2"]) @ p["o"])[0]

    return jax.vmap(jax.grad(value))(x)


add("gradient of a tanh network", tanh_slope, FIRST_LAYER, SECOND_LAYER, **SHAPES)


def relu_slope(p, x):
    def value(row):
        return (relu(relu(row @ p["w1"]) @ p["w2"]) @ p["o"])[0]

    return jax.vmap(jax.grad(value))(x)


add("gradient of a relu network", relu_slope, FIRST_LAYER, SECOND_LAYER, **SHAPES)
between("derivative of tanh", lambda h, p, x: 1 - tanh(h) ** 2)


def scaled_weights(p, x):
    w = p["w"] * p["s"][..., None]
    return relu(jnp.einsum("bi,oik->bok", x, w)).reshape(5, 16) @ p["o"]


add(
    "two scales of a weight",
    scaled_weights,
    (
        Slot("w", 0),
        Slot("s", 0),
        Slot("o", 0, shape=(4, 4, 2)),
    ),
    (Slot("w", 2), Slot("o", 1, shape=(4, 4, 2))),
    w=(4, 3, 4),
    s=(4, 3),
    o=(16, 2),
)
between("unread matrix", lambda h, p, x: relu(h), (Slot("u", 0),), u=(4, 3))

# Loops.


def combined(length):
    def f(p, x):
        h = (x @ p["w1"]).reshape(1, 5, 4) * jnp.ones((length, 1, 1), x.dtype)
        h = h * jnp.arange(1.0, length + 1, dtype=x.dtype)[:, None, None]
        g = lax.associative_scan(lambda a, b: tanh(a) * b, h)
        return tanh(g.sum(0) @ p["w2"]) @ p["o"]

    return f


for length in (2, 4, 5, 8):
    add(
        f"associative scan of {length}",
        combined(length),
        FIRST_LAYER,
        SECOND_LAYER,
        **SHAPES,
    )
between(
    "associative scan over rows",
    lambda h, p, x: lax.associative_scan(jnp.add, relu(h)),
)
between(
    "associative scan over units",
    lambda h, p, x: lax.associative_scan(jnp.maximum, h, axis=1),
)
between(
    "linear recurrence",
    lambda h, p, x: lax.associative_scan(
        lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1]), (sigmoid(h), h)
    )[1],
)


def recurrence(p, x):
    def step(c, r):
        c = tanh(c @ p["u"] + (r @ p["w1"])[None])
        return c, c

    _, states = lax.scan(step, jnp.zeros((1, 4), x.dtype), x)
    return tanh(states[:, 0] @ p["w2"]) @ p["o"]


SQUARE = (Slot("u", 0), Slot("u", 1))
add(
    "recurrence",
    recurrence,
    (*FIRST_LAYER, *SQUARE),
    SECOND_LAYER,
    **SHAPES,
    u=(4, 4),
)


def unrolled(p, x):
    c = jnp.zeros((1, 4), x.dtype)
    for i in range(3):
        c = tanh(c @ p["u"] + x[i : i + 1] @ p["w1"])
    return tanh(c @ p["w2"]) @ p["o"]


add(
    "unrolled recurrence",
    unrolled,
    (*FIRST_LAYER, *SQUARE),
    SECOND_LAYER,
    **SHAPES,
    u=(4, 4),
)


def unrolled_slope(p, x):
    def value(x):
        return unrolled(p, x)[0, 0]

    return jax.grad(value)(x)


add(
    "gradient of an unrolled recurrence",
    unrolled_slope,
    (*FIRST_LAYER, *SQUARE),
    SECOND_LAYER,
    **SHAPES,
    u=(4, 4),
)


def gru(p, x):
    def step(c, r):
        gates = r @ p["w"] + c @ p["u"]
        z, n = sigmoid(gates[:4]), tanh(gates[4:])
        c = (1 - z) * c + z * n
        return c, c

    _, states = lax.scan(step, jnp.zeros(4, x.dtype), x)
    return tanh(states @ p["w2"]) @ p["o"]


add(
    "gated recurrence",
    gru,
    (
        Slot("w", 1, shape=(3, 2, 4), order=tuple(range(4))),
        Slot("u", 0),
        Slot("u", 2, shape=(4, 2, 4)),
        Slot("w2", 0),
    ),
    SECOND_LAYER,
    w=(3, 8),
    u=(4, 8),
    w2=(4, 4),
    o=(4, 2),
)
PROGRAMS["gated recurrence"] = PROGRAMS["gated recurrence"]._replace(
    first=(
        Slot("w", 2, shape=(3, 2, 4)),
        Slot("u", 0),
        Slot("u", 2, shape=(4, 2, 4)),
        Slot("w2", 0),
    )
)
between("fori loop", lambda h, p, x: lax.fori_loop(0, 3, lambda i, h: tanh(h) + h, h))
between(
    "fori loop with a counter",
    lambda h, p, x: lax.fori_loop(0, 3, lambda i, h: tanh(h) * (i + 1.0), h),
)
between(
    "fori loop sets columns",
    lambda h, p, x: lax.fori_loop(0, 4, lambda i, g: g.at[:, i].set(relu(h[:, i])), h),
)
between(
    "fori loop sets rows",
    lambda h, p, x: lax.fori_loop(0, 5, lambda i, g: g.at[i].set(relu(h[i])), h),
)
between(
    "while loop until small",
    lambda h, p, x: lax.while_loop(lambda h: (h * h).sum() > 1.0, lambda h: 0.5 * h, h),
)
between(
    "while loop until the first is small",
    lambda h, p, x: lax.while_loop(
        lambda h: jnp.abs(h[:, 0]).sum() > 1.0, lambda h: 0.5 * h, h
    ),
)
between(
    "scan over units, ordered",
    lambda h, p, x: lax.scan(lambda c, u: (tanh(c + u), c), h[:, 0] * 0, h.T)[1].T,
)
between("map over units", lambda h, p, x: lax.map(lambda u: tanh(u) * u.sum(), h.T).T)
between("map over rows", lambda h, p, x: lax.map(lambda r: r * r.max(), h))
between("branch", lambda h, p, x: lax.cond(h.sum() > 0, tanh, lambda h: h * 2, h))
between(
    "branch on the first unit",
    lambda h, p, x: lax.cond(h[0, 0] > 0, tanh, lambda h: h * 2, h),
)
between(
    "branch of equal ones",
    lambda h, p, x: lax.cond(h.sum() > 0, tanh, tanh, h),
)
between(
    "switch on the argmax",
    lambda h, p, x: lax.switch(jnp.argmax(h[0]), [tanh, jnp.sin, relu, jnp.abs], h),
    ordered=True,
)
between(
    "switch on an input",
    lambda h, p, x: lax.switch((x[0, 0] > 0).astype(jnp.int32), [tanh, jnp.sin], h),
)
between("checkpoint", lambda h, p, x: jax.checkpoint(lambda h: tanh(h) * h)(h))
between(
    "vmapped norm", lambda h, p, x: jax.vmap(lambda r: r / (1 + jnp.abs(r).max()))(h)
)
between(
    "mean over a named axis",
    lambda h, p, x: jax.vmap(lambda r: tanh(r - lax.pmean(r, "b")), axis_name="b")(h),
)
between(
    "sum over a named axis of units",
    lambda h, p, x: jax.vmap(lambda r: tanh(r - lax.psum(r, "u")), 1, 1, axis_name="u")(
        h
    ),
)
between(
    "index of a named axis of units",
    lambda h, p, x: jax.vmap(
        lambda r: tanh(r * (1.0 + lax.axis_index("u"))), 1, 1, axis_name="u"
    )(h),
)


@jax.custom_jvp
def custom(h):
    return tanh(h) * h


custom.defjvp(lambda primals, tangents: (custom(*primals), tangents[0]))
between("custom derivative", lambda h, p, x: custom(h))

# Shapes and moves.
PER_TWO = (Slot("w1", 1), Slot("w2", 1, shape=(2, 4, 4)))
between("tile", lambda h, p, x: jnp.tile(relu(h), (1, 2)), first=PER_TWO, w2=(8, 4))
between(
    "tile rows",
    lambda h, p, x: jnp.tile(relu(h), (2, 1)).reshape(2, 5, 4).sum(0),
)
between(
    "repeat units",
    lambda h, p, x: jnp.repeat(relu(h), 2, axis=1),
    first=(Slot("w1", 1), Slot("w2", 0, shape=(4, 2, 4))),
    w2=(8, 4),
)
between(
    "repeat by different counts",
    lambda h, p, x: jnp.repeat(
        relu(h), np.array([1, 2, 2, 3]), axis=1, total_repeat_length=8
    ),
    w2=(8, 4),
    first=(Slot("w1", 1),),
)
between("device put", lambda h, p, x: jax.device_put(relu(h)))
between(
    "rows updated",
    lambda h, p, x: lax.dynamic_update_slice(jnp.zeros_like(h), relu(h)[:3], (1, 0)),
)
between(
    "rows updated at a computed place",
    lambda h, p, x: lax.dynamic_update_slice(
        h, relu(h)[:2], ((x[0, 0] > 0).astype(jnp.int32), jnp.int32(0))
    ),
)
between(
    "columns updated",
    lambda h, p, x: lax.dynamic_update_slice(h, relu(h)[:, :2], (0, 1)),
)
between(
    "columns updated whole",
    lambda h, p, x: lax.dynamic_update_slice(jnp.zeros_like(h), relu(h), (0, 0)),
)
between(
    "row sliced at a computed place",
    lambda h, p, x: (
        relu(h)
        + lax.dynamic_slice(h, ((x[0, 0] > 0).astype(jnp.int32), jnp.int32(0)), (1, 4))
    ),
)
between(
    "cache of keys",
    lambda h, p, x: (
        jax.nn.softmax(h @ jnp.zeros((8, 4), h.dtype).at[:5].set(h).T)
        @ jnp.zeros((8, 4), h.dtype).at[:5].set(relu(h))
    ),
)
between("fft over rows", lambda h, p, x: jnp.fft.fft(relu(h), axis=0).real)
between(
    "absolute fft over rows",
    lambda h, p, x: jnp.abs(jnp.fft.rfft(h, axis=0)).sum(0, keepdims=True) * h,
)
between("imaginary part", lambda h, p, x: jnp.imag(lax.complex(h, tanh(h)) ** 2))
between("complex exponential", lambda h, p, x: jnp.real(jnp.exp(1j * h) * h))
between(
    "conjugate",
    lambda h, p, x: jnp.real(lax.complex(h, tanh(h)) * lax.complex(h, h).conj()),
)
between("angle", lambda h, p, x: jnp.angle(lax.complex(h, h + 1.0)))


def fourier(p, x):
    h = jnp.fft.rfft(x @ p["w1"], axis=0)
    h = jnp.einsum("ki,kio->ko", h, lax.complex(p["re"], p["im"]))
    return tanh(jnp.fft.irfft(h, n=5, axis=0)) @ p["o"]


add(
    "fourier neural operator",
    fourier,
    (Slot("w1", 1), Slot("re", 1), Slot("im", 1)),
    (Slot("re", 2), Slot("im", 2), Slot("o", 0)),
    w1=(3, 4),
    re=(3, 4, 4),
    im=(3, 4, 4),
    o=(4, 2),
)


def state_space(p, x):
    decay = jnp.exp(-jnp.abs(p["a"]) + 1j * p["f"])

    def step(c, u):
        c = decay * c + u
        return c, c

    drive = (x @ p["w1"]).astype(decay.dtype)
    states = lax.scan(step, jnp.zeros(4, decay.dtype), drive)[1]
    return tanh(jnp.real(states @ lax.complex(p["w2"], p["v2"]))) @ p["o"]


add(
    "complex state space",
    state_space,
    (*FIRST_LAYER, Slot("a", 0), Slot("f", 0), Slot("v2", 0)),
    (*SECOND_LAYER, Slot("v2", 1)),
    **SHAPES,
    v2=(4, 4),
    a=(4,),
    f=(4,),
)


def ragged(p, x):
    h = x @ p["w1"]
    h = lax.ragged_dot(relu(h), p["w"], jnp.array([2, 3], jnp.int32))
    return tanh(h) @ p["o"]


add(
    "ragged product",
    ragged,
    (Slot("w1", 1), Slot("w", 1)),
    (Slot("w", 2), Slot("o", 0)),
    w1=(3, 4),
    looped=True,
    w=(2, 4, 4),
    o=(4, 2),
)
between(
    "binned",
    lambda h, p, x: jnp.searchsorted(jnp.asarray([-0.5, 0.0, 0.5], h.dtype), h).astype(
        h.dtype
    ),
)
between(
    "digitized by parameters",
    lambda h, p, x: h + jnp.searchsorted(jnp.sort(p["b"]), h),
    b=(3,),
)
between(
    "compared with sorted units",
    lambda h, p, x: (
        relu(h) + jax.vmap(jnp.searchsorted)(jnp.sort(h, 1), x[:, :1]).astype(h.dtype)
    ),
)
between(
    "multiplied in",
    lambda h, p, x: h.at[np.array([0, 0, 3])].multiply(tanh(h)[:3]),
)
between("rows added in", lambda h, p, x: h.at[np.array([0, 0, 3])].add(tanh(h)[:3]))
between("greatest rows", lambda h, p, x: h.at[np.array([0, 1])].max(tanh(h)[2:4]))
between(
    "columns added in", lambda h, p, x: h.at[:, np.array([0, 0, 3, 1, 1, 1])].add(1.0)
)
between(
    "column sums by index",
    lambda h, p, x: jax.ops.segment_sum(relu(h).T, np.array([2, 0, 0, 1]), 4).T,
)
between(
    "row sums by index",
    lambda h, p, x: jax.ops.segment_sum(relu(h), np.array([0, 1, 1, 2, 4]), 5),
)
between(
    "row maxima by index",
    lambda h, p, x: jnp.nan_to_num(
        jax.ops.segment_max(relu(h), np.array([0, 1, 1, 2, 3]), 5), neginf=0
    ),
)
NOISE = jax.random.key(5)
between(
    "noise of units",
    lambda h, p, x: relu(h) + jax.random.normal(NOISE, h.shape, h.dtype),
)
between(
    "noise of rows",
    lambda h, p, x: relu(h) + jax.random.normal(NOISE, (5, 1), h.dtype),
)
between(
    "dropped rows",
    lambda h, p, x: relu(h) * jax.random.bernoulli(NOISE, 0.5, (5, 1)),
)
add(
    "noise by a key",
    lambda p, x, key: (
        tanh(relu(x @ p["w1"] + jax.random.normal(key, (5, 1), x.dtype)) @ p["w2"])
        @ p["o"]
    ),
    FIRST_LAYER,
    SECOND_LAYER,
    (X, jax.random.key(1)),
    **SHAPES,
)
add(
    "noise of units by a key",
    lambda p, x, key: (
        tanh(relu(x @ p["w1"] + jax.random.uniform(key, (5, 4), x.dtype)) @ p["w2"])
        @ p["o"]
    ),
    FIRST_LAYER,
    SECOND_LAYER,
    (X, jax.random.key(1)),
    **SHAPES,
)
add(
    "split keys",
    lambda p, x, key: (
        tanh(
            relu(
                x @ p["w1"]
                + jax.vmap(lambda k: jax.random.normal(k, (1,), x.dtype))(
                    jax.random.split(key, 5)
                )
            )
            @ p["w2"]
        )
        @ p["o"]
    ),
    FIRST_LAYER,
    SECOND_LAYER,
    (X, jax.random.key(1)),
    **SHAPES,
)
between(
    "no columns", lambda h, p, x: relu(h) + (x @ p["n"]).sum(1, keepdims=True), n=(3, 0)
)
between(
    "no rows",
    lambda h, p, x: jnp.concatenate([relu(h), p["n"]], 0),
    (Slot("n", 1),),
    n=(0, 4),
)
between(
    "no columns concatenated",
    lambda h, p, x: jnp.concatenate([relu(h), x @ p["n"]], 1),
    n=(3, 0),
)
between(
    "shifted copies",
    lambda h, p, x: sum(
        jnp.concatenate([relu(h)[k:], jnp.zeros((k, 4), h.dtype)]) @ p["u"][k]
        for k in range(5)
    ),
    first=(Slot("w1", 1), Slot("u", 1)),
    u=(5, 4, 4),
)
PROGRAMS["shifted copies"] = PROGRAMS["shifted copies"]._replace(
    second=(Slot("u", 2), Slot("w2", 0))
)
between("roll rows", lambda h, p, x: relu(h) + jnp.roll(h, 1, 0))
between(
    "take along rows",
    lambda h, p, x: jnp.take_along_axis(
        relu(h), jnp.argsort(x[:, 0])[:, None] * jnp.ones((1, 4), jnp.int32), 0
    ),
    ordered=True,
)
between(
    "take along rows by units",
    lambda h, p, x: jnp.take_along_axis(relu(h), jnp.argsort(h, 0), 0),
    ordered=True,
)
between(
    "full index arrays",
    lambda h, p, x: relu(h)[np.array([[1], [0], [4], [2], [3]]), np.arange(4)[None]],
)
between(
    "full index arrays, set",
    lambda h, p, x: (
        jnp.zeros_like(h)
        .at[np.array([[1], [0], [4], [2], [3]]), np.arange(4)[None]]
        .set(relu(h))
    ),
)
between("rows in an order", lambda h, p, x: relu(h)[np.array([1, 0, 4, 2, 3])])

# Constant relabellings of units.
between(
    "flip",
    lambda h, p, x: relu(h)[:, ::-1],
    first=(Slot("w1", 1), Slot("w2", 0, order=FLIPPED)),
)
between(
    "reversed by lax.rev",
    lambda h, p, x: lax.rev(relu(h), (1,)),
    first=(Slot("w1", 1), Slot("w2", 0, order=FLIPPED)),
)
between(
    "permuted",
    lambda h, p, x: relu(h)[:, np.array(ORDER)],
    first=(Slot("w1", 1), Slot("w2", 0, order=ORDER)),
)
between(
    "permuted by a product",
    lambda h, p, x: relu(h) @ jnp.eye(4, dtype=h.dtype)[:, np.array(ORDER)],
    first=(Slot("w1", 1), Slot("w2", 0, order=ORDER)),
)
between(
    "roll",
    lambda h, p, x: jnp.roll(relu(h), 1, 1),
    first=(Slot("w1", 1), Slot("w2", 0, order=(3, 0, 1, 2))),
)
between(
    "flip and back",
    lambda h, p, x: relu(h[:, ::-1])[:, ::-1],
)
between(
    "permuted and back",
    lambda h, p, x: relu(h[:, np.array(ORDER)])[:, np.argsort(ORDER)],
)
between(
    "channel shuffle",
    lambda h, p, x: relu(h).reshape(5, 2, 2).swapaxes(1, 2).reshape(5, 4),
    first=(Slot("w1", 1), Slot("w2", 0, order=(0, 2, 1, 3))),
)
CIRCULANT = np.stack([np.roll([1.0, 2.0, 0.0, 0.5], i) for i in range(4)])
between("circulant", lambda h, p, x: relu(h) @ number(CIRCULANT, h))
between(
    "swapped halves",
    lambda h, p, x: jnp.concatenate([relu(h)[:, 2:], relu(h)[:, :2]], 1),
    first=(Slot("w1", 1), Slot("w2", 0, order=(2, 3, 0, 1))),
)
between(
    "even and odd",
    lambda h, p, x: jnp.concatenate([relu(h)[:, ::2], relu(h)[:, 1::2]], 1),
    first=(Slot("w1", 1), Slot("w2", 0, order=(0, 2, 1, 3))),
)
between("rows flipped", lambda h, p, x: relu(h)[::-1])
between(
    "constant mixing",
    lambda h, p, x: relu(h) @ (number(np.eye(4), h) + 1),
)
between(
    "constant matrix",
    lambda h, p, x: relu(h) @ number(np.arange(16.0).reshape(4, 4), h),
)

# Units times constants.
WEIGHTS = tuple(COUNTED)
between(
    "relu times a constant vector",
    lambda h, p, x: relu(h) * row(COUNTED, h),
    first=(Slot("w1", 1, weights=WEIGHTS), Slot("w2", 0)),
)
between(
    "constant vector before relu",
    lambda h, p, x: relu(h * row(COUNTED, h)),
    first=(Slot("w1", 1, weights=WEIGHTS), Slot("w2", 0)),
)
between(
    "constant vector before tanh",
    lambda h, p, x: tanh(h * row(COUNTED, h)),
    first=(Slot("w1", 1, weights=WEIGHTS), Slot("w2", 0)),
)
between(
    "tanh times a constant vector",
    lambda h, p, x: tanh(h) * row(COUNTED, h),
    first=(Slot("w1", 1), Slot("w2", 0, weights=WEIGHTS)),
)
between(
    "sine of frequencies",
    lambda h, p, x: jnp.sin(h * row(2.0 ** np.arange(4), h)),
    first=(Slot("w1", 1, weights=tuple(2.0 ** np.arange(4))), Slot("w2", 0)),
)
between(
    "tanh plus a constant vector",
    lambda h, p, x: tanh(h + row(COUNTED, h)),
)
between("square times a constant vector", lambda h, p, x: h * h * row(COUNTED, h))
between(
    "constant mask of units", lambda h, p, x: relu(h) * row([1.0, 1.0, 0.0, 1.0], h)
)

# Parts, heads and groups.


def major_parts(p, x):
    f = (x @ p["w"]).reshape(5, 5, 4)
    parts = [tanh(f[:, :3]).sum(1), relu(f[:, 3:4])[:, 0], f[:, 4:5][:, 0]]
    return tanh(jnp.concatenate(parts, 1) @ p["w2"]) @ p["o"]


add(
    "parts of a major index",
    major_parts,
    (
        Slot("w", 2, part=(slice(None), slice(12, 16)), shape=(3, 1, 4)),
        Slot("w2", 0, part=(slice(4, 8),)),
    ),
    (
        Slot("w", 2, part=(slice(None), slice(16, 20)), shape=(3, 1, 4)),
        Slot("w2", 0, part=(slice(8, 12),)),
    ),
    w=(3, 20),
    w2=(12, 4),
    o=(4, 2),
)


def unstacked(p, x):
    a, b = jnp.unstack((x @ p["w"]).reshape(5, 2, 4), axis=1)
    return tanh(a) @ p["u"] + relu(b) @ p["v"]


add(
    "unstacked",
    unstacked,
    (Slot("w", 1, part=(slice(None), slice(0, 4))), Slot("u", 0)),
    (Slot("w", 1, part=(slice(None), slice(4, 8))), Slot("v", 0)),
    w=(3, 8),
    u=(4, 2),
    v=(4, 2),
)


def two_to(operation, **more):
    def f(p, x):
        h = operation(x @ p["w1"], x @ p["v1"], p, x)
        return h @ p["o"]

    return f


BESIDE = (
    (Slot("w1", 1), Slot("o", 0, part=(slice(0, 4),))),
    (Slot("v1", 1), Slot("o", 0, part=(slice(4, 8),))),
)
BESIDE_SHAPES = {"w1": (3, 4), "v1": (3, 4), "o": (8, 2)}


def beside(
    name,
    operation,
    more_first=(),
    more_second=(),
    ordered=False,
    looped=False,
    **shapes,
):
    """Adds two layers side by side, ``operation(a, b, p, x)`` of 8 channels."""
    first, second = BESIDE
    add(
        name,
        two_to(operation),
        (*first, *more_first),
        (*second, *more_second),
        ordered=ordered,
        looped=looped,
        **BESIDE_SHAPES | shapes,
    )


def joined(a, b):
    return jnp.concatenate([a, b], 1)


def group_norm(h, groups):
    t = h.reshape(5, groups, -1)
    t = t - t.mean(2, keepdims=True)
    t = t / jnp.sqrt((t * t).mean(2, keepdims=True) + 1e-3)
    return t.reshape(h.shape)


beside("concatenated", lambda a, b, p, x: joined(relu(a), tanh(b)))
beside("activation after a concatenation", lambda a, b, p, x: relu(joined(a, b)))
beside("norm over a concatenation", lambda a, b, p, x: group_norm(joined(a, b), 1))
beside(
    "group norm whose border is the seam",
    lambda a, b, p, x: group_norm(joined(a, b), 2),
)
beside("group norm of four groups", lambda a, b, p, x: group_norm(joined(a, b), 4))
beside(
    "gains over a concatenation",
    lambda a, b, p, x: group_norm(joined(a, b), 1) * p["g"][None],
    (Slot("g", 0, part=(slice(0, 4),)),),
    (Slot("g", 0, part=(slice(4, 8),)),),
    g=(8,),
)
beside(
    "group norm with gains whose border is the seam",
    lambda a, b, p, x: group_norm(joined(a, b), 2) * p["g"][None],
    (Slot("g", 0, part=(slice(0, 4),)),),
    (Slot("g", 0, part=(slice(4, 8),)),),
    g=(8,),
)
beside(
    "heads over a concatenation",
    lambda a, b, p, x: jax.nn.softmax(joined(a, b).reshape(5, 2, 4), -1).reshape(5, 8),
)
beside("softmax over a concatenation", lambda a, b, p, x: jax.nn.softmax(joined(a, b)))
beside(
    "split elsewhere",
    lambda a, b, p, x: (lambda h: jnp.concatenate([relu(h[:, :3]), tanh(h[:, 3:])], 1))(
        joined(a, b)
    ),
)
beside(
    "split at the seam",
    lambda a, b, p, x: (lambda h: jnp.concatenate([relu(h[:, :4]), tanh(h[:, 4:])], 1))(
        joined(a, b)
    ),
)
beside(
    "swapped after a concatenation",
    lambda a, b, p, x: (lambda h: jnp.concatenate([h[:, 4:], h[:, :4]], 1))(
        relu(joined(b, a))
    ),
)
beside(
    "argmax over a concatenation",
    lambda a, b, p, x: jax.nn.one_hot(jnp.argmax(joined(a, b), 1), 8, dtype=a.dtype),
    ordered=True,
)
beside(
    "argmax over a concatenation of relus",
    lambda a, b, p, x: jax.nn.one_hot(
        jnp.argmax(joined(-relu(a), b), 1), 8, dtype=a.dtype
    ),
    ordered=True,
)
beside(
    "padded between",
    lambda a, b, p, x: relu(joined(jnp.pad(a, ((0, 0), (0, 2)))[:, :4], b)),
)
beside(
    "stacked",
    lambda a, b, p, x: jnp.stack([relu(a), tanh(b)], 1).reshape(5, 8),
)
beside(
    "interleaved",
    lambda a, b, p, x: jnp.stack([relu(a), tanh(b)], 2).reshape(5, 8)[
        :, np.array([0, 2, 4, 6, 1, 3, 5, 7])
    ],
)


def depthwise(h, w):
    """Convolves each channel ``[time, channels]`` with its own kernel ``[2, 1, c]``."""
    return lax.conv_general_dilated(
        h[None],
        w,
        (1,),
        [(1, 0)],
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=h.shape[1],
    )[0]


KERNEL = (
    (Slot("k", 2, part=(slice(None), slice(None), slice(0, 4))),),
    (Slot("k", 2, part=(slice(None), slice(None), slice(4, 8))),),
)
beside(
    "depthwise convolution of a concatenation",
    lambda a, b, p, x: relu(depthwise(joined(a, b), p["k"])),
    *KERNEL,
    looped=True,
    k=(2, 1, 8),
)
beside(
    "depthwise convolution, split after",
    lambda a, b, p, x: (lambda h: joined(tanh(h[:, :4]), relu(h[:, 4:])))(
        depthwise(joined(a, b), p["k"])
    ),
    *KERNEL,
    looped=True,
    k=(2, 1, 8),
)


def fused_depthwise(p, x):
    h = depthwise(x @ p["w"], p["k"])
    return tanh(h[:, :4]) @ p["u"] + relu(h[:, 4:]) @ p["v"]


add(
    "depthwise convolution of a fused layer",
    fused_depthwise,
    (
        Slot("w", 1, part=(slice(None), slice(0, 4))),
        *KERNEL[0],
        Slot("u", 0),
    ),
    (
        Slot("w", 1, part=(slice(None), slice(4, 8))),
        *KERNEL[1],
        Slot("v", 0),
    ),
    w=(3, 8),
    looped=True,
    k=(2, 1, 8),
    u=(4, 2),
    v=(4, 2),
)
between(
    "depthwise convolution",
    lambda h, p, x: relu(depthwise(h, p["k"])),
    (Slot("k", 2),),
    looped=True,
    k=(2, 1, 4),
)
between(
    "convolution along units",
    lambda h, p, x: relu(
        lax.conv_general_dilated(
            h[:, None], p["k"], (1,), "SAME", dimension_numbers=("NCH", "OIH", "NCH")
        )[:, 0]
    ),
    looped=True,
    k=(1, 1, 3),
)


def attention(q, k, v):
    """Returns ``[time, heads, width]``."""
    scores = jnp.einsum("qhd,khd->hqk", q, k)
    return jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores), v)


def heads(p, x):
    q, k, v = ((x @ p[n]).reshape(5, 4, -1) for n in "qkv")
    return attention(q, k, v).reshape(5, 16) @ p["o"]


def of_heads(leaf, width, axis=1):
    if axis == 1:
        return Slot(leaf, 1, shape=(3, 4, width))
    return Slot(leaf, 0, shape=(4, width, 2))


add(
    "heads",
    heads,
    (*(of_heads(n, 2) for n in "qk"), of_heads("v", 4), of_heads("o", 4, 0)),
    (
        Slot("v", 1, part=(slice(None), slice(0, 4))),
        Slot("o", 0, part=(slice(0, 4),)),
    ),
    q=(3, 8),
    k=(3, 8),
    v=(3, 16),
    o=(16, 2),
)
add(
    "one head",
    lambda p, x: (
        attention(*((x @ p[n]).reshape(5, 1, 4) for n in "qkv")).reshape(5, 4) @ p["o"]
    ),
    (Slot("q", 1), Slot("k", 1)),
    (Slot("v", 1), Slot("o", 0)),
    q=(3, 4),
    k=(3, 4),
    v=(3, 4),
    o=(4, 2),
)
add(
    "one fused head",
    lambda p, x: (
        attention(*(h.reshape(5, 1, 4) for h in jnp.split(x @ p["w"], 3, 1))).reshape(
            5, 4
        )
        @ p["o"]
    ),
    (Slot("w", 2, part=(slice(None), slice(0, 8)), shape=(3, 2, 4)),),
    (Slot("w", 1, part=(slice(None), slice(8, 12))), Slot("o", 0)),
    w=(3, 12),
    o=(4, 2),
)


def fused_per_head(p, x):
    q, k, v = jnp.unstack((x @ p["w"]).reshape(5, 4, 3, 4), axis=2)
    return attention(q, k, v).reshape(5, 16) @ p["o"]


add(
    "queries, keys and values fused per head",
    fused_per_head,
    (
        Slot("w", 1, shape=(3, 4, 12)),
        Slot("o", 0, shape=(4, 4, 2)),
    ),
    (
        Slot("w", 1, part=(slice(None), slice(8, 12))),
        Slot("o", 0, part=(slice(0, 4),)),
    ),
    w=(3, 48),
    o=(16, 2),
)
add(
    "channels fused per head",
    fused_per_head,
    (Slot("w", 2, part=(slice(None), slice(0, 8)), shape=(3, 2, 4)),),
    (
        Slot("w", 1, part=(slice(None), slice(20, 24))),
        Slot("o", 0, part=(slice(4, 8),)),
    ),
    w=(3, 48),
    o=(16, 2),
)


def unequal_widths(p, x):
    h = (x @ p["w"]).reshape(5, 4, 8)
    q, k, v = h[..., :2], h[..., 2:4], h[..., 4:]
    return attention(q, k, v).reshape(5, 16) @ p["o"]


add(
    "unequal widths per head",
    unequal_widths,
    (Slot("w", 1, shape=(3, 4, 8)), Slot("o", 0, shape=(4, 4, 2))),
    (
        Slot("w", 1, part=(slice(None), slice(4, 8))),
        Slot("o", 0, part=(slice(0, 4),)),
    ),
    w=(3, 32),
    o=(16, 2),
)
ANGLES = np.arange(5.0)[:, None, None]


def rotated(h):
    """Rotates pairs of the channels ``[time, heads, width]`` by the time."""
    a, b = jnp.split(h, 2, axis=-1)
    cos, sin = number(np.cos(ANGLES), h), number(np.sin(ANGLES), h)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def rotary(p, x):
    q, k, v = ((x @ p[n]).reshape(5, 4, -1) for n in "qkv")
    return attention(rotated(q), rotated(k), v).reshape(5, 16) @ p["o"]


ROTARY_SLOTS = (
    (*(of_heads(n, 2) for n in "qk"), of_heads("v", 4), of_heads("o", 4, 0)),
    (
        Slot("v", 1, part=(slice(None), slice(0, 4))),
        Slot("o", 0, part=(slice(0, 4),)),
    ),
)
HEADS = {"q": (3, 8), "k": (3, 8), "v": (3, 16), "o": (16, 2)}
add("rotary", rotary, *ROTARY_SLOTS, **HEADS)


def partial_rotary(p, x):
    q, k, v = ((x @ p[n]).reshape(5, 2, -1) for n in "qkv")

    def turn(h):
        return jnp.concatenate([rotated(h[..., :2]), h[..., 2:]], -1)

    return attention(turn(q), turn(k), v).reshape(5, 8) @ p["o"]


add(
    "partial rotary",
    partial_rotary,
    tuple(Slot(n, 1, part=(slice(None), slice(2, 6))) for n in "qk"),
    (
        Slot("v", 1, part=(slice(None), slice(0, 4))),
        Slot("o", 0, part=(slice(0, 4),)),
    ),
    q=(3, 12),
    k=(3, 12),
    v=(3, 8),
    o=(8, 2),
)


def half_turned(p, x):
    def half(a):
        return jnp.concatenate([-a[..., 2:], a[..., :2]], -1)

    h = (x @ p["w"]).reshape(5, 4, 4)
    return tanh(h * half(h * p["g"][None, None])).reshape(5, 16) @ p["o"]


add(
    "rotary halves with a gain",
    half_turned,
    (Slot("w", 1, shape=(3, 4, 4)), Slot("o", 0, shape=(4, 4, 2))),
    (Slot("w", 2, shape=(3, 4, 4)), Slot("g", 0), Slot("o", 1, shape=(4, 4, 2))),
    w=(3, 16),
    g=(4,),
    o=(16, 2),
)


def keys_and_values(p, x):
    h = (x @ p["w"]).reshape(5, 2, 4) * p["g"][None, :, None]
    k, v = jnp.unstack(h, axis=1)
    q = x @ p["q"]
    return attention(q[:, None], k[:, None], v[:, None])[:, 0] @ p["o"]


add(
    "keys and values multiplied before unstacked",
    keys_and_values,
    (Slot("q", 1), Slot("w", 1, part=(slice(None), slice(0, 4)))),
    (Slot("w", 1, part=(slice(None), slice(4, 8))), Slot("o", 0)),
    w=(3, 8),
    g=(2,),
    q=(3, 4),
    o=(4, 2),
)
add(
    "stacked layers",
    lambda p, x: (
        tanh((x @ p["w1"]) @ p["w"][0]) @ p["o"]
        + relu((x @ p["w1"]) @ p["w"][1]) @ p["o2"]
    ),
    (Slot("w", 1, part=(0,)), Slot("o", 0)),
    (Slot("w", 1, part=(1,)), Slot("o2", 0)),
    w1=(3, 4),
    w=(2, 4, 4),
    o=(4, 2),
    o2=(4, 2),
)


def scanned_layers(p, x):
    def step(c, w):
        return c + relu(c @ w[0]) @ w[1], None

    return lax.scan(step, x @ p["w1"], (p["a"], p["b"]))[0] @ p["o"]


add(
    "scanned residual layers",
    scanned_layers,
    (Slot("a", 1, part=(0,)), Slot("b", 0, part=(0,))),
    (Slot("a", 1, part=(1,)), Slot("b", 0, part=(1,))),
    w1=(3, 3),
    a=(2, 3, 4),
    b=(2, 4, 3),
    o=(3, 2),
)


# Experts.
EXPERTS = {"r": (3, 4), "a": (4, 3, 4), "b": (4, 4, 2)}
EXPERT_SLOTS = (
    (Slot("r", 1), Slot("a", 0), Slot("b", 0)),
    (Slot("a", 1, part=(0,)), Slot("b", 0, part=(0,))),
)


def gathered(p, x):
    index = jnp.argmax(x @ p["r"], 1)
    h = relu(jnp.einsum("ti,tih->th", x, p["a"][index]))
    return jnp.einsum("th,tho->to", h, p["b"][index])


def gathered_of_relu(p, x):
    index = jnp.argmax(jnp.minimum(x @ p["r"], 0), 1)
    h = relu(jnp.einsum("ti,tih->th", x, p["a"][index]))
    return jnp.einsum("th,tho->to", h, p["b"][index])


def masked(p, x):
    gates = jax.nn.one_hot(jnp.argmax(x @ p["r"], 1), 4, dtype=x.dtype)
    h = relu(jnp.einsum("ti,eih->teh", x, p["a"]))
    return jnp.einsum("teh,eho,te->to", h, p["b"], gates)


def soft_experts(p, x):
    h = relu(jnp.einsum("ti,eih->teh", x, p["a"]))
    return jnp.einsum("teh,eho,te->to", h, p["b"], jax.nn.softmax(x @ p["r"]))


def mapped(p, x):
    outputs = lax.map(lambda w: relu(x @ w[0]) @ w[1], (p["a"], p["b"]))
    return jnp.einsum("eto,te->to", outputs, jax.nn.softmax(x @ p["r"]))


def summed(p, x):
    gates = jax.nn.softmax(x @ p["r"]).T

    def step(total, w):
        a, b, gate = w
        return total + gate[:, None] * (relu(x @ a) @ b), None

    start = jnp.zeros((5, 2), x.dtype)
    return lax.scan(step, start, (p["a"], p["b"], gates))[0]


def looped(p, x):
    gates = jax.nn.softmax(x @ p["r"])
    return sum(
        gates[:, i : i + 1] * (relu(x @ p["a"][i]) @ p["b"][i]) for i in range(4)
    )


def switched(p, x):
    def expert(i):
        return lambda x: relu(x @ p["a"][i]) @ p["b"][i]

    def one(x):
        return lax.switch(jnp.argmax(x @ p["r"]), [expert(i) for i in range(4)], x)

    return lax.map(one, x)


def dynamic(p, x):
    def one(x):
        index = jnp.argmax(x @ p["r"])
        a = lax.dynamic_index_in_dim(p["a"], index, keepdims=False)
        b = lax.dynamic_index_in_dim(p["b"], index, keepdims=False)
        return relu(x @ a) @ b

    return lax.map(one, x)


def top_two(p, x):
    gates, index = lax.top_k(x @ p["r"], 2)
    h = relu(jnp.einsum("ti,tkih->tkh", x, p["a"][index]))
    return jnp.einsum("tkh,tkho,tk->to", h, p["b"][index], jax.nn.softmax(gates))


def vmapped_experts(p, x):
    outputs = jax.vmap(lambda a, b: relu(x @ a) @ b)(p["a"], p["b"])
    return jnp.einsum("eto,te->to", outputs, jax.nn.softmax(x @ p["r"]))


for name, function in {
    "experts gathered by index": gathered,
    "experts gathered by an index with ties": gathered_of_relu,
    "experts masked": masked,
    "experts mixed": soft_experts,
    "experts in a map": mapped,
    "experts in a summing scan": summed,
    "experts in a Python loop": looped,
    "experts in a switch": switched,
    "experts sliced by index": dynamic,
    "two experts gathered": top_two,
    "experts under vmap": vmapped_experts,
}.items():
    add(name, function, *EXPERT_SLOTS, ordered=True, **EXPERTS)


def given_experts(p, x, index):
    h = relu(jnp.einsum("ti,tih->th", x, p["a"][index]))
    return jnp.einsum("th,tho->to", h, p["b"][index])


add(
    "experts by given ids",
    given_experts,
    (Slot("a", 2), Slot("b", 1)),
    EXPERT_SLOTS[1],
    (X, jnp.asarray([0, 1, 2, 3, 0])),
    a=(4, 3, 4),
    b=(4, 4, 2),
)


def nested_sums(p, x):
    h = relu(jnp.einsum("ti,eih->teh", x, p["a"]))
    h = jax.ops.segment_sum(h, np.array([0, 0, 1, 2, 2]), 3)
    return jnp.einsum("teh,eho->to", h, p["b"])


TWO_COPIES = (
    (Slot("a", 1, part=(0,)), Slot("b", 0, part=(0,))),
    (Slot("a", 1, part=(1,)), Slot("b", 0, part=(1,))),
)
COPIES = {"a": (2, 3, 4), "b": (2, 4, 2)}
add("segment sum of nested units", nested_sums, *TWO_COPIES, **COPIES)


def nested_adds(p, x):
    h = relu(jnp.einsum("ti,eih->teh", x, p["a"]))
    h = jnp.zeros_like(h).at[np.array([0, 0, 1, 2, 2])].add(h)
    return jnp.einsum("teh,eho->to", h, p["b"])


add("at add of nested units", nested_adds, *TWO_COPIES, **COPIES)


def nested_norm(p, x):
    h = jnp.einsum("ti,eih->teh", x, p["a"])
    h = h / jnp.sqrt((h * h).mean(2, keepdims=True) + 1e-3)
    return jnp.einsum("teh,eho->to", h, p["b"])


add("norm of nested units", nested_norm, *TWO_COPIES, **COPIES)


def nested_attention(p, x):
    h = relu(jnp.einsum("ti,eih->teh", x, p["a"]))
    weights = jax.nn.softmax(jnp.einsum("teh,seh->ets", h, h))
    return jnp.einsum("ets,seh,eho->to", weights, h, p["b"])


add("attention of nested units", nested_attention, *TWO_COPIES, **COPIES)
add(
    "nested units shared by two layers",
    lambda p, x: jnp.einsum(
        "teh,eho->to",
        relu(jnp.einsum("ti,eih->teh", x, p["a"])) + p["c"][None, None],
        p["b"],
    ),
    TWO_COPIES[0],
    TWO_COPIES[1],
    **COPIES,
    c=(4,),
)


# Trees.


def soft_tree(p, x):
    """Mixes four leaves by the splits of an oblivious tree."""
    s = sigmoid(x @ p["w"])
    left, right = jnp.stack([s, 1 - s], 1)[:, :, 0], jnp.stack([s, 1 - s], 1)[:, :, 1]
    weights = (left[:, :, None] * right[:, None]).reshape(5, 4)
    return tanh(weights @ p["e"]) @ p["o"]


def permute_tree(params, first, second):
    """Permutes leaves where splits can follow: exchanged splits and turned signs."""
    place = {(0, 0): 0, (0, 1): 1, (1, 0): 2, (1, 1): 3}
    w, e = params["w"], params["e"]
    for swap in (False, True):
        for a in (0, 1):
            for b in (0, 1):
                source = []
                for i, j in place:
                    i, j = i ^ a, j ^ b
                    source.append(place[(j, i) if swap else (i, j)])
                if source == first.tolist():
                    w = np.stack([w[..., 0] * (1 - 2 * a), w[..., 1] * (1 - 2 * b)], -1)
                    w = permuted_columns(params["w"], swap, a, b)
    e = e[:, first][:, :, second]
    return {"w": w, "e": e, "o": params["o"][:, second]}


def permuted_columns(w, swap, a, b):
    columns = w[..., ::-1] if swap else w
    return columns * np.array([1.0 - 2 * a, 1.0 - 2 * b])


add(
    "soft oblivious tree",
    soft_tree,
    (Slot("e", 0),),
    (Slot("e", 1), Slot("o", 0)),
    transform=permute_tree,
    w=(3, 2),
    e=(4, 4),
    o=(4, 2),
)


def soft_splits(p, x):
    s = sigmoid(x @ p["w1"])
    return tanh(s @ p["a"] + (1 - s) @ p["b"]) @ p["o"]


add(
    "two leaves of soft splits",
    soft_splits,
    (Slot("w1", 1), Slot("a", 0), Slot("b", 0)),
    (Slot("a", 1), Slot("b", 1), Slot("o", 0)),
    w1=(3, 4),
    a=(4, 4),
    b=(4, 4),
    o=(4, 2),
)

# Tokens and tables.
IDS = jnp.asarray([0, 1, 2, 3, 1])
add(
    "tokens",
    lambda p, ids: tanh(p["e"][ids] @ p["w"]) @ p["o"],
    (Slot("e", 1), Slot("w", 0)),
    (Slot("w", 1), Slot("o", 0)),
    (IDS,),
    e=(4, 4),
    w=(4, 4),
    o=(4, 2),
)
add(
    "tied tokens",
    lambda p, ids: relu(p["e"][ids] @ p["w"]) @ p["e"].T,
    (Slot("e", 1), Slot("w", 0), Slot("w", 1)),
    (Slot("e", 0),),
    (IDS,),
    e=(4, 4),
    w=(4, 4),
)
add(
    "units of a table read at an argmax",
    lambda p, ids: tanh(p["e"][jnp.argmax(p["e"][ids], 1)] @ p["w"]) @ p["o"],
    (Slot("e", 1), Slot("e", 0), Slot("w", 0)),
    (Slot("w", 1), Slot("o", 0)),
    (IDS,),
    e=(4, 4),
    w=(4, 4),
    o=(4, 2),
)
add(
    "counts of tokens",
    lambda p, ids: (
        tanh(jnp.bincount(ids, length=4).astype(p["w"].dtype)[None] @ p["w"]) @ p["o"]
    ),
    (Slot("w", 0),),
    (Slot("w", 1), Slot("o", 0)),
    (IDS,),
    w=(4, 4),
    o=(4, 2),
)
add(
    "codebook",
    lambda p, x: (
        tanh(p["e"][jnp.argmin(((x[:, None] - p["c"][None]) ** 2).sum(2), 1)]) @ p["o"]
    ),
    (Slot("c", 0), Slot("e", 0)),
    (Slot("e", 1), Slot("o", 0)),
    ordered=True,
    c=(4, 3),
    e=(4, 4),
    o=(4, 2),
)
add(
    "codebook rounded",
    lambda p, x: (
        tanh(p["e"][jnp.argmin(jnp.round((x[:, None] - p["c"][None]) ** 2).sum(2), 1)])
        @ p["o"]
    ),
    (Slot("c", 0), Slot("e", 0)),
    (Slot("e", 1), Slot("o", 0)),
    ordered=True,
    c=(4, 3),
    e=(4, 4),
    o=(4, 2),
)
add(
    "nearest of a memory",
    lambda p, x: jax.nn.softmax(x @ p["k"].T) @ p["e"] @ p["o"],
    (Slot("k", 0), Slot("e", 0)),
    (Slot("e", 1), Slot("o", 0)),
    k=(4, 3),
    e=(4, 4),
    o=(4, 2),
)

# Windows, cumulations and norms.
between("cumulative sum of units", lambda h, p, x: jnp.cumsum(h, 1))
between("cumulative sum of rows", lambda h, p, x: jnp.cumsum(relu(h), 0))
between("cumulative maximum of rows", lambda h, p, x: lax.cummax(relu(h), axis=0))
between(
    "maxima of windows of units",
    lambda h, p, x: lax.reduce_window(h, -jnp.inf, lax.max, (1, 2), (1, 1), "SAME"),
)
between(
    "maxima of windows of rows",
    lambda h, p, x: lax.reduce_window(h, -jnp.inf, lax.max, (2, 1), (1, 1), "SAME"),
)
between(
    "maxout",
    lambda h, p, x: relu(x @ p["w"]).reshape(5, 4, 2).max(-1),
    first=(Slot("w", 1, shape=(3, 4, 2)), Slot("w2", 0)),
    w=(3, 8),
)
between(
    "layer norm",
    lambda h, p, x: group_norm(h, 1) * p["g"][None],
    (Slot("g", 0),),
    g=(4,),
)
between("norm of two groups", lambda h, p, x: group_norm(h, 2))
between("norm of groups of one", lambda h, p, x: group_norm(h, 4) + relu(h))
between(
    "norm over rows",
    lambda h, p, x: (h - h.mean(0, keepdims=True)) / (h.std(0, keepdims=True) + 1e-3),
)
between("softmax", lambda h, p, x: jax.nn.softmax(h))
between("softmax over rows", lambda h, p, x: jax.nn.softmax(h, 0))
between("product of units", lambda h, p, x: relu(h) * jnp.prod(h, 1, keepdims=True))
between("greatest unit", lambda h, p, x: relu(h) - h.max(1, keepdims=True))
between("any unit", lambda h, p, x: relu(h) * (h > 1).any(1, keepdims=True))
between("first unit", lambda h, p, x: relu(h) - h[:, :1])
between(
    "last unit dropped",
    lambda h, p, x: relu(h)[:, :3],
    w2=(3, 4),
    first=(Slot("w1", 1),),
)
between(
    "units and one more",
    lambda h, p, x: jnp.concatenate([relu(h), x[:, :1]], 1),
    w2=(5, 4),
    first=(Slot("w1", 1), Slot("w2", 0, part=(slice(0, 4),))),
)
between(
    "padded units",
    lambda h, p, x: jnp.pad(relu(h), ((0, 0), (1, 1))),
    w2=(6, 4),
    first=(Slot("w1", 1), Slot("w2", 0, part=(slice(1, 5),))),
)
between("padded and cut", lambda h, p, x: jnp.pad(relu(h), ((0, 0), (1, 1)))[:, 1:-1])
between(
    "padded with ones",
    lambda h, p, x: jnp.pad(relu(h), ((0, 0), (0, 2)), constant_values=1.0),
    w2=(6, 4),
    first=(Slot("w1", 1), Slot("w2", 0, part=(slice(0, 4),))),
)
between("pairs of units", lambda h, p, x: tanh(h[:, :, None] * h[:, None]).sum(1))
between(
    "pairs of units, flattened",
    lambda h, p, x: (h[:, :, None] * h[:, None]).reshape(5, 16),
    w2=(16, 4),
    first=(
        Slot("w1", 1),
        Slot("w2", 0, shape=(4, 4, 4)),
        Slot("w2", 1, shape=(4, 4, 4)),
    ),
)
between(
    "upper triangle of pairs",
    lambda h, p, x: (jnp.triu(h[:, :, None] * h[:, None])).sum(1),
)
between(
    "diagonal of pairs",
    lambda h, p, x: jnp.diagonal(h[:, :, None] * tanh(h)[:, None], axis1=1, axis2=2),
)
between(
    "identity as a mask",
    lambda h, p, x: (h[:, :, None] * jnp.eye(4, dtype=h.dtype)[None]).sum(1) + relu(h),
)
between("trace of a gram matrix", lambda h, p, x: relu(h) * jnp.trace(h.T @ h))
between("determinant", lambda h, p, x: relu(h) * jnp.linalg.det(h.T @ h))
between(
    "solved",
    lambda h, p, x: jnp.linalg.solve(h.T @ h + jnp.eye(4, dtype=h.dtype), h.T).T,
)
between(
    "cholesky",
    lambda h, p, x: h @ jnp.linalg.cholesky(h.T @ h + jnp.eye(4, dtype=h.dtype)),
)
between("residual", lambda h, p, x: h + relu(h @ p["u"]), SQUARE, u=(4, 4))
between(
    "residual by another order",
    lambda h, p, x: h + relu(h @ p["u"])[:, ::-1],
    SQUARE,
    u=(4, 4),
)
between(
    "transposed twice", lambda h, p, x: h @ p["u"] @ p["u"].T, (Slot("u", 0),), u=(4, 4)
)
between(
    "square matrix and its power",
    lambda h, p, x: relu(h) @ p["u"] @ p["u"],
    SQUARE,
    u=(4, 4),
)
between(
    "symmetrized matrix",
    lambda h, p, x: relu(h) @ (p["u"] + p["u"].T),
    SQUARE,
    u=(4, 4),
)
between(
    "triangle of a matrix", lambda h, p, x: relu(h) @ jnp.tril(p["u"]), SQUARE, u=(4, 4)
)
between(
    "matrix without its diagonal",
    lambda h, p, x: relu(h) @ (p["u"] * (1 - jnp.eye(4, dtype=h.dtype))),
    SQUARE,
    u=(4, 4),
)
between(
    "exponential of a matrix",
    lambda h, p, x: relu(h) @ jax.scipy.linalg.expm(0.1 * p["u"]),
    SQUARE,
    u=(4, 4),
)
between(
    "weights normalized",
    lambda h, p, x: relu(
        x @ (p["w1"] / jnp.linalg.norm(p["w1"], axis=0, keepdims=True))
    ),
)
between(
    "weights over their greatest",
    lambda h, p, x: relu(x @ (p["w1"] / jnp.abs(p["w1"]).max())),
)
between("weights rounded", lambda h, p, x: relu(x @ jnp.round(4 * p["w1"])))
between(
    "weights of the greatest size",
    lambda h, p, x: relu(
        x
        @ jnp.where(
            jnp.abs(p["w1"]) >= jnp.sort(jnp.abs(p["w1"]).ravel())[6], p["w1"], 0
        )
    ),
)
between("same weights twice", lambda h, p, x: relu(h) + tanh(x[:, ::-1] @ p["w1"]))
between(
    "weights tied with their transpose",
    lambda h, p, x: relu(h) @ (p["w2"].T @ p["w2"]),
    (Slot("w2", 1),),
)

# Programs of which discovery misses a part of the group, and why.
KNOWN_SMALLER: dict[str, str] = {
    "argmax: leaky": "A choice between two functions of a unit may make two units equal.",
    "ranked: square": "Squares of two units are equal where these differ in sign.",
    "argmax of repeated units": "Copies of units are equal; pairs of rows would have to move.",
    "index of greatest through a float": "An index that was a float is followed no further.",
    "eye at an index": "A constant identity matrix is read row by row.",
    "greatest set to zero": "Entries are written at a computed index.",
    "fori loop sets columns": "Columns are written one by one in a loop.",
    "full index arrays": "Entries are looked up by constant indices along both axes.",
    "full index arrays, set": "Entries are written by constant indices along both axes.",
    "permuted by a product": "A constant matrix that permutes units is a matrix like any other.",
    "roll": "Parts of units that change places are cut from each other.",
    "swapped halves": "Parts of units that change places are cut from each other.",
    "even and odd": "Parts of units that change places are cut from each other.",
    "circulant": "The group of rotations is no product of symmetric groups.",
    "constant mixing": "A constant matrix that commutes with all permutations.",
    "relu times a constant vector": "A permutation that needs factors.",
    "constant vector before relu": "A permutation that needs factors.",
    "constant vector before tanh": "A permutation that needs factors.",
    "tanh times a constant vector": "A permutation that needs factors.",
    "sine of frequencies": "A permutation that needs factors.",
    "argmax over a concatenation": "An index into two kinds of units pins both.",
    "argmax over a concatenation of relus": "An index into two kinds of units pins both.",
    "interleaved": "Two kinds of units alternate along one axis.",
    "experts gathered by an index with ties": "Hidden units of pinned experts are tied.",
    "experts in a Python loop": "Experts named one by one are not exchanged.",
    "experts in a switch": "Branches are not exchanged.",
    "experts sliced by index": "A slice at a computed index pins its axis.",
    "experts by given ids": "Hidden units of experts looked up by inputs are tied.",
    "soft oblivious tree": "Leaves move when a split changes its sign.",
    "padded with ones": "Units padded by a constant other than zero are pinned.",
    "diagonal of pairs": "An identity matrix is a constant that varies along its axes.",
    "identity as a mask": "An identity matrix is a constant that varies along its axes.",
    "trace of a gram matrix": "An identity matrix is a constant that varies along its axes.",
    "determinant": "Factorisations order the rows of a matrix.",
    "solved": "An identity matrix is a constant that varies along its axes.",
    "matrix without its diagonal": "An identity matrix is a constant that varies along its axes.",
    "exponential of a matrix": "An identity matrix is a constant that varies along its axes.",
}
