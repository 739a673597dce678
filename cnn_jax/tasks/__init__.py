"""TASKS: the kinds of labels. A new task is one file like these and a row in TASKS."""

from cnn_jax.tasks import classify, multilabel, regress, segment
from cnn_jax.tasks.losses import LOSSES
from cnn_jax.tasks.metrics import METRICS, Metric
from cnn_jax.tasks.task import Task, class_name

__all__ = ["LOSSES", "METRICS", "Metric", "TASKS", "Task"]
TASKS = {
    "classify": classify.TASK,
    "segment": segment.TASK,
    "multilabel": multilabel.TASK,
    "regress": regress.TASK,
}
