"""Tasks: head, loss and metrics of each kind of experiment."""

from metanet.tasks.accuracy import AccuracyConfig, AccuracyPrediction
from metanet.tasks.base import TASKS, Metrics, PooledHead, Targets, Task, TaskBatch
from metanet.tasks.classification import Classification, ClassificationConfig

__all__ = [
    "TASKS",
    "AccuracyConfig",
    "AccuracyPrediction",
    "Classification",
    "ClassificationConfig",
    "Metrics",
    "PooledHead",
    "Targets",
    "Task",
    "TaskBatch",
]
