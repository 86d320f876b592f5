"""Networks from elsewhere: npz, safetensors and PyTorch files."""

from metanet.importers.arrays import FORMATS, read_arrays
from metanet.importers.bind import Bound, bind

__all__ = ["FORMATS", "Bound", "bind", "read_arrays"]
