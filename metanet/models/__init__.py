"""Metanetworks and baselines: parameter graphs in, features out, one signature."""

from metanet.models.baselines import BaselineConfig, FlatMLP, StatNN
from metanet.models.build import MODELS, Model, build_model, model_config
from metanet.models.gmn import GMN, GMNConfig
from metanet.models.probes import Probe, ProbeFeatures

__all__ = [
    "GMN",
    "MODELS",
    "BaselineConfig",
    "FlatMLP",
    "GMNConfig",
    "Model",
    "Probe",
    "ProbeFeatures",
    "StatNN",
    "build_model",
    "model_config",
]
