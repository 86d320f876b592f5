"""Reading of jaxprs: equations, calls, sliding windows; independent of any analysis."""

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
    "Pooling",
    "Readers",
    "SlidingWindows",
    "Traits",
    "call_jaxpr",
    "declare_traits",
    "dtype_of",
    "live_equations",
    "outline",
    "readers_of",
    "scan_counts",
    "shape_of",
    "sliding_windows",
    "source_line",
    "traits_of",
]
