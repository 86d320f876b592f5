"""Which sites of a symmetry become one node set.

Discovery makes a site at every parametrised or combining operation. Fusing a site with
its only reader gives the graph of Graph Metanetworks (Lim et al., 2023: convolution,
bias and norm are one layer of nodes); identifying everything that moves together gives
the quotient of Universal Neural Functionals (Zhou et al., 2024).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace

from metanet.symmetry import (
    Activation,
    IdentityEdge,
    Index,
    ParameterEdge,
    Role,
)

IDENTITY = ("bias", "scale", "residual")
_RICH = ("scale", "gate", "residual")


@dataclass(frozen=True)
class Fused:
    """Sites after fusing.

    Attributes:
        sites: Site index to site, of the last site of each fused set; program order.
        uses, joins: As in the symmetry, with ends and unit places of the fused sets.
    """

    activations: dict[int, Activation]
    parameter_edges: tuple[ParameterEdge, ...]
    identity_edges: tuple[IdentityEdge, ...]


def fuse_readers(
    activations: tuple[Activation, ...],
    parameter_edges: tuple[ParameterEdge, ...],
    identity_edges: tuple[IdentityEdge, ...],
) -> Fused:
    """Fuses each hidden site whose only reader is an identity edge into that reader.

    Identity edges are those of a bias, a scale or a residual sum, without nonlinearity
    and with all units joined. Of several branches of a sum that are more than linear
    (normalised, gated or sums themselves) only the latest is fused: the sum's nodes
    cannot stand for two of them.
    """
    readers = Counter(j.source for j in identity_edges)
    readers.update(u.source for u in parameter_edges if u.source is not None)
    kinds: dict[int, set[str]] = defaultdict(set)
    for edge in (*parameter_edges, *identity_edges):
        kinds[edge.target].add(edge.kind)
    rich = {t for t, k in kinds.items() if k & {*_RICH}}
    sums = {t for t, k in kinds.items() if "residual" in k}
    taken: set[int] = set()
    into: dict[int, tuple[int, dict[int, int]]] = {}
    for join in sorted(identity_edges, key=lambda j: (j.target, -j.source)):
        source, target = join.source, join.target
        widths = {len(activations[s].units) for s in (source, target)} | {
            len(join.join)
        }
        if (
            join.kind not in IDENTITY
            or join.chain
            or source >= target
            or readers[source] != 1
            or activations[source].kind != "hidden"
            or len(widths) != 1
            or (join.kind == "scale" and source in sums)
            or (join.kind == "residual" and source in rich and target in taken)
        ):
            continue
        if join.kind == "residual" and source in rich:
            taken.add(target)
        into[source] = (target, dict(join.join))
        rich |= {target} if source in rich else set()
        sums |= {target} if source in sums else set()
    kept = [j for j in identity_edges if j.source not in into]
    # A target has a higher index than what is fused into it: go downwards, so that
    # what a target is fused into is known.
    for source in sorted(into, reverse=True):
        target, places = into[source]
        if target in into:
            last, further = into[target]
            into[source] = (last, {i: further[k] for i, k in places.items()})
    return _move(dict(enumerate(activations)), parameter_edges, kept, into)


def quotient(fused: Fused, indices: tuple[Index, ...]) -> Fused:
    """Identifies all node sets whose units are the same atoms, one of them free.

    Free atoms are equal exactly where one permutation moves both sets.
    """
    last: dict[tuple[int, ...], int] = {}
    for index, activation in fused.activations.items():
        if any(indices[a].pinned is None for a in activation.units):
            last[tuple(sorted(activation.units))] = index
    into = {}
    for index, activation in fused.activations.items():
        target = last.get(tuple(sorted(activation.units)), index)
        if target == index or len({*activation.units}) != len(activation.units):
            continue
        units = fused.activations[target].units
        into[index] = (
            target,
            {i: units.index(a) for i, a in enumerate(activation.units)},
        )
    moved = _move(fused.activations, fused.parameter_edges, fused.identity_edges, into)
    identity_edges = [
        j for j in moved.identity_edges if not _is_loop(j, moved.activations)
    ]
    return replace(moved, identity_edges=tuple(dict.fromkeys(identity_edges)))


def _is_loop(join: IdentityEdge, activations: dict[int, Activation]) -> bool:
    """Whether a join connects every node with itself and nothing else."""
    every = {(i, i) for i in range(len(activations[join.target].units))}
    return join.source == join.target and {*join.join} == every


def _move(
    activations: dict[int, Activation],
    parameter_edges: tuple[ParameterEdge, ...],
    identity_edges: list[IdentityEdge] | tuple[IdentityEdge, ...],
    into: dict[int, tuple[int, dict[int, int]]],
) -> Fused:
    """Rewrites all ends: site ``s`` becomes ``into[s]`` with its units' new places."""

    def place(activation: int | None, unit: int) -> int:
        return into[activation][1][unit] if activation in into else unit

    def site_of(activation: int) -> int:
        return into[activation][0] if activation in into else activation

    def pairs(edge: ParameterEdge | IdentityEdge) -> tuple[tuple[int, int], ...]:
        return tuple(
            (place(edge.source, i), place(edge.target, k)) for i, k in edge.join
        )

    def role(parameter_edge: ParameterEdge, r: Role) -> Role:
        end = parameter_edge.source if r.end == "source" else parameter_edge.target
        return Role(r.end, place(end, r.unit))

    new_uses = tuple(
        replace(
            u,
            source=None if u.source is None else site_of(u.source),
            target=site_of(u.target),
            roles=tuple(tuple(role(u, r) for r in rs) for rs in u.roles),
            join=pairs(u),
        )
        for u in parameter_edges
    )
    new_joins = tuple(
        replace(j, source=site_of(j.source), target=site_of(j.target), join=pairs(j))
        for j in identity_edges
    )
    return Fused(
        {i: s for i, s in activations.items() if i not in into}, new_uses, new_joins
    )
