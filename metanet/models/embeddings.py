"""Encodings of weights, types, depths, positions and identified nodes.

A parameter becomes ``[v, sin(v P), cos(v P)]``: the value itself and waves of it, after
values of its key were brought to unit deviation by statistics of the training set. For a
scalar, P is a row of frequencies spaced in octaves (sines as in Graph Metanetworks); for a
kernel, fixed random directions (random Fourier features, Neural Graphs).
"""

from __future__ import annotations

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metanet.graphs import MAX_DEPTH, GraphSchema, KernelGrid, Layout
from metanet.models.layers import Linear, affine
from metanet.networks import sine


class Statistic(nnx.Variable):
    """Non-trainable numbers measured on the training set and saved with the model."""


class ParameterEncoder(nnx.Module):
    """Encodes the values of edges, or of parameters of nodes.

    Args:
        grids: Columns of each kind.
        keys: Number of keys (`Vocabulary.edge_types` or ``node_keys``).
        width: Width of the encoding.
        frequencies: Waves per kind; 0 encodes linearly.
        max_frequency: Highest frequency, in radians per standard deviation.
        features: Values per parameter.
        parallel: Kernel positions are edges of their own: one value per edge, and an
            embedding of its position.
        homogeneous: The encoding of a value times a factor is that factor times the
            encoding: linear, without offsets.
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
        self.places = (
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
        # their deviation would only blow up rounding errors.
        least = 1e-8 + 1e-6 * jnp.abs(mean)
        self.deviation[...] = jnp.where(deviation > least, deviation, 1.0)

    def vector(self, key: int) -> jax.Array:
        """The learned vector ``[width]`` of a key: all that is known of a join."""
        return self.key[...][key]

    def gains(self, key: int) -> jax.Array:
        """Learned factors ``[1, width]`` of a key, for homogeneous encodings."""
        return 1.0 + self.key[...][key][None]

    def block(
        self, values: jax.Array, kind: int, places: tuple[int, ...], key: int
    ) -> jax.Array:
        """Encodes ``[..., M * F]`` values of one key as ``[..., width]``.

        ``places`` are the grid columns of the M parallel values.
        """
        whole = len(places) == self.spans[kind][1]
        rows = (np.asarray(places)[:, None] * self.features
                + np.arange(self.features)).ravel()  # fmt: skip
        weight = self.direct[kind].kernel[...]
        directions = _directions(*self.spectra[kind])
        if not whole:
            weight, directions = weight[rows], directions[rows]
        if self.homogeneous:
            return affine(values / self.deviation[...][key], weight * self.gains(key))
        mean = 0.0 if self.spans[kind][2] else self.mean[...][key]
        values = (values - mean) / self.deviation[...][key]
        found = affine(values, weight, self.vector(key))
        if len(self.waves):
            found = found + self.waves[kind](_waves(values, directions))
        return found

    def parallel(
        self, values: jax.Array, kind: int, places: tuple[int, ...], key: int
    ) -> jax.Array:
        """Encodes ``[B, M, ..., F]``, an edge per kernel position."""
        assert self.places is not None
        vectors = self.places[...][np.asarray(places)]
        shape = (1, len(places), *(1,) * (values.ndim - 3), self.width)
        return self.block(values, kind, (0,), key) + vectors.reshape(shape)

    def rows(
        self, values: jax.Array, keys: jax.Array, place: jax.Array | None = None
    ) -> jax.Array:
        """Encodes ``[R, C]`` values whose rows may be of different kinds.

        Args:
            values: In the columns of all grids.
            keys: ``[R, kinds]`` key of each kind; -1 where a row has none of it. One
                more kind than there are grids is for rows without values.
            place: Kernel position of parallel edges ``[R]``.
        """
        found = jnp.zeros((values.shape[0], self.width))
        for kind in range(keys.shape[1]):
            key = jnp.maximum(keys[:, kind], 0)
            has = (keys[:, kind] >= 0)[:, None]
            part = self.key[...][key]
            if self.homogeneous and kind < len(self.spans):
                start, count, _ = self.spans[kind]
                start, count = start * self.features, count * self.features
                own = values[:, start : start + count]
                own = own / self.deviation[...][key][:, None]
                part = self.direct[kind](own) * (1.0 + part)
            elif kind < len(self.spans):
                start, count, wide = self.spans[kind]
                start, count = start * self.features, count * self.features
                own = values[:, start : start + count]
                mean = 0.0 if wide else self.mean[...][key][:, None]
                own = (own - mean) / self.deviation[...][key][:, None]
                part = part + self.direct[kind](own)
                if len(self.waves):
                    waves = _waves(own, _directions(*self.spectra[kind]))
                    part = part + self.waves[kind](waves)
                if place is not None:
                    assert self.places is not None
                    part = part + self.places[...][place]
            found = found + jnp.where(has, part, 0.0)
        return found


@lru_cache
def _directions(inputs: int, frequencies: int, highest: float) -> np.ndarray:
    """Fixed directions ``[inputs, frequencies]`` with norms from 1/4 to the highest."""
    norms = np.geomspace(0.25, highest, max(frequencies, 1))[:frequencies]
    if inputs == 1:
        return norms[None].astype(np.float32)
    draw = np.random.default_rng([inputs, frequencies]).normal(
        size=(inputs, frequencies)
    )
    return (draw * norms / np.sqrt(inputs)).astype(np.float32)


def _waves(values: jax.Array, directions: np.ndarray) -> jax.Array:
    angles = affine(values, jnp.asarray(directions))
    return jnp.concatenate(
        [sine(angles), sine(angles + np.float32(np.pi / 2))], axis=-1
    )


class NodeEmbedding(nnx.Module):
    """Learned vectors of a node's kind, depth, activation and identity, summed.

    Inputs, outputs and other indices that are told apart have one identity each; nodes
    that can be permuted have none.
    """

    def __init__(self, schema: GraphSchema, dim: int, *, rngs: nnx.Rngs):
        types = schema.node_types
        kinds = sorted({kind for kind, *_ in types})
        chains = sorted({chain for _, _, chain, _ in types})
        self.columns = tuple(
            zip(*((kinds.index(k), d, chains.index(c)) for k, d, c, _ in types),
                strict=True)
        )  # fmt: skip
        depths = 1 + max(min(d, MAX_DEPTH) for _, d, _, _ in types)
        draw = lambda n, s: nnx.Param(s * jax.random.normal(rngs.params(), (n, dim)))
        self.kind, self.depth = draw(len(kinds), 0.5), draw(depths, 0.5)
        self.activation = draw(len(chains), 0.5)
        self.identity = draw(max(schema.num_identities, 1), 1.0)

    def __call__(self, layout: Layout) -> jax.Array:
        """Node values ``[..., dim]``; they broadcast over a stacked batch."""
        tables = (self.kind, self.depth, self.activation)
        rows = sum(
            table[...][np.asarray(column)]
            for table, column in zip(tables, self.columns, strict=True)
        )  # [types, dim]
        x = jnp.asarray(rows)[layout.node_type]
        own = self.identity[...][jnp.maximum(layout.identity, 0)]
        return x + jnp.where((layout.identity >= 0)[..., None], own, 0.0)


class GraphEncoder(nnx.Module):
    """Turns a batch's parameters into node and edge features.

    Args:
        dim: Width of node features.
        edge_dim: Width of edge features.
        homogeneous: Factors of parameters become factors of their features; nodes that
            carry factors are embedded by multiplication.
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
        options = {
            "frequencies": frequencies,
            "max_frequency": max_frequency,
            "features": schema.features,
            "homogeneous": homogeneous,
        }
        self.on_edges = ParameterEncoder(
            schema.edge_grids,
            len(schema.edge_types),
            edge_dim,
            parallel=schema.form.parallel,
            **options,  # type: ignore[arg-type]
            rngs=rngs,
        )
        self.on_nodes = ParameterEncoder(
            schema.node_grids,
            len(schema.node_keys),
            dim,
            **options,  # type: ignore[arg-type]
            rngs=rngs,
        )
        self.embedding = NodeEmbedding(schema, dim, rngs=rngs)
        self.types = schema.node_types

    def measure(self, layout: Layout) -> None:
        """Measures the standardisation on a sample of graphs."""
        edges, nodes = layout.moments()
        self.on_edges.measure(edges)
        self.on_nodes.measure(nodes)

    def nodes(self, layout: Layout) -> jax.Array:
        """Node features ``[..., dim]``."""
        values, embedding = layout.encode_nodes(self.on_nodes), self.embedding(layout)
        if not self.homogeneous:
            return values + embedding
        carries = jnp.asarray([bool(c) for *_, c in self.types])[layout.node_type]
        return jnp.where(carries[..., None], values * embedding, values + embedding)

    def edges(self, layout: Layout) -> tuple[jax.Array, ...]:
        """Edge features ``[..., edge_dim]``."""
        return layout.encode_edges(self.on_edges)
