"""The static half of a parameter graph: typed node sets, edge sets and joins.

A `Topology` is hashable and free of arrays. It is computed once per architecture from
its `Symmetry`; the parameters of every network of that architecture are then *viewed*
as the graph's dense blocks (see build.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property


@dataclass(frozen=True)
class NodeSet:
    """Nodes of one site of the network (a layer's units).

    Attributes:
        name: Readable and unique ("input", "layers/0", "output").
        units: Sizes of the unit indices, major first; nodes are their joint index.
        kind: "input", "hidden", "output", "state" (a scan's carry), "latent" (atoms of
            no site: the rank of a low-rank factor).
        depth: Longest path from the inputs.
        symmetry: What may act on the nodes beside permutations: "none", "sign",
            "phase" or "positive".
        nonlinearity: Chain of nonlinearities through which all readers read the set, or
            ().
        activation: The activation of the symmetry whose activation the nodes carry (of several
            fused sites the last); -1 for a latent set.
        pinned: Per unit index: whether it cannot be permuted.
        carries: Which of "positive" and "sign" factors pass through the set: they
            multiply the activations and all parameters that arrive, and divide those
            that leave; see `metanet.graphs.scales`.
    """

    name: str
    units: tuple[int, ...]
    kind: str
    depth: int
    symmetry: str = "none"
    nonlinearity: tuple[str, ...] = ()
    activation: int = -1
    pinned: tuple[bool, ...] = ()
    carries: tuple[str, ...] = ()

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
        name: Parameter path, with a suffix where a leaf has several tiles or uses.
        leaf: Index of the leaf in the flattened parameters.
        bounds: ``(start, stop)`` per axis of the leaf.
        split: Sizes into which the sliced leaf is reshaped, one per atom.
        order: Transposition of the split axes into (both..., source..., target...,
            mult...).
        shape: ``(both, sources, targets, multiplicity)``.
        source: Index of the node set read; None: a bias node (the block has 1 source).
        target: Index of the node set written.
        kind: "weight", "conv", "bias", "scale", "embedding", ...; "unused" for a
            parameter that no operation on activations reads.
        chain: Nonlinearities applied to the source before it is read.
        positions: Coordinates in [-1, 1] of each parallel edge (kernel or spatial
            position), ``multiplicity`` tuples; empty tuples where it has none.
        primary: The use that holds the parameter in `to_params`; later uses of the same
            tile (tied weights) are copies.
        units: Per axis of the transposed split: the place in the source's units that it
            indexes, and in the target's; -1 for none.
        join: Pairs (source unit place, target unit place) that agree without indexing
            the parameter.
    """

    name: str
    leaf: int
    bounds: tuple[tuple[int, int], ...]
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
    """Parameter-free edges: one exactly where the joined unit indices agree.

    Attributes:
        source, target: Node set indices.
        kind: "residual", "gate", "pairing", "recurrence", ...
        chain: Nonlinearities applied to the source before it is read.
        join: Pairs (source unit place, target unit place).
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
        nodes, edges, joins: The sets; indices into them are used throughout.
        leaves: (path, shape) of each parameter leaf in flattening order.

    The hash is kept after its first use: a topology is the static part of every graph,
    so that each call of a compiled function hashes it.
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
        """Nodes over all sets."""
        return sum(n.size for n in self.nodes)

    @property
    def num_parameters(self) -> int:
        """Parameters held by the primary edge sets."""
        return sum(math.prod(e.shape) for e in self.edges if e.primary)

    def without(self, *, activations: bool, depths: bool) -> Topology:
        """The topology without its nodes' activations, or depths."""
        nodes = self.nodes
        if activations:
            nodes = tuple(replace(node, nonlinearity=()) for node in nodes)
        if depths:
            nodes = tuple(replace(node, depth=0) for node in nodes)
        return replace(self, nodes=nodes)
