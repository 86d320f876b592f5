"""Networks from elsewhere: ONNX; npz, safetensors and PyTorch files; modules."""

from metanet.importers.arrays import FORMATS, read_arrays
from metanet.importers.bind import Bound, bind
from metanet.importers.load import load
from metanet.importers.modules import from_module

__all__ = ["FORMATS", "Bound", "bind", "from_module", "load", "read_arrays"]
