r"""DeepSets and Set Transformer over a network's parameters, and a transformer on tokens.

Sources: Zaheer et al., "Deep Sets" (NeurIPS 2017, theorem 2); Lee et al., "Set
Transformer" (ICML 2019, equations 9 to 11: induced set attention blocks, and pooling by
attention); the transformer on weight tokens after Schürholt et al., "Towards Scalable
and Versatile Weight Space Learning" (SANE, ICML 2024) and Gielisse and van Gemert,
"End-to-End Implicit Neural Representations for Classification" (MWT, CVPR 2025).

Equivariance: DeepSets and Set Transformer treat the parameters as a set in which each
knows its kind and its ends' embeddings (type, depth, and identity of inputs and outputs),
but not which others share its nodes: invariant to all permutations of the group, and to
more than these. The transformer on tokens has a learned position per token: invariant to
nothing but what `canonicalize` removes; SANE and MWT align or initialise alike instead.

Deviations, and why: parameters' features are those of the graph models; the induced
points of the Set Transformer are per layer, four heads being points of their own
(attention with one head per point), which keeps one pass over the edges per point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from metanet.errors import MetanetError
from metanet.graphs import (
    Edges,
    GraphBatch,
    GraphSchema,
    Layout,
    Topology,
    map_edges,
)
from metanet.graphs.reductions import broadcast
from metanet.models.base import (
    MODELS,
    Features,
    GraphModel,
    ModelInputs,
    require_dense,
)
from metanet.models.baselines import FlatWeights
from metanet.models.layers import MLP, Linear, NormLinear, dropout, rms_norm
from metanet.options import NonNegativeInt, Options, PositiveFloat, PositiveInt, Rate


@dataclass(frozen=True)
class DeepSetsConfig(Options):
    """Options of DeepSets.

    Attributes:
        dim: Width of a parameter's features.
        depth: Number of layers.
        frequencies: Fourier frequencies per parameter; 0 encodes linearly.
        max_frequency: Highest frequency, in radians per standard deviation.
        dropout: Rate on the pooled features.
    """

    dim: PositiveInt = 64
    depth: PositiveInt = 3
    frequencies: NonNegativeInt = 16
    max_frequency: PositiveFloat = 8.0
    dropout: Rate = 0.0

    probes = 0
    readout = "nodes_edges"


@dataclass(frozen=True)
class SetTransformerConfig(DeepSetsConfig):
    """Options of the Set Transformer: those of DeepSets, and the induced points.

    Attributes:
        points: Induced points per layer.
    """

    points: PositiveInt = 8


class _SetModel(GraphModel):
    def __init__(
        self,
        config: DeepSetsConfig,
        schema: GraphSchema,
        model_inputs: ModelInputs,
        *,
        rngs: nnx.Rngs,
    ):
        super().__init__(config, schema, model_inputs, edge_dim=config.dim, rngs=rngs)
        self.ends = Linear(config.dim, 2 * config.dim, bias=False, rngs=rngs)

    def members(self, layout: Layout) -> tuple[jax.Array, Edges]:
        """Features of the set: of the nodes' own parameters, and of every edge."""
        x, e = self.nodes(layout), self.encoder.edges(layout)
        kinds = self.ends(self.encoder.embedding(layout))
        source, target = jnp.split(kinds, 2, axis=-1)
        added = map_edges(
            lambda a, s, t: a + s + t,
            e,
            layout.gather(source, "source"),
            layout.gather(target, "target"),
        )
        return x, layout.mean_over_shared(added)


@MODELS.register("deep_sets")
class DeepSets(_SetModel):
    """The same MLP on every parameter, then means."""

    Config = DeepSetsConfig

    def __init__(
        self,
        config: DeepSetsConfig,
        schema: GraphSchema,
        model_inputs: ModelInputs,
        *,
        rngs: nnx.Rngs,
    ):
        super().__init__(config, schema, model_inputs, rngs=rngs)
        dim = config.dim
        self.maps = nnx.List(
            [MLP(dim, dim, dim, rngs=rngs) for _ in range(config.depth)]
        )

    def update(
        self, layout: Layout, key: jax.Array | None, deterministic: bool
    ) -> tuple[jax.Array, Edges, jax.Array | None]:
        x, e = self.members(layout)
        for mlp in self.maps:
            apply = lambda v, mlp=mlp: v + mlp(rms_norm(v))
            x, e = apply(x), map_edges(apply, e)
        return x, e, None


class InducedBlock(nnx.Module):
    """Points attend to the set, the set to the points, then an MLP on each member."""

    def __init__(self, dim: int, points: int, *, rngs: nnx.Rngs):
        self.points = points
        self.ask = NormLinear(dim, 2 * points + dim, rngs=rngs)
        self.refine = MLP(dim, dim, dim, rngs=rngs)
        self.mlp = MLP(dim, dim, dim, rngs=rngs)

    def __call__(
        self, layout: Layout, x: jax.Array, e: Edges
    ) -> tuple[jax.Array, Edges]:
        count = self.points
        read_x, read_e = self.ask(x), map_edges(self.ask, e)
        scores = lambda r: r[..., :count]
        high = jnp.maximum(
            layout.pool_nodes(scores(read_x), "max"),
            layout.pool_edges(map_edges(scores, read_e), "max"),
        )
        high = jax.lax.stop_gradient(high)
        weigh = lambda r, top: jnp.exp(r[..., :count] - top)
        w_x = weigh(read_x, layout.to_nodes(high))
        w_e = map_edges(weigh, read_e, layout.to_edges(high))
        total = layout.pool_nodes(w_x, "sum") + layout.pool_edges(w_e, "sum")
        total = jnp.maximum(total, 1e-30)  # graphs of padding have no members
        points = []
        for i in range(count):
            own = lambda r, w, i=i: _scaled(r[..., 2 * count :], w[..., i : i + 1])
            mixed = layout.pool_nodes(own(read_x, w_x), "sum") + layout.pool_edges(
                map_edges(own, read_e, w_e), "sum"
            )
            points.append(mixed / total[:, i : i + 1])
        refined = [p + self.refine(p) for p in points]

        def hear(r: jax.Array, *told: jax.Array) -> jax.Array:
            share = jax.nn.softmax(r[..., count : 2 * count], axis=-1)
            parts = [_scaled(t, share[..., i : i + 1]) for i, t in enumerate(told)]
            return jnp.asarray(sum(parts))

        x = x + hear(read_x, *(layout.to_nodes(p) for p in refined))
        e = map_edges(
            lambda a, r, *told: a + hear(r, *told),
            e,
            read_e,
            *(layout.to_edges(p) for p in refined),
        )
        apply = lambda v: v + self.mlp(rms_norm(v))
        return apply(x), map_edges(apply, e)


def _scaled(x: jax.Array, by: jax.Array) -> jax.Array:
    """Rows ``[..., d]`` times a factor each, ``[..., 1]``."""
    return x * broadcast(by, (*by.shape[:-1], x.shape[-1]))


@MODELS.register("set_transformer")
class SetTransformer(_SetModel):
    """Induced set attention over all parameters."""

    Config = SetTransformerConfig

    def __init__(
        self,
        config: SetTransformerConfig,
        schema: GraphSchema,
        model_inputs: ModelInputs,
        *,
        rngs: nnx.Rngs,
    ):
        super().__init__(config, schema, model_inputs, rngs=rngs)
        self.blocks = nnx.List(
            [
                InducedBlock(config.dim, config.points, rngs=rngs)
                for _ in range(config.depth)
            ]
        )

    def update(
        self, layout: Layout, key: jax.Array | None, deterministic: bool
    ) -> tuple[jax.Array, Edges, jax.Array | None]:
        x, e = self.members(layout)
        for block in self.blocks:
            x, e = block(layout, x, e)
        return x, e, None


@dataclass(frozen=True)
class TokenConfig(Options):
    """Options of the transformer on weight tokens.

    Attributes:
        dim: Width of a token's features.
        depth: Number of layers.
        heads: Attention heads.
        token: Weights per token; longer rows are cut, shorter ones padded.
        dropout: Rate on the pooled features.
    """

    dim: PositiveInt = 128
    depth: PositiveInt = 4
    heads: PositiveInt = 4
    token: PositiveInt = 64
    dropout: Rate = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.heads:
            raise MetanetError(f"heads: {self.heads} does not divide dim ({self.dim})")


@MODELS.register("transformer")
class TokenTransformer(nnx.Module):
    """A plain transformer on tokens: each unit's weights, in pieces of fixed length."""

    Config = TokenConfig

    def __init__(
        self,
        config: TokenConfig,
        schema: GraphSchema,
        model_inputs: ModelInputs,
        *,
        rngs: nnx.Rngs,
    ):
        topology = model_inputs.single("transformer")
        self.config, self.dim = config, config.dim
        self.flat = FlatWeights(topology, schema.features)
        index = _tokens(topology, config.token, schema.features)
        self.index = tuple(map(tuple, index.tolist()))
        dim, count = config.dim, len(self.index)
        self.read = Linear(config.token, dim, rngs=rngs)
        self.position = nnx.Param(0.5 * jax.random.normal(rngs.params(), (count, dim)))
        make = lambda a, b: nnx.List(
            [NormLinear(a, b, rngs=rngs) for _ in range(config.depth)]
        )
        back = lambda a: nnx.List(
            [Linear(a, dim, scale=0.5, rngs=rngs) for _ in range(config.depth)]
        )
        self.attend, self.mix = make(dim, 3 * dim), back(dim)
        self.widen, self.narrow = make(dim, 4 * dim), back(4 * dim)

    @property
    def cost(self) -> int:
        """Floats per network in the widest array of a layer."""
        count = len(self.index)
        return max(4 * count * self.dim, self.config.heads * count**2)

    def set_statistics(self, graphs: GraphBatch) -> None:
        """Measures the standardisation on a sample of graphs."""
        self.flat.measure(require_dense(graphs))

    def __call__(
        self,
        graphs: GraphBatch,
        *,
        key: jax.Array | None = None,
        deterministic: bool = True,
    ) -> Features:
        """Pooled features ``[B, dim]``: the mean of all tokens after the last layer."""
        flat = self.flat(require_dense(graphs))
        held = jnp.concatenate([flat, jnp.zeros((len(flat), 1))], axis=-1)
        x = self.read(held[:, np.asarray(self.index)]) + self.position[...][None]
        heads = self.config.heads
        for attend, mix, widen, narrow in zip(
            self.attend, self.mix, self.widen, self.narrow, strict=True
        ):
            q, k, v = (
                y.reshape(*y.shape[:-1], heads, -1)
                for y in jnp.split(attend(x), 3, axis=-1)
            )
            scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
            weights = jax.nn.softmax(scores * np.float32(q.shape[-1] ** -0.5))
            heard = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
            x = x + mix(heard.reshape(x.shape))
            x = x + narrow(jax.nn.silu(widen(x)))
        pooled = rms_norm(x).mean(1)
        pooled = dropout(pooled, self.config.dropout, key, deterministic)
        return Features(None, None, pooled)


def _tokens(topology: Topology, length: int, features: int) -> np.ndarray:
    """Places ``[tokens, length]`` in the flat weights (`FlatWeights`), one past the end
    for padding: the weights that arrive at each unit, in pieces."""
    rows, start = [], 0
    size = topology.num_parameters * features
    for edge in topology.edges:
        if not edge.primary:
            continue
        both, sources, targets, parallel = edge.shape
        count = math.prod(edge.shape) * features
        numbers = np.arange(start, start + count)
        start += count
        block = numbers.reshape(both, sources, targets, parallel * features)
        if edge.source is None:
            units = block.reshape(1, -1)
        else:
            units = block.transpose(0, 2, 1, 3).reshape(both * targets, -1)
        width = -(-units.shape[1] // length) * length
        padded = np.full((len(units), width), size)
        padded[:, : units.shape[1]] = units
        rows.append(padded.reshape(-1, length))
    return np.concatenate(rows)
