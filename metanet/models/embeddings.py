"""Encodings of weights, types, depths, positions and identities.

A parameter v becomes ``[v, sin(v P), cos(v P)]``, after the values of its key were scaled
to unit deviation by statistics of the training set. For a scalar, P is a row of
frequencies in geometric progression (sines as in Graph Metanetworks); for a kernel, P
holds fixed random directions (random Fourier features, Neural Graphs).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metanet.graphs import MAX_DEPTH, GraphSchema, KernelGrid, Layout
from metanet.models.layers import Linear, affine
from metanet.networks import sine


class Statistic(nnx.Variable):
    """Statistics of the training set, not trained, saved with the model."""


class ParameterEncoder(nnx.Module):
    """Encodes the values of edges, or of parameters of nodes.

    Args:
        grids: Columns of the values of each kind.
        keys: Number of keys (`GraphSchema.edge_types` or ``node_keys``). Values with the
            same key are standardised and embedded alike.
        width: Width of the encoding.
        frequencies: Number of frequencies per kind; 0 encodes linearly.
        max_frequency: Highest frequency, in radians per standard deviation.
        features: Values per parameter.
        parallel: True if each kernel position is a separate edge, with one value and an
            embedding of its position.
        homogeneous: True for a linear encoding without offsets, which a factor of the
            value multiplies.
        rngs: Random streams of the initialisation.
    """

    def __init__(
        self,
        grids: tuple[KernelGrid, ...],
        keys: int,
        width: int,
        *,
        frequencies: int,
        max_frequency: float,
        features: int = 1,
        parallel: bool = False,
        homogeneous: bool = False,
        rngs: nnx.Rngs,
    ):
        self.width, self.features = width, features
        self.homogeneous = homogeneous
        frequencies = 0 if homogeneous else frequencies
        columns = sum(c.size for c in grids)
        self.position_vectors = (
            nnx.Param(0.5 * jax.random.normal(rngs.params(), (columns, width)))
            if parallel
            else None
        )
        self.spans = tuple(
            (0, 1, False) if parallel else (c.start, c.size, c.size > 1) for c in grids
        )
        sizes = [count * features for _, count, _ in self.spans]
        self.direct = nnx.List([Linear(n, width, bias=False, rngs=rngs) for n in sizes])
        self.waves = nnx.List(
            [Linear(2 * frequencies, width, bias=False, rngs=rngs) for _ in sizes]
            if frequencies
            else []
        )
        self.spectra = tuple((n, frequencies, max_frequency) for n in sizes)
        keys = max(keys, 1)  # arrays without entries cannot be checkpointed
        self.key = nnx.Param(0.1 * jax.random.normal(rngs.params(), (keys, width)))
        self.mean = Statistic(jnp.zeros(keys))
        self.deviation = Statistic(jnp.ones(keys))

    def measure(self, moments: jax.Array) -> None:
        """Sets the statistics from ``[keys, 3]``: count, sum and sum of squares."""
        if not len(moments):
            return
        count = jnp.maximum(moments[:, 0], 1.0)
        mean = moments[:, 1] / count
        deviation = jnp.sqrt(jnp.maximum(moments[:, 2] / count - mean**2, 0.0))
        self.mean[...] = mean
        # Values that are constant over the sample carry no information; dividing by
        # their deviation would only amplify rounding errors.
        threshold = 1e-8 + 1e-6 * jnp.abs(mean)
        self.deviation[...] = jnp.where(deviation > threshold, deviation, 1.0)

    def vector(self, key: int) -> jax.Array:
        """Returns the learned vector ``[width]`` of a key, which encodes identity edges."""
        return self.key[...][key]

    def gains(self, key: int) -> jax.Array:
        """Returns the factors ``[1, width]`` of a key, for homogeneous encodings."""
        return 1.0 + self.key[...][key][None]

    def block(
        self, values: jax.Array, kind: int, positions: tuple[int, ...], key: int
    ) -> jax.Array:
        """Encodes values of one key as ``[..., width]``.

        Args:
            values: ``[..., M * F]``, F features of M parallel values.
            kind: Index of the grid.
            positions: Grid columns of the parallel values.
            key: The key.
        """
        weight = self.direct[kind].kernel[...]
        directions = _directions(*self.spectra[kind])
        if len(positions) != self.spans[kind][1]:
            first = np.asarray(positions)[:, None] * self.features
            rows = (first + np.arange(self.features)).ravel()
            weight, directions = weight[rows], directions[rows]
        if self.homogeneous:
            return affine(values / self.deviation[...][key], weight * self.gains(key))
        mean = 0.0 if self.spans[kind][2] else self.mean[...][key]
        values = (values - mean) / self.deviation[...][key]
        encoded = affine(values, weight, self.vector(key))
        if len(self.waves):
            encoded = encoded + self.waves[kind](_waves(values, directions))
        return encoded

    def parallel(
        self, values: jax.Array, kind: int, positions: tuple[int, ...], key: int
    ) -> jax.Array:
        """Encodes ``[B, M, ..., F]``, one edge per kernel position."""
        assert self.position_vectors is not None
        vectors = self.position_vectors[...][np.asarray(positions)]
        shape = (1, len(positions), *(1,) * (values.ndim - 3), self.width)
        return self.block(values, kind, (0,), key) + vectors.reshape(shape)

    def rows(
        self, values: jax.Array, keys: jax.Array, position: jax.Array | None = None
    ) -> jax.Array:
        """Encodes ``[R, C]`` values whose rows may be of different kinds.

        Args:
            values: Values in the columns of all grids.
            keys: ``[R, kinds]`` key of each kind; -1 where a row has no values of that
                kind. One more kind than there are grids is for rows without values.
            position: Kernel position of parallel edges ``[R]``.

        Returns:
            ``[R, width]``, summed over kinds.
        """
        encoded = jnp.zeros((values.shape[0], self.width))
        for kind in range(keys.shape[1]):
            key = jnp.maximum(keys[:, kind], 0)
            has = (keys[:, kind] >= 0)[:, None]
            part = self.key[...][key]
            if self.homogeneous and kind < len(self.spans):
                start, count, _ = self.spans[kind]
                start, count = start * self.features, count * self.features
                scaled = values[:, start : start + count]
                scaled = scaled / self.deviation[...][key][:, None]
                part = self.direct[kind](scaled) * (1.0 + part)
            elif kind < len(self.spans):
                start, count, wide = self.spans[kind]
                start, count = start * self.features, count * self.features
                scaled = values[:, start : start + count]
                mean = 0.0 if wide else self.mean[...][key][:, None]
                scaled = (scaled - mean) / self.deviation[...][key][:, None]
                part = part + self.direct[kind](scaled)
                if len(self.waves):
                    waves = _waves(scaled, _directions(*self.spectra[kind]))
                    part = part + self.waves[kind](waves)
                if position is not None:
                    assert self.position_vectors is not None
                    part = part + self.position_vectors[...][position]
            encoded = encoded + jnp.where(has, part, 0.0)
        return encoded


@functools.lru_cache
def _directions(inputs: int, frequencies: int, highest: float) -> np.ndarray:
    """Returns fixed directions ``[inputs, frequencies]`` with norms from 1/4 to highest."""
    norms = np.geomspace(0.25, highest, max(frequencies, 1))[:frequencies]
    if inputs == 1:
        return norms[None].astype(np.float32)
    draw = np.random.default_rng([inputs, frequencies]).normal(
        size=(inputs, frequencies)
    )
    return (draw * norms / np.sqrt(inputs)).astype(np.float32)


def _waves(values: jax.Array, directions: np.ndarray) -> jax.Array:
    """Returns sines and cosines ``[..., 2 * frequencies]`` of ``values @ directions``."""
    angles = affine(values, jnp.asarray(directions))
    return jnp.concatenate(
        [sine(angles), sine(angles + np.float32(np.pi / 2))], axis=-1
    )


class NodeEmbedding(nnx.Module):
    """Sum of learned vectors of a node's kind, depth, activation function and identity.

    Nodes that cannot be permuted (inputs, outputs) have one identity each; nodes that can
    be permuted have none.
    """

    def __init__(self, schema: GraphSchema, dim: int, *, rngs: nnx.Rngs):
        types = schema.node_types
        kinds = sorted({kind for kind, *_ in types})
        chains = sorted({chain for _, _, chain, _ in types})
        self.columns = (
            tuple(kinds.index(kind) for kind, *_ in types),
            tuple(depth for _, depth, _, _ in types),
            tuple(chains.index(chain) for _, _, chain, _ in types),
        )
        depths = 1 + max(min(d, MAX_DEPTH) for _, d, _, _ in types)

        def draw(rows: int, deviation: float) -> nnx.Param:
            vectors = jax.random.normal(rngs.params(), (rows, dim))
            return nnx.Param(deviation * vectors)

        self.kind, self.depth = draw(len(kinds), 0.5), draw(depths, 0.5)
        self.activation = draw(len(chains), 0.5)
        self.identity = draw(max(schema.num_identities, 1), 1.0)

    def __call__(self, layout: Layout) -> jax.Array:
        """Returns node values ``[..., dim]``, which broadcast over a dense batch."""
        tables = (self.kind, self.depth, self.activation)
        rows = sum(
            table[...][np.asarray(column)]
            for table, column in zip(tables, self.columns, strict=True)
        )  # [types, dim]
        x = jnp.asarray(rows)[layout.node_type]
        identity = self.identity[...][jnp.maximum(layout.identity, 0)]
        return x + jnp.where((layout.identity >= 0)[..., None], identity, 0.0)


class GraphEncoder(nnx.Module):
    """Maps the parameters of a batch to node and edge features.

    Args:
        schema: Schema of the graphs.
        dim: Width of node features.
        edge_dim: Width of edge features.
        frequencies: Fourier frequencies per parameter; 0 encodes linearly.
        max_frequency: Highest frequency, in radians per standard deviation.
        homogeneous: True for features that a factor of the parameters multiplies.
            Embeddings of nodes on which scaling groups act multiply their features.
        rngs: Random streams of the initialisation.
    """

    def __init__(
        self,
        schema: GraphSchema,
        dim: int,
        edge_dim: int,
        *,
        frequencies: int,
        max_frequency: float,
        homogeneous: bool = False,
        rngs: nnx.Rngs,
    ):
        self.homogeneous = homogeneous
        encoder = functools.partial(
            ParameterEncoder,
            frequencies=frequencies,
            max_frequency=max_frequency,
            features=schema.features,
            homogeneous=homogeneous,
            rngs=rngs,
        )
        self.on_edges = encoder(
            schema.edge_grids,
            len(schema.edge_types),
            edge_dim,
            parallel=schema.form.parallel,
        )
        self.on_nodes = encoder(schema.node_grids, len(schema.node_keys), dim)
        self.embedding = NodeEmbedding(schema, dim, rngs=rngs)
        self.types = schema.node_types

    def measure(self, layout: Layout) -> None:
        """Measures the standardisation on a sample of graphs."""
        edges, nodes = layout.moments()
        self.on_edges.measure(edges)
        self.on_nodes.measure(nodes)

    def nodes(self, layout: Layout) -> jax.Array:
        """Returns node features ``[..., dim]``."""
        values, embedding = layout.encode_nodes(self.on_nodes), self.embedding(layout)
        if not self.homogeneous:
            return values + embedding
        carries = jnp.asarray([bool(c) for *_, c in self.types])[layout.node_type]
        return jnp.where(carries[..., None], values * embedding, values + embedding)

    def edges(self, layout: Layout) -> tuple[jax.Array, ...]:
        """Returns edge features ``[..., edge_dim]``."""
        return layout.encode_edges(self.on_edges)
