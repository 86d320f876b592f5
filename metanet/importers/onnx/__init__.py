"""ONNX files as networks.

`load_onnx` reads a file; `OPERATORS` holds the implementations of operators, to which
`operator` adds more.
"""

# These modules register operators.
from metanet.importers.onnx import (
    elementwise,
    fourier,
    layers,
    quantized,
    recurrent,
    resize,
    sequences,
    shapes,
)
from metanet.importers.onnx.operators import OPERATORS, Call, Unsupported, operator
from metanet.importers.onnx.program import load_onnx

__all__ = [
    "OPERATORS",
    "Call",
    "Unsupported",
    "elementwise",
    "fourier",
    "layers",
    "load_onnx",
    "operator",
    "quantized",
    "recurrent",
    "resize",
    "sequences",
    "shapes",
]
