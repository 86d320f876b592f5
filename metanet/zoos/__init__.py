"""Stored collections of trained networks."""

from metanet.zoos.exporters import EXPORTERS, export
from metanet.zoos.families import (
    FAMILIES,
    DrawnArchitecture,
    Family,
    ImageShape,
    draw_architectures,
    family,
)
from metanet.zoos.fit import (
    INR_COLUMNS,
    FitConfig,
    fit_inrs,
    fit_networks,
    reconstruct,
)
from metanet.zoos.float_buffer import FloatBuffer
from metanet.zoos.gradients import error_gradient
from metanet.zoos.hyperparameters import SETTING_COLUMNS, VARIED, Hyperparameters
from metanet.zoos.images import (
    IMAGE_SETS,
    ImageFiles,
    ImageSet,
    ImageSource,
    LabelledImages,
    load_images,
)
from metanet.zoos.info import describe
from metanet.zoos.population import (
    PopulationConfig,
    train_population,
)
from metanet.zoos.recipes import Recipe, open_or_make
from metanet.zoos.shards import ZooTable
from metanet.zoos.splits import SPLITS, choose_images
from metanet.zoos.store import Zoo, ZooWriter, completed
from metanet.zoos.verification import Verification, verify

__all__ = [
    "EXPORTERS",
    "FAMILIES",
    "IMAGE_SETS",
    "INR_COLUMNS",
    "SETTING_COLUMNS",
    "SPLITS",
    "VARIED",
    "DrawnArchitecture",
    "Family",
    "FitConfig",
    "FloatBuffer",
    "Hyperparameters",
    "ImageFiles",
    "ImageSet",
    "ImageShape",
    "ImageSource",
    "LabelledImages",
    "PopulationConfig",
    "Recipe",
    "Verification",
    "Zoo",
    "ZooTable",
    "ZooWriter",
    "choose_images",
    "completed",
    "describe",
    "draw_architectures",
    "error_gradient",
    "export",
    "family",
    "fit_inrs",
    "fit_networks",
    "load_images",
    "open_or_make",
    "reconstruct",
    "train_population",
    "verify",
]
