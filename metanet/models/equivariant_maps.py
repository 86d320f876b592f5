r"""All linear maps between a network's arrays that commute with its permutation group.

Source: Zhou et al., "Universal Neural Functionals" (NeurIPS 2024), theorem 3.2: a basis
of the equivariant linear maps between two arrays is indexed by the partitions of their
joined axes in which blocks hold axes of one group only. Maron et al. 2019 for one group;
DWSNets (Navon et al. 2023) and NFN (Zhou et al. 2023) are its cases for MLPs and CNNs.

Here the groups and the axes on which they act come from the discovered `Symmetry`. Two
points go beyond the source. Axes that cannot be permuted are channels (each of their
values has separate weights; NFN's HNP). If the permutation of one index depends on another
(channels within heads), a block of the former lies within a block of the latter.

A partition never becomes a matrix. Its map takes diagonals of the input (blocks with
several input axes), averages over blocks without an output axis, mixes channels, then
broadcasts over blocks without an input axis and onto diagonals of the output. All maps
that retain the same axes are one product of concatenated channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import jax
import jax.numpy as jnp

from metanet.errors import MetanetError
from metanet.graphs import broadcast, extreme, total
from metanet.symmetry import AxisPart, Symmetry

# Arrays whose axes have more partitions than this are of a rank that does not fit into
# memory; a message is better than a process that hangs.
_MOST_PARTITIONS = 400


@dataclass(frozen=True)
class Axis:
    """A permuted index of an array.

    Attributes:
        label: Its group; axes with equal labels are permuted alike.
        size: Number of values.
        parents: Positions of the array's axes on whose value its permutation depends.
    """

    label: int
    size: int
    parents: tuple[int, ...] = ()


@dataclass(frozen=True)
class ArraySpec:
    """One array of the network (a block of a parameter leaf) and its permuted axes.

    Attributes:
        leaf: Index of the leaf.
        parts: Its entries along each axis of the leaf.
        split: Sizes of the block's indices.
        order: Transposition of the split axes, permuted ones first.
        axes: The permuted axes.
        dense: Number of channels, the joint values of all other axes.
    """

    leaf: int
    parts: tuple[AxisPart, ...]
    split: tuple[int, ...]
    order: tuple[int, ...]
    axes: tuple[Axis, ...]
    dense: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the permuted axes."""
        return tuple(a.size for a in self.axes)


@dataclass(frozen=True)
class MapSide:
    """One side of a partition: the axes of an array in blocks.

    Attributes:
        array: Index of the array.
        blocks: Positions of the axes in each block.
        kept: Blocks that contain axes of the other side too, in the order of the axes
            that the map retains.
    """

    array: int
    blocks: tuple[tuple[int, ...], ...]
    kept: tuple[int, ...]


Signature = tuple[tuple[int, int], ...]


def array_specs(
    symmetry: Symmetry, pinned: Literal["channels", "permuted"] = "channels"
) -> tuple[ArraySpec, ...]:
    """Returns a network's arrays with the groups of their axes.

    Args:
        symmetry: The discovered symmetry; scales, signs and phases are ignored.
        pinned: Units of inputs and outputs are "channels", each with separate weights
            (NFN-HNP), or "permuted" as if they were hidden (NFN-NP), which needs fewer
            weights and encodings that distinguish them. Kernel positions are always
            channels.

    Raises:
        MetanetError: for an array with a part of an index that is permuted as a whole.
    """
    labels: dict[int, int] = {}
    joint: dict[int, tuple[int, ...]] = {}
    parents: dict[int, tuple[int, ...]] = {}
    for number, group in enumerate(symmetry.groups):
        for axis_index in group.indices:
            labels[axis_index], joint[axis_index] = number, group.indices
            parents[axis_index] = group.parents
    # A fixed index on which a permutation depends cannot be mixed as a channel.
    extra = {p for group in symmetry.groups for p in group.parents if p not in labels}
    if pinned == "permuted":
        units = {a for activation in symmetry.activations for a in activation.units}
        extra |= {a for a in units if a not in labels}
    for axis_index in sorted(extra):
        labels[axis_index] = len(symmetry.groups) + axis_index
    return tuple(
        _array_spec(symmetry, block, labels, joint, parents)
        for block in symmetry.blocks
    )


def _array_spec(symmetry: Symmetry, block, labels, joint, parents) -> ArraySpec:
    split = tuple(symmetry.indices[a].size for a in block.indices)
    dense = [i for i, a in enumerate(block.indices) if a not in labels]
    order: list[int] = []
    axes: list[Axis] = []
    axis_of: dict[tuple[int, int], int] = {}
    seen: dict[int, int] = {}
    used: set[int] = set()
    for i, axis_index in enumerate(block.indices):
        if i in used or axis_index not in labels:
            continue
        together = [i]
        for other in joint.get(axis_index, (axis_index,)):
            if other != axis_index:
                free = [
                    k
                    for k, a in enumerate(block.indices)
                    if a == other and k not in used
                ]
                if not free:
                    raise MetanetError(
                        f"parameter {symmetry.leaves[block.leaf].path}: holds a part of "
                        "an index that is permuted as a whole; functionals cannot read it"
                    )
                together.append(free[0])
        together.sort()
        used |= set(together)
        occurrence = seen.get(labels[axis_index], 0)
        seen[labels[axis_index]] = occurrence + 1
        axis_of[labels[axis_index], occurrence] = len(axes)
        order += together
        axes.append(Axis(labels[axis_index], math.prod(split[k] for k in together)))
    # The k-th axis of a group depends on the k-th axis of each of its parents.
    complete = []
    count: dict[int, int] = {}
    for axis in axes:
        k = count.get(axis.label, 0)
        count[axis.label] = k + 1
        group = axis.label
        over = symmetry.groups[group].parents if group < len(symmetry.groups) else ()
        above: list[int] = []
        for parent in over:
            label = labels[parent]
            position = axis_of.get((label, k), axis_of.get((label, 0)))
            if position is not None and position not in above:
                above.append(position)
        complete.append(Axis(axis.label, axis.size, tuple(above)))
    return ArraySpec(
        block.leaf,
        block.parts,
        split,
        (*order, *dense),
        tuple(complete),
        math.prod(split[i] for i in dense),
    )


def partitions(count: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Yields all partitions of ``range(count)`` into blocks."""
    if count == 0:
        yield ()
        return
    last = count - 1
    for rest in partitions(last):
        for i in range(len(rest)):
            yield (*rest[:i], (*rest[i], last), *rest[i + 1 :])
        yield (*rest, (last,))


def map_sides(specs: tuple[ArraySpec, ...], array: int, role: str) -> list[MapSide]:
    """Returns all sides that partitions have on an array.

    The kept blocks of an input are ordered by label and position. Those of an output are
    in every order, so that each pairing of blocks occurs once.

    Raises:
        MetanetError: for an array with too many partitions.
    """
    axes = specs[array].axes

    def label(block: tuple[int, ...]) -> int:
        return axes[block[0]].label

    sides: list[MapSide] = []
    for blocks in partitions(len(axes)):
        if not all(_sound(block, blocks, axes) for block in blocks):
            continue
        number = {axis: i for i, block in enumerate(blocks) for axis in block}
        for size in range(len(blocks) + 1):
            for chosen in itertools.combinations(range(len(blocks)), size):
                if any(
                    number[p] not in chosen
                    for i in chosen
                    for axis in blocks[i]
                    for p in axes[axis].parents
                ):
                    continue
                labels = [label(block) for block in blocks]
                kept = sorted(chosen, key=labels.__getitem__)
                orders = [tuple(kept)] if role == "input" else _orders(kept, labels)
                sides += [MapSide(array, blocks, order) for order in orders]
        if len(sides) > _MOST_PARTITIONS:
            raise MetanetError(
                f"functionals: an array with {len(axes)} permuted axes has more than "
                f"{_MOST_PARTITIONS} kinds of equivariant maps; take a graph metanetwork"
            )
    return sides


def _sound(block: tuple[int, ...], blocks, axes: tuple[Axis, ...]) -> bool:
    """Returns True for axes of one group whose parents are in the same blocks."""
    first = axes[block[0]]
    number = {axis: i for i, members in enumerate(blocks) for axis in members}
    over = [tuple(number[p] for p in axes[i].parents) for i in block]
    return all(axes[i].label == first.label for i in block) and len(set(over)) == 1


def _orders(kept: list[int], labels: list[int]) -> list[tuple[int, ...]]:
    """Returns the orders of blocks that differ only among blocks of equal label."""
    runs = [
        tuple(itertools.permutations(run))
        for _, run in itertools.groupby(kept, key=labels.__getitem__)
    ]
    return [tuple(itertools.chain(*choice)) for choice in itertools.product(*runs)]


def signature(specs: tuple[ArraySpec, ...], side: MapSide) -> tuple:
    """Returns the property in which the two sides of a partition must agree.

    It holds the group, the size and the parents of every kept block, so that nested
    indices are paired with nested ones.
    """
    axes = specs[side.array].axes
    number = {axis: i for i, block in enumerate(side.blocks) for axis in block}
    out = []
    for i in side.kept:
        first = axes[side.blocks[i][0]]
        over = tuple(side.kept.index(number[p]) for p in first.parents)
        out.append((first.label, first.size, over))
    return tuple(out)


@lru_cache(maxsize=64)
def terms(
    specs: tuple[ArraySpec, ...],
) -> dict[tuple, tuple[tuple[MapSide, ...], tuple[MapSide, ...]]]:
    """Returns the sides of inputs and outputs by signature; their pairs are the basis."""
    inputs: dict[tuple, list[MapSide]] = {}
    outputs: dict[tuple, list[MapSide]] = {}
    for array in range(len(specs)):
        for side in map_sides(specs, array, "input"):
            inputs.setdefault(signature(specs, side), []).append(side)
        for side in map_sides(specs, array, "output"):
            outputs.setdefault(signature(specs, side), []).append(side)
    common = sorted(set(inputs) & set(outputs))
    return {key: (tuple(inputs[key]), tuple(outputs[key])) for key in common}


def number_of_maps(specs: tuple[ArraySpec, ...], source: int, target: int) -> int:
    """Returns the number of partitions between two arrays, with one channel each."""
    return sum(
        sum(h.array == source for h in ins) * sum(h.array == target for h in outs)
        for ins, outs in terms(specs).values()
    )


def pool_to_kept(
    x: jax.Array, side: MapSide, how: Literal["mean", "max"] = "mean"
) -> jax.Array:
    """Pools an array ``[B, *axes, C]`` over all but the kept axes, ``[B, *kept, C]``."""
    letters = _letters(side)
    kept = "".join(chr(97 + i) for i in side.kept)
    diagonal = "".join(sorted(set(letters)))
    if len(diagonal) < len(letters):
        x = jnp.einsum(f"Z{letters}Y->Z{diagonal}Y", x)
    dropped = tuple(1 + i for i, c in enumerate(diagonal) if c not in kept)
    if dropped:
        count = math.prod(x.shape[i] for i in dropped)
        x = total(x, dropped) / count if how == "mean" else extreme(x, dropped, how)
    left = [c for c in diagonal if c in kept]
    return x.transpose(0, *(1 + left.index(c) for c in kept), x.ndim - 1)


def broadcast_kept(y: jax.Array, side: MapSide, spec: ArraySpec) -> jax.Array:
    """Broadcasts the kept axes ``[B, *kept, C]`` to an array, ``[B, *axes, C]``."""
    # Kept axes in the order of the blocks, 1 where a block is not kept.
    order = sorted(range(len(side.kept)), key=side.kept.__getitem__)
    y = y.transpose(0, *(1 + i for i in order), y.ndim - 1)
    sizes = iter(y.shape[1:-1])
    wide = [next(sizes) if i in side.kept else 1 for i in range(len(side.blocks))]
    y = y.reshape(y.shape[0], *wide, y.shape[-1])
    first = [block[0] for block in side.blocks]
    if all(len(block) == 1 for block in side.blocks):
        back = sorted(range(len(first)), key=first.__getitem__)
        y = y.transpose(0, *(1 + i for i in back), y.ndim - 1)
        return broadcast(y, (y.shape[0], *spec.shape, y.shape[-1]))
    # Each block along its first axis, on the diagonal of the others.
    ordered = sorted(range(len(first)), key=first.__getitem__)
    y = y.transpose(0, *(1 + i for i in ordered), y.ndim - 1)
    size_of = dict(zip(first, wide, strict=True))
    rank = len(spec.axes)
    y = y.reshape(y.shape[0], *(size_of.get(i, 1) for i in range(rank)), y.shape[-1])
    y = broadcast(y, (y.shape[0], *spec.shape, y.shape[-1]))
    for block in side.blocks:
        for a, b in itertools.pairwise(block):
            shape = [1] * y.ndim
            shape[1 + a] = shape[1 + b] = spec.axes[a].size
            y = y * jnp.eye(spec.axes[a].size, dtype=y.dtype).reshape(shape)
    return y


def _letters(side: MapSide) -> str:
    number = {axis: i for i, block in enumerate(side.blocks) for axis in block}
    return "".join(chr(97 + number[axis]) for axis in range(len(number)))
