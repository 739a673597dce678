"""TASKS: the kinds of labels. A new task is a file like these and a row here."""

from cnn_jax.tasks import classify, multilabel, regress, segment
from cnn_jax.tasks.task import Task, class_name

TASKS = {
    "classify": classify.TASK,
    "segment": segment.TASK,
    "multilabel": multilabel.TASK,
    "regress": regress.TASK,
}
