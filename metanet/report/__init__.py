"""Reports: one HTML page per run or zoo, and comparisons of runs."""

from metanet.report import page
from metanet.report.accuracy import accuracy_sections
from metanet.report.card import write_card
from metanet.report.comparison import Comparison, compare
from metanet.report.describe import (
    coverage_rows,
    edge_rows,
    family_rows,
    group_rows,
    node_rows,
)
from metanet.report.edit import edit_sections
from metanet.report.files import summary_rows
from metanet.report.page import Markup
from metanet.report.run import write_report
from metanet.report.sections import SECTIONS, ReportInputs

__all__ = [
    "SECTIONS",
    "Comparison",
    "Markup",
    "ReportInputs",
    "accuracy_sections",
    "compare",
    "coverage_rows",
    "edge_rows",
    "edit_sections",
    "family_rows",
    "group_rows",
    "node_rows",
    "page",
    "summary_rows",
    "write_card",
    "write_report",
]
