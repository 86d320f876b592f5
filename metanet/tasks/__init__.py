"""Tasks: head, loss and metrics of each kind of experiment."""

from metanet.tasks.accuracy import AccuracyConfig, AccuracyPrediction
from metanet.tasks.base import TASKS, Metrics, PooledHead, Targets, Task, TaskBatch
from metanet.tasks.classification import Classification, ClassificationConfig
from metanet.tasks.edit import IMAGE_OPERATIONS, Edit, EditConfig

__all__ = [
    "IMAGE_OPERATIONS",
    "TASKS",
    "AccuracyConfig",
    "AccuracyPrediction",
    "Classification",
    "ClassificationConfig",
    "Edit",
    "EditConfig",
    "Metrics",
    "PooledHead",
    "Targets",
    "Task",
    "TaskBatch",
]
