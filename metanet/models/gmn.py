r"""GMN: graph metanetworks with a network on every edge.

Source: Lim et al., "Graph Metanetworks for Processing Diverse Neural Architectures"
(ICLR 2024): parameter graphs of section 2, node, edge and global updates of section 3
(equations 1 to 3), appendix C for encodings and readouts; blocks as in the "EdgeMPNNDiT"
of the published code (pre-norm, residual, SiLU).

Equivariance: to every automorphism of the parameter graph. Signs, scales and phases are
handled by feeding canonical parameters.

With node features x, edge features e, global feature g, one block computes
    h_st  = silu(norm(e_st) W_1 + norm(x_s) W_2 + norm(x_t) W_3 + norm(g) W_4)
    e_st += h_st W_5
    x_v  += silu(norm(x_v) W_6 + in_v W_7 + out_v W_8 + norm(g) W_9) W_10
    g    += silu(norm(g) W_11 + mean_v(x_v) W_12) W_13
where in_v aggregates h over the edges that arrive and out_v over those that leave.

Deviations, and why:
    * Messages are the hidden values of the edge network, not its outputs. The linear map
      follows the mean instead of preceding it, which saves a pass over the edges.
    * The first layer of the edge network is split into one product per edge and two per
      node, which is the same function of a concatenation.
    * With ``directions="both"``, a node also reads the edges that leave it. "forward" is
      the paper's form; the published code adds reversed edges that are not marked as such.
    * RMS norms have no means, so that their gains fold into weights.
    * The kind of every edge set is embedded, including heads and gates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.graphs import Edges, End, GraphForm, GraphSchema, Layout, map_edges
from metanet.models.aggregators import Aggregator, AggregatorName
from metanet.models.base import (
    MODELS,
    GraphModel,
    GraphModelConfig,
    ModelInputs,
    State,
    per_graph,
)
from metanet.models.layers import Linear, NormLinear
from metanet.models.readout import ReadoutName


@dataclass(frozen=True)
class GMNConfig(GraphModelConfig):
    """Options of the graph metanetwork beyond those of `GraphModelConfig`.

    Attributes:
        bias: Biases as edges from a bias "node" (the paper's choice), as a "feature" of
            their node, or as a self-"loop".
        kernel: "vector": an edge holds a whole kernel; "parallel": an edge per kernel
            position (the paper's multigraph).
        aggregate: "mean", "sum", "attention" or "pna".
        directions: "both", or "forward" only.
        readout: See `Readout`; "edges" and "nodes_edges" are the paper's.
    """

    bias: Literal["node", "feature", "loop"] = "node"
    kernel: Literal["vector", "parallel"] = "vector"
    aggregate: AggregatorName = "mean"
    directions: Literal["both", "forward"] = "both"
    readout: ReadoutName = "edges"

    @property
    def form(self) -> GraphForm:
        """Form of the graphs that the model reads."""
        return GraphForm(self.bias, self.kernel == "parallel")


class GMNBlock(nnx.Module):
    """One round of message passing; see the module docstring for the equations."""

    def __init__(self, config: GMNConfig, schema: GraphSchema, *, rngs: nnx.Rngs):
        dim = config.dim
        ends = 2 if config.directions == "both" else 1
        self.edge_in = NormLinear(dim, dim, rngs=rngs)
        self.node_in = NormLinear(dim, 3 * dim, rngs=rngs)
        self.edge_out = Linear(dim, dim, scale=0.5, rngs=rngs)
        self.aggregators = nnx.List(
            [Aggregator(config.aggregate, dim, schema, rngs=rngs) for _ in range(ends)]
        )
        self.message_maps = nnx.List(
            [Linear(a.width, dim, bias=False, rngs=rngs) for a in self.aggregators]
        )
        self.node_out = Linear(dim, dim, scale=0.5, rngs=rngs)
        self.global_in = NormLinear(dim, 3 * dim, rngs=rngs)
        self.global_nodes = Linear(dim, dim, rngs=rngs)
        self.global_out = Linear(dim, dim, scale=0.5, rngs=rngs)

    def __call__(
        self,
        layout: Layout,
        state: State[Edges],
        *,
        key: jax.Array | None,
        deterministic: bool,
    ) -> State[Edges]:
        x, e, g = state
        assert g is not None, "blocks of GMN update a feature per graph"
        g_edge, g_node, g_update = jnp.split(self.global_in(g), 3, axis=-1)
        source, target, update = jnp.split(self.node_in(x), 3, axis=-1)
        source = source + layout.to_nodes(g_edge)
        hidden = map_edges(
            lambda a, s, t: jax.nn.silu(self.edge_in(a) + s + t),
            e,
            layout.gather(source, "source"),
            layout.gather(target, "target"),
        )
        change = layout.mean_over_shared(map_edges(self.edge_out, hidden))
        e = map_edges(jnp.add, e, change)
        update = update + layout.to_nodes(g_node)
        ends: tuple[End, ...] = ("target", "source")
        for end, aggregate, message_map in zip(
            ends, self.aggregators, self.message_maps, strict=False
        ):
            update = update + message_map(aggregate(layout, hidden, end))
        x = x + self.node_out(jax.nn.silu(update))
        mean = layout.pool_nodes(x)
        g = g + self.global_out(jax.nn.silu(g_update + self.global_nodes(mean)))
        return State(x, e, g)


@MODELS.register("gmn")
class GMN(GraphModel):
    """The graph metanetwork; see the module docstring."""

    Config = GMNConfig

    def __init__(
        self,
        config: GMNConfig,
        schema: GraphSchema,
        model_inputs: ModelInputs,
        *,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            config,
            schema,
            model_inputs,
            edge_dim=config.dim,
            has_globals=True,
            rngs=rngs,
        )
        self.start = nnx.Param(0.1 * jax.random.normal(rngs.params(), (config.dim,)))
        self.blocks = nnx.List(
            [GMNBlock(config, schema, rngs=rngs) for _ in range(config.depth)]
        )

    def initial_state(self, layout: Layout) -> State[Edges]:
        """Returns encoded nodes and edges, and the learned start of the global feature."""
        start = per_graph(layout, self.start[...])
        return super().initial_state(layout)._replace(globals_=start)
