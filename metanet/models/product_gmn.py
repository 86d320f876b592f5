r"""Graph metanetwork whose messages are products: the fast default.

Source: the node, edge and global updates of Lim et al., "Graph Metanetworks for
Processing Diverse Neural Architectures" (ICLR 2024), section 3, with messages as in the
forward pass of the input network itself; residual pre-norm blocks.

Equivariance: to every automorphism of the parameter graph (node and edge features move
along, the pooled feature is invariant). Signs, scales and phases are handled by feeding
canonical parameters (`metanet.symmetry.canonicalize`).

Deviations from Graph Metanetworks (for which see gmn.py), and why: a message is the
product of an edge's few features and a linear map of the node at its other end, summed
by matrix products, not a network applied to every edge. A forward pass multiplies
weights and activations, so a block can imitate a layer of the input network, in both
directions. The cost per edge falls from d^2 to d operations, so that training sees far more
networks in the same time. Biases are node features, and kernels are vectors.

With node features x (width d), edge features e (h heads), global feature g, one block
computes, with head i of an edge acting on the i-th run of d/h values,
    in_t   = fan^(-1/2) sum_s e_st * (norm(x_s) W_a),   out_s likewise over targets
    x_v   += (silu(norm(x_v) W_1 + norm(g) W_h + in_v W_2 + out_v W_3)
              * (1 + norm(x_v) W_u)) W_4
    e_st  += tanh(e_st + (d/h)^(-1/2) <norm(x_s) W_q, norm(x_t) W_k>) W_e
    g     += silu(norm(g) W_5 + mean_v(x_v) W_6) W_7
where messages and inner products read the x at the start of the block. Sums carry little
information about the spread of the weights, which depends on the training of a network.
With ``moments``, x starts from the mean and log variance of further edge features, the
first two statistics of StatNN for every node.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.errors import MetanetError
from metanet.graphs import Edges, GraphSchema, HeadEdges, Layout, map_edges
from metanet.models.base import (
    MODELS,
    GraphModel,
    GraphModelConfig,
    ModelInputs,
    State,
    per_graph,
)
from metanet.models.layers import Linear, NormLinear, log_variance
from metanet.models.readout import NodeReadoutName
from metanet.options import NonNegativeInt, PositiveInt


@dataclass(frozen=True)
class ProductGMNConfig(GraphModelConfig):
    """Options of the graph metanetwork with products as messages.

    Attributes:
        heads: Features per edge; each acts on ``dim / heads`` features of a node.
        moments: Number of further edge features of which every node starts with the mean
            and the log variance over its incoming and its outgoing edges; 0: none.
        readout: "roles", "moments", "attention", "outputs" or "mean"; see `Readout`.
    """

    heads: PositiveInt = 8
    moments: NonNegativeInt = 0
    readout: NodeReadoutName = "roles"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.heads:
            raise MetanetError(f"heads: {self.heads} does not divide dim ({self.dim})")


class ProductBlock(nnx.Module):
    """One round of message passing; see the module docstring for the equations."""

    def __init__(self, dim: int, heads: int, *, last: bool, rngs: nnx.Rngs):
        self.num_heads = heads
        # One product per node computes all of its projections: messages along its edges in
        # both directions, query and key of the edge scores, update and gate.
        self.node_in = NormLinear(dim, 6 * dim, rngs=rngs)
        mixing = jax.random.normal(rngs.params(), (heads, heads)) * 0.5 / heads**0.5
        self.edge_out = None if last else nnx.Param(mixing)
        self.incoming = Linear(dim, dim, bias=False, rngs=rngs)
        self.outgoing = Linear(dim, dim, bias=False, rngs=rngs)
        self.node_out = Linear(dim, dim, scale=0.5, rngs=rngs)
        self.global_in = NormLinear(dim, 2 * dim, rngs=rngs)
        self.global_nodes = Linear(dim, dim, rngs=rngs)
        self.global_out = Linear(dim, dim, scale=0.5, rngs=rngs)

    def __call__(
        self,
        layout: Layout,
        state: State[HeadEdges],
        *,
        key: jax.Array | None,
        deterministic: bool,
    ) -> State[HeadEdges]:
        x, e, g = state
        assert g is not None, "blocks of ProductGMN update a feature per graph"
        g_node, g_update = jnp.split(self.global_in(g), 2, axis=-1)
        to_target, to_source, queries, keys, update, gate = jnp.split(
            self.node_in(x), 6, axis=-1
        )
        update = update + layout.to_nodes(g_node)
        arriving = layout.aggregate_messages(e, to_target, "target")
        update = update + self.incoming(arriving)
        leaving = layout.aggregate_messages(e, to_source, "source")
        update = update + self.outgoing(leaving)
        if self.edge_out is not None:
            scores = layout.edge_scores(queries, keys, self.num_heads)
            hidden = map_edges(lambda a, b: jnp.tanh(a + b), e, scores)
            e = map_edges(jnp.add, e, layout.project_heads(hidden, self.edge_out[...]))
        x = x + self.node_out(jax.nn.silu(update) * (1.0 + gate))
        mean = layout.pool_nodes(x)
        g = g + self.global_out(jax.nn.silu(g_update + self.global_nodes(mean)))
        return State(x, e, g)


@MODELS.register("product_gmn")
class ProductGMN(GraphModel):
    """The graph metanetwork with products as messages; see the module docstring."""

    Config = ProductGMNConfig

    def __init__(
        self,
        config: ProductGMNConfig,
        schema: GraphSchema,
        model_inputs: ModelInputs,
        *,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            config,
            schema,
            model_inputs,
            edge_dim=config.heads + config.moments,
            edge_readout=False,
            has_globals=True,
            rngs=rngs,
        )
        # Blocks keep the heads; the moments are read once, before the first block.
        self.edge_dim = config.heads
        self.moments = (
            Linear(4 * config.moments, config.dim, bias=False, rngs=rngs)
            if config.moments
            else None
        )
        self.start = nnx.Param(0.1 * jax.random.normal(rngs.params(), (config.dim,)))
        self.blocks = nnx.List(
            [
                ProductBlock(
                    config.dim, config.heads, last=i == config.depth - 1, rngs=rngs
                )
                for i in range(config.depth)
            ]
        )

    def initial_state(self, layout: Layout) -> State[HeadEdges]:
        """Returns encoded nodes with their moments, edges head-major, and the globals."""
        x, edges, _ = super().initial_state(layout)
        heads = self.blocks[0].num_heads
        if self.moments is not None:
            x = x + self.moments(_moments(layout, edges, heads))
        e = layout.to_head_major(map_edges(lambda e: e[..., :heads], edges))
        return State(x, e, per_graph(layout, self.start[...]))

    def final_state(self, layout: Layout, state: State[HeadEdges]) -> State[Edges]:
        """Returns the state with edges feature-major."""
        edges = layout.to_feature_major(state.edges)
        return State(state.nodes, edges, state.globals_)


def _moments(layout: Layout, edges: Edges, start: int) -> jax.Array:
    """Returns means and log variances of the features from ``start`` on, over both ends."""
    edges = map_edges(lambda e: e[..., start:], edges)
    parts = []
    for end in ("target", "source"):
        mean = layout.reduce(edges, end, "mean")
        around = layout.mean_over_shared(
            map_edges(lambda e, m: jnp.square(e - m), edges, layout.gather(mean, end))
        )
        parts += [mean, log_variance(layout.reduce(around, end, "mean"))]
    return jnp.concatenate(parts, axis=-1)
