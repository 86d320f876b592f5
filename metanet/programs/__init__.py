"""Reading and evaluation of jaxprs, independent of any analysis."""

from metanet.programs.jaxprs import (
    Readers,
    call_jaxpr,
    dtype_of,
    live_equations,
    outline,
    readers_of,
    scan_counts,
    shape_of,
    source_line,
)
from metanet.programs.lookups import lookup_sizes
from metanet.programs.precision import DoublePrecision, double_dtype
from metanet.programs.primitives import (
    CONTINUOUS_ACTIVATIONS,
    NAMED_ACTIVATIONS,
    PRIMITIVES,
    Pooling,
    Traits,
    declare_traits,
    traits_of,
)
from metanet.programs.windows import SlidingWindows, sliding_windows

__all__ = [
    "CONTINUOUS_ACTIVATIONS",
    "NAMED_ACTIVATIONS",
    "PRIMITIVES",
    "DoublePrecision",
    "Pooling",
    "Readers",
    "SlidingWindows",
    "Traits",
    "call_jaxpr",
    "declare_traits",
    "double_dtype",
    "dtype_of",
    "live_equations",
    "lookup_sizes",
    "outline",
    "readers_of",
    "scan_counts",
    "shape_of",
    "sliding_windows",
    "source_line",
    "traits_of",
]
