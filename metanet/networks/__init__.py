"""Input networks that fill zoos, as pure functions of their parameters."""

from metanet.networks.architecture import (
    ARCHITECTURES,
    Architecture,
    abstract_network,
    build_module,
    create,
)
from metanet.networks.base import Network, Params, ParamSpec, functionalize
from metanet.networks.cnn import SmallCNN, VaryingCNN
from metanet.networks.inr import (
    FourierMLP,
    Siren,
    TanhINR,
    coordinate_grid,
    to_targets,
    to_unit,
)
from metanet.networks.mlp import MLP
from metanet.networks.resnet import ResNet
from metanet.networks.sequence import RowCNN, RowRNN
from metanet.networks.sets import PixelSet
from metanet.networks.sine import fast_sin, sine, sine_cosine_pi
from metanet.networks.train_mode import TrainMode, training
from metanet.networks.vit import ViT

__all__ = [
    "ARCHITECTURES",
    "MLP",
    "Architecture",
    "FourierMLP",
    "Network",
    "ParamSpec",
    "Params",
    "PixelSet",
    "TrainMode",
    "RowCNN",
    "RowRNN",
    "Siren",
    "ResNet",
    "SmallCNN",
    "VaryingCNN",
    "ViT",
    "TanhINR",
    "build_module",
    "coordinate_grid",
    "abstract_network",
    "create",
    "fast_sin",
    "functionalize",
    "sine",
    "sine_cosine_pi",
    "to_targets",
    "to_unit",
    "training",
]
