r"""All linear maps between a network's arrays that commute with its permutation group.

Source: Zhou et al., "Universal Neural Functionals" (NeurIPS 2024), theorem 3.2: a basis
of the equivariant linear maps between two arrays is indexed by the partitions of their
joined axes in which blocks hold axes of one group only. Maron et al. 2019 for one group;
DWSNets (Navon et al. 2023) and NFN (Zhou et al. 2023) are its cases for MLPs and CNNs.

Here the groups, and which axis carries which, come from the discovered `Symmetry`. Two
things go beyond the source: axes that cannot be permuted are channels (each value of
them has weights of its own; NFN's HNP), and where the permutation of one index depends
on another (channels within heads), a block of the former lies within a block of the
latter.

A partition never becomes a matrix. Its map takes diagonals of the input (blocks with
several input axes), averages over blocks without an output axis, mixes channels, then
spreads over blocks without an input axis and onto diagonals of the output. All maps that
pass through the same kept axes are one product of concatenated channels.
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
from metanet.symmetry import Symmetry

# More partitions than this of one array's axes come from arrays of a rank for which
# nobody has the memory; a message is better than a hanging process.
_MOST_PARTITIONS = 400


@dataclass(frozen=True)
class Axis:
    """A permuted index of an array.

    Attributes:
        label: Its group; axes with equal labels are permuted alike.
        size: Number of values.
        parents: Places of the array's axes on whose value its permutation depends.
    """

    label: int
    size: int
    parents: tuple[int, ...] = ()


@dataclass(frozen=True)
class ArraySpec:
    """One array of the network (a tile of a parameter leaf) as maps see it.

    Attributes:
        leaf: Index of the leaf.
        bounds: ``(start, stop)`` per axis of the leaf.
        split: Sizes of the tile's atoms.
        order: Transposition of the split axes: permuted ones, then the others.
        axes: The permuted axes.
        dense: Number of joint values of the other axes: channels.
    """

    leaf: int
    bounds: tuple[tuple[int, int], ...]
    split: tuple[int, ...]
    order: tuple[int, ...]
    axes: tuple[Axis, ...]
    dense: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the permuted axes."""
        return tuple(a.size for a in self.axes)


@dataclass(frozen=True)
class Half:
    """One side of a partition: an array's axes in blocks, some of which are kept.

    Attributes:
        array: Index of the array.
        blocks: Places of the axes in each block.
        kept: Blocks that cross to the other side, in the order of the kept axes.
    """

    array: int
    blocks: tuple[tuple[int, ...], ...]
    kept: tuple[int, ...]


Signature = tuple[tuple[int, int], ...]


def array_specs(
    symmetry: Symmetry, pinned: Literal["channels", "permuted"] = "channels"
) -> tuple[ArraySpec, ...]:
    """A network's arrays with the groups of their axes.

    Args:
        symmetry: What was discovered; scales, signs and phases play no part.
        pinned: Units of inputs and outputs are "channels", each with weights of its own
            (NFN-HNP), or "permuted" as if they were hidden (NFN-NP), which needs fewer
            weights and leaves it to encodings to tell them apart. Kernel positions are
            always channels.
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
    place: dict[tuple[int, int], int] = {}
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
        place[labels[axis_index], occurrence] = len(axes)
        order += together
        axes.append(Axis(labels[axis_index], math.prod(split[k] for k in together)))
    # The k-th axis of a group depends on the k-th axis of each of its parents.
    placed = []
    count: dict[int, int] = {}
    for axis in axes:
        k = count.get(axis.label, 0)
        count[axis.label] = k + 1
        group = axis.label
        over = symmetry.groups[group].parents if group < len(symmetry.groups) else ()
        at = (
            place.get((labels[p], k), place.get((labels[p], 0)))
            for p in over
        )  # fmt: skip
        placed.append(
            Axis(axis.label, axis.size, tuple(dict.fromkeys(a for a in at if a is not None)))
        )  # fmt: skip
    return ArraySpec(
        block.leaf,
        block.bounds,
        split,
        (*order, *dense),
        tuple(placed),
        math.prod(split[i] for i in dense),
    )


def partitions(count: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """All partitions of ``range(count)`` into blocks."""
    if count == 0:
        yield ()
        return
    last = count - 1
    for rest in partitions(last):
        for i in range(len(rest)):
            yield (*rest[:i], (*rest[i], last), *rest[i + 1 :])
        yield (*rest, (last,))


def halves(specs: tuple[ArraySpec, ...], array: int, side: str) -> list[Half]:
    """All sides that partitions have on an array.

    Kept blocks of an input stand in the order of their labels and places; those of an
    output in every order, so that each pairing of blocks is met once.
    """
    axes = specs[array].axes
    found = []
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
                label = lambda i, blocks=blocks: axes[blocks[i][0]].label
                kept = sorted(chosen, key=label)
                orders = [tuple(kept)] if side == "input" else _orders(kept, label)
                found += [Half(array, blocks, order) for order in orders]
        if len(found) > _MOST_PARTITIONS:
            raise MetanetError(
                f"functionals: an array with {len(axes)} permuted axes has more than "
                f"{_MOST_PARTITIONS} kinds of equivariant maps; take a graph metanetwork"
            )
    return found


def _sound(block: tuple[int, ...], blocks, axes: tuple[Axis, ...]) -> bool:
    """Whether a block holds axes of one group, below equal values of their parents."""
    first = axes[block[0]]
    number = {axis: i for i, held in enumerate(blocks) for axis in held}
    over = [tuple(number[p] for p in axes[i].parents) for i in block]
    return all(axes[i].label == first.label for i in block) and len(set(over)) == 1


def _orders(kept: list[int], label) -> list[tuple[int, ...]]:
    runs = [
        tuple(itertools.permutations(run))
        for _, run in itertools.groupby(kept, key=label)
    ]
    return [tuple(itertools.chain(*choice)) for choice in itertools.product(*runs)]


def signature(specs: tuple[ArraySpec, ...], half: Half) -> tuple:
    """What the two sides of a partition must agree in: the kept blocks' groups.

    With the kept blocks on which each depends, so that nested indices pair up.
    """
    axes = specs[half.array].axes
    number = {axis: i for i, block in enumerate(half.blocks) for axis in block}
    out = []
    for i in half.kept:
        first = axes[half.blocks[i][0]]
        over = tuple(half.kept.index(number[p]) for p in first.parents)
        out.append((first.label, first.size, over))
    return tuple(out)


@lru_cache(maxsize=64)
def terms(
    specs: tuple[ArraySpec, ...],
) -> dict[tuple, tuple[tuple[Half, ...], tuple[Half, ...]]]:
    """Per signature the sides of inputs and of outputs; their pairs are the basis."""
    inputs: dict[tuple, list[Half]] = {}
    outputs: dict[tuple, list[Half]] = {}
    for array in range(len(specs)):
        for half in halves(specs, array, "input"):
            inputs.setdefault(signature(specs, half), []).append(half)
        for half in halves(specs, array, "output"):
            outputs.setdefault(signature(specs, half), []).append(half)
    common = sorted(set(inputs) & set(outputs))
    return {key: (tuple(inputs[key]), tuple(outputs[key])) for key in common}


def number_of_maps(specs: tuple[ArraySpec, ...], source: int, target: int) -> int:
    """Number of partitions between two arrays, with one channel each."""
    return sum(
        sum(h.array == source for h in ins) * sum(h.array == target for h in outs)
        for ins, outs in terms(specs).values()
    )


def gather(x: jax.Array, half: Half, how: Literal["mean", "max"] = "mean") -> jax.Array:
    """Input side: ``[B, *axes, C]`` to the kept axes, ``[B, *kept, C]``."""
    letters = _letters(half)
    kept = "".join(chr(97 + i) for i in half.kept)
    diagonal = "".join(sorted(set(letters)))
    if len(diagonal) < len(letters):
        x = jnp.einsum(f"Z{letters}Y->Z{diagonal}Y", x)
    dropped = tuple(1 + i for i, c in enumerate(diagonal) if c not in kept)
    if dropped:
        count = math.prod(x.shape[i] for i in dropped)
        x = total(x, dropped) / count if how == "mean" else extreme(x, dropped, how)
    left = [c for c in diagonal if c in kept]
    return x.transpose(0, *(1 + left.index(c) for c in kept), x.ndim - 1)


def spread(y: jax.Array, half: Half, spec: ArraySpec) -> jax.Array:
    """Output side: ``[B, *kept, C]`` to the array, ``[B, *axes, C]``."""
    # Kept axes in the order of the blocks, 1 where a block is not kept.
    order = sorted(range(len(half.kept)), key=half.kept.__getitem__)
    y = y.transpose(0, *(1 + i for i in order), y.ndim - 1)
    sizes = iter(y.shape[1:-1])
    wide = [next(sizes) if i in half.kept else 1 for i in range(len(half.blocks))]
    y = y.reshape(y.shape[0], *wide, y.shape[-1])
    if all(len(block) == 1 for block in half.blocks):
        places = [block[0] for block in half.blocks]
        back = sorted(range(len(places)), key=places.__getitem__)
        y = y.transpose(0, *(1 + i for i in back), y.ndim - 1)
        return broadcast(y, (y.shape[0], *spec.shape, y.shape[-1]))
    # Each block along its first axis, on the diagonal of the others.
    places = [block[0] for block in half.blocks]
    ordered = sorted(range(len(places)), key=places.__getitem__)
    y = y.transpose(0, *(1 + i for i in ordered), y.ndim - 1)
    at = dict(zip(places, wide, strict=True))
    rank = len(spec.axes)
    y = y.reshape(y.shape[0], *(at.get(i, 1) for i in range(rank)), y.shape[-1])
    y = broadcast(y, (y.shape[0], *spec.shape, y.shape[-1]))
    for block in half.blocks:
        for a, b in itertools.pairwise(block):
            shape = [1] * y.ndim
            shape[1 + a] = shape[1 + b] = spec.axes[a].size
            y = y * jnp.eye(spec.axes[a].size, dtype=y.dtype).reshape(shape)
    return y


def _letters(half: Half) -> str:
    number = {axis: i for i, block in enumerate(half.blocks) for axis in block}
    return "".join(chr(97 + number[axis]) for axis in range(len(number)))
