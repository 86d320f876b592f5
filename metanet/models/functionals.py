r"""Weight-space functionals: DWSNets, NFN-NP, NFN-HNP, UNF and NFT from one generator.

Sources: Navon et al., "Equivariant Architectures for Learning in Deep Weight Spaces"
(ICML 2023); Zhou et al., "Permutation Equivariant Neural Functionals" (NeurIPS 2023,
theorem 3.1; NP and HNP, appendix B for convolutions), "Neural Functional Transformers"
(NeurIPS 2023, equation 6), "Universal Neural Functionals" (NeurIPS 2024, algorithm 1).

A layer is the sum of all linear maps between the network's arrays that commute with its
discovered group (see equivariant_maps.py), so one class serves every architecture. On MLPs
and CNNs it is the layer of the papers:

    dws       units of inputs and outputs are channels; averages replaced by maxima
    nfn_hnp   units of inputs and outputs are channels
    nfn_np    these are permuted as well; sinusoidal encodings tell them apart
    unf       as nfn_hnp, for networks of any kind
    nft       as nfn_np, with attention between the slices of each array

Equivariance: array features transform as the parameters do; the pooled feature (averages
over all permuted axes, per array) is invariant. Without encodings, NFN-NP and NFT are
equivariant to permuted inputs and outputs too. Scales and signs are canonicalised.

With array features X_a (width d per channel), a block is
    X_a += rows(norm(X_a))               nft only: per axis, softmax of inner products of
                                         slices along it, over heads
    X_a += silu(L_a(norm(X)))            L: all equivariant maps, with biases
L_a sums one product of channels per way to broadcast onto the array and divides by the
root of their number. Inner products are divided by the root of a head's length in a slice.
The pooled feature is normalised over all arrays.

Deviations, and why: residual connections and RMS norms over channels (the papers stack
plain layers, NFN with norms as an option); NFT attends within arrays and leaves the
communication between arrays to linear maps of means, instead of attending to the rows of
adjacent layers, which other architectures do not have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metanet.errors import MetanetError
from metanet.graphs import (
    GraphBatch,
    GraphSchema,
    ParameterGraph,
    broadcast,
    to_params,
    total,
)
from metanet.models.base import MODELS, Features, ModelInputs, require_dense
from metanet.models.embeddings import Statistic
from metanet.models.equivariant_maps import (
    ArraySpec,
    array_specs,
    broadcast_kept,
    pool_to_kept,
    terms,
)
from metanet.models.layers import Linear, dropout, rms_norm
from metanet.options import Options, PositiveInt, Rate
from metanet.symmetry import select_parts

_ENCODING = 4


@dataclass(frozen=True)
class FunctionalConfig(Options):
    """Options of the weight-space functionals.

    Attributes:
        dim: Channels per array (and per value of an axis that is not permuted).
        depth: Number of layers.
        pinned: Units of inputs and outputs as "channels" (HNP), or "permuted" (NP).
        reduce: "mean" or "max" over axes that a map does not retain.
        attention: Attention between the slices of each array (NFT).
        heads: Attention heads.
        dropout: Dropout rate on the pooled features.
    """

    dim: PositiveInt = 32
    depth: PositiveInt = 4
    pinned: Literal["channels", "permuted"] = "channels"
    reduce: Literal["mean", "max"] = "mean"
    attention: bool = False
    heads: PositiveInt = 4
    dropout: Rate = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention and self.dim % self.heads:
            raise MetanetError(f"heads: {self.heads} does not divide dim ({self.dim})")


class EquivariantLinear(nnx.Module):
    """All equivariant affine maps between a network's arrays.

    Args:
        specs: The arrays.
        inputs, outputs: Channels per array and dense value.
        reduce: Reduction of axes that a map does not retain.
        bias: True to add equivariant constants.
        rngs: Random streams of the initialisation.
    """

    def __init__(
        self,
        specs: tuple[ArraySpec, ...],
        inputs: int,
        outputs: int,
        *,
        reduce: Literal["mean", "max"] = "mean",
        bias: bool = True,
        rngs: nnx.Rngs,
    ):
        self.specs, self.outputs = specs, outputs
        self.reduce: Literal["mean", "max"] = reduce
        sides = terms(specs)
        self.terms = tuple(sides.values())
        # Each output array sums one part per signature and side that reaches it.
        reached = [0] * len(specs)
        for _, outs in self.terms:
            for side in outs:
                reached[side.array] += 1
        mixes = []
        for key, (ins, outs) in sides.items():
            # Constants are outputs of the maps that retain no axis.
            offset = bias and not key
            wide = sum(specs[h.array].dense * inputs for h in ins)
            out = sum(specs[h.array].dense * outputs for h in outs)
            mixes.append(Linear(wide, out, bias=offset, rngs=rngs))
        self.mixes = nnx.List(mixes)
        self.scales = tuple(float(r) ** -0.5 for r in reached)

    def __call__(self, arrays: list[jax.Array]) -> list[jax.Array]:
        """Maps ``[B, *axes, dense * inputs]`` per array to ``[..., dense * outputs]``."""
        sums: list[jax.Array | float] = [0.0] * len(self.specs)
        for (ins, outs), linear in zip(self.terms, self.mixes, strict=True):
            x = jnp.concatenate(
                [pool_to_kept(arrays[h.array], h, self.reduce) for h in ins], axis=-1
            )
            x = linear(x)
            start = 0
            for side in outs:
                spec = self.specs[side.array]
                width = spec.dense * self.outputs
                part = jax.lax.slice_in_dim(x, start, start + width, axis=x.ndim - 1)
                start += width
                sums[side.array] = sums[side.array] + broadcast_kept(part, side, spec)
        outputs = []
        for y, scale, spec in zip(sums, self.scales, self.specs, strict=True):
            shape = (arrays[0].shape[0], *spec.shape, spec.dense * self.outputs)
            outputs.append(jnp.broadcast_to(y * np.float32(scale), shape))
        return outputs


class RowAttention(nnx.Module):
    """Attention between the slices of an array along each permuted axis."""

    def __init__(self, spec: ArraySpec, dim: int, heads: int, *, rngs: nnx.Rngs):
        self.spec, self.heads = spec, heads
        width = spec.dense * dim
        self.read = Linear(width, 3 * width, bias=False, rngs=rngs)
        self.write = Linear(width, width, scale=0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = jnp.split(self.read(x), 3, axis=-1)
        update: jax.Array | float = 0.0
        for position, axis in enumerate(self.spec.axes):
            (queries, _), (keys, _), (values, to_array) = (
                self._slices(self._mean_below(y, position), position, axis.parents)
                for y in (q, k, v)
            )
            scores = jnp.einsum("zhik,zhjk->zhij", queries, keys)
            scale = np.float32(queries.shape[-1] ** -0.5)
            weights = jax.nn.softmax(scores * scale, axis=-1)
            attended = jnp.einsum("zhij,zhjk->zhik", weights, values)
            update = update + broadcast(to_array(attended), v.shape)
        return self.write(jnp.asarray(update))

    def _mean_below(self, x: jax.Array, position: int) -> jax.Array:
        """Averages over the axes whose permutation depends on the axis at ``position``.

        Each slice has a different permutation of these axes, so slices can be neither
        compared nor mixed entry by entry.
        """
        axes = self.spec.axes
        nested = {position}
        while more := {
            i for i, a in enumerate(axes) if nested & set(a.parents) and i not in nested
        }:
            nested |= more
        below = [1 + i for i in sorted(nested - {position})]
        if not below:
            return x
        count = math.prod(x.shape[i] for i in below)
        return total(x, below, keepdims=True) / count

    def _slices(
        self, x: jax.Array, position: int, parents: tuple[int, ...]
    ) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
        """Returns slices ``[B * parents, heads, n, rest * d / heads]`` and the inverse.

        Slices below different values of a parent cannot be compared.
        """
        x = x.reshape(*x.shape[:-1], self.heads, -1)
        count = len(self.spec.axes)
        rest = [i for i in range(count) if i != position and i not in parents]
        batch = (0, *(1 + p for p in parents))
        order = (*batch, 1 + count, 1 + position, *(1 + i for i in rest), 2 + count)
        turned = x.transpose(order)
        inverse = sorted(range(len(order)), key=order.__getitem__)
        lead = 1 + len(parents)
        flat = turned.reshape(
            math.prod(turned.shape[:lead]), self.heads, turned.shape[lead + 1], -1
        )

        def to_array(y: jax.Array) -> jax.Array:
            y = y.reshape(turned.shape).transpose(inverse)
            return y.reshape(*y.shape[:-2], -1)

        return flat, to_array


class FunctionalBlock(nnx.Module):
    """Equivariant maps and, for NFT, attention; see the module docstring."""

    def __init__(
        self,
        specs: tuple[ArraySpec, ...],
        config: FunctionalConfig,
        *,
        rngs: nnx.Rngs,
    ):
        dim = config.dim
        widths = [spec.dense * dim for spec in specs]

        def ones() -> nnx.List:
            return nnx.List([nnx.Param(jnp.ones(width)) for width in widths])

        self.gains = ones()
        self.row_gains = ones() if config.attention else None
        self.maps = EquivariantLinear(specs, dim, dim, reduce=config.reduce, rngs=rngs)
        rows = None
        if config.attention:
            rows = nnx.List(
                [
                    RowAttention(spec, dim, config.heads, rngs=rngs)
                    if spec.axes
                    else None
                    for spec in specs
                ]
            )
        self.rows = rows

    def __call__(self, arrays: list[jax.Array]) -> list[jax.Array]:
        if self.rows is not None and self.row_gains is not None:
            normed = _normed(arrays, self.row_gains)
            arrays = [
                x if rows is None else x + rows(n)
                for x, n, rows in zip(arrays, normed, self.rows, strict=True)
            ]
        maps = self.maps(_normed(arrays, self.gains))
        return [x + jax.nn.silu(y) for x, y in zip(arrays, maps, strict=True)]


def _normed(arrays: list[jax.Array], gains: Sequence[nnx.Param]) -> list[jax.Array]:
    """Returns the RMS norm of each array, times a gain per channel."""
    return [
        rms_norm(x) * gain[...].reshape((1,) * (x.ndim - 1) + (-1,))
        for x, gain in zip(arrays, gains, strict=True)
    ]


@MODELS.register("dws", reduce="max")
@MODELS.register("nfn_np", dim=64, depth=3, pinned="permuted")
@MODELS.register("nfn_hnp", dim=64, depth=3)
@MODELS.register("unf")
@MODELS.register("nft", pinned="permuted", attention=True)
class Functional(nnx.Module):
    """A weight-space functional on networks of one architecture."""

    Config = FunctionalConfig

    def __init__(
        self,
        config: FunctionalConfig,
        schema: GraphSchema,
        model_inputs: ModelInputs,
        *,
        rngs: nnx.Rngs,
    ):
        model_inputs.single("a weight-space functional")
        if model_inputs.symmetry is None:
            raise MetanetError(
                "weight-space functionals are built from the symmetry of the input "
                "networks, got symmetry=None"
            )
        self.config = config
        self.specs = array_specs(model_inputs.symmetry, config.pinned)
        self.features = schema.features
        count = len(self.specs)
        self.mean, self.deviation = (
            Statistic(jnp.zeros(count)),
            Statistic(jnp.ones(count)),
        )
        # Units of inputs and outputs, which NP permutes, have an encoding of their position.
        first = len(model_inputs.symmetry.groups)
        self.encoded = tuple(
            tuple(i for i, a in enumerate(s.axes) if a.label >= first)
            for s in self.specs
        )
        widths = [
            (s.dense * self.features + 2 * _ENCODING * len(e), s.dense * config.dim)
            for s, e in zip(self.specs, self.encoded, strict=True)
        ]
        self.start = nnx.List([Linear(*w, rngs=rngs) for w in widths])
        self.blocks = nnx.List(
            [
                FunctionalBlock(self.specs, config, rngs=rngs)
                for _ in range(config.depth)
            ]
        )
        self.dim = sum(s.dense * config.dim for s in self.specs)
        self.gain = nnx.Param(jnp.ones(self.dim))

    @property
    def cost(self) -> int:
        """Floats that one network occupies in all arrays of a block."""
        return sum(math.prod(s.shape) * s.dense * self.config.dim for s in self.specs)

    def set_statistics(self, graphs: GraphBatch) -> None:
        """Measures mean and deviation of each array on a sample of graphs."""
        arrays = self._arrays(require_dense(graphs))
        self.mean[...] = jnp.stack([x.mean() for x in arrays])
        deviation = jnp.stack([x.std() for x in arrays])
        self.deviation[...] = jnp.where(deviation > 1e-8, deviation, 1.0)

    def _arrays(self, graphs: ParameterGraph) -> list[jax.Array]:
        """Returns the network's arrays, ``[B, *axes, dense * F]``."""
        count = len(graphs.topology.leaves)
        structure = jax.tree.structure([0] * count)
        values = [to_params(graphs, structure, i) for i in range(self.features)]
        out = []
        for spec in self.specs:
            parts = []
            for leaves in values:
                x = select_parts(leaves[spec.leaf], spec.parts)
                x = x.reshape(x.shape[0], *spec.split)
                x = x.transpose(0, *(1 + i for i in spec.order))
                parts.append(x.reshape(x.shape[0], *spec.shape, spec.dense))
            joined = jnp.stack(parts, axis=-1)
            out.append(joined.reshape(*joined.shape[:-2], -1))
        return out

    def _places(self, spec: ArraySpec, axis: int) -> jax.Array:
        """Returns the sinusoidal encoding of an axis, ``[1, ..., n, ..., 2 * K]``."""
        size = spec.axes[axis].size
        frequencies = 2.0 ** np.arange(_ENCODING)
        angle = np.linspace(0.0, 1.0, size)[:, None] * np.pi * frequencies
        waves = np.concatenate([np.sin(angle), np.cos(angle)], -1).astype(np.float32)
        shape = [1] * len(spec.axes)
        shape[axis] = size
        return jnp.asarray(waves).reshape(1, *shape, -1)

    def __call__(
        self,
        graphs: GraphBatch,
        *,
        key: jax.Array | None = None,
        deterministic: bool = True,
    ) -> Features:
        """Returns pooled features ``[B, dim]``; `arrays` returns those of the arrays."""
        arrays = self.arrays(graphs)
        pooled = [x.mean(tuple(range(1, x.ndim - 1))) for x in arrays]
        x = jnp.concatenate(pooled, axis=-1)
        x = rms_norm(x) * self.gain[...][None]
        x = dropout(x, self.config.dropout, key, deterministic)
        return Features(None, None, x)

    def arrays(self, graphs: GraphBatch) -> list[jax.Array]:
        """Returns features ``[B, *axes, dense * d]`` of every array after all blocks."""
        arrays = []
        for i, x in enumerate(self._arrays(require_dense(graphs))):
            spec = self.specs[i]
            x = (x - self.mean[...][i]) / self.deviation[...][i]
            extra = [
                jnp.broadcast_to(
                    self._places(spec, axis), (*x.shape[:-1], 2 * _ENCODING)
                )
                for axis in self.encoded[i]
            ]
            joined = jnp.concatenate([x, *extra], axis=-1)
            arrays.append(self.start[i](joined))
        for block in self.blocks:
            arrays = block(arrays)
        return arrays
