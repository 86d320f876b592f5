"""Stored collections of trained networks."""

from metanet.zoos.fit import FitConfig, fit_inrs, open_or_fit, reconstruct
from metanet.zoos.images import ImageSet, load_images
from metanet.zoos.info import describe
from metanet.zoos.splits import SPLITS
from metanet.zoos.store import Zoo, ZooTable, ZooWriter, write_file

__all__ = [
    "SPLITS",
    "FitConfig",
    "ImageSet",
    "Zoo",
    "ZooTable",
    "ZooWriter",
    "describe",
    "fit_inrs",
    "load_images",
    "open_or_fit",
    "reconstruct",
    "write_file",
]
