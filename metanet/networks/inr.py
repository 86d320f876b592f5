"""Implicit neural representations: networks from coordinates to pixel values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metanet.errors import MetanetError, suggest
from metanet.networks.architecture import ARCHITECTURES, CoordinateNetwork
from metanet.networks.mlp import MLP

# Conventions of public collections of SIRENs. "dws" (Navon et al. 2023): output + 0.5,
# pixels in [0, 1], coordinates (x, y). "nfn" (Zhou et al. 2023): raw output, pixels in
# [-1, 1], coordinates (row, column).
CONVENTIONS = ("dws", "nfn")


def check_convention(convention: str) -> None:
    """Raises MetanetError for an unknown convention."""
    if convention not in CONVENTIONS:
        raise MetanetError(
            f"unknown INR convention {convention!r}.{suggest(convention, CONVENTIONS)}"
        )


def coordinate_grid(height: int, width: int, convention: str = "dws") -> np.ndarray:
    """Returns pixel coordinates in [-1, 1], ``[height * width, 2]``, in row order.

    A point is (x, y) in the convention "dws", (row, column) in "nfn".
    """
    check_convention(convention)
    rows, columns = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    point = (x, y) if convention == "dws" else (y, x)
    return np.stack([axis.ravel() for axis in point], axis=-1).astype(np.float32)


def to_targets(pixels: np.ndarray, convention: str = "dws") -> np.ndarray:
    """Maps bytes 0..255 to the values that INRs of a convention are fitted to."""
    check_convention(convention)
    unit = pixels.astype(np.float32) / np.float32(255)
    return unit if convention == "dws" else 2 * unit - 1


def to_unit(values: jax.Array, convention: str = "dws") -> jax.Array:
    """Maps INR outputs to intensities in [0, 1] (not clipped)."""
    check_convention(convention)
    return values if convention == "dws" else 0.5 * (values + 1)


@ARCHITECTURES.register("siren")
class Siren(CoordinateNetwork):
    """Sine network, ``[..., in_dim] -> [..., out_dim]`` (Sitzmann et al. 2020).

    Args:
        in_dim: Input width.
        hidden: Widths of the hidden layers.
        out_dim: Output width.
        w0: Frequency factor of every sine.
        convention: "dws" or "nfn", see `CONVENTIONS`.
        sine: The sine; fitting substitutes a faster one.
        rngs: Random numbers of the initialisation.
    """

    def __init__(
        self,
        in_dim: int = 2,
        hidden: Sequence[int] = (32, 32),
        out_dim: int = 1,
        w0: float = 30.0,
        convention: str = "dws",
        *,
        sine: Callable[[jax.Array], jax.Array] = jnp.sin,
        rngs: nnx.Rngs,
    ):
        check_convention(convention)
        widths = [in_dim, *hidden, out_dim]
        layers = []
        for i, (inputs, outputs) in enumerate(
            zip(widths[:-1], widths[1:], strict=True)
        ):
            bound = 1 / inputs if i == 0 else math.sqrt(6 / inputs) / w0
            # The code behind the DWS set draws biases like weights, that behind the
            # NFN set leaves PyTorch's default.
            bias_bound = bound if convention == "dws" else 1 / math.sqrt(inputs)
            layers.append(
                nnx.Linear(
                    inputs,
                    outputs,
                    kernel_init=_uniform(bound),
                    bias_init=_uniform(bias_bound),
                    rngs=rngs,
                )
            )
        self.layers = nnx.List(layers)
        self.w0, self.offset = w0, 0.5 if convention == "dws" else 0.0
        self.sine = sine

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers[:-1]:
            x = self.sine(self.w0 * layer(x))
        y = self.layers[-1](x)
        return y + self.offset if self.offset else y


def _uniform(bound: float) -> Callable[..., jax.Array]:
    def init(
        key: jax.Array,
        shape: Sequence[int],
        dtype: jax.typing.DTypeLike = jnp.float32,
        **_: object,
    ) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


@ARCHITECTURES.register("fourier_mlp")
class FourierMLP(CoordinateNetwork):
    """ReLU network on random Fourier features of the coordinates (Tancik et al. 2020).

    Args:
        in_dim: Input width.
        hidden: Widths of the hidden layers.
        out_dim: Output width.
        features: Number of random frequencies.
        deviation: Standard deviation of the frequencies, in cycles per unit.
        feature_seed: Seed of the frequencies, which are constants, not parameters.
        rngs: Random numbers of the initialisation.
    """

    def __init__(
        self,
        in_dim: int = 2,
        hidden: Sequence[int] = (32, 32),
        out_dim: int = 1,
        features: int = 16,
        deviation: float = 1.0,
        feature_seed: int = 0,
        *,
        rngs: nnx.Rngs,
    ):
        normal = np.random.default_rng(feature_seed).normal(size=(in_dim, features))
        # A tuple is static for NNX: part of the program, not of its state.
        self.frequencies = tuple(
            tuple(row) for row in (2 * np.pi * deviation * normal).tolist()
        )
        self.mlp = MLP(2 * features, hidden, out_dim, "relu", rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        angles = x @ jnp.asarray(self.frequencies, x.dtype)
        return self.mlp(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1))


@ARCHITECTURES.register("tanh_inr")
class TanhINR(CoordinateNetwork):
    """Tanh network on scaled coordinates, ``[..., in_dim] -> [..., out_dim]``.

    Args:
        in_dim: Input width.
        hidden: Widths of the hidden layers.
        out_dim: Output width.
        input_scale: Factor of the coordinates.
        rngs: Random numbers of the initialisation.
    """

    def __init__(
        self,
        in_dim: int = 2,
        hidden: Sequence[int] = (32, 32),
        out_dim: int = 1,
        input_scale: float = 4.0,
        *,
        rngs: nnx.Rngs,
    ):
        self.mlp = MLP(in_dim, hidden, out_dim, "tanh", rngs=rngs)
        self.input_scale = input_scale

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.mlp(self.input_scale * x)
