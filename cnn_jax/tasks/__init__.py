"""TASKS: the kinds of labels. A new task is one file like these and a row in TASKS."""

import numpy as np

from cnn_jax import user_code
from cnn_jax.errors import InputError
from cnn_jax.tasks import classify, multilabel, regress, segment
from cnn_jax.tasks.losses import LOSSES
from cnn_jax.tasks.metrics import METRICS, Metric
from cnn_jax.tasks.task import Task, class_name

__all__ = ["LOSSES", "METRICS", "Metric", "TASKS", "Task"]
TASKS = {task.name: task for task in (
    classify.TASK, segment.TASK, multilabel.TASK, regress.TASK)}


def find_task(name: str) -> Task:
    """Finds the task that config.data.task names. Raises InputError for others."""
    if not user_code.is_reference(name) and name not in TASKS:
        raise InputError(f"config.data.task is {name!r}; known are {', '.join(TASKS)}, "
                         "and MODULE:TASK of your own")
    try:
        return user_code.find(TASKS, name, Task)
    except ValueError as error:
        raise InputError(f"config.data.task = {error}") from error


def infer_task(labels: np.ndarray) -> Task:
    """Infers the task of labels from their number of axes; [N, 1] counts as [N].

    Raises ValueError if there is none.
    """
    axes = 1 if labels.shape[1:] == (1,) else labels.ndim
    for task in TASKS.values():
        if task.label_axes == axes:
            return task
    raise ValueError("they must be [N] for classes, [N, classes] for several classes "
                     "for each image, or [N, height, width] for a class for each pixel")
