"""Training: config, data order, compiled steps, checkpoints, the loop."""

from metanet.training.arguments import (
    experiment_config,
    find_config_file,
    parse_argument,
    read_config_file,
    section_of,
    to_config_dict,
)
from metanet.training.config import (
    DataConfig,
    ExperimentConfig,
    NamedConfig,
    OptimizerConfig,
    TrainConfig,
    ZooConfig,
)
from metanet.training.experiment import Experiment, InputArchitecture, Metanetwork
from metanet.training.io import (
    RunInputs,
    RunResult,
    read_config,
    read_inputs,
    read_result,
    read_transfers,
    write_transfer,
)
from metanet.training.loop import Interrupted, train
from metanet.training.run import Run, load_run
from metanet.training.sharding import ProcessConfig, start_processes
from metanet.training.sweep import SweepConfig, Trial, experiment_of, run_sweep, trials
from metanet.training.writers import read_metrics

__all__ = [
    "DataConfig",
    "Experiment",
    "ExperimentConfig",
    "InputArchitecture",
    "Interrupted",
    "Metanetwork",
    "NamedConfig",
    "OptimizerConfig",
    "ProcessConfig",
    "Run",
    "SweepConfig",
    "Trial",
    "RunInputs",
    "RunResult",
    "TrainConfig",
    "ZooConfig",
    "experiment_config",
    "find_config_file",
    "experiment_of",
    "load_run",
    "parse_argument",
    "read_config",
    "read_config_file",
    "read_inputs",
    "read_metrics",
    "read_result",
    "read_transfers",
    "run_sweep",
    "section_of",
    "start_processes",
    "to_config_dict",
    "train",
    "trials",
    "write_transfer",
]
