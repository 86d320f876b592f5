"""Construction of the topology of a parameter graph from a symmetry."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from metanet.errors import MetanetError, suggest
from metanet.graphs.blocks import End
from metanet.graphs.fuse import Fused, fuse_readers, quotient
from metanet.graphs.scales import with_scale_kinds
from metanet.graphs.topology import EdgeSet, IdentityEdgeSet, NodeSet, Topology
from metanet.symmetry import Block, ParameterEdge, Position, Role

if TYPE_CHECKING:
    from metanet.symmetry import Symmetry

Fuse = Literal["reader", "quotient"]
_FUSE = get_args(Fuse)
# Symmetries of nodes, from the weakest to the strongest.
_STRENGTH = ("none", "sign", "phase", "positive")


def build_topology(symmetry: Symmetry, fuse: Fuse = "reader") -> Topology:
    """Returns the typed parameter graph of an architecture.

    Args:
        symmetry: Symmetry of the network, from `metanet.symmetry.discover`.
        fuse: "reader" fuses an activation with its only reader if an identity edge joins
            them (one node set per layer); "quotient" in addition identifies all node
            sets that one permutation moves (one node set per permutation group).

    Returns:
        The topology: a node set per fused activation in program order, followed by
        latent sets; an edge set per use of a parameter block. Every parameter is in
        exactly one primary edge set.

    Raises:
        MetanetError: for an unknown ``fuse``.
    """
    if fuse not in _FUSE:
        raise MetanetError(f"fuse: unknown value {fuse!r}.{suggest(fuse, _FUSE)}")
    return with_scale_kinds(symmetry, _Builder(symmetry, fuse).topology())


class _Builder:
    """Collects the node sets and edge sets of a topology.

    Node sets are identified by the index of their activation, latent sets by their indices.
    """

    def __init__(self, symmetry: Symmetry, fuse: Fuse):
        self.symmetry = symmetry
        self.indices = symmetry.indices
        self.blocks = {(t.leaf, t.segments): t for t in symmetry.blocks}
        layers = fuse_readers(
            symmetry.activations, symmetry.parameter_edges, symmetry.identity_edges
        )
        depth = _depths(layers)
        target_depths = [depth[edge.target] for edge in layers.parameter_edges]
        if fuse == "quotient":
            self.fused = quotient(layers, symmetry.indices)
            depth = _least_depths(layers, self.fused, depth)
        else:
            self.fused = layers
        self.depth = depth
        self.node_set = {index: i for i, index in enumerate(self.fused.activations)}
        self.latent: dict[tuple[int, ...], NodeSet] = {}
        self.identity_edges: list[IdentityEdgeSet] = []
        # Number of edge sets per block, by its leaf and segments.
        self.num_uses: Counter[tuple[int, tuple[int, ...]]] = Counter()
        self.edges = [
            self.edge_set(edge, target_depth)
            for edge, target_depth in zip(
                self.fused.parameter_edges, target_depths, strict=True
            )
        ]
        for key, block in self.blocks.items():
            if not self.num_uses[key]:
                self.edges.append(self.unused_edge_set(block))

    def topology(self) -> Topology:
        """Returns the topology, with unique names of sets."""
        identity_edges = tuple(
            IdentityEdgeSet(
                self.node_set[edge.source],
                self.node_set[edge.target],
                edge.kind,
                edge.chain,
                edge.join,
            )
            for edge in self.fused.identity_edges
        )
        identity_edges += tuple(dict.fromkeys(self.identity_edges))
        nodes = (*self.nodes(), *self.latent.values())
        names = _unique(node.name for node in nodes)
        nodes = tuple(
            replace(node, name=name) for node, name in zip(nodes, names, strict=True)
        )
        names = _unique(edge.name for edge in self.edges)
        edges = tuple(
            replace(edge, name=name)
            for edge, name in zip(self.edges, names, strict=True)
        )
        leaves = tuple((leaf.path, leaf.shape) for leaf in self.symmetry.leaves)
        if edges and not identity_edges and all(e.source is None for e in edges):
            # Models take edges for granted: where parameters meet no activation, the
            # nodes of the first one have loops.
            target = edges[0].target
            loop = tuple((i, i) for i in range(len(nodes[target].units)))
            identity_edges = (IdentityEdgeSet(target, target, "loop", (), loop),)
        return Topology(nodes, edges, identity_edges, leaves)

    def nodes(self) -> Iterable[NodeSet]:
        """Yields the node set of each activation."""
        chains = defaultdict(set)
        for edge in (*self.fused.parameter_edges, *self.fused.identity_edges):
            if edge.source is not None:
                chains[edge.source].add(edge.chain)
        scaling_kinds = self.scaling_kinds()
        for index, activation in self.fused.activations.items():
            pinned = tuple(self.indices[a].pinned is not None for a in activation.units)
            readers = chains[index]
            yield NodeSet(
                name=self.name(index),
                units=tuple(self.indices[a].size for a in activation.units),
                kind=activation.kind,
                depth=self.depth[index],
                symmetry=max(scaling_kinds[index], key=_STRENGTH.index, default="none"),
                nonlinearity=next(iter(readers)) if len(readers) == 1 else (),
                activation=index,
                pinned=pinned,
            )

    def name(self, index: int) -> str:
        """Returns the module path of the weight that produces an activation, or its kind."""
        activation = self.fused.activations[index]
        if activation.kind != "hidden":
            return activation.kind
        parameter_edges = [e for e in self.fused.parameter_edges if e.target == index]
        if parameter_edges:
            parameter_edges.sort(key=lambda e: (e.source is None, -self.size(e)))
            path = self.symmetry.leaves[parameter_edges[0].leaf].path
            # The path without its last part: "layers/0" of "layers/0/kernel".
            return re.sub(r"[/.][^/.]*$", "", path)
        kinds = [e.kind for e in self.fused.identity_edges if e.target == index]
        return kinds[0] if kinds else "hidden"

    def size(self, edge: ParameterEdge) -> int:
        """Returns the number of parameters of an edge's block."""
        indices = self.blocks[edge.leaf, edge.segments].indices
        return math.prod(self.indices[a].size for a in indices)

    def scaling_kinds(self) -> dict[int, set[str]]:
        """Returns per activation the kinds of scaling groups that act on it.

        A group acts on an activation if it acts on a parameter along an axis that indexes
        the activation's units.
        """
        by_position: dict[tuple[int, Position], set[str]] = defaultdict(set)
        for group in self.symmetry.scaling_groups:
            for term in (*group.exponents, *group.shifts):
                by_position[term.leaf, term.position].add(group.kind)
        kinds: dict[int, set[str]] = defaultdict(set)
        for edge in self.fused.parameter_edges:
            block = self.blocks[edge.leaf, edge.segments]
            for position, roles in zip(block.positions, edge.roles, strict=True):
                for role in roles:
                    end = edge.source if role.end == "source" else edge.target
                    if end is not None:
                        kinds[end] |= by_position[edge.leaf, position]
        return kinds

    def latent_set(self, indices: tuple[int, ...], depth: int) -> int:
        """Returns the number of the node set of indices that index no activation."""
        if indices not in self.latent:
            self.latent[indices] = NodeSet(
                name="latent" if indices else "unused",
                units=tuple(self.indices[a].size for a in indices),
                kind="latent",
                depth=depth,
                pinned=tuple(self.indices[a].pinned is not None for a in indices),
            )
        return len(self.node_set) + list(self.latent).index(indices)

    def edge_set(self, edge: ParameterEdge, depth: int) -> EdgeSet:
        """Returns the edge set of a parameter edge whose target is at a depth."""
        block = self.blocks[edge.leaf, edge.segments]
        ends = [_unit_positions(roles) for roles in edge.roles]
        source, target, join = edge.source, self.node_set[edge.target], edge.join
        if source is not None:
            # Parameters that all nodes of the source share (a gain of weight
            # normalisation) are parameters of the target alone.
            shared_by_source = (
                len(self.fused.activations[source].units) > 0
                and not join
                and all(unit < 0 for unit, _ in ends)
            )
            source = None if shared_by_source else self.node_set[source]
        free = [
            axis
            for axis, (index, end) in enumerate(zip(block.indices, ends, strict=True))
            if end == (-1, -1) and self.indices[index].pinned is None
        ]
        if free:
            # An index of neither end (the rank of a low-rank factor) has nodes of its
            # own, which replace the end that the parameter does not index.
            has_source = any(unit >= 0 for unit, _ in ends)
            has_target = any(unit >= 0 for _, unit in ends)
            if has_source and has_target:
                target = self.insert_latent(block, free, ends, edge, depth)
                join = tuple((i, k + len(free)) for i, k in join)
            else:
                if has_target:
                    at_source, at_target = free, []
                elif has_source:
                    at_source, at_target = [], free
                else:
                    half = len(free) // 2
                    at_source, at_target = free[:half], free[half:]
                if at_source:
                    source = self.latent_end(block, at_source, "source", ends, depth)
                    join = ()
                if at_target:
                    target = self.latent_end(block, at_target, "target", ends, depth)
                    join = ()
        return self.make_edge_set(block, ends, source, target, edge, join)

    def latent_end(
        self,
        block: Block,
        axes: list[int],
        end: End,
        ends: list[tuple[int, int]],
        depth: int,
    ) -> int:
        """Returns the latent set that axes of a block index, and notes it in ``ends``."""
        order = sorted(axes, key=block.indices.__getitem__)
        for unit, axis in enumerate(order):
            ends[axis] = (unit, -1) if end == "source" else (-1, unit)
        return self.latent_set(tuple(block.indices[axis] for axis in order), depth)

    def insert_latent(
        self,
        block: Block,
        axes: list[int],
        ends: list[tuple[int, int]],
        edge: ParameterEdge,
        depth: int,
    ) -> int:
        """Inserts a latent set between the ends of a parameter that has a third index.

        Its nodes are the joint index of ``axes`` of the block and the target's units (an
        index of a generated weight). Identity edges connect it with the target and with
        the latent set of the third index.
        """
        axes = sorted(axes, key=block.indices.__getitem__)
        third = tuple(block.indices[axis] for axis in axes)
        units = self.fused.activations[edge.target].units
        inserted = self.latent_set((*third, *units), depth)
        for axis, (source_unit, target_unit) in enumerate(ends):
            if axis in axes:
                ends[axis] = (-1, axes.index(axis))
            elif target_unit >= 0:
                ends[axis] = (source_unit, target_unit + len(third))
        latent = self.latent_set(third, depth)
        from_latent = tuple((k, k) for k in range(len(third)))
        to_target = tuple((k + len(third), k) for k in range(len(units)))
        target = self.node_set[edge.target]
        self.identity_edges += [
            IdentityEdgeSet(latent, inserted, "latent", (), from_latent),
            IdentityEdgeSet(inserted, target, "latent", (), to_target),
        ]
        return inserted

    def unused_edge_set(self, block: Block) -> EdgeSet:
        """Returns the edge set of a block that no activation reads, to store it."""
        ends = [(-1, -1)] * len(block.indices)
        free = [
            i for i, a in enumerate(block.indices) if self.indices[a].pinned is None
        ]
        target = self.latent_end(block, free, "target", ends, 0)
        edge = ParameterEdge(block.leaf, block.segments, None, target, "unused", (), ())
        return self.make_edge_set(block, ends, None, target, edge, ())

    def make_edge_set(
        self,
        block: Block,
        ends: list[tuple[int, int]],
        source: int | None,
        target: int,
        edge: ParameterEdge,
        join: tuple[tuple[int, int], ...],
    ) -> EdgeSet:
        """Returns an edge set between two node sets.

        Args:
            block: The block of the parameter.
            ends: Per axis of the block the positions of the source's and the target's
                unit that it indexes, -1 for none.
            source, target: The node sets.
            edge: The edge in the symmetry, for its kind and nonlinearities.
            join: See `EdgeSet`.
        """
        axes = sorted(range(len(ends)), key=lambda i: (ends[i][1], ends[i][0]))
        diagonal = [i for i in axes if ends[i][0] >= 0 and ends[i][1] >= 0]
        sources = [i for i in axes if ends[i][0] >= 0 and ends[i][1] < 0]
        targets = [i for i in axes if ends[i][0] < 0 and ends[i][1] >= 0]
        parallel = [i for i, end in enumerate(ends) if end == (-1, -1)]
        order = (*diagonal, *sources, *targets, *parallel)
        split = tuple(self.indices[a].size for a in block.indices)

        def size(axes: list[int]) -> int:
            return math.prod(split[i] for i in axes)

        self.num_uses[block.leaf, block.segments] += 1
        path = self.symmetry.leaves[block.leaf].path
        parts = [b for b in self.symmetry.blocks if b.leaf == block.leaf]
        suffix = f"[{','.join(map(str, block.segments))}]" if len(parts) > 1 else ""
        return EdgeSet(
            name=path + suffix,
            leaf=block.leaf,
            parts=block.parts,
            split=split,
            order=order,
            shape=(size(diagonal), size(sources), size(targets), size(parallel)),
            source=source,
            target=target,
            kind=edge.kind,
            chain=edge.chain,
            positions=_grid(tuple(split[i] for i in parallel)),
            primary=self.num_uses[block.leaf, block.segments] == 1,
            units=tuple(ends[i] for i in order),
            join=join,
        )


def _unit_positions(roles: Sequence[Role]) -> tuple[int, int]:
    """Returns the positions of the units (source, target) of an axis; -1 for none."""
    units = {role.end: role.unit for role in roles}
    return units.get("source", -1), units.get("target", -1)


def _grid(sizes: tuple[int, ...]) -> tuple[tuple[float, ...], ...]:
    """Returns coordinates in [-1, 1] of every joint index, major first."""
    axes = [np.linspace(-1.0, 1.0, n).tolist() for n in sizes]
    return tuple(itertools.product(*axes))


def _depths(fused: Fused) -> dict[int, int]:
    """Returns per activation the length of the longest path from the inputs.

    Edges backwards in the program (of recurrences) are ignored. An activation that no
    input reaches (a token) is one layer before its first reader.
    """
    sources, readers = defaultdict(set), defaultdict(set)
    for edge in (*fused.parameter_edges, *fused.identity_edges):
        if edge.source is not None and edge.source < edge.target:
            sources[edge.target].add(edge.source)
            readers[edge.source].add(edge.target)
    depth: dict[int, int] = {}
    for activation in fused.activations:
        depth[activation] = max((depth[s] + 1 for s in sources[activation]), default=0)
    for activation in reversed(fused.activations):
        if not sources[activation] and fused.activations[activation].kind != "input":
            first = min((depth[r] for r in readers[activation]), default=1)
            depth[activation] = max(first - 1, 0)
    return depth


def _least_depths(
    layers: Fused, merged: Fused, depth: dict[int, int]
) -> dict[int, int]:
    """Returns the depths of sets of identified layers, those of their first layers."""
    merged_into: dict[int | None, int | None] = {}
    for before, after in zip(
        layers.parameter_edges, merged.parameter_edges, strict=True
    ):
        merged_into[before.target] = after.target
        merged_into[before.source] = after.source
    least = {activation: depth[activation] for activation in merged.activations}
    for activation, d in depth.items():
        target = merged_into.get(activation, activation)
        if target is not None and target in least:
            least[target] = min(least[target], d)
    return least


def _unique(names: Iterable[str]) -> list[str]:
    """Appends ``:2``, ``:3`` ... to repeated names."""
    count: Counter[str] = Counter()
    out = []
    for name in names:
        count[name] += 1
        out.append(name if count[name] == 1 else f"{name}:{count[name]}")
    return out
