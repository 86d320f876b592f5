"""Invariant readouts: node, edge and global features to one vector per graph."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.graphs import batch as graph
from metanet.graphs.batch import GraphBatch
from metanet.graphs.topology import Topology
from metanet.models.layers import Linear, inverse_rms

_QUERIES = 4


class Readout(nnx.Module):
    """Pools a batch to ``[B, dim]``: means per role of the nodes, or learned queries.

    "mean" concatenates the means over input, output and all other nodes; "attention"
    the softmax-weighted means of all nodes for four learned queries. Both append the
    global feature and normalise the result.
    """

    def __init__(
        self,
        dim: int,
        topology: Topology,
        how: Literal["mean", "attention"],
        *,
        rngs: nnx.Rngs,
    ):
        kinds = [n.kind for n in topology.nodes]
        role = [k if k in ("input", "output") else "hidden" for k in kinds]
        self.roles = tuple(
            tuple(i for i, r in enumerate(role) if r == name)
            for name in ("input", "hidden", "output")
            if name in role
        )
        self.query = (
            Linear(dim, _QUERIES, bias=False, rngs=rngs) if how == "attention" else None
        )
        self.dim = dim * (1 + (_QUERIES if how == "attention" else len(self.roles)))
        self.gain = nnx.Param(jnp.ones(self.dim))

    def __call__(self, batch: GraphBatch) -> jax.Array:
        if self.query is None:
            parts = [
                graph.pool(tuple(batch.nodes[i] for i in sets)) for sets in self.roles
            ]
        else:
            nodes = jnp.concatenate(batch.nodes, axis=1)
            weights = jax.nn.softmax(self.query(nodes), axis=1)
            mixed = jnp.einsum("bnq,bnd->bqd", weights, nodes)
            parts = [mixed.reshape(mixed.shape[0], -1)]
        x = jnp.concatenate([*parts, batch.globals_], axis=-1)
        return x * inverse_rms(x) * self.gain[...][None]
