"""Baselines on the interface of the graph models: flat MLP and weight statistics.

They read the same parameter graphs, and return pooled features without node or edge
features, so that every task and every experiment runs with them unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.errors import require_at_least
from metanet.graphs.batch import GraphBatch
from metanet.graphs.topology import Topology
from metanet.graphs.view import ParameterGraph
from metanet.models.embeddings import Standardizer, Statistic
from metanet.models.layers import Linear, dropout

# Unterthiner et al. (2020), section 4: mean, variance and five quantiles per tensor.
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class BaselineConfig:
    """Options of the baselines.

    Attributes:
        dim: Width of the hidden layers.
        depth: Number of hidden layers.
        dropout: Rate on the last features.
    """

    dim: int = 256
    depth: int = 3
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require_at_least(self, dim=1, depth=1)


class _Baseline(nnx.Module):
    """An MLP on a fixed vector of ``inputs`` numbers per network."""

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
        """The numbers ``[B, inputs]`` that the MLP reads."""
        raise NotImplementedError

    def __call__(
        self,
        graphs: ParameterGraph,
        *,
        key: jax.Array | None = None,
        deterministic: bool = True,
    ) -> GraphBatch:
        """Pooled features ``globals_`` ``[B, dim]``; no node or edge features."""
        x = self.vector(graphs)
        for layer in self.layers:
            x = jax.nn.silu(layer(x))
        x = dropout(x, self.config.dropout, key, deterministic)
        return GraphBatch((), (), x)


def _primary(topology: Topology) -> tuple[int, ...]:
    return tuple(i for i, e in enumerate(topology.edges) if e.primary)


class FlatMLP(_Baseline):
    """MLP on all weights as one vector: not equivariant to anything.

    Claims no invariance except to what `canonicalize` removes beforehand.
    """

    def __init__(self, config: BaselineConfig, topology: Topology, *, rngs: nnx.Rngs):
        super().__init__(config, topology, topology.num_parameters, rngs=rngs)
        self.standardize = Standardizer(topology)

    def set_statistics(self, graphs: ParameterGraph) -> None:
        """Measures the standardisation on a sample of graphs with leading axis [B]."""
        self.standardize.measure(graphs.edges)

    def vector(self, graphs: ParameterGraph) -> jax.Array:
        parts = [
            self.standardize(graphs.edges[i], i).reshape(graphs.edges[i].shape[0], -1)
            for i in _primary(self.topology)
        ]
        return jnp.concatenate(parts, axis=-1)


class StatNN(_Baseline):
    """MLP on statistics of every parameter array: invariant to all permutations.

    Source: Unterthiner et al., "Predicting Neural Network Accuracy from Weights"
    (2020): mean, variance and the quantiles 0, 25, 50, 75, 100 % of each tensor.
    """

    def __init__(self, config: BaselineConfig, topology: Topology, *, rngs: nnx.Rngs):
        count = len(_primary(topology)) * (2 + len(_QUANTILES))
        super().__init__(config, topology, count, rngs=rngs)
        self.mean = Statistic(jnp.zeros(count))
        self.deviation = Statistic(jnp.ones(count))

    def set_statistics(self, graphs: ParameterGraph) -> None:
        """Measures mean and deviation of each statistic on a sample of graphs."""
        raw = self._statistics(graphs)
        self.mean[...] = raw.mean(0)
        self.deviation[...] = jnp.maximum(raw.std(0), 1e-8)

    def _statistics(self, graphs: ParameterGraph) -> jax.Array:
        columns = []
        for i in _primary(self.topology):
            values = graphs.edges[i].reshape(graphs.edges[i].shape[0], -1)
            quantiles = jnp.quantile(values, jnp.asarray(_QUANTILES), axis=-1)
            columns += [values.mean(-1)[:, None], values.var(-1)[:, None], quantiles.T]
        return jnp.concatenate(columns, axis=-1)

    def vector(self, graphs: ParameterGraph) -> jax.Array:
        raw = self._statistics(graphs)
        return (raw - self.mean[...][None]) / self.deviation[...][None]
