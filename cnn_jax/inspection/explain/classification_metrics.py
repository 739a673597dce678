"""Measures how well a trained network classifies one split of the data.

If each pixel has a label, every pixel is an example. All functions except `save` and
`load` are pure functions of arrays.
"""

from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from cnn_jax.files import read_json, write_json
from cnn_jax.tasks.metrics import average_precision, mean_iou

FILE = "classification_metrics.json"  # in a workdir
BINS = 15  # of the calibration curve, as in its source
FILE_SCORES = ("precision", "recall", "f1", "iou", "average_precision")


class ClassificationMetrics(NamedTuple):
    """Holds the counts that all scores are computed from."""

    split: str                    # of the data
    step: int                     # of the checkpoint
    unit: str                     # what was counted: 'image' or 'pixel'
    class_names: tuple[str, ...]
    examples: int                 # number of images or pixels
    correct: int                  # examples without a wrong class
    # int64 [classes, 3]: true positives, false positives, false negatives
    counts: np.ndarray
    # float64 [BINS, 3] by predicted probability: number of predictions, sum of their
    # probabilities, number of correct ones
    bins: np.ndarray
    # int64 [true class, predicted class]; None if an example may have several classes
    confusion: np.ndarray | None = None
    # float64 [classes]; None if an example has exactly one class
    average_precision: np.ndarray | None = None


def measure(labels: np.ndarray, predicted: np.ndarray, probability: np.ndarray,
            class_names: tuple[str, ...], split: str, step: int,
            unit: str) -> ClassificationMetrics:
    """Measures predictions of one class for each example.

    labels, predicted: classes; probability: of the predicted class; all of one shape.
    """
    table = confusion(labels, predicted, len(class_names))
    true_positives = np.diag(table)
    counts = np.stack([true_positives, table.sum(0) - true_positives,
                       table.sum(1) - true_positives], axis=1)
    return ClassificationMetrics(
        split, step, unit, class_names, int(table.sum()), int(true_positives.sum()),
        counts, calibration(probability, predicted == labels), confusion=table)


def measure_multilabel(labels: np.ndarray, predicted: np.ndarray,
                       probability: np.ndarray, class_names: tuple[str, ...],
                       split: str, step: int) -> ClassificationMetrics:
    """Measures predictions of any number of classes for each image.

    labels, predicted: [N, classes] of 0 and 1; probability: that a class is present.
    The calibration counts every class of every image.
    """
    truth, named = labels > 0, predicted > 0
    counts = np.stack([(truth & named).sum(0), (~truth & named).sum(0),
                       (truth & ~named).sum(0)], axis=1)
    return ClassificationMetrics(
        split, step, "image", class_names, len(labels),
        int((truth == named).all(1).sum()), counts, calibration(probability, truth),
        average_precision=average_precision(probability, labels))


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts examples by true and by predicted class, int64 [classes, classes]."""
    pairs = labels.astype(np.int64).ravel() * classes + predicted.ravel()
    return np.bincount(pairs, minlength=classes ** 2).reshape(classes, classes)


def class_scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Computes examples, precision, recall, F1 and IoU of each class.

    Of tp examples, both truth and prediction are the class; of fp, only the prediction;
    of fn, only the truth.

        precision = tp / (tp + fp)        recall = tp / (tp + fn)
        F1 = 2 tp / (2 tp + fp + fn)      IoU = tp / (tp + fp + fn)

    A score is NaN for 0 / 0: the class is never predicted, or does not occur.
    """
    tp, fp, fn = counts.astype(np.float64).T

    def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
        return np.divide(above, below, out=np.full(len(tp), np.nan), where=below > 0)

    return {"examples": counts[:, 0] + counts[:, 2], "precision": ratio(tp, tp + fp),
            "recall": ratio(tp, tp + fn), "f1": ratio(2 * tp, 2 * tp + fp + fn),
            "iou": ratio(tp, tp + fp + fn)}


def mean_known(values: np.ndarray) -> float:
    """Averages the values that are not NaN (the macro average); NaN for none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def calibration(probability: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Computes `ClassificationMetrics.bins`.

    Bin b holds b / BINS < probability <= (b + 1) / BINS.
    """
    inner = np.arange(1, BINS) / BINS
    index = np.digitize(probability.ravel(), inner, right=True)
    return np.stack([np.bincount(index, weights, BINS) for weights in (
        np.ones(index.size), probability.ravel().astype(np.float64),
        correct.ravel().astype(np.float64))], axis=1)


def calibration_error(bins: np.ndarray) -> float:
    """Computes the expected calibration error (ECE).

    It is the mean over all predictions of the distance between the accuracy and the
    mean probability of their bin,

        ECE = sum over the bins of n_b / n * |correct_b / n_b - probability_b / n_b|

    Source: Guo et al., On calibration of modern neural networks, 2017, with 15 bins.
    """
    return float(np.abs(bins[:, 2] - bins[:, 1]).sum() / bins[:, 0].sum())


def confident_mistakes(correct: np.ndarray, confidence: np.ndarray,
                       count: int) -> np.ndarray:
    """Returns indices of wrong predictions: the most confident first, ties in order.
    """
    wrong = np.flatnonzero(~correct)
    return wrong[np.argsort(-confidence[wrong], kind="stable")[:count]]


def image_ious(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Computes the mean IoU of each mask [N, H, W].

    The mean is over the classes in the mask or in its prediction.
    """
    classes = int(max(labels.max(), predicted.max())) + 1
    return np.array([mean_iou(confusion(truth, named, classes))
                     for truth, named in zip(labels, predicted)])


class ClassRow(msgspec.Struct, rename={"name": "class"}):
    """Holds the scores of one class in the file; None for 0 / 0."""

    name: str
    examples: int
    true_positives: int
    false_positives: int
    false_negatives: int
    precision: float | None
    recall: float | None
    f1: float | None
    iou: float | None
    average_precision: float | None


class MetricsFile(msgspec.Struct):
    """Holds the content of classification_metrics.json."""

    split: str
    step: int
    unit: str
    examples: int
    correct: int
    calibration_error: float
    mean: dict[str, float | None]  # over the classes
    classes: list[ClassRow]
    confusion: list[list[int]] | None
    bins: list[tuple[float, float, float]]


def save(metrics: ClassificationMetrics, workdir: Path) -> None:
    """Writes the counts and the scores that follow from them."""
    scores = class_scores(metrics.counts)
    scores["average_precision"] = (
        np.full(len(metrics.counts), np.nan) if metrics.average_precision is None
        else metrics.average_precision)
    rows = [ClassRow(name, int(scores["examples"][i]), *map(int, metrics.counts[i]),
                     *(number(scores[key][i]) for key in FILE_SCORES))
            for i, name in enumerate(metrics.class_names)]
    write_json(workdir / FILE, MetricsFile(
        metrics.split, metrics.step, metrics.unit, metrics.examples, metrics.correct,
        calibration_error(metrics.bins),
        {name: number(mean_known(scores[name])) for name in FILE_SCORES}, rows,
        None if metrics.confusion is None else metrics.confusion.tolist(),
        metrics.bins.tolist()))


def number(value: float) -> float | None:
    """Makes a plain float; NaN becomes None, since JSON has no NaN."""
    return None if np.isnan(value) else float(value)


def load(workdir: Path) -> MetricsFile | None:
    """Reads what `save` wrote; None if nothing has been measured."""
    return (read_json(workdir / FILE, MetricsFile,
                      "delete it, then --mode=inspect measures again")
            if (workdir / FILE).exists() else None)
