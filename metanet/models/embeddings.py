"""Encodings of weights, types, depths, positions and identified nodes.

A scalar weight becomes ``[v, sin(f_k v), cos(f_k v)]`` for frequencies spaced in octaves
(Fourier features as in Neural Graphs, sines as in Graph Metanetworks), after each edge
set was brought to zero mean and unit deviation by statistics of the training set.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metanet.graphs.topology import EdgeSet, NodeSet, Topology
from metanet.models.layers import Linear
from metanet.networks import sine

# Depths beyond the table share its last row.
MAX_DEPTH = 64


class Statistic(nnx.Variable):
    """Non-trainable numbers measured on the training set and saved with the model."""


class Standardizer(nnx.Module):
    """Brings every edge set of a topology to zero mean and unit deviation."""

    def __init__(self, topology: Topology):
        count = len(topology.edges)
        self.mean = Statistic(jnp.zeros(count))
        self.deviation = Statistic(jnp.ones(count))

    def measure(self, edges: tuple[jax.Array, ...]) -> None:
        """Sets the statistics from the edge blocks of a sample of graphs."""
        self.mean[...] = jnp.stack([e.mean() for e in edges])
        # An edge set that is constant over the sample carries no information; dividing
        # by its deviation would only blow up rounding errors.
        deviation = jnp.stack([e.std() for e in edges])
        self.deviation[...] = jnp.where(deviation > 1e-8, deviation, 1.0)

    def __call__(self, values: jax.Array, index: int) -> jax.Array:
        return (values - self.mean[...][index]) / self.deviation[...][index]


def encoder_key(edge: EdgeSet, topology: Topology) -> str:
    """Edge sets with equal keys share a scalar encoder.

    Weights that touch inputs or outputs are distributed unlike those inside, so they
    have encoders of their own; depth is known from the nodes.
    """
    source = "node" if edge.source is None else topology.nodes[edge.source].kind
    kinds = (source, topology.nodes[edge.target].kind)
    ends = "".join(k[0] if k in ("node", "input", "output") else "h" for k in kinds)
    return f"{edge.kind}_{edge.shape[3]}_{ends}"


class WeightEncoder(nnx.Module):
    """Encodes blocks ``[..., M, F]`` as ``[..., dim]``: all M parallel values at once.

    Args:
        values: M * F, the number of scalars per edge.
        frequencies: Number of Fourier frequencies per scalar; 0 for a linear encoding.
    """

    def __init__(
        self,
        values: int,
        dim: int,
        frequencies: int,
        max_frequency: float,
        *,
        rngs: nnx.Rngs,
    ):
        self.frequencies = (
            tuple(np.geomspace(0.25, max_frequency, frequencies).tolist())
            if frequencies
            else ()
        )
        self.linear = Linear(values * (1 + 2 * frequencies), dim, rngs=rngs)

    def __call__(self, block: jax.Array) -> jax.Array:
        flat = block.reshape(*block.shape[:-2], -1)
        if self.frequencies:
            frequency = jnp.asarray(self.frequencies, flat.dtype)
            angles = flat[..., None] * frequency.reshape((1,) * flat.ndim + (-1,))
            angles = angles.reshape(*flat.shape[:-1], -1)
            flat = jnp.concatenate(
                [flat, sine(angles), sine(angles + np.float32(np.pi / 2))], axis=-1
            )
        return self.linear(flat)


class TypeEmbedding(nnx.Module):
    """A learned vector per kind, depth and activation of a node set, summed."""

    def __init__(self, topology: Topology, dim: int, *, rngs: nnx.Rngs):
        nodes = topology.nodes
        self.kinds = tuple(sorted({node.kind for node in nodes}))
        self.activations = tuple(sorted({node.activation for node in nodes}))
        depths = 1 + max((min(n.depth, MAX_DEPTH) for n in nodes), default=0)
        draw = lambda n: nnx.Param(0.5 * jax.random.normal(rngs.params(), (n, dim)))
        self.kind, self.depth = draw(len(self.kinds)), draw(depths)
        self.activation = draw(len(self.activations))

    def __call__(self, node: NodeSet) -> jax.Array:
        """The embedding ``[dim]`` of a node set."""
        return (
            self.kind[...][self.kinds.index(node.kind)]
            + self.depth[...][min(node.depth, MAX_DEPTH)]
            + self.activation[...][self.activations.index(node.activation)]
        )


class IdentityEmbedding(nnx.Module):
    """A learned vector for each index that is told apart (inputs, outputs, positions).

    A set of which only some unit indices are pinned (tokens of a token mixer, with free
    channels) has one vector per joint index of these.
    """

    def __init__(self, topology: Topology, dim: int, *, rngs: nnx.Rngs):
        sizes: dict[str, int] = {}
        for node in topology.nodes:
            if any(node.pinned):
                size = math.prod(_pinned_sizes(node))
                sizes[node.kind] = max(sizes.get(node.kind, 0), size)
        self.tables = nnx.Dict(
            {
                kind: nnx.Param(jax.random.normal(rngs.params(), (size, dim)))
                for kind, size in sorted(sizes.items())
            }
        )

    def __call__(self, node: NodeSet) -> jax.Array | None:
        """Vectors ``[N, dim]`` of the set's nodes; None where they are exchangeable."""
        if not any(node.pinned):
            return None
        sizes = _pinned_sizes(node)
        table = self.tables[node.kind][...]
        rows = table[: math.prod(sizes)].reshape(*sizes, -1)
        wide = jnp.broadcast_to(rows, (*node.units, table.shape[-1]))
        return wide.reshape(node.size, -1)


def _pinned_sizes(node: NodeSet) -> tuple[int, ...]:
    return tuple(n if p else 1 for n, p in zip(node.units, node.pinned, strict=True))


class GraphEncoder(nnx.Module):
    """Turns a parameter graph's values into node and edge features.

    Args:
        dim: Width of node features; biases and other parameters of nodes have it too.
        heads: Width of edge features.
    """

    def __init__(
        self,
        topology: Topology,
        dim: int,
        heads: int,
        *,
        frequencies: int,
        max_frequency: float,
        rngs: nnx.Rngs,
    ):
        self.topology = topology
        self.standardize = Standardizer(topology)
        sizes = {
            encoder_key(e, topology): (e.shape[3], dim if e.source is None else heads)
            for e in topology.edges
        }
        self.encoders = nnx.Dict(
            {
                key: WeightEncoder(*size, frequencies, max_frequency, rngs=rngs)
                for key, size in sorted(sizes.items())
            }
        )
        self.node_type = TypeEmbedding(topology, dim, rngs=rngs)
        self.identity = IdentityEmbedding(topology, dim, rngs=rngs)

    def values(self, block: jax.Array, index: int) -> jax.Array:
        """Block ``[B, both, S, T, M, F]`` of an edge set to ``[B, both, S, T, width]``.

        The width is ``heads`` for edges, ``dim`` for parameters of nodes.
        """
        key = encoder_key(self.topology.edges[index], self.topology)
        return self.encoders[key](self.standardize(block, index))

    def node(self, index: int) -> jax.Array:
        """Embedding ``[N, dim]`` of the nodes of a set, before their parameters."""
        node = self.topology.nodes[index]
        kind = self.node_type(node)
        x = jnp.broadcast_to(kind[None], (node.size, *kind.shape))
        own = self.identity(node)
        return x if own is None else x + own
