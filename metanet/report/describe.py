"""A network's symmetry and parameter graph as table rows, the header first."""

from __future__ import annotations

from collections.abc import Iterable

from metanet.graphs import Topology
from metanet.symmetry import Symmetry

Rows = list[tuple[str, ...]]


def group_rows(symmetry: Symmetry) -> Rows:
    """Permutation groups: order, size, and the parameter axes that they permute."""
    rows: Rows = [("group", "acts on")]
    for group in symmetry.groups:
        order = f"S_{group.degree}"
        if group.linear:
            order += f" in {group.linear}({group.degree})"
        if group.copies > 1:
            order += f" ^ {group.copies}"
        rows.append((order, _join(symmetry.axes_of(group.indices))))
    return rows


def family_rows(symmetry: Symmetry) -> Rows:
    """Factors that units can take: kind, number of units, and how weights follow."""
    rows: Rows = [("kind", "units", "acts on")]
    for scaling_group in symmetry.scaling_groups:
        powers = []
        for exponent in scaling_group.exponents:
            path = symmetry.leaves[exponent.leaf].path
            sign = "" if exponent.power == 1 else f" ^ {exponent.power}"
            powers.append(f"{path}[{exponent.position.axis}]{sign}")
        for shift in scaling_group.shifts:
            path = symmetry.leaves[shift.leaf].path
            powers.append(f"{path} + {shift.amount:.4g} k")
        size = str(symmetry.indices[scaling_group.axis_index].size)
        rows.append((scaling_group.kind, size, _join(dict.fromkeys(powers))))
    return rows


def _join(parts: Iterable[str], most: int = 8) -> str:
    """Names in a row; of many the first ones and how many more."""
    listed = list(parts)
    more = [f"and {len(listed) - most} more"] if len(listed) > most + 1 else []
    return ", ".join([*listed[: most if more else None], *more]) or "-"


def coverage_rows(symmetry: Symmetry) -> Rows:
    """Returns the share of parameters with a symmetry, and the reasons for the rest."""
    coverage = symmetry.coverage()
    share = f"{100 * coverage.share:.1f} % of {coverage.parameters:,} parameters"
    rows: Rows = [("coverage", ""), ("some symmetry acts on", share)]
    reasons: dict[str, int] = {}
    for reason, count in coverage.pinned.items():
        kind = reason.split(" at ")[0]  # the line is for `explain`
        reasons[kind] = reasons.get(kind, 0) + count
    for reason, count in sorted(reasons.items()):
        what = "index" if count == 1 else "indices"
        rows.append((f"pinned: {reason}", f"{count} {what}"))
    for primitive, where in sorted(coverage.unknown.items()):
        axes = _join(coverage.pinned_by_unknown[primitive])
        rows.append((f"no rule for {primitive}", f"{where}; pinned: {axes}"))
    return rows


def node_rows(topology: Topology) -> Rows:
    """Node sets of a topology."""
    rows: Rows = [
        ("nodes", "size", "kind", "depth", "identified", "symmetry", "read through")
    ]
    for node in topology.nodes:
        identified = "yes" if node.identified else "no"
        row = (node.name, str(node.size), node.kind, str(node.depth), identified)
        rows.append((*row, node.symmetry, _join(node.nonlinearity)))
    return rows


def edge_rows(topology: Topology) -> Rows:
    """Edge sets and joins of a topology."""
    rows: Rows = [("edges", "kind", "from", "to", "block", "read through")]
    for edge in topology.edges:
        source = "-" if edge.source is None else topology.nodes[edge.source].name
        block = " x ".join(str(n) for n in edge.shape)
        target = topology.nodes[edge.target].name
        rows.append((edge.name, edge.kind, source, target, block, _join(edge.chain)))
    for join in topology.identity_edges:
        source, target = topology.nodes[join.source], topology.nodes[join.target]
        rows.append(
            ("-", join.kind, source.name, target.name, "identity", _join(join.chain))
        )
    return rows
