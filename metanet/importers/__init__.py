"""Networks from elsewhere: ONNX; npz, safetensors and PyTorch files; modules."""

from metanet.importers.binding import Bound, bind
from metanet.importers.files import LOADERS, read_arrays
from metanet.importers.load import load_network
from metanet.importers.modules import from_module
from metanet.importers.onnx import OPERATORS, load_onnx, operator

__all__ = [
    "LOADERS",
    "OPERATORS",
    "Bound",
    "bind",
    "from_module",
    "load_network",
    "load_onnx",
    "operator",
    "read_arrays",
]
