"""Reports: one HTML page per run, and comparisons of runs."""

from metanet.report.compare import Comparison, compare
from metanet.report.files import summary_rows

__all__ = ["Comparison", "compare", "summary_rows"]
