"""Training: config, data order, compiled steps, checkpoints, the loop."""

from metanet.training.arguments import (
    ZOO_VARIANTS,
    parse_argument,
    read_config_file,
    section_of,
    zoo_config,
)
from metanet.training.config import (
    DataConfig,
    ExperimentConfig,
    NamedConfig,
    OptimizerConfig,
    TrainConfig,
    ZooConfig,
    from_mapping,
)
from metanet.training.experiment import Experiment, InputNetwork, Metanetwork
from metanet.training.files import (
    InputNetworks,
    read_config,
    read_inputs,
    read_result,
    read_transfers,
    write_transfer,
)
from metanet.training.loop import Interrupted, train
from metanet.training.run import Run, load_run
from metanet.training.sharding import ProcessConfig, start_processes
from metanet.training.writers import read_metrics

__all__ = [
    "ZOO_VARIANTS",
    "DataConfig",
    "Experiment",
    "ExperimentConfig",
    "InputNetwork",
    "InputNetworks",
    "Interrupted",
    "Metanetwork",
    "NamedConfig",
    "OptimizerConfig",
    "ProcessConfig",
    "Run",
    "TrainConfig",
    "ZooConfig",
    "from_mapping",
    "load_run",
    "parse_argument",
    "read_config",
    "read_config_file",
    "read_inputs",
    "read_metrics",
    "read_result",
    "read_transfers",
    "section_of",
    "start_processes",
    "train",
    "write_transfer",
    "zoo_config",
]
