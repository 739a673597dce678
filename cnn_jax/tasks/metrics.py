"""Computes metrics from sums over examples, and from all scores.

config.eval.metrics adds metrics of `METRICS` to those of the task. A metric is a
function (logits, labels) -> float32 [N], which is averaged over a split, or a `Metric`.
To use one of your own, name it MODULE:NAME or add it to `METRICS`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import user_code
from cnn_jax.errors import InputError
from cnn_jax.tasks.task import Sums, Task


def mean(sums: Mapping[str, float | np.ndarray]) -> dict[str, float]:
    """Computes the mean loss, and the accuracy if the task has one, from their sums."""
    count = float(sums["count"])
    names = {"loss": "loss", "correct": "accuracy"}
    return {name: float(sums[key]) / count for key, name in names.items()
            if key in sums}


def mean_iou(confusion: np.ndarray) -> float:
    """Averages |truth and prediction| / |truth or prediction| over the classes.

    confusion: pixels [true class, predicted class] of a whole split. A class that
    neither occurs nor is predicted does not count.
    """
    both = np.diag(confusion)
    either = confusion.sum(0) + confusion.sum(1) - both
    return float(np.mean(both[either > 0] / either[either > 0]))


def macro_f1(true_positives: np.ndarray, false_positives: np.ndarray,
             false_negatives: np.ndarray) -> float:
    """Averages F1 = 2 tp / (2 tp + fp + fn) over the classes; each count is [C].

    A class that neither occurs nor is predicted does not count; if none counts, the
    mean is 0.
    """
    both = 2.0 * true_positives
    total = both + false_positives + false_negatives
    counted = total > 0
    return float(np.mean(both[counted] / total[counted])) if counted.any() else 0.0


def average_precision(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Computes the average precision of each class, float64 [C].

    scores: [N, C], higher for more probable. labels: [N, C] of 0 and 1.

        AP = sum over the thresholds of (recall_k - recall_{k-1}) precision_k

    with one threshold for each distinct score, from the highest down. It is NaN for a
    class that occurs in no image.
    """
    return np.array([_average_precision(*pair) for pair in zip(scores.T, labels.T)])


def _average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Computes the average precision of one class, [N], [N]."""
    if not labels.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    scores, positives = scores[order], np.cumsum(labels[order], dtype=np.float64)
    last = np.append(scores[1:] != scores[:-1], True)  # the last of equal scores
    precision = positives[last] / (np.flatnonzero(last) + 1)
    recall = positives[last] / positives[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


class Metric(NamedTuple):
    """Defines a metric that is not a mean over examples."""

    # (logits, labels, mask [N]) -> sums over the examples whose mask is 1
    sums: Callable[[jax.Array, jax.Array, jax.Array], Sums]
    compute: Callable[[Mapping[str, np.ndarray]], float]  # sums of a split -> value


def top5_accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns 1 where the class is among the five with the largest logits, else 0.

    Of equal logits the first class counts as the larger, as in argmax.
    """
    truth = jnp.take_along_axis(logits, labels[..., None], -1)
    classes = jnp.arange(logits.shape[-1]).reshape(*[1] * labels.ndim, -1)
    first = classes < labels[..., None]
    rank = ((logits > truth) | ((logits == truth) & first)).sum(-1)
    return (rank < 5).astype(jnp.float32)


def class_counts(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Sums:
    """Counts right and wrong predictions of each class, exactly, as int32 [C].

    Each image or pixel has one class.
    """
    classes, counted = logits.shape[-1], mask.reshape(-1, *[1] * (labels.ndim - 1))
    truth, predicted = labels, logits.argmax(-1)

    def count(values: jax.Array, where: jax.Array) -> jax.Array:
        chosen = (where & (counted > 0)).astype(jnp.int32).ravel()
        return jnp.zeros(classes, jnp.int32).at[values.ravel()].add(chosen)

    return {"true_positives": count(truth, truth == predicted),
            "false_positives": count(predicted, truth != predicted),
            "false_negatives": count(truth, truth != predicted)}


def f1_of_counts(sums: Mapping[str, np.ndarray]) -> float:
    """Computes macro F1 from the sums of `class_counts`."""
    return macro_f1(sums["true_positives"], sums["false_positives"],
                    sums["false_negatives"])


METRICS: dict[str, Any] = {
    "top5_accuracy": top5_accuracy, "macro_f1": Metric(class_counts, f1_of_counts)}


def split_names(text: str | None) -> tuple[str, ...]:
    """Splits 'macro_f1, mymodule:my_metric'."""
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def metric_names(text: str | None) -> tuple[str, ...]:
    """Returns the names of the metrics of config.eval.metrics in the results."""
    return tuple(map(user_code.short_name, split_names(text)))


def find_metric(name: str, task: Task) -> Metric:
    """Finds a metric for a task. Raises ValueError if there is none."""
    if not user_code.is_reference(name):
        if name not in METRICS:
            raise ValueError(f"{name!r} is unknown: known are {', '.join(METRICS)}, "
                             "and MODULE:FUNCTION of your own")
        if not task.exclusive:
            raise ValueError(f"{name} is for one class for each image or pixel, not "
                             f"for {task.name}")
    metric = METRICS[name] if name in METRICS else user_code.load(name, object)
    if isinstance(metric, Metric):
        return metric
    if not callable(metric):
        raise ValueError(f"{name} is neither a function of (logits, labels) nor a "
                         "Metric")

    def sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Sums:
        with user_code.field_errors("eval.metrics", name):
            values = jnp.asarray(metric(logits, labels), jnp.float32)
        if values.shape[:1] != mask.shape:
            raise InputError(f"config.eval.metrics: {name} returned shape "
                             f"{values.shape} for {len(mask)} images: return a number "
                             "for each image, [N]; evaluation averages them")
        return {"total": (values.reshape(len(mask), -1).mean(1) * mask).sum(),
                "count": mask.sum()}

    return Metric(sums, lambda sums: float(sums["total"]) / float(sums["count"]))


def with_metrics(task: Task, text: str | None) -> Task:
    """Returns the task that also measures the metrics that config.eval.metrics names.
    """
    names = split_names(text)
    if not names:
        return task
    metrics = {user_code.short_name(name): find_metric(name, task) for name in names}
    taken = [name for name in metrics if name in ("loss", "accuracy", *task.monitors)]
    if taken or len(metrics) < len(names):
        raise ValueError(f"{text!r} names {taken[0] if taken else 'a metric'} twice: "
                         f"the task {task.name} already measures loss, "
                         + ", ".join(("accuracy", *task.monitors))
                         + "; name every other metric once")

    def extra_sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Sums:
        return task.extra_sums(logits, labels, mask) | {
            f"{name}.{key}": value for name, metric in metrics.items()
            for key, value in metric.sums(logits, labels, mask).items()}

    def extra_metrics(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        return task.extra_metrics(sums) | {
            name: metric.compute({key.removeprefix(f"{name}."): value
                                  for key, value in sums.items()
                                  if key.startswith(f"{name}.")})
            for name, metric in metrics.items()}

    return dataclasses.replace(task, monitors=(*task.monitors, *metrics),
                               extra_sums=extra_sums, extra_metrics=extra_metrics)
