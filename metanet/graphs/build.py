"""From a symmetry to the topology of the parameter graph; once per architecture."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from metanet.errors import MetanetError, suggest
from metanet.graphs.fuse import Fused, fuse_readers, quotient
from metanet.graphs.scales import with_carries
from metanet.graphs.topology import EdgeSet, IdentityEdgeSet, NodeSet, Topology
from metanet.symmetry import Block, ParameterEdge

if TYPE_CHECKING:
    from metanet.symmetry import Symmetry

Fuse = Literal["reader", "quotient"]
_STRENGTH = ("none", "sign", "phase", "positive")


def build_topology(symmetry: Symmetry, fuse: Fuse = "reader") -> Topology:
    """The typed parameter graph of an architecture.

    Args:
        symmetry: What discovery found.
        fuse: "reader" fuses a site with its only reader where an identity edge joins
            them (one node set per layer); "quotient" in addition identifies all node
            sets that one permutation moves (one node set per permutation group).

    Returns:
        The topology: a node set per fused site in program order, latent sets after
        them; an edge set per use of a parameter tile. Every parameter is in exactly one
        primary edge set.

    Raises:
        MetanetError: for an unknown ``fuse``.
    """
    if fuse not in ("reader", "quotient"):
        raise MetanetError(f"fuse: unknown value {fuse!r}.{suggest(fuse, _FUSE)}")
    return with_carries(symmetry, _Builder(symmetry, fuse).topology())


_FUSE = ("reader", "quotient")


class _Builder:
    """Collects node sets and edge sets; node sets are keyed by site or latent atoms."""

    def __init__(self, symmetry: Symmetry, fuse: Fuse):
        self.symmetry = symmetry
        self.indices = symmetry.indices
        self.blocks = {(t.leaf, t.segments): t for t in symmetry.blocks}
        layers = fuse_readers(
            symmetry.activations, symmetry.parameter_edges, symmetry.identity_edges
        )
        depth = _depths(layers)
        use_depths = [depth[u.target] for u in layers.parameter_edges]
        if fuse == "quotient":
            self.fused = quotient(layers, symmetry.indices)
            depth = _least_depths(layers, self.fused, depth)
        else:
            self.fused = layers
        self.depth = depth
        self.index = {
            activation: i for i, activation in enumerate(self.fused.activations)
        }
        self.latent: dict[tuple[int, ...], NodeSet] = {}
        self.identity_edges: list[IdentityEdgeSet] = []
        self.seen: Counter[tuple[int, tuple[int, ...]]] = Counter()
        self.edges = [
            self.edge(parameter_edge, d)
            for parameter_edge, d in zip(
                self.fused.parameter_edges, use_depths, strict=True
            )
        ]
        self.edges += [
            self.unused(t) for k, t in self.blocks.items() if not self.seen[k]
        ]

    def topology(self) -> Topology:
        identity_edges = tuple(
            IdentityEdgeSet(
                self.index[j.source], self.index[j.target], j.kind, j.chain, j.join
            )
            for j in self.fused.identity_edges
        )
        identity_edges += tuple(dict.fromkeys(self.identity_edges))
        nodes = (*self.nodes(), *self.latent.values())
        names = _unique(n.name for n in nodes)
        nodes = tuple(replace(n, name=s) for n, s in zip(nodes, names, strict=True))
        edges = tuple(
            replace(e, name=s)
            for e, s in zip(
                self.edges, _unique(e.name for e in self.edges), strict=True
            )
        )
        leaves = tuple((leaf.path, leaf.shape) for leaf in self.symmetry.leaves)
        return Topology(nodes, edges, identity_edges, leaves)

    def nodes(self) -> Iterable[NodeSet]:
        chains = defaultdict(set)
        for edge in (*self.fused.parameter_edges, *self.fused.identity_edges):
            if edge.source is not None:
                chains[edge.source].add(edge.chain)
        acting = self.scaling_groups()
        for index, activation in self.fused.activations.items():
            pinned = tuple(self.indices[a].pinned is not None for a in activation.units)
            shared = chains[index]
            yield NodeSet(
                name=self.name(index),
                units=tuple(self.indices[a].size for a in activation.units),
                kind=activation.kind,
                depth=self.depth[index],
                symmetry=max(acting[index], key=_STRENGTH.index, default="none"),
                nonlinearity=next(iter(shared)) if len(shared) == 1 else (),
                activation=index,
                pinned=pinned,
            )

    def name(self, index: int) -> str:
        """Module path of the weight that produces a site, or its kind."""
        activation = self.fused.activations[index]
        if activation.kind != "hidden":
            return activation.kind
        parameter_edges = [u for u in self.fused.parameter_edges if u.target == index]
        if parameter_edges:
            parameter_edges.sort(key=lambda u: (u.source is None, -self.size(u)))
            path = self.symmetry.leaves[parameter_edges[0].leaf].path
            # "layers/0/kernel" and "layers.0.weight" to the module's name.
            return re.sub(r"[/.][^/.]*$", "", path)
        kinds = [j.kind for j in self.fused.identity_edges if j.target == index]
        return kinds[0] if kinds else "hidden"

    def size(self, parameter_edge: ParameterEdge) -> int:
        indices = self.blocks[parameter_edge.leaf, parameter_edge.segments].indices
        return math.prod(self.indices[a].size for a in indices)

    def scaling_groups(self) -> dict[int, set[str]]:
        """Per site, the kinds of the factors that may multiply its activations.

        A family acts on a site where it acts on a parameter along an axis that indexes
        the site's units.
        """
        acting: dict[int, set[str]] = defaultdict(set)
        powers = defaultdict(set)
        for scaling_group in self.symmetry.scaling_groups:
            for term in (*scaling_group.exponents, *scaling_group.shifts):
                powers[term.leaf, term.position].add(scaling_group.kind)
        for parameter_edge in self.fused.parameter_edges:
            block = self.blocks[parameter_edge.leaf, parameter_edge.segments]
            for position, roles in zip(
                block.positions, parameter_edge.roles, strict=True
            ):
                for role in roles:
                    activation = (
                        parameter_edge.source
                        if role.end == "source"
                        else parameter_edge.target
                    )
                    if activation is not None:
                        acting[activation] |= powers[parameter_edge.leaf, position]
        return acting

    def latent_set(self, indices: tuple[int, ...], depth: int) -> int:
        """Index of a node set that stands for no site: the joint index of atoms."""
        if indices not in self.latent:
            self.latent[indices] = NodeSet(
                name="latent" if indices else "unused",
                units=tuple(self.indices[a].size for a in indices),
                kind="latent",
                depth=depth,
                pinned=tuple(self.indices[a].pinned is not None for a in indices),
            )
        return len(self.index) + list(self.latent).index(indices)

    def edge(self, parameter_edge: ParameterEdge, depth: int) -> EdgeSet:
        block = self.blocks[parameter_edge.leaf, parameter_edge.segments]
        ends = [_places(roles) for roles in parameter_edge.roles]
        source, target, join = (
            parameter_edge.source,
            self.index[parameter_edge.target],
            parameter_edge.join,
        )
        if source is not None:
            # Read alike by all nodes of the source (a gain of weight normalisation): a
            # parameter of the target alone.
            alike = (
                self.fused.activations[source].units
                and not join
                and all(s < 0 for s, _ in ends)
            )
            source = None if alike else self.index[source]
        free = [
            i
            for i, (a, end) in enumerate(zip(block.indices, ends, strict=True))
            if end == (-1, -1) and self.indices[a].pinned is None
        ]
        if free:
            # An index of neither end (the rank of a low-rank factor) has nodes of its
            # own, which stand in for the end that the parameter does not touch.
            reads = any(s >= 0 for s, _ in ends)
            writes = any(t >= 0 for _, t in ends)
            first = free[: len(free) if writes else 0 if reads else len(free) // 2]
            second = free[len(first) :]
            if reads and writes:
                target = self.between(block, free, ends, parameter_edge, depth)
                join = tuple((i, k + len(free)) for i, k in join)
            elif first:
                source, join = self.at_latent(block, first, 0, ends, depth), ()
            if second and not writes:
                target, join = self.at_latent(block, second, 1, ends, depth), ()
        return self.block(block, ends, source, target, parameter_edge, join)

    def at_latent(
        self,
        block: Block,
        where: list[int],
        end: int,
        ends: list[tuple[int, int]],
        depth: int,
    ) -> int:
        """Makes the tile positions ``where`` index a latent set; returns the set."""
        indices = tuple(block.indices[i] for i in where)
        for i in where:
            place = sorted(indices).index(block.indices[i])
            ends[i] = (place, -1) if end == 0 else (-1, place)
        return self.latent_set(tuple(sorted(indices)), depth)

    def between(
        self,
        block: Block,
        where: list[int],
        ends: list[tuple[int, int]],
        parameter_edge: ParameterEdge,
        depth: int,
    ) -> int:
        """Puts a set between the ends of a parameter that also has a third index.

        Its nodes are the joint index of the tile positions ``where`` and the target's
        units (an index of a generated weight); joins tie them to both.
        """
        third = tuple(block.indices[i] for i in where)
        units = self.fused.activations[parameter_edge.target].units
        between = self.latent_set((*third, *units), depth)
        for i, (s, t) in enumerate(ends):
            if i in where:
                ends[i] = (-1, where.index(i))
            elif t >= 0:
                ends[i] = (s, t + len(third))
        own = self.latent_set(tuple(sorted(third)), depth)
        member = tuple((sorted(third).index(a), k) for k, a in enumerate(third))
        along = tuple((k + len(third), k) for k in range(len(units)))
        target = self.index[parameter_edge.target]
        self.identity_edges += [
            IdentityEdgeSet(own, between, "latent", (), member),
            IdentityEdgeSet(between, target, "latent", (), along),
        ]
        return between

    def unused(self, block: Block) -> EdgeSet:
        """The edge set of a tile that no use reads: it must still be stored."""
        ends = [(-1, -1)] * len(block.indices)
        free = [
            i for i, a in enumerate(block.indices) if self.indices[a].pinned is None
        ]
        target = self.at_latent(block, free, 1, ends, 0)
        parameter_edge = ParameterEdge(
            block.leaf, block.segments, None, target, "unused", (), ()
        )
        return self.block(block, ends, None, target, parameter_edge, ())

    def block(
        self,
        block: Block,
        ends: list[tuple[int, int]],
        source: int | None,
        target: int,
        parameter_edge: ParameterEdge,
        join: tuple[tuple[int, int], ...],
    ) -> EdgeSet:
        axes = sorted(range(len(ends)), key=lambda i: (ends[i][1], ends[i][0]))
        both = [i for i in axes if ends[i][0] >= 0 and ends[i][1] >= 0]
        sources = [i for i in axes if ends[i][0] >= 0 and ends[i][1] < 0]
        targets = [i for i in axes if ends[i][0] < 0 and ends[i][1] >= 0]
        parallel = [i for i, end in enumerate(ends) if end == (-1, -1)]
        order = (*both, *sources, *targets, *parallel)
        split = tuple(self.indices[a].size for a in block.indices)

        def size(axes: list[int]) -> int:
            return math.prod(split[i] for i in axes)

        self.seen[block.leaf, block.segments] += 1
        path = self.symmetry.leaves[block.leaf].path
        parts = [t for t in self.symmetry.blocks if t.leaf == block.leaf]
        suffix = f"[{','.join(map(str, block.segments))}]" if len(parts) > 1 else ""
        return EdgeSet(
            name=path + suffix,
            leaf=block.leaf,
            bounds=block.bounds,
            split=split,
            order=order,
            shape=(size(both), size(sources), size(targets), size(parallel)),
            source=source,
            target=target,
            kind=parameter_edge.kind,
            chain=parameter_edge.chain,
            positions=_grid(tuple(split[i] for i in parallel)),
            primary=self.seen[block.leaf, block.segments] == 1,
            units=tuple(ends[i] for i in order),
            join=join,
        )


def _places(roles: Iterable) -> tuple[int, int]:
    """Unit places (source, target) of a tile position, -1 where it has no such role."""
    found = {r.end: r.unit for r in reversed(tuple(roles))}
    return found.get("source", -1), found.get("target", -1)


def _grid(sizes: tuple[int, ...]) -> tuple[tuple[float, ...], ...]:
    """Coordinates in [-1, 1] of every joint index, major first."""
    axes = [np.linspace(-1.0, 1.0, n).tolist() for n in sizes]
    return tuple(itertools.product(*axes))


def _depths(fused: Fused) -> dict[int, int]:
    """Longest path from the inputs; edges back in the program are cut.

    A site that no input reaches (a token) stands just before its first reader.
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
    """Depth of a set of identified layers: that of its first layer."""
    into = {}
    for before, after in zip(
        layers.parameter_edges, merged.parameter_edges, strict=True
    ):
        into[before.target] = after.target
        into[before.source] = after.source
    least = {activation: depth[activation] for activation in merged.activations}
    for activation, d in depth.items():
        target = into.get(activation, activation)
        if target in least:
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
