"""Networks from elsewhere: ONNX; npz, safetensors and PyTorch files; modules."""

from metanet.importers.binding import Bound, bind
from metanet.importers.files import LOADERS, SAVERS, read_arrays
from metanet.importers.load import load_network
from metanet.importers.modules import from_module
from metanet.importers.onnx import OPERATORS, load_onnx, operator
from metanet.importers.save import save_network

__all__ = [
    "LOADERS",
    "OPERATORS",
    "SAVERS",
    "Bound",
    "bind",
    "from_module",
    "load_network",
    "load_onnx",
    "operator",
    "read_arrays",
    "save_network",
]
