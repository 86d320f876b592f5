"""Fusion of the activations of a symmetry into node sets.

Discovery finds an activation at every operation with parameters and every combination of
activations. Fusing an activation with its only reader gives the graph of Graph Metanetworks
(Lim et al., 2023: convolution, bias and norm are one layer of nodes); identifying all
activations that one permutation moves gives the quotient of Universal Neural Functionals
(Zhou et al., 2024).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from metanet.symmetry import (
    Activation,
    IdentityEdge,
    Index,
    ParameterEdge,
    Role,
)

# Kinds of identity edges whose ends may be fused.
_FUSIBLE = frozenset({"bias", "scale", "residual"})
# Kinds of edges that make their target more than linear in what it reads.
_NONLINEAR = frozenset({"scale", "gate", "residual"})


@dataclass(frozen=True)
class Fused:
    """Activations and edges after fusion.

    Attributes:
        activations: From the index of an activation to the activation, in program order;
            the last one of each fused set.
        parameter_edges, identity_edges: As in the symmetry, with the ends and positions
            of units of the fused sets.
    """

    activations: dict[int, Activation]
    parameter_edges: tuple[ParameterEdge, ...]
    identity_edges: tuple[IdentityEdge, ...]


class _Fusion(NamedTuple):
    """The activation into which another is fused.

    Attributes:
        target: Index of that activation.
        units: From positions of units before fusion to positions in the target.
    """

    target: int
    units: dict[int, int]


def fuse_readers(
    activations: tuple[Activation, ...],
    parameter_edges: tuple[ParameterEdge, ...],
    identity_edges: tuple[IdentityEdge, ...],
) -> Fused:
    """Fuses each hidden activation whose only reader is an identity edge into that reader.

    Only identity edges of a bias, a scale or a residual sum are fused, without
    nonlinearity and with all units joined. Of several nonlinear branches of a sum
    (normalised, gated or sums themselves) only the latest is fused: the nodes of the sum
    can represent one of them.
    """
    readers = Counter(edge.source for edge in identity_edges)
    readers.update(e.source for e in parameter_edges if e.source is not None)
    kinds: dict[int, set[str]] = defaultdict(set)
    for edge in (*parameter_edges, *identity_edges):
        kinds[edge.target].add(edge.kind)
    nonlinear = {target for target, names in kinds.items() if names & _NONLINEAR}
    sums = {target for target, names in kinds.items() if "residual" in names}
    with_branch: set[int] = set()  # sums into which a nonlinear branch is fused
    fusions: dict[int, _Fusion] = {}
    for edge in sorted(identity_edges, key=lambda e: (e.target, -e.source)):
        source, target = edge.source, edge.target
        rank = len(edge.join)
        joins_all_units = (
            len(activations[source].units) == rank
            and len(activations[target].units) == rank
        )
        if edge.kind not in _FUSIBLE or edge.chain or not joins_all_units:
            continue
        if activations[source].kind != "hidden" or readers[source] != 1:
            continue
        if source >= target or (edge.kind == "scale" and source in sums):
            continue
        if edge.kind == "residual" and source in nonlinear:
            if target in with_branch:
                continue
            with_branch.add(target)
        fusions[source] = _Fusion(target, dict(edge.join))
        if source in nonlinear:
            nonlinear.add(target)
        if source in sums:
            sums.add(target)
    # Targets have higher indices than the activations fused into them, so in descending
    # order the fusion of a target itself is complete before it is read.
    for source in sorted(fusions, reverse=True):
        target, units = fusions[source]
        if target in fusions:
            last, moved = fusions[target]
            fusions[source] = _Fusion(last, {i: moved[k] for i, k in units.items()})
    remaining = [edge for edge in identity_edges if edge.source not in fusions]
    return _fuse(dict(enumerate(activations)), parameter_edges, remaining, fusions)


def quotient(fused: Fused, indices: tuple[Index, ...]) -> Fused:
    """Identifies all activations whose units are the same indices, one of them free.

    Free indices are equal exactly if one permutation moves both activations.
    """
    last: dict[tuple[int, ...], int] = {}
    for number, activation in fused.activations.items():
        if any(indices[i].pinned is None for i in activation.units):
            last[tuple(sorted(activation.units))] = number
    fusions = {}
    for number, activation in fused.activations.items():
        target = last.get(tuple(sorted(activation.units)), number)
        if target == number or len(set(activation.units)) < len(activation.units):
            continue
        units = fused.activations[target].units
        positions = {i: units.index(u) for i, u in enumerate(activation.units)}
        fusions[number] = _Fusion(target, positions)
    merged = _fuse(
        fused.activations, fused.parameter_edges, fused.identity_edges, fusions
    )
    identity_edges = [
        edge
        for edge in merged.identity_edges
        if not _is_self_loop(edge, merged.activations)
    ]
    return replace(merged, identity_edges=tuple(dict.fromkeys(identity_edges)))


def _is_self_loop(edge: IdentityEdge, activations: Mapping[int, Activation]) -> bool:
    """Returns True if the edges connect every node with itself and nothing else."""
    diagonal = {(i, i) for i in range(len(activations[edge.target].units))}
    return edge.source == edge.target and set(edge.join) == diagonal


def _fuse(
    activations: Mapping[int, Activation],
    parameter_edges: Sequence[ParameterEdge],
    identity_edges: Sequence[IdentityEdge],
    fusions: Mapping[int, _Fusion],
) -> Fused:
    """Rewrites the ends of all edges, and the positions of units at them."""

    def moved(activation: int) -> int:
        return fusions[activation].target if activation in fusions else activation

    def moved_unit(activation: int | None, unit: int) -> int:
        if activation is None or activation not in fusions:
            return unit
        return fusions[activation].units[unit]

    def moved_join(edge: ParameterEdge | IdentityEdge) -> tuple[tuple[int, int], ...]:
        return tuple(
            (moved_unit(edge.source, i), moved_unit(edge.target, k))
            for i, k in edge.join
        )

    def moved_role(edge: ParameterEdge, role: Role) -> Role:
        activation = edge.source if role.end == "source" else edge.target
        return Role(role.end, moved_unit(activation, role.unit))

    new_parameter_edges = tuple(
        replace(
            edge,
            source=None if edge.source is None else moved(edge.source),
            target=moved(edge.target),
            roles=tuple(
                tuple(moved_role(edge, role) for role in roles) for roles in edge.roles
            ),
            join=moved_join(edge),
        )
        for edge in parameter_edges
    )
    new_identity_edges = tuple(
        replace(
            edge,
            source=moved(edge.source),
            target=moved(edge.target),
            join=moved_join(edge),
        )
        for edge in identity_edges
    )
    return Fused(
        {i: a for i, a in activations.items() if i not in fusions},
        new_parameter_edges,
        new_identity_edges,
    )
