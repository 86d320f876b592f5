"""Training: config, data order, compiled steps, checkpoints, the loop."""

from metanet.training.arguments import parse_argument
from metanet.training.config import (
    ExperimentConfig,
    NamedConfig,
    OptimizerConfig,
    TrainConfig,
    ZooConfig,
)
from metanet.training.experiment import Experiment, Metanetwork
from metanet.training.files import read_config, read_result
from metanet.training.loop import Interrupted, train
from metanet.training.run import Run, load_run
from metanet.training.sharding import ProcessConfig, start_processes
from metanet.training.writers import read_metrics

__all__ = [
    "Experiment",
    "ExperimentConfig",
    "Interrupted",
    "Metanetwork",
    "NamedConfig",
    "OptimizerConfig",
    "ProcessConfig",
    "Run",
    "TrainConfig",
    "ZooConfig",
    "load_run",
    "parse_argument",
    "read_config",
    "read_metrics",
    "read_result",
    "start_processes",
    "train",
]
