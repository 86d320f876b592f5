"""A network's symmetry and parameter graph as table rows, the header first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from metanet.graphs.topology import Topology

Rows = list[tuple[str, ...]]


def _places(symmetry: Any, atoms: Sequence[int]) -> str:
    """Where the atoms stand: "layers/0/kernel[1], layers/0/bias[0]"."""
    found: dict[str, None] = {}
    for tile in symmetry.tiles:
        axes = [
            str(p.axis)
            for p, atom in zip(tile.positions, tile.atoms, strict=True)
            if atom in atoms
        ]
        if axes:
            path = symmetry.leaves[tile.leaf].path
            found[f"{path}[{','.join(dict.fromkeys(axes))}]"] = None
    return ", ".join(found)


def group_rows(symmetry: Any) -> Rows:
    """Permutation groups: order, size, and the parameter axes that they permute."""
    rows: Rows = [("group", "acts on")]
    for group in symmetry.groups:
        order = f"S_{group.degree}"
        if group.copies > 1:
            order += f" ^ {group.copies}"
        rows.append((order, _places(symmetry, group.atoms)))
    return rows


def family_rows(symmetry: Any) -> Rows:
    """Factors that units can take: kind, number of units, and how weights follow."""
    rows: Rows = [("kind", "units", "acts on")]
    for family in symmetry.families:
        powers = []
        for exponent in family.exponents:
            path = symmetry.leaves[exponent.leaf].path
            sign = "" if exponent.power == 1 else f" ^ {exponent.power}"
            powers.append(f"{path}[{exponent.position.axis}]{sign}")
        for shift in family.shifts:
            path = symmetry.leaves[shift.leaf].path
            powers.append(f"{path} + {shift.amount:.4g} k")
        size = str(symmetry.atoms[family.atom].size)
        rows.append((family.kind, size, ", ".join(dict.fromkeys(powers))))
    return rows


def _join(parts: Iterable[str]) -> str:
    return ", ".join(parts) or "-"


def node_rows(topology: Topology) -> Rows:
    """Node sets of a topology."""
    header = (
        "nodes",
        "size",
        "kind",
        "depth",
        "identified",
        "symmetry",
        "read through",
    )
    return [header] + [
        (
            node.name,
            str(node.size),
            node.kind,
            str(node.depth),
            "yes" if node.identified else "no",
            node.symmetry,
            _join(node.activation),
        )
        for node in topology.nodes
    ]


def edge_rows(topology: Topology) -> Rows:
    """Edge sets and joins of a topology."""
    rows: Rows = [("edges", "kind", "from", "to", "block", "read through")]
    for edge in topology.edges:
        source = "-" if edge.source is None else topology.nodes[edge.source].name
        block = " x ".join(str(n) for n in edge.shape)
        target = topology.nodes[edge.target].name
        rows.append((edge.name, edge.kind, source, target, block, _join(edge.chain)))
    for join in topology.joins:
        source, target = topology.nodes[join.source], topology.nodes[join.target]
        rows.append(
            ("-", join.kind, source.name, target.name, "identity", _join(join.chain))
        )
    return rows
