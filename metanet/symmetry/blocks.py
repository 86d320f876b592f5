"""Leaves put together from the blocks into which discovery cuts them."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Bounds = tuple[tuple[int, int], ...]


def join_blocks(blocks: Sequence[tuple[Bounds, jax.Array]]) -> jax.Array:
    """Concatenates blocks that fill an array.

    Concatenation, rather than writing one block after the other into a copy: XLA may
    then read a block from the half-written array (seen with jax 0.10 on CPU).

    Args:
        blocks: Per block ``(start, stop)`` along each of the array's last axes, and its
            values ``[..., *sizes]``.
    """
    if len(blocks) == 1:
        return blocks[0][1]
    rank = len(blocks[0][0])
    for axis in range(rank):
        cuts = sorted({bounds[axis] for bounds, _ in blocks})
        apart = all(a[1] <= b[0] for a, b in zip(cuts, cuts[1:], strict=False))
        if len(cuts) > 1 and apart:
            rows = [join_blocks([b for b in blocks if b[0][axis] == c]) for c in cuts]
            return jnp.concatenate(rows, axis - rank)
    raise AssertionError("blocks that do not fill an array")
