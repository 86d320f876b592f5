"""From a symmetry to the topology of the parameter graph; once per architecture."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from metanet.errors import MetanetError, suggest
from metanet.graphs.fuse import Fused, fuse_readers, quotient
from metanet.graphs.scales import with_carries
from metanet.graphs.topology import EdgeSet, JoinSet, NodeSet, Topology
from metanet.symmetry.structure import Tile, Use

if TYPE_CHECKING:
    from metanet.symmetry import Symmetry

Fuse = Literal["reader", "quotient"]
_STRENGTH = ("none", "sign", "phase", "positive", "nonzero")


@lru_cache
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
        self.atoms = symmetry.atoms
        self.tiles = {(t.leaf, t.segments): t for t in symmetry.tiles}
        layers = fuse_readers(symmetry.sites, symmetry.uses, symmetry.joins)
        depth = _depths(layers)
        use_depths = [depth[u.target] for u in layers.uses]
        if fuse == "quotient":
            self.fused = quotient(layers, symmetry.atoms)
            depth = _least_depths(layers, self.fused, depth)
        else:
            self.fused = layers
        self.depth = depth
        self.index = {site: i for i, site in enumerate(self.fused.sites)}
        self.latent: dict[tuple[int, ...], NodeSet] = {}
        self.joins: list[JoinSet] = []
        self.seen: Counter[tuple[int, tuple[int, ...]]] = Counter()
        self.edges = [
            self.edge(use, d)
            for use, d in zip(self.fused.uses, use_depths, strict=True)
        ]
        self.edges += [
            self.unused(t) for k, t in self.tiles.items() if not self.seen[k]
        ]

    def topology(self) -> Topology:
        joins = tuple(
            JoinSet(self.index[j.source], self.index[j.target], j.kind, j.chain, j.join)
            for j in self.fused.joins
        )
        joins += tuple(dict.fromkeys(self.joins))
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
        return Topology(nodes, edges, joins, leaves)

    def nodes(self) -> Iterable[NodeSet]:
        chains = defaultdict(set)
        for edge in (*self.fused.uses, *self.fused.joins):
            if edge.source is not None:
                chains[edge.source].add(edge.chain)
        acting = self.families()
        for index, site in self.fused.sites.items():
            pinned = tuple(self.atoms[a].pinned is not None for a in site.units)
            shared = chains[index]
            yield NodeSet(
                name=self.name(index),
                units=tuple(self.atoms[a].size for a in site.units),
                kind=site.kind,
                depth=self.depth[index],
                identified=all(pinned) if pinned else site.kind in ("input", "output"),
                symmetry=max(acting[index], key=_STRENGTH.index, default="none"),
                activation=next(iter(shared)) if len(shared) == 1 else (),
                site=index,
                pinned=pinned,
            )

    def name(self, index: int) -> str:
        """Module path of the weight that produces a site, or its kind."""
        site = self.fused.sites[index]
        if site.kind != "hidden":
            return site.kind
        uses = [u for u in self.fused.uses if u.target == index]
        if uses:
            uses.sort(key=lambda u: (u.source is None, -self.size(u)))
            path = self.symmetry.leaves[uses[0].leaf].path
            # "layers/0/kernel" and "layers.0.weight" to the module's name.
            return re.sub(r"[/.][^/.]*$", "", path)
        kinds = [j.kind for j in self.fused.joins if j.target == index]
        return kinds[0] if kinds else "hidden"

    def size(self, use: Use) -> int:
        atoms = self.tiles[use.leaf, use.segments].atoms
        return math.prod(self.atoms[a].size for a in atoms)

    def families(self) -> dict[int, set[str]]:
        """Per site, the kinds of the factors that may multiply its activations.

        A family acts on a site where it acts on a parameter along an axis that indexes
        the site's units.
        """
        acting: dict[int, set[str]] = defaultdict(set)
        powers = defaultdict(set)
        for family in self.symmetry.families:
            for term in (*family.exponents, *family.shifts):
                powers[term.leaf, term.position].add(family.kind)
        for use in self.fused.uses:
            tile = self.tiles[use.leaf, use.segments]
            for position, roles in zip(tile.positions, use.roles, strict=True):
                for role in roles:
                    site = use.source if role.end == "source" else use.target
                    if site is not None:
                        acting[site] |= powers[use.leaf, position]
        return acting

    def latent_set(self, atoms: tuple[int, ...], depth: int) -> int:
        """Index of a node set that stands for no site: the joint index of atoms."""
        if atoms not in self.latent:
            self.latent[atoms] = NodeSet(
                name="latent" if atoms else "unused",
                units=tuple(self.atoms[a].size for a in atoms),
                kind="latent",
                depth=depth,
                identified=False,
                pinned=tuple(self.atoms[a].pinned is not None for a in atoms),
            )
        return len(self.index) + list(self.latent).index(atoms)

    def edge(self, use: Use, depth: int) -> EdgeSet:
        tile = self.tiles[use.leaf, use.segments]
        ends = [_places(roles) for roles in use.roles]
        source, target, join = use.source, self.index[use.target], use.join
        if source is not None:
            # Read alike by all nodes of the source (a gain of weight normalisation): a
            # parameter of the target alone.
            alike = (
                self.fused.sites[source].units
                and not join
                and all(s < 0 for s, _ in ends)
            )
            source = None if alike else self.index[source]
        free = [
            i
            for i, (a, end) in enumerate(zip(tile.atoms, ends, strict=True))
            if end == (-1, -1) and self.atoms[a].pinned is None
        ]
        if free:
            # An index of neither end (the rank of a low-rank factor) has nodes of its
            # own, which stand in for the end that the parameter does not touch.
            reads = any(s >= 0 for s, _ in ends)
            writes = any(t >= 0 for _, t in ends)
            first = free[: len(free) if writes else 0 if reads else len(free) // 2]
            second = free[len(first) :]
            if reads and writes:
                target = self.between(tile, free, ends, use, depth)
                join = tuple((i, k + len(free)) for i, k in join)
            elif first:
                source, join = self.at_latent(tile, first, 0, ends, depth), ()
            if second and not writes:
                target, join = self.at_latent(tile, second, 1, ends, depth), ()
        return self.block(tile, ends, source, target, use, depth, join)

    def at_latent(
        self,
        tile: Tile,
        where: list[int],
        end: int,
        ends: list[tuple[int, int]],
        depth: int,
    ) -> int:
        """Makes the tile positions ``where`` index a latent set; returns the set."""
        atoms = tuple(tile.atoms[i] for i in where)
        for i in where:
            place = sorted(atoms).index(tile.atoms[i])
            ends[i] = (place, -1) if end == 0 else (-1, place)
        return self.latent_set(tuple(sorted(atoms)), depth)

    def between(
        self,
        tile: Tile,
        where: list[int],
        ends: list[tuple[int, int]],
        use: Use,
        depth: int,
    ) -> int:
        """Puts a set between the ends of a parameter that also has a third index.

        Its nodes are the joint index of the tile positions ``where`` and the target's
        units (an index of a generated weight); joins tie them to both.
        """
        third = tuple(tile.atoms[i] for i in where)
        units = self.fused.sites[use.target].units
        between = self.latent_set((*third, *units), depth)
        for i, (s, t) in enumerate(ends):
            if i in where:
                ends[i] = (-1, where.index(i))
            elif t >= 0:
                ends[i] = (s, t + len(third))
        own = self.latent_set(tuple(sorted(third)), depth)
        member = tuple((sorted(third).index(a), k) for k, a in enumerate(third))
        along = tuple((k + len(third), k) for k in range(len(units)))
        target = self.index[use.target]
        self.joins += [
            JoinSet(own, between, "latent", (), member),
            JoinSet(between, target, "latent", (), along),
        ]
        return between

    def unused(self, tile: Tile) -> EdgeSet:
        """The edge set of a tile that no use reads: it must still be stored."""
        ends = [(-1, -1)] * len(tile.atoms)
        free = [i for i, a in enumerate(tile.atoms) if self.atoms[a].pinned is None]
        target = self.at_latent(tile, free, 1, ends, 0)
        use = Use(tile.leaf, tile.segments, None, target, "unused", (), ())
        return self.block(tile, ends, None, target, use, 0, ())

    def block(
        self,
        tile: Tile,
        ends: list[tuple[int, int]],
        source: int | None,
        target: int,
        use: Use,
        depth: int,
        join: tuple[tuple[int, int], ...],
    ) -> EdgeSet:
        kinds: list[list[int]] = [[], [], [], []]
        for i, (s, t) in enumerate(ends):
            kinds[0 if s >= 0 and t >= 0 else 1 if s >= 0 else 2 if t >= 0 else 3] += [
                i
            ]
        for group in kinds[:3]:
            group.sort(key=lambda i: (ends[i][1], ends[i][0]))
        order = tuple(itertools.chain(*kinds))
        split = tuple(self.atoms[a].size for a in tile.atoms)
        both, sources, targets, parallel = (
            math.prod(split[i] for i in group) for group in kinds
        )
        self.seen[tile.leaf, tile.segments] += 1
        path = self.symmetry.leaves[tile.leaf].path
        parts = [t for t in self.symmetry.tiles if t.leaf == tile.leaf]
        suffix = f"[{','.join(map(str, tile.segments))}]" if len(parts) > 1 else ""
        return EdgeSet(
            name=path + suffix,
            leaf=tile.leaf,
            bounds=tile.bounds,
            split=split,
            order=order,
            shape=(both, sources, targets, parallel),
            source=source,
            target=target,
            kind=use.kind,
            depth=depth,
            chain=use.chain,
            positions=_grid(tuple(split[i] for i in kinds[3])),
            stride=dict(use.attributes).get("stride", ()),
            primary=self.seen[tile.leaf, tile.segments] == 1,
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
    for edge in (*fused.uses, *fused.joins):
        if edge.source is not None and edge.source < edge.target:
            sources[edge.target].add(edge.source)
            readers[edge.source].add(edge.target)
    depth: dict[int, int] = {}
    for site in fused.sites:
        depth[site] = max((depth[s] + 1 for s in sources[site]), default=0)
    for site in reversed(fused.sites):
        if not sources[site] and fused.sites[site].kind != "input":
            first = min((depth[r] for r in readers[site]), default=1)
            depth[site] = max(first - 1, 0)
    return depth


def _least_depths(
    layers: Fused, merged: Fused, depth: dict[int, int]
) -> dict[int, int]:
    """Depth of a set of identified layers: that of its first layer."""
    into = {}
    for before, after in zip(layers.uses, merged.uses, strict=True):
        into[before.target] = after.target
        into[before.source] = after.source
    least = {site: depth[site] for site in merged.sites}
    for site, d in depth.items():
        target = into.get(site, site)
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
