"""Tasks: head, loss and metrics of each kind of experiment."""

from metanet.tasks.base import TASKS, Task
from metanet.tasks.classification import Classification, ClassificationConfig

__all__ = ["TASKS", "Classification", "ClassificationConfig", "Task"]
