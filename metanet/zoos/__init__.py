"""Stored collections of trained networks."""

from metanet.zoos.fit import (
    FitConfig,
    fit_inrs,
    fit_networks,
    open_or_fit,
    reconstruct,
)
from metanet.zoos.gradients import error_gradient
from metanet.zoos.images import ImageSet, load_images
from metanet.zoos.info import describe
from metanet.zoos.shards import ZooTable
from metanet.zoos.splits import SPLITS, choose_images
from metanet.zoos.store import Zoo, ZooWriter, completed

__all__ = [
    "SPLITS",
    "FitConfig",
    "ImageSet",
    "Zoo",
    "ZooTable",
    "ZooWriter",
    "choose_images",
    "completed",
    "describe",
    "error_gradient",
    "fit_inrs",
    "fit_networks",
    "load_images",
    "open_or_fit",
    "reconstruct",
]
