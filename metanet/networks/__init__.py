"""Input networks that fill zoos, as pure functions of their parameters."""

from metanet.networks.architecture import (
    ARCHITECTURES,
    Architecture,
    CoordinateNetwork,
    ImageNetwork,
    InputNetwork,
    abstract_network,
    build_module,
    create,
)
from metanet.networks.cnn import SmallCNN, VaryingCNN
from metanet.networks.fast_sine import fast_sin, sine, sine_cosine_pi
from metanet.networks.inr import (
    FourierMLP,
    Siren,
    TanhINR,
    coordinate_grid,
    to_targets,
    to_unit,
)
from metanet.networks.layers import (
    ACTIVATIONS,
    TrainMode,
    activation,
    channel_dropout,
    convolve,
    normalization,
    train_mode,
)
from metanet.networks.mlp import MLP
from metanet.networks.network import (
    Network,
    Params,
    ParamSpec,
    functionalize,
    with_real_params,
)
from metanet.networks.pixel_set import PixelSet
from metanet.networks.resnet import ResNet
from metanet.networks.rows import RowCNN, RowRNN
from metanet.networks.vit import ViT

__all__ = [
    "ACTIVATIONS",
    "ARCHITECTURES",
    "MLP",
    "Architecture",
    "CoordinateNetwork",
    "FourierMLP",
    "ImageNetwork",
    "InputNetwork",
    "Network",
    "ParamSpec",
    "Params",
    "PixelSet",
    "ResNet",
    "RowCNN",
    "RowRNN",
    "Siren",
    "SmallCNN",
    "TanhINR",
    "TrainMode",
    "VaryingCNN",
    "ViT",
    "abstract_network",
    "activation",
    "build_module",
    "channel_dropout",
    "convolve",
    "coordinate_grid",
    "create",
    "fast_sin",
    "functionalize",
    "normalization",
    "sine",
    "sine_cosine_pi",
    "to_targets",
    "to_unit",
    "train_mode",
    "with_real_params",
]
