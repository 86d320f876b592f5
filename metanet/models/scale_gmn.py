r"""ScaleGMN and ScaleGMN-B: equivariant to scales and signs as well as permutations.

Source: Kalogeropoulos et al., "Scale Equivariant Graph Metanetworks" (NeurIPS 2024):
canonical forms (section 4, equations 4 to 6), equivariant layers ``W x * phi(inv(x))``
(equation 8), messages that multiply edge and neighbour (equation 9), the bidirectional
form (section 4.2); SIREN phases are canonicalised (appendix A).

Equivariance: under a factor s_v per node that carries one (`NodeSet.scale_kinds`: "positive"
for ReLU, "sign" for tanh and sine, both for linear nodes; mixed within one network as
discovered), node features become s_v x_v and edge features (s_t / s_s) e_st; the pooled
feature is invariant. Scaling groups that do not act as in plain layers are canonicalised.

With |x| the root mean square of x, inv(x) = x / |x| for positive factors, abs(x) for signs,
abs(x / |x|) for both, and x itself where there are none, one block computes, writing
z = inv(x W_0):
    h_st  = silu(z_s W_1 + z_t W_2)
    e_st  = e_st + (e_st W_3) * (h_st W_4)
    m_t   = sum_s (e_st W_5) * (x_s W_6)
    m'_s  = sum_t (x_t W_7 / n_t) * ([|x_s| c_st, |x_s| u_st] W_8)  (bidirectional)
    x_v   = x_v + (a W_9) * MLP(inv(a W_10)),  a = [x_v, m_v, m'_v]    (nodes with a factor)
    x_v   = x_v + MLP(a) / 2                                      (others)
and the readout pools MLP(inv(x)). Sums m are divided by the square root of the degree.

The bidirectional form needs the reciprocal of an edge. With u_st = w_st |x_s| / n_t for a
scalar reading w of the edge and n_t = max_s |w_st| |x_s|, u is invariant, and |x_s| / n_t
transforms as a reciprocal; c = 0.1 u / (u^2 + 0.01) is a bounded form of 1/u. n_t is at
least |x_t| / 10, which carries the same factor; otherwise a unit with a bias whose weights
have decayed to zero would send messages that are too large. Nodes without a positive factor
have n_t = 1 unless |x_t| or the maximum exceeds 10. Weights near 1e-15 do not overflow.
Features of nodes without parameters start at 0, which every factor leaves as it is; they send
nothing back in the first block, inv(0) = 0, and n_t = 1 where both of its parts are 0. (The
published code uses e for 1/e, which is not equivariant to scales: it computes reciprocals
but does not read them.)

Deviations, and why: the factor phi sits on the edge update, not on the message, and
aggregation is followed by the equivariant layer per node, at a third of the products per
edge; residual connections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.graphs import Edges, End, GraphSchema, Layout, map_edges
from metanet.models.base import MODELS, ModelInputs, State
from metanet.models.factors import (
    EquivariantUpdate,
    FactorConfig,
    FactorModel,
    ScaleMask,
)
from metanet.models.layers import Linear, affine


@dataclass(frozen=True)
class ScaleGMNConfig(FactorConfig):
    """Options of ScaleGMN beyond those that `FactorConfig` holds.

    Attributes:
        directions: "forward" (ScaleGMN) or "both" (ScaleGMN-B).
    """

    directions: Literal["forward", "both"] = "forward"


class ScaleBlock(nnx.Module):
    """One block; see the module docstring for the equations."""

    def __init__(self, config: ScaleGMNConfig, schema: GraphSchema, *, rngs: nnx.Rngs):
        dim = config.dim
        self.schema = schema
        self.mixed = Linear(dim, dim, bias=False, rngs=rngs)
        self.ends = Linear(dim, 2 * dim, rngs=rngs)
        self.edge_linear = Linear(dim, dim, bias=False, rngs=rngs)
        self.edge_factor = Linear(dim, dim, scale=0.5, rngs=rngs)
        self.message = Linear(dim, dim, bias=False, rngs=rngs)
        self.neighbour = Linear(dim, dim, bias=False, rngs=rngs)
        both = config.directions == "both"
        self.reading = Linear(dim, 1, bias=False, rngs=rngs) if both else None
        self.reverse = Linear(dim, dim, bias=False, rngs=rngs) if both else None
        self.reciprocal = (
            nnx.Param(jax.random.normal(rngs.params(), (2, dim))) if both else None
        )
        parts = 2 if self.reading is None else 3
        self.update = EquivariantUpdate(parts, dim, rngs=rngs)

    def __call__(
        self,
        layout: Layout,
        state: State[Edges],
        *,
        key: jax.Array | None,
        deterministic: bool,
    ) -> State[Edges]:
        x, e, _ = state
        mask = ScaleMask(layout, self.schema)
        ends = self.ends(mask.invariant(self.mixed(x)))
        source, target = jnp.split(ends, 2, axis=-1)
        factors = map_edges(
            lambda s, t: self.edge_factor(jax.nn.silu(s + t)),
            layout.gather(source, "source"),
            layout.gather(target, "target"),
        )
        change = map_edges(
            lambda a, f: self.edge_linear(a) * f, e, layout.mean_over_shared(factors)
        )
        e = map_edges(jnp.add, e, change)
        neighbours = layout.gather(self.neighbour(x), "source")
        messages = map_edges(lambda a, s: self.message(a) * s, e, neighbours)
        parts = [x, _summed(layout, messages, "target")]
        if self.reading is not None:
            parts.append(self._backward(layout, mask, x, e))
        return State(x + self.update(mask, parts), e)

    def _backward(
        self, layout: Layout, mask: ScaleMask, x: jax.Array, e: Edges
    ) -> jax.Array:
        """Returns messages from targets to sources (ScaleGMN-B), by reciprocal edges."""
        reading = self.reading
        assert reading is not None and self.reverse is not None
        assert self.reciprocal is not None
        norm = jnp.where(mask.positive, mask.norm(x), 1.0)
        at_source = layout.gather(norm, "source")
        read = map_edges(lambda a, s: reading(a) * s, e, at_source)
        top = layout.reduce(map_edges(jnp.abs, read), "target", "max")
        scale = mask.divisor(top, x)
        divided = layout.gather(self.reverse(x / scale), "target")
        relative = map_edges(lambda u, n: u / n, read, layout.gather(scale, "target"))
        weight = self.reciprocal[...]

        def message(u: jax.Array, n: jax.Array, t: jax.Array) -> jax.Array:
            bounded = 0.1 * u / (u * u + 0.01)
            return affine(jnp.concatenate([n * bounded, n * u], -1), weight) * t

        messages = map_edges(message, relative, at_source, divided)
        return _summed(layout, messages, "source")


def _summed(layout: Layout, messages: Edges, end: End) -> jax.Array:
    return layout.reduce(messages, end) * jax.lax.rsqrt(layout.degree(end))


@MODELS.register("scale_gmn")
@MODELS.register("scale_gmn_b", directions="both")
class ScaleGMN(FactorModel):
    """ScaleGMN; see the module docstring."""

    Config = ScaleGMNConfig

    def __init__(
        self,
        config: ScaleGMNConfig,
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
            edge_floats=2 * config.dim,
            rngs=rngs,
        )
        self.blocks = nnx.List(
            [ScaleBlock(config, schema, rngs=rngs) for _ in range(config.depth)]
        )
