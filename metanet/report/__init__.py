"""Reports: one HTML page per run or zoo, and comparisons of runs."""

from metanet.report.card import write_card
from metanet.report.compare import Comparison, compare
from metanet.report.describe import (
    coverage_rows,
    edge_rows,
    family_rows,
    group_rows,
    node_rows,
)
from metanet.report.files import summary_rows
from metanet.report.run import write_report

__all__ = [
    "Comparison",
    "compare",
    "coverage_rows",
    "edge_rows",
    "family_rows",
    "group_rows",
    "node_rows",
    "summary_rows",
    "write_card",
    "write_report",
]
