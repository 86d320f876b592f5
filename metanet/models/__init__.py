"""Metanetworks and baselines: parameter graphs in, features out, one signature."""

from metanet.models.base import (
    MODELS,
    Block,
    Features,
    GraphModel,
    GraphModelConfig,
    Model,
    ModelInputs,
    State,
)
from metanet.models.baselines import BaselineConfig, FlatMLP, StatNN
from metanet.models.build import build_model, model_config
from metanet.models.dmc import DMC, DMCConfig
from metanet.models.edit import EditHead
from metanet.models.functionals import Functional, FunctionalConfig
from metanet.models.gmn import GMN, GMNConfig
from metanet.models.layers import MLP, Linear, NormLinear, bf16_products
from metanet.models.ng_gnn import NGGNN, NGGNNConfig
from metanet.models.ng_t import NGT, NGTConfig
from metanet.models.probes import Probe, ProbeFeatures
from metanet.models.probing import ProbeGen, ProbeGenConfig
from metanet.models.product_gmn import ProductGMN, ProductGMNConfig
from metanet.models.scale_gmn import ScaleGMN, ScaleGMNConfig
from metanet.models.scale_product_gmn import ScaleProductGMN, ScaleProductGMNConfig
from metanet.models.sets import (
    DeepSets,
    DeepSetsConfig,
    SetTransformer,
    SetTransformerConfig,
    TokenConfig,
    TokenTransformer,
)

__all__ = [
    "BaselineConfig",
    "Block",
    "DMC",
    "DMCConfig",
    "DeepSets",
    "DeepSetsConfig",
    "EditHead",
    "Features",
    "FlatMLP",
    "Functional",
    "FunctionalConfig",
    "GMN",
    "GMNConfig",
    "GraphModel",
    "GraphModelConfig",
    "Linear",
    "MLP",
    "MODELS",
    "Model",
    "ModelInputs",
    "NGGNN",
    "NGGNNConfig",
    "NGT",
    "NGTConfig",
    "NormLinear",
    "Probe",
    "ProbeFeatures",
    "ProbeGen",
    "ProbeGenConfig",
    "ProductGMN",
    "ProductGMNConfig",
    "ScaleGMN",
    "ScaleGMNConfig",
    "ScaleProductGMN",
    "ScaleProductGMNConfig",
    "SetTransformer",
    "SetTransformerConfig",
    "StatNN",
    "State",
    "TokenConfig",
    "TokenTransformer",
    "bf16_products",
    "build_model",
    "model_config",
]
