"""Experts that a router selects by index have hidden channels of their own."""

from math import factorial as fac

import jax
import jax.numpy as jnp
import pytest
from helpers.symmetry_networks import array, relu

from metanet import symmetry as sym
from metanet.graphs import build_topology

X = array(5, 6, 3, seed=9)
SHAPES = {"r": (3, 4), "up": (4, 3, 5), "down": (4, 5, 3), "o": (3, 2), "e": (3, 3)}


def chosen(p, x, k):
    weights, index = jax.lax.top_k(jax.nn.softmax(x @ p["r"]), k)
    return weights, index


def mixture(p, x):
    x = x + jnp.tanh(x @ p["e"])
    weights, index = chosen(p, x, 2)
    hidden = relu(jnp.einsum("btd,btkdh->btkh", x, p["up"][index]))
    return jnp.einsum("btk,btkh,btkhd->btd", weights, hidden, p["down"][index]) @ p["o"]


def one_expert(p, x, down=lambda index: index):
    index = jnp.argmax(x @ p["r"], -1)
    hidden = relu(jnp.einsum("btd,btdh->bth", x, p["up"][index]))
    return jnp.einsum("bth,bthd->btd", hidden, p["down"][down(index)])


def before_attention(p, x):
    y = one_expert(p, x)
    weights = jax.nn.softmax(jnp.einsum("btd,bsd->bts", y, y))
    return jnp.tanh(jnp.einsum("bts,bsd->btd", weights, y)) @ p["o"]


def other_experts(p, x):
    """Hidden channels of the greatest score meet the weights of the least."""
    scores = x @ p["r"]
    greatest, least = jnp.argmax(scores, -1), jnp.argmin(scores, -1)
    hidden = relu(jnp.einsum("btd,btdh->bth", x, p["up"][greatest]))
    return jnp.einsum("bth,bthd->btd", hidden, p["down"][least])


def neighbours(p, x):
    """Hidden channels at one position meet the weights of the position before."""
    return one_expert(p, x, down=lambda index: jnp.roll(index, 1, 1))


def across_positions(p, x):
    """Hidden channels of several positions are added."""
    index = jnp.argmax(x @ p["r"], -1)
    hidden = relu(jnp.einsum("btd,btdh->bth", x, p["up"][index])).sum(1, keepdims=True)
    return jnp.einsum("bth,bthd->btd", hidden + 0 * x[:, :, :1], p["down"][index])


def each_slot(p, x):
    """The two experts of a position are looked up one after the other."""
    weights, index = chosen(p, x, 2)
    total = 0.0
    for slot in range(2):
        e = index[..., slot]
        hidden = relu(jnp.einsum("btd,btdh->bth", x, p["up"][e]))
        y = jnp.einsum("bth,bthd->btd", hidden, p["down"][e])
        total += weights[..., slot, None] * y
    return total @ p["o"]


# Networks and the orders of their groups on paper: experts, channels, output channels.
NETWORKS = {
    "two experts": (mixture, fac(4) * fac(5) ** 4 * fac(3)),
    "one expert": (one_expert, fac(4) * fac(5) ** 4),
    "one expert before attention": (before_attention, fac(4) * fac(5) ** 4 * fac(3)),
    "slots one after the other": (each_slot, fac(4) * fac(5) ** 4 * fac(3)),
    "other experts": (other_experts, fac(4) * fac(5)),
    "experts of the neighbour": (neighbours, fac(4) * fac(5)),
    "sum over positions": (across_positions, fac(4) * fac(5)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_channels_of_a_looked_up_expert_are_its_own(name):
    apply_fn, order = NETWORKS[name]
    params = {key: array(*SHAPES[key], seed=i) for i, key in enumerate(SHAPES)}
    unread = {"e"} if apply_fn is not mixture else set()
    unread |= {"o"} if apply_fn(params, X).shape[-1] == 3 else set()
    params = {key: value for key, value in params.items() if key not in unread}
    symmetry = sym.discover(apply_fn, params, X)
    assert symmetry.order == order
    if order % fac(5) ** 4:
        return
    # The nodes of the hidden layer are the channels of every expert.
    experts = next(g for g in symmetry.groups if "r[1]" in symmetry.axes_of(g.indices))
    units = [node.units for node in build_topology(symmetry).nodes]
    assert (5, experts.degree) in units or (experts.degree, 5) in units
