r"""Baselines without equivariant layers: an MLP on flat weights, and StatNN.

They read parameter graphs of one architecture and return pooled features, so that tasks
and experiments treat them as graph models.

Equivariance: StatNN is invariant to all permutations within an array. The flat MLP has no
invariance; `canonicalize` may remove symmetries beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metanet.graphs import GraphBatch, GraphSchema, ParameterGraph, Topology
from metanet.models.base import MODELS, Features, ModelInputs, require_dense
from metanet.models.embeddings import Statistic
from metanet.models.layers import Linear, dropout
from metanet.options import Options, PositiveInt, Rate

# Unterthiner et al. (2020), section 4: mean, variance and five quantiles per tensor.
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class BaselineConfig(Options):
    """Options of the baselines.

    Attributes:
        dim: Width of the hidden layers.
        depth: Number of hidden layers.
        dropout: Dropout rate on the last features.
    """

    dim: PositiveInt = 256
    depth: PositiveInt = 3
    dropout: Rate = 0.0


class _Baseline(nnx.Module):
    """Base class of MLPs on a vector of ``inputs`` numbers per network."""

    def __init__(
        self,
        config: BaselineConfig,
        topology: Topology,
        inputs: int,
        *,
        rngs: nnx.Rngs,
    ):
        self.config, self.topology = config, topology
        widths = [inputs] + [config.dim] * config.depth
        self.layers = nnx.List(
            [Linear(a, b, rngs=rngs) for a, b in zip(widths, widths[1:], strict=False)]
        )
        self.dim = config.dim

    @property
    def cost(self) -> int:
        """Floats per network in the widest layer."""
        return max(self.config.dim, self.layers[0].kernel.shape[0])

    def vector(self, graphs: ParameterGraph) -> jax.Array:
        """Returns the input ``[B, inputs]`` of the MLP."""
        raise NotImplementedError

    def __call__(
        self,
        graphs: GraphBatch,
        *,
        key: jax.Array | None = None,
        deterministic: bool = True,
    ) -> Features:
        """Returns pooled features ``[B, dim]``, without node or edge features."""
        x = self.vector(require_dense(graphs))
        for layer in self.layers:
            x = jax.nn.silu(layer(x))
        x = dropout(x, self.config.dropout, key, deterministic)
        return Features(None, None, x)


def primary(topology: Topology) -> tuple[int, ...]:
    """Returns the indices of edge sets that together contain each parameter once."""
    return tuple(i for i, e in enumerate(topology.edges) if e.primary)


class FlatWeights(nnx.Module):
    """Standardised flat weights of a network, ``[B, P * F]``."""

    def __init__(self, topology: Topology, features: int):
        self.sets = primary(topology)
        self.size = topology.num_parameters * features
        self.mean = Statistic(jnp.zeros(len(self.sets)))
        self.deviation = Statistic(jnp.ones(len(self.sets)))

    def measure(self, graphs: ParameterGraph) -> None:
        """Measures mean and deviation of every array on a sample of graphs."""
        blocks = [graphs.edges[i] for i in self.sets]
        self.mean[...] = jnp.stack([x.mean() for x in blocks])
        deviation = jnp.stack([x.std() for x in blocks])
        self.deviation[...] = jnp.where(deviation > 1e-8, deviation, 1.0)

    def __call__(self, graphs: ParameterGraph) -> jax.Array:
        parts = []
        for k, i in enumerate(self.sets):
            flat = graphs.edges[i].reshape(graphs.edges[i].shape[0], -1)
            parts.append((flat - self.mean[...][k]) / self.deviation[...][k])
        return jnp.concatenate(parts, axis=-1)


@MODELS.register("flat_mlp")
class FlatMLP(_Baseline):
    """An MLP on the flat weights; it has no equivariance."""

    Config = BaselineConfig

    def __init__(
        self,
        config: BaselineConfig,
        schema: GraphSchema,
        model_inputs: ModelInputs,
        *,
        rngs: nnx.Rngs,
    ):
        topology = model_inputs.single("flat_mlp")
        flat = FlatWeights(topology, schema.features)
        super().__init__(config, topology, flat.size, rngs=rngs)
        self.flat = flat

    def set_statistics(self, graphs: GraphBatch) -> None:
        """Measures the standardisation on a sample of graphs with leading axis [B]."""
        self.flat.measure(require_dense(graphs))

    def vector(self, graphs: ParameterGraph) -> jax.Array:
        return self.flat(graphs)


@MODELS.register("statnn")
class StatNN(_Baseline):
    """An MLP on statistics of every parameter array, invariant to all permutations.

    Source: Unterthiner et al., "Predicting Neural Network Accuracy from Weights"
    (2020): mean, variance and the quantiles 0, 25, 50, 75, 100 % of each tensor.
    """

    Config = BaselineConfig

    def __init__(
        self,
        config: BaselineConfig,
        schema: GraphSchema,
        model_inputs: ModelInputs,
        *,
        rngs: nnx.Rngs,
    ):
        topology = model_inputs.single("statnn")
        self.sets = primary(topology)
        count = len(self.sets) * (2 + len(_QUANTILES))
        super().__init__(config, topology, count, rngs=rngs)
        self.mean = Statistic(jnp.zeros(count))
        self.deviation = Statistic(jnp.ones(count))

    def set_statistics(self, graphs: GraphBatch) -> None:
        """Measures mean and deviation of each statistic on a sample of graphs."""
        raw = self._statistics(require_dense(graphs))
        self.mean[...], deviation = raw.mean(0), raw.std(0)
        # A statistic that varies by less than 1e-3 of its mean has four significant digits
        # left in float32, and the order of summation changes them. Dividing by its
        # deviation would turn rounding into a feature.
        varies = deviation > 1e-3 * jnp.abs(raw.mean(0)) + 1e-8
        self.deviation[...] = jnp.where(varies, deviation, 1.0)

    def _statistics(self, graphs: ParameterGraph) -> jax.Array:
        columns = []
        for i in self.sets:
            values = graphs.edges[i].reshape(graphs.edges[i].shape[0], -1)
            columns += [values.mean(-1)[:, None], values.var(-1)[:, None]]
            columns.append(_quantiles(values))
        return jnp.concatenate(columns, axis=-1)

    def vector(self, graphs: ParameterGraph) -> jax.Array:
        raw = self._statistics(graphs)
        return (raw - self.mean[...][None]) / self.deviation[...][None]


def _quantiles(x: jax.Array) -> jax.Array:
    """Returns linearly interpolated quantiles of each row, ``[B, n] -> [B, 5]``."""
    ordered = _sorted(x)
    position = np.asarray(_QUANTILES) * (x.shape[-1] - 1)
    low = np.floor(position).astype(int)
    share = jnp.asarray((position - low)[None], x.dtype)
    high = np.minimum(low + 1, x.shape[-1] - 1)
    return ordered[:, low] * (1 - share) + ordered[:, high] * share


@jax.custom_jvp
def _sorted(x: jax.Array) -> jax.Array:
    """Returns rows in ascending order.

    Sorts integers of the same order as the floats, which XLA does several times faster on
    CPU.
    """
    integers = _flip_negative(
        jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)
    )
    integers = _flip_negative(jax.lax.sort(integers, is_stable=False))
    return jax.lax.bitcast_convert_type(integers, jnp.float32).astype(x.dtype)


def _flip_negative(bits: jax.Array) -> jax.Array:
    """Flips all bits but the sign of negative numbers; its own inverse.

    Bit patterns of floats then compare as the floats do.
    """
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@_sorted.defjvp
def _sorted_jvp(primals, tangents):
    return jax.jvp(jnp.sort, primals, tangents)
