"""Networks of Flax Linen and Equinox with the group derived on paper, by name.

Scaling groups on paper: a rectified unit has a positive factor, an odd one (tanh, the state
of a recurrent cell) a sign, a linear one both. So do the gains of a norm together with the
layers that read it. Before batch statistics that are parameters a channel has both; before a
norm over its own values a sign alone, since the norm adds a constant to the variance.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial as fac
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from helpers.symmetry_networks import Case, array
from metanet.importers import from_module


def of_module(
    module: Any, order: int, scaling_groups: dict[str, int], *inputs: Any
) -> Case:
    """Returns a module with noise on its parameters: zeros and ones hide differences."""
    network = from_module(module, *inputs)

    def noise(x):
        return x + 0.3 * jnp.abs(array(*x.shape, seed=x.size))

    params = jax.tree.map(noise, network.params)
    return Case(network.apply_fn, params, inputs, order, scaling_groups)


class Convolutions(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x)))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Conv(3, (3, 3), strides=2, kernel_dilation=2)(x))
        return nn.Dense(2)(x.reshape(x.shape[0], -1))


class ResidualBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        def norm():
            return nn.BatchNorm(use_running_average=True)

        x = nn.relu(norm()(nn.Conv(4, (3, 3))(x)))
        h = nn.relu(norm()(nn.Conv(4, (3, 3))(x)))
        x = nn.relu(x + norm()(nn.Conv(4, (3, 3))(h)))
        return nn.Dense(3)(x.mean((1, 2)))


class EncoderBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4)(x)
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(2, qkv_features=6)(h, h)
        x = x + nn.Dense(4)(nn.gelu(nn.Dense(5)(nn.LayerNorm()(x))))
        return nn.Dense(2)(x.mean(1))


class Recurrent(nn.Module):
    cell: Callable[[], nn.RNNCellBase]

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.RNN(self.cell())(x)[:, -1])


class BothWays(nn.Module):
    @nn.compact
    def __call__(self, x):
        forth, back = nn.RNN(nn.GRUCell(4)), nn.RNN(nn.GRUCell(3))
        return nn.Dense(2)(nn.Bidirectional(forth, back)(x)[:, -1])


class Grouped(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.GroupNorm(2)(nn.Conv(4, (3, 3))(x)))
        return nn.Dense(2)(nn.relu(nn.Conv(3, (1, 1))(x)).mean((1, 2)))


class Separable(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (1, 1))(x))
        x = nn.relu(nn.Conv(4, (3, 3), feature_group_count=4)(x))
        return nn.Dense(2)(nn.relu(nn.Conv(3, (1, 1))(x)).mean((1, 2)))


class Decoder(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(4 * 3 * 3)(nn.relu(nn.Dense(5)(x))))
        x = x.reshape(x.shape[0], 3, 3, 4)
        x = nn.relu(nn.ConvTranspose(3, (2, 2), strides=(2, 2))(x))
        return nn.Conv(1, (3, 3))(x)


class Volume(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.InstanceNorm()(nn.Conv(3, (2, 2, 2))(x)))
        return nn.Dense(2)(nn.Conv(4, (2, 2, 2))(x).mean((1, 2, 3)))


class Tied(nn.Module):
    @nn.compact
    def __call__(self, i):
        embed = nn.Embed(7, 4)
        x = embed(i)
        return embed.attend(x + nn.Dense(4)(nn.tanh(nn.Dense(5)(x))))


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.WeightNorm(nn.Dense(4))(x))
        return nn.Dense(2)(nn.RMSNorm()(nn.Dense(3)(x)))


TOKENS = (2, 5, 3)
IMAGE = (2, 8, 8, 2)
LINEN: dict[str, Callable[[], Case]] = {
    "convolutions, flattened": lambda: of_module(
        Convolutions(), 24 * 6, {"positive": 3, "sign": 1}, array(*IMAGE)
    ),
    "residual block": lambda: of_module(
        ResidualBlock(), 24**2, {"positive": 5, "sign": 3}, array(2, 5, 5, 2)
    ),
    "transformer encoder": lambda: of_module(
        EncoderBlock(),
        24 * 2 * 6**2 * 6**2 * fac(5),
        {"positive": 4, "sign": 4},
        array(*TOKENS),
    ),
    "lstm": lambda: of_module(
        Recurrent(lambda: nn.OptimizedLSTMCell(4)), 24, {"sign": 1}, array(*TOKENS)
    ),
    "gru": lambda: of_module(
        Recurrent(lambda: nn.GRUCell(4)), 24, {"sign": 1}, array(*TOKENS)
    ),
    "simple recurrence": lambda: of_module(
        Recurrent(lambda: nn.SimpleCell(4)), 24, {"sign": 1}, array(*TOKENS)
    ),
    "bidirectional gru": lambda: of_module(
        BothWays(), 24 * 6, {"sign": 2}, array(*TOKENS)
    ),
    "group norm": lambda: of_module(
        Grouped(), 2**2 * 2 * 6, {"positive": 2, "sign": 1}, array(2, 5, 5, 2)
    ),
    "separable convolution": lambda: of_module(
        Separable(), 24 * 6, {"positive": 3}, array(2, 5, 5, 2)
    ),
    "decoder": lambda: of_module(
        Decoder(), fac(5) * 24 * 6, {"positive": 2, "sign": 1}, array(2, 3)
    ),
    "3-d convolutions": lambda: of_module(
        Volume(), 6 * 24, {"positive": 2, "sign": 2}, array(1, 4, 4, 4, 2)
    ),
    "tied embedding": lambda: of_module(
        Tied(), 24 * fac(5), {"sign": 2}, jnp.array([[0, 3, 2], [1, 5, 6]])
    ),
    "weight and rms norm": lambda: of_module(
        Normalised(), 24 * 6, {"positive": 2, "sign": 3}, array(5, 3)
    ),
}


def equinox_cases() -> dict[str, Callable[[], Case]]:
    """Networks of Equinox; its modules take one example."""
    import equinox as eqx

    k = jax.random.key(0)

    class Flattened(eqx.Module):
        first: eqx.nn.Conv2d
        second: eqx.nn.Conv2d
        last: eqx.nn.Linear

        def __init__(self):
            self.first = eqx.nn.Conv2d(2, 4, 3, padding=1, key=k)
            self.second = eqx.nn.Conv2d(4, 3, 3, groups=1, key=k)
            self.last = eqx.nn.Linear(12, 2, key=k)

        def __call__(self, x):
            x = eqx.nn.MaxPool2d(2, 2)(jax.nn.relu(self.first(x)))
            return self.last(jnp.tanh(self.second(x)).ravel())

    class Scanned(eqx.Module):
        cell: Any
        last: eqx.nn.Linear

        def __init__(self, kind):
            self.cell = kind(3, 4, key=k)
            self.last = eqx.nn.Linear(4, 2, key=k)

        def __call__(self, xs):
            zero = jnp.zeros(4, xs.dtype)
            start = (zero, zero) if isinstance(self.cell, eqx.nn.LSTMCell) else zero

            def step(h, x):
                return (self.cell(x, h), None)

            h = jax.lax.scan(step, start, xs)[0]
            return self.last(h[0] if isinstance(h, tuple) else h)

    class Attention(eqx.Module):
        first: eqx.nn.Linear
        attention: eqx.nn.MultiheadAttention
        norm: eqx.nn.LayerNorm
        last: eqx.nn.Linear

        def __init__(self):
            self.first = eqx.nn.Linear(3, 4, key=k)
            self.attention = eqx.nn.MultiheadAttention(
                2, 4, qk_size=3, vo_size=2, key=k
            )
            self.norm = eqx.nn.LayerNorm(4)
            self.last = eqx.nn.Linear(4, 2, key=k)

        def __call__(self, x):
            x = jax.vmap(self.first)(x)
            h = jax.vmap(self.norm)(x)
            return jax.vmap(self.last)(x + self.attention(h, h, h)).mean(0)

    class Gated(eqx.Module):
        norm: eqx.nn.RMSNorm
        parts: list[eqx.nn.Linear]

        def __init__(self):
            self.norm = eqx.nn.RMSNorm(4)
            sizes = [(3, 4), (4, 5), (4, 5), (5, 4), (4, 2)]
            self.parts = [eqx.nn.Linear(i, o, key=k) for i, o in sizes]

        def __call__(self, x):
            first, gate, up, down, last = self.parts
            x = first(x)
            h = self.norm(x)
            return last(x + down(jax.nn.silu(gate(h)) * up(h)))

    class Ensemble(eqx.Module):
        members: eqx.nn.MLP

        def __init__(self):
            def make(key):
                return eqx.nn.MLP(3, 2, 4, 1, key=key)

            self.members = eqx.filter_vmap(make)(jax.random.split(k, 3))

        def __call__(self, x):
            run = eqx.filter_vmap(lambda m, x: m(x), in_axes=(eqx.if_array(0), None))
            return run(self.members, x)

    class Upsampled(eqx.Module):
        first: eqx.nn.Conv1d
        norm: eqx.nn.GroupNorm
        up: eqx.nn.ConvTranspose1d

        def __init__(self):
            self.first = eqx.nn.Conv1d(2, 4, 3, key=k)
            self.norm = eqx.nn.GroupNorm(2, 4)
            self.up = eqx.nn.ConvTranspose1d(4, 2, 2, stride=2, key=k)

        def __call__(self, x):
            return self.up(jax.nn.relu(self.norm(self.first(x))))

    return {
        "mlp": lambda: of_module(
            eqx.nn.MLP(3, 2, 4, 2, key=k), 24**2, {"positive": 2}, array(3)
        ),
        "convolutions, flattened": lambda: of_module(
            Flattened(), 24 * 6, {"positive": 1, "sign": 1}, array(2, 8, 8)
        ),
        "gru cell, scanned": lambda: of_module(
            Scanned(eqx.nn.GRUCell), 24, {"sign": 1}, array(5, 3)
        ),
        "lstm cell, scanned": lambda: of_module(
            Scanned(eqx.nn.LSTMCell), 24, {"sign": 1}, array(5, 3)
        ),
        "attention": lambda: of_module(
            Attention(), 24 * 2 * 6**2 * 2**2, {"positive": 3, "sign": 3}, array(5, 3)
        ),
        "gated mlp, rms norm": lambda: of_module(
            Gated(), 24 * fac(5), {"positive": 2, "sign": 3}, array(3)
        ),
        # Members are told apart by their place among the outputs.
        "ensemble by vmap": lambda: of_module(
            Ensemble(), 24**3, {"positive": 1}, array(3)
        ),
        "group norm, transposed": lambda: of_module(
            Upsampled(), 2**2 * 2, {"positive": 1, "sign": 1}, array(2, 8)
        ),
    }
