"""Stored collections of trained networks."""

from metanet.zoos.export import export
from metanet.zoos.families import FAMILIES, ImageShape
from metanet.zoos.fit import (
    FitConfig,
    fit_inrs,
    fit_networks,
    reconstruct,
)
from metanet.zoos.gradients import error_gradient
from metanet.zoos.hyperparameters import SETTING_COLUMNS, VARIED, Hyperparameters
from metanet.zoos.images import ImageSet, load_images
from metanet.zoos.info import describe
from metanet.zoos.population import (
    PopulationConfig,
    train_population,
)
from metanet.zoos.recipes import Recipe, open_or_make
from metanet.zoos.shards import ZooTable
from metanet.zoos.splits import SPLITS, choose_images
from metanet.zoos.spool import Spool
from metanet.zoos.store import Zoo, ZooWriter, completed
from metanet.zoos.verify import Verification, verify

__all__ = [
    "FAMILIES",
    "SETTING_COLUMNS",
    "VARIED",
    "SPLITS",
    "FitConfig",
    "Hyperparameters",
    "PopulationConfig",
    "Spool",
    "Recipe",
    "Verification",
    "ImageSet",
    "ImageShape",
    "Zoo",
    "ZooTable",
    "ZooWriter",
    "choose_images",
    "completed",
    "describe",
    "error_gradient",
    "export",
    "fit_inrs",
    "fit_networks",
    "load_images",
    "open_or_make",
    "reconstruct",
    "train_population",
    "verify",
]
