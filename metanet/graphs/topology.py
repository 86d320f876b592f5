"""The static part of a parameter graph: typed node sets and edge sets.

A `Topology` is hashable and free of arrays. It is computed once per architecture from
its `Symmetry` (build.py); the parameters of every network of that architecture are then
*viewed* as the graph's dense blocks (view.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

from metanet.symmetry import AxisPart


@dataclass(frozen=True)
class NodeSet:
    """Nodes of one activation of the network (the units of a layer).

    Attributes:
        name: Readable and unique ("input", "layers/0", "output").
        units: Sizes of the unit indices, major first; nodes are their joint index.
        kind: "input", "hidden", "output", "state" (of a recurrence), "bias" (the source
            of a bias's edges, see `GraphForm`) or "latent" (indices of parameters that
            index no activation: the rank of a low-rank factor).
        depth: Longest path from the inputs.
        symmetry: Strongest symmetry of the nodes beside permutations: "none", "sign",
            "phase" or "positive".
        nonlinearity: Chain of nonlinearities through which all readers read the set, or
            ().
        activation: Index of the symmetry's activation whose units the nodes are (the
            last of several fused ones); -1 for a latent set.
        pinned: Per unit index, True if it cannot be permuted.
        scale_kinds: Kinds of factors ("positive", "sign") that act plainly on the set:
            they multiply the activations and all incoming parameters, and divide the
            outgoing ones; see `remaining_symmetry`.
    """

    name: str
    units: tuple[int, ...]
    kind: str
    depth: int
    symmetry: str = "none"
    nonlinearity: tuple[str, ...] = ()
    activation: int = -1
    pinned: tuple[bool, ...] = ()
    scale_kinds: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of nodes."""
        return math.prod(self.units)

    @property
    def identified(self) -> bool:
        """True where no node can be permuted with another; each has an identity."""
        return all(self.pinned) if self.pinned else self.kind in ("input", "output")


@dataclass(frozen=True)
class EdgeSet:
    """One use of a parameter array as a dense block ``[both, source, target, mult]``.

    Attributes:
        name: Parameter path, with a suffix if a leaf has several blocks or uses.
        leaf: Index of the leaf in the flattened parameters.
        parts: Its entries along each axis of the leaf.
        split: Sizes into which the sliced leaf is reshaped, one per index.
        order: Transposition of the split axes into (both..., source..., target...,
            mult...).
        shape: ``(both, sources, targets, multiplicity)``.
        source: Index of the source node set; None for parameters that multiply no
            activation (the block then has 1 source).
        target: Index of the target node set.
        kind: "weight", "conv", "bias", "scale", "embedding", ...; "unused" for a
            parameter that no operation on activations reads.
        chain: Nonlinearities applied to the source before it is read.
        positions: Coordinates in [-1, 1] of each parallel edge (kernel or spatial
            position), ``multiplicity`` tuples, empty if it has no such axes.
        primary: True for the use from which `to_params` reads the parameter; later uses
            of the same block (tied weights) are copies.
        units: Per axis of the transposed split, the position of the unit that it indexes
            among the source's units and among the target's; -1 for none.
        join: Pairs (position of a source unit, position of a target unit) that are equal
            on every edge without indexing the parameter.
    """

    name: str
    leaf: int
    parts: tuple[AxisPart, ...]
    split: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, int, int, int]
    source: int | None
    target: int
    kind: str
    chain: tuple[str, ...] = ()
    positions: tuple[tuple[float, ...], ...] = ((),)
    primary: bool = True
    units: tuple[tuple[int, int], ...] = ()
    join: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class IdentityEdgeSet:
    """Parameter-free edges, one per pair of nodes whose joined unit indices agree.

    Attributes:
        source, target: Node set indices.
        kind: "residual", "gate", "pairing", "recurrence", ...
        chain: Nonlinearities applied to the source before it is read.
        join: Pairs (position of a source unit, position of a target unit), no unit in two
            of them.
    """

    source: int
    target: int
    kind: str
    chain: tuple[str, ...]
    join: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Topology:
    """Typed parameter graph of one architecture, without the parameters.

    Attributes:
        nodes, edges, identity_edges: The sets, to which indices refer.
        leaves: (path, shape) of each parameter leaf in flattening order.

    The hash is cached: a topology is the static part of every graph, and each call of a
    compiled function hashes it.
    """

    nodes: tuple[NodeSet, ...]
    edges: tuple[EdgeSet, ...]
    identity_edges: tuple[IdentityEdgeSet, ...]
    leaves: tuple[tuple[str, tuple[int, ...]], ...] = field(repr=False, default=())

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.nodes, self.edges, self.identity_edges, self.leaves))

    @property
    def num_nodes(self) -> int:
        """Number of nodes of all sets."""
        return sum(n.size for n in self.nodes)

    @property
    def num_parameters(self) -> int:
        """Number of parameters, each counted once."""
        return sum(math.prod(e.shape) for e in self.edges if e.primary)

    def without(self, *, activations: bool, depths: bool) -> Topology:
        """Returns the topology without the nonlinearities, or depths, of its nodes."""
        nodes = self.nodes
        if activations:
            nodes = tuple(replace(node, nonlinearity=()) for node in nodes)
        if depths:
            nodes = tuple(replace(node, depth=0) for node in nodes)
        return replace(self, nodes=nodes)
