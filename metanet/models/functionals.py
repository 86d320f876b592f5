r"""Weight-space functionals: DWSNets, NFN-NP, NFN-HNP, UNF and NFT from one generator.

Sources: Navon et al., "Equivariant Architectures for Learning in Deep Weight Spaces"
(ICML 2023); Zhou et al., "Permutation Equivariant Neural Functionals" (NeurIPS 2023,
theorem 3.1; NP and HNP, appendix B for convolutions), "Neural Functional Transformers"
(NeurIPS 2023, equation 6), "Universal Neural Functionals" (NeurIPS 2024, algorithm 1).

A layer is the sum of all linear maps between the network's arrays that commute with its
discovered group (see equivariant_maps.py), so one class serves every architecture; the
papers' layers are what it becomes on MLPs and CNNs:

    dws       units of inputs and outputs are channels; averages replaced by maxima
    nfn_hnp   units of inputs and outputs are channels
    nfn_np    these are permuted as well; sinusoidal encodings tell them apart
    unf       as nfn_hnp, for networks of any kind
    nft       as nfn_np, with attention between the slices of each array

Equivariance: array features move as the parameters do; the pooled feature (averages over
all permuted axes, per array) is invariant. NFN-NP and NFT are equivariant to permuted
inputs and outputs too, before encodings. Scales and signs are canonicalised.

With array features X_a (width d per channel), a block is
    X_a += silu(L_a(norm(X)))            L: all equivariant maps, with biases
    X_a += rows(norm(X_a))               nft only: per axis, softmax of inner products of
                                         slices along it, over heads
Deviations, and why: residual connections and RMS norms over channels (the papers stack
plain layers, NFN with norms as an option); NFT attends within arrays and leaves the
communication between arrays to linear maps of means, instead of attending to the rows of
adjacent layers, which other architectures do not have.
"""

from __future__ import annotations

import math
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
    gather,
    spread,
    terms,
)
from metanet.models.layers import Linear, dropout, rms_norm
from metanet.options import Options, PositiveInt, Rate

_ENCODING = 4


@dataclass(frozen=True)
class FunctionalConfig(Options):
    """Options of the weight-space functionals.

    Attributes:
        dim: Channels per array (and per value of an axis that is not permuted).
        depth: Number of layers.
        pinned: Units of inputs and outputs as "channels" (HNP), or "permuted" (NP).
        reduce: "mean" or "max" over axes that a map drops.
        attention: Attention between the slices of each array (NFT).
        heads: Attention heads.
        dropout: Rate on the pooled features.
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
        reduce: How axes are dropped.
        bias: Whether to add equivariant constants.
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
        found = terms(specs)
        self.terms = tuple(found.values())
        # Each output array sums one part per signature and half that reaches it.
        reached = [0] * len(specs)
        for _, outs in self.terms:
            for half in outs:
                reached[half.array] += 1
        mixes = []
        for key, (ins, outs) in found.items():
            # Constants reach an array by the maps that keep no axis.
            offset = bias and not key
            wide = sum(specs[h.array].dense * inputs for h in ins)
            out = sum(specs[h.array].dense * outputs for h in outs)
            mixes.append(Linear(wide, out, bias=offset, rngs=rngs))
        self.mixes = nnx.List(mixes)
        self.scales = tuple(float(r) ** -0.5 for r in reached)

    def __call__(self, arrays: list[jax.Array]) -> list[jax.Array]:
        """``[B, *axes, dense * inputs]`` per array to ``[..., dense * outputs]``."""
        sums: list[jax.Array | float] = [0.0] * len(self.specs)
        for (ins, outs), linear in zip(self.terms, self.mixes, strict=True):
            x = jnp.concatenate(
                [gather(arrays[h.array], h, self.reduce) for h in ins], axis=-1
            )
            x = linear(x)
            start = 0
            for half in outs:
                spec = self.specs[half.array]
                width = spec.dense * self.outputs
                part = jax.lax.slice_in_dim(x, start, start + width, axis=x.ndim - 1)
                start += width
                sums[half.array] = sums[half.array] + spread(part, half, spec)
        return [
            jnp.broadcast_to(
                y * np.float32(scale),
                (x.shape[0], *spec.shape, spec.dense * self.outputs),
            )  # fmt: skip
            for y, scale, spec, x in zip(
                sums, self.scales, self.specs, arrays, strict=True
            )
        ]


class RowAttention(nnx.Module):
    """Attention between the slices of an array along each permuted axis."""

    def __init__(self, spec: ArraySpec, dim: int, heads: int, *, rngs: nnx.Rngs):
        self.spec, self.heads = spec, heads
        width = spec.dense * dim
        self.read = Linear(width, 3 * width, bias=False, rngs=rngs)
        self.write = Linear(width, width, scale=0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = jnp.split(self.read(x), 3, axis=-1)
        found: jax.Array | float = 0.0
        for place, axis in enumerate(self.spec.axes):
            own = [
                self._slices(self._below(y, place), place, axis.parents)
                for y in (q, k, v)
            ]
            size = own[0][0].shape[-1]
            scores = jnp.einsum("zhik,zhjk->zhij", own[0][0], own[1][0])
            weights = jax.nn.softmax(scores * np.float32(size**-0.5), axis=-1)
            mixed = jnp.einsum("zhij,zhjk->zhik", weights, own[2][0])
            found = found + broadcast(own[2][1](mixed), v.shape)
        return self.write(jnp.asarray(found))

    def _below(self, x: jax.Array, place: int) -> jax.Array:
        """Means over the axes whose order depends on the index at ``place``.

        They differ from slice to slice, so that slices can neither be compared nor
        mixed entry by entry.
        """
        axes = self.spec.axes
        found = {place}
        while more := {
            i for i, a in enumerate(axes) if found & set(a.parents) and i not in found
        }:
            found |= more
        below = [1 + i for i in sorted(found - {place})]
        if not below:
            return x
        count = math.prod(x.shape[i] for i in below)
        return total(x, below, keepdims=True) / count

    def _slices(self, x: jax.Array, place: int, parents: tuple[int, ...]):
        """``[B * parents, heads, n, rest * d / heads]``, and the way back.

        Slices below different values of a parent cannot be compared.
        """
        x = x.reshape(*x.shape[:-1], self.heads, -1)
        count = len(self.spec.axes)
        rest = [i for i in range(count) if i != place and i not in parents]
        order = (0, *(1 + p for p in parents), 1 + count, 1 + place,
                 *(1 + i for i in rest), 2 + count)  # fmt: skip
        turned = x.transpose(order)
        inverse = sorted(range(len(order)), key=order.__getitem__)
        lead = 1 + len(parents)
        flat = turned.reshape(
            math.prod(turned.shape[:lead]), self.heads, turned.shape[lead + 1], -1
        )

        def back(y: jax.Array) -> jax.Array:
            y = y.reshape(turned.shape).transpose(inverse)
            return y.reshape(*y.shape[:-2], -1)

        return flat, back


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
        draw = lambda: nnx.List([nnx.Param(jnp.ones(w)) for w in widths])
        self.gains, attends = draw(), config.attention
        self.row_gains = draw() if attends else None
        self.maps = EquivariantLinear(specs, dim, dim, reduce=config.reduce, rngs=rngs)
        row = lambda spec: RowAttention(spec, dim, config.heads, rngs=rngs)
        self.rows = (
            nnx.List([row(s) if s.axes else None for s in specs]) if attends else None
        )

    def __call__(self, arrays: list[jax.Array]) -> list[jax.Array]:
        if self.rows is not None and self.row_gains is not None:
            normed = _normed(arrays, self.row_gains)
            arrays = [
                x if rows is None else x + rows(n)
                for x, n, rows in zip(arrays, normed, self.rows, strict=True)
            ]
        maps = self.maps(_normed(arrays, self.gains))
        return [x + jax.nn.silu(y) for x, y in zip(arrays, maps, strict=True)]


def _normed(arrays: list[jax.Array], gains) -> list[jax.Array]:
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
                "symmetry: weight-space functionals are built from a discovered "
                "Symmetry; pass it as symmetry"
            )
        self.config = config
        self.specs = array_specs(model_inputs.symmetry, config.pinned)
        self.features = schema.features
        count = len(self.specs)
        self.mean, self.deviation = (
            Statistic(jnp.zeros(count)),
            Statistic(jnp.ones(count)),
        )
        # An encoding of its place for each unit that NP permutes without need.
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
        """The network's arrays, ``[B, *axes, dense * F]``."""
        count = len(graphs.topology.leaves)
        structure = jax.tree.structure([0] * count)
        values = [to_params(graphs, structure, i) for i in range(self.features)]
        out = []
        for spec in self.specs:
            where = tuple(slice(*bound) for bound in spec.bounds)
            parts = []
            for leaves in values:
                x = leaves[spec.leaf][(slice(None), *where)]
                x = x.reshape(x.shape[0], *spec.split)
                x = x.transpose(0, *(1 + i for i in spec.order))
                parts.append(x.reshape(x.shape[0], *spec.shape, spec.dense))
            joined = jnp.stack(parts, axis=-1)
            out.append(joined.reshape(*joined.shape[:-2], -1))
        return out

    def _places(self, spec: ArraySpec, axis: int) -> jax.Array:
        """Sinusoidal encoding of an axis, shaped to concatenate to channels."""
        size = spec.axes[axis].size
        at = np.linspace(0.0, 1.0, size)[:, None] * np.pi * 2.0 ** np.arange(_ENCODING)
        waves = np.concatenate([np.sin(at), np.cos(at)], -1).astype(np.float32)
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
        """Pooled features ``[B, dim]``; see `arrays` for those of the arrays."""
        arrays = self.arrays(graphs)
        pooled = [x.mean(tuple(range(1, x.ndim - 1))) for x in arrays]
        x = jnp.concatenate(pooled, axis=-1)
        x = rms_norm(x) * self.gain[...][None]
        x = dropout(x, self.config.dropout, key, deterministic)
        return Features(None, None, x)

    def arrays(self, graphs: GraphBatch) -> list[jax.Array]:
        """Features ``[B, *axes, dense * d]`` of every array, after all blocks."""
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
