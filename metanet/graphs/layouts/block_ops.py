"""Values of nodes along the axes of an edge block, and products with its edges.

Edges have h features as ``[B, diagonal, h, S, T]``: features before the ends, so that sums over
edges are matrix products.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from metanet.graphs.blocks import AxisMap, EdgeBlock, End


def to_end(nodes: jax.Array, axis_map: AxisMap) -> jax.Array:
    """Maps node values ``[B, N, d]`` to ``[B, shared, diagonal, n, d]``, averaged over the rest."""
    batch, d = nodes.shape[0], nodes.shape[-1]
    if axis_map.plain:
        return nodes.reshape(batch, *axis_map.shape[:3], d)
    axes = (0, *(1 + i for i in axis_map.order), 1 + len(axis_map.units))
    ordered = nodes.reshape(batch, *axis_map.units, d).transpose(axes)
    return ordered.reshape(batch, *axis_map.shape, d).mean(axis=4)


def from_end(values: jax.Array, axis_map: AxisMap) -> jax.Array:
    """Maps ``[B, shared, diagonal, n, d]`` to node values ``[B, N, d]``, repeated over the rest."""
    batch, d = values.shape[0], values.shape[-1]
    if axis_map.plain:
        return values.reshape(batch, -1, d)
    wide = jnp.broadcast_to(values[:, :, :, :, None], (batch, *axis_map.shape, d))
    sizes = [axis_map.units[i] for i in axis_map.order]
    inverse = sorted(range(len(sizes)), key=axis_map.order.__getitem__)
    ordered = wide.reshape(batch, *sizes, d)
    ordered = ordered.transpose(0, *(1 + i for i in inverse), 1 + len(sizes))
    return ordered.reshape(batch, -1, d)


def aggregate_messages(
    edges: jax.Array, values: jax.Array, block: EdgeBlock, end: End
) -> jax.Array:
    """Sums over each node's edges the edge's features times values of the other end.

    Args:
        edges: Features ``[B, diagonal, h, S, T]``.
        values: Values of the nodes at the other end, ``[B, N, h * k]``; head i of an
            edge multiplies the i-th run of k values.
        block: The edges.
        end: The end at which the sums arrive.

    Returns:
        ``[B, N', h * k]`` for the nodes of ``end``.
    """
    heads = edges.shape[2]
    if end == "target":
        other = _per_head(values, block, "source", heads)
        sums = jnp.einsum("bzhst,bzshk->bzthk", edges, other)
    else:
        other = _per_head(values, block, "target", heads)
        sums = jnp.einsum("bzhst,bzthk->bzshk", edges, other)
    axis_map = block.ends[end == "target"]
    batch, diagonal, count = sums.shape[:3]
    shared = axis_map.shape[0]
    if shared > 1:
        sums = sums.reshape(batch, diagonal, count, heads, shared, -1)
        sums = jnp.moveaxis(sums, 4, 1)
    return from_end(sums.reshape(batch, shared, diagonal, count, -1), axis_map)


def edge_scores(
    at_source: jax.Array, at_target: jax.Array, block: EdgeBlock, heads: int
) -> jax.Array:
    """Returns scaled inner products of both ends of every edge, ``[B, diagonal, h, S, T]``.

    The ends hold ``[B, N, h * k]``; head i is the product of the i-th runs of k values.
    """
    source = _per_head(at_source, block, "source", heads)
    target = _per_head(at_target, block, "target", heads)
    shared, width = block.ends[0].shape[0], source.shape[-1]
    scale = np.float32((width // shared) ** -0.5 / shared)
    return jnp.einsum("bzshk,bzthk->bzhst", source * scale, target)


def _per_head(nodes: jax.Array, block: EdgeBlock, end: End, heads: int) -> jax.Array:
    """Returns node values as ``[B, diagonal, n, h, shared * k]``."""
    values = to_end(nodes, block.ends[end == "target"])
    batch, shared, diagonal, count, _ = values.shape
    if shared == 1:
        return values.reshape(batch, diagonal, count, heads, -1)
    values = values.reshape(batch, shared, diagonal, count, heads, -1)
    return jnp.moveaxis(values, 1, 4).reshape(batch, diagonal, count, heads, -1)


def fan(block: EdgeBlock, end: End) -> int:
    """Returns the number of edges of the block at each node of an end."""
    return block.shape[2] if end == "source" else block.shape[1]
