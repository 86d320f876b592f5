r"""DeepSets and Set Transformer over a network's parameters, and a transformer on tokens.

Sources: Zaheer et al., "Deep Sets" (NeurIPS 2017, theorem 2); Lee et al., "Set
Transformer" (ICML 2019, equations 9 to 11: induced set attention blocks, and pooling by
attention); the transformer on weight tokens after Schürholt et al., "Towards Scalable
and Versatile Weight Space Learning" (SANE, ICML 2024) and Gielisse and van Gemert,
"End-to-End Implicit Neural Representations for Classification" (MWT, CVPR 2025).

Equivariance: DeepSets and Set Transformer treat the parameters as a set. The features of a
parameter contain its kind and the embeddings of its ends (type, depth, and identity of
inputs and outputs), but not which parameters share its nodes. Both models are therefore
invariant to the permutations of the group, and to others. The transformer on tokens has a
learned position per token and no invariance; `canonicalize` may remove symmetries
beforehand, where SANE and MWT align networks or initialise them alike.

Deviations, and why: features of parameters are those of the graph models. Induced points of
the Set Transformer are separate in each layer, and attention has one head per point, which
needs one pass over the edges per point.
"""

from __future__ import annotations

import functools
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
    broadcast,
    map_edges,
)
from metanet.models.base import (
    MODELS,
    Features,
    GraphModel,
    GraphModelConfig,
    ModelInputs,
    State,
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


@dataclass(frozen=True)
class SetTransformerConfig(DeepSetsConfig):
    """Options of the Set Transformer: those of DeepSets, and the induced points.

    Attributes:
        points: Induced points per layer.
    """

    points: PositiveInt = 8


class _SetModel(GraphModel):
    """A model whose edges do not exchange messages."""

    def __init__(
        self,
        config: DeepSetsConfig,
        schema: GraphSchema,
        model_inputs: ModelInputs,
        *,
        rngs: nnx.Rngs,
    ):
        encoding = GraphModelConfig(
            dim=config.dim,
            depth=config.depth,
            frequencies=config.frequencies,
            max_frequency=config.max_frequency,
            readout="nodes_edges",
            dropout=config.dropout,
        )
        super().__init__(encoding, schema, model_inputs, edge_dim=config.dim, rngs=rngs)
        self.ends = Linear(config.dim, 2 * config.dim, bias=False, rngs=rngs)

    def initial_state(self, layout: Layout) -> State[Edges]:
        """Returns features of every parameter of a node and of an edge."""
        x, e, _ = super().initial_state(layout)
        kinds = self.ends(self.encoder.embedding(layout))
        source, target = jnp.split(kinds, 2, axis=-1)
        added = map_edges(
            lambda a, s, t: a + s + t,
            e,
            layout.gather(source, "source"),
            layout.gather(target, "target"),
        )
        return State(x, layout.mean_over_shared(added))


class MemberBlock(nnx.Module):
    """The same residual MLP on every member of the set."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.mlp = MLP(dim, dim, dim, rngs=rngs)

    def __call__(
        self,
        layout: Layout,
        state: State[Edges],
        *,
        key: jax.Array | None,
        deterministic: bool,
    ) -> State[Edges]:
        def apply(x: jax.Array) -> jax.Array:
            return x + self.mlp(rms_norm(x))

        return State(apply(state.nodes), map_edges(apply, state.edges))


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
        self.blocks = nnx.List(
            [MemberBlock(config.dim, rngs=rngs) for _ in range(config.depth)]
        )


class InducedBlock(nnx.Module):
    """Points attend to the set, the set to the points, then an MLP on each member."""

    def __init__(self, dim: int, points: int, *, rngs: nnx.Rngs):
        self.points = points
        self.attention_in = NormLinear(dim, 2 * points + dim, rngs=rngs)
        self.refine = MLP(dim, dim, dim, rngs=rngs)
        self.mlp = MLP(dim, dim, dim, rngs=rngs)

    def __call__(
        self,
        layout: Layout,
        state: State[Edges],
        *,
        key: jax.Array | None,
        deterministic: bool,
    ) -> State[Edges]:
        x, e, _ = state
        count = self.points

        def scores(projected: jax.Array) -> jax.Array:
            return projected[..., :count]

        def softmax_weights(projected: jax.Array, highest: jax.Array) -> jax.Array:
            return jnp.exp(scores(projected) - highest)

        projected_x, projected_e = self.attention_in(x), map_edges(self.attention_in, e)
        highest = jnp.maximum(
            layout.pool_nodes(scores(projected_x), "max"),
            layout.pool_edges(map_edges(scores, projected_e), "max"),
        )
        highest = jax.lax.stop_gradient(highest)
        w_x = softmax_weights(projected_x, layout.to_nodes(highest))
        w_e = map_edges(softmax_weights, projected_e, layout.to_edges(highest))
        total = layout.pool_nodes(w_x, "sum") + layout.pool_edges(w_e, "sum")
        total = jnp.maximum(total, 1e-30)  # graphs of padding have no members
        points = []
        for i in range(count):
            weighted = functools.partial(_weighted_values, point=i, count=count)
            sums = layout.pool_nodes(weighted(projected_x, w_x), "sum")
            sums += layout.pool_edges(map_edges(weighted, projected_e, w_e), "sum")
            points.append(sums / total[:, i : i + 1])
        refined = [p + self.refine(p) for p in points]

        def attend(
            member: jax.Array, projected: jax.Array, *points: jax.Array
        ) -> jax.Array:
            shares = jax.nn.softmax(projected[..., count : 2 * count], axis=-1)
            parts = [_scaled(p, shares[..., i : i + 1]) for i, p in enumerate(points)]
            member = member + jnp.asarray(sum(parts))
            return member + self.mlp(rms_norm(member))

        x = attend(x, projected_x, *(layout.to_nodes(p) for p in refined))
        e = map_edges(attend, e, projected_e, *(layout.to_edges(p) for p in refined))
        return State(x, e)


def _weighted_values(
    projected: jax.Array, weights: jax.Array, *, point: int, count: int
) -> jax.Array:
    """Returns values ``[..., d]`` times the weight of one of ``count`` points."""
    return _scaled(projected[..., 2 * count :], weights[..., point : point + 1])


def _scaled(x: jax.Array, by: jax.Array) -> jax.Array:
    """Multiplies rows ``[..., d]`` by a factor each, ``[..., 1]``."""
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
    """A plain transformer on tokens of fixed length.

    The weights that arrive at a unit are cut into tokens, and so are arrays without a source
    (all biases of a layer).
    """

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

        def inputs(width: int) -> nnx.List:
            return nnx.List(
                [NormLinear(dim, width, rngs=rngs) for _ in range(config.depth)]
            )

        def outputs(width: int) -> nnx.List:
            return nnx.List(
                [Linear(width, dim, scale=0.5, rngs=rngs) for _ in range(config.depth)]
            )

        self.attend, self.mix = inputs(3 * dim), outputs(dim)
        self.widen, self.narrow = inputs(4 * dim), outputs(4 * dim)

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
        """Returns pooled features ``[B, dim]``, means of all tokens after the last layer."""
        flat = self.flat(require_dense(graphs))
        padded = jnp.concatenate([flat, jnp.zeros((len(flat), 1))], axis=-1)
        x = self.read(padded[:, np.asarray(self.index)]) + self.position[...][None]
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
            values = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
            x = x + mix(values.reshape(x.shape))
            x = x + narrow(jax.nn.silu(widen(x)))
        pooled = rms_norm(x).mean(1)
        pooled = dropout(pooled, self.config.dropout, key, deterministic)
        return Features(None, None, pooled)


def _tokens(topology: Topology, length: int, features: int) -> np.ndarray:
    """Returns positions ``[tokens, length]`` in the flat weights (`FlatWeights`).

    A token is a piece of the weights that arrive at a unit, or of an array without a
    source; a position one past the end stands for padding.
    """
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
