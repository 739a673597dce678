"""How right a trained network is on one part of the data: the figures.

Where each pixel has a label, every pixel counts as an example. All but `measure` are
pure functions of arrays.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnn_jax.errors import InputError
from cnn_jax.inspection.inspected_run import Subject
from cnn_jax.json_files import fits, sealed
from cnn_jax.files import write_atomically
from cnn_jax.tasks.metrics import mean_iou
from cnn_jax.workdir.folder import read_sealed

FILE = "quality.json"  # in a workdir
BINS = 15  # of the calibration curve, as in its source
SCORES = ("precision", "recall", "f1", "iou")
FORM = {"part": str, "step": int, "unit": str, "classes": [{"class": str, str: object}],
        "confusion": [[int]], "bins": ((float, float, float),) * BINS, str: object}
AGAIN = "delete it, then --mode=inspect measures again"


class Quality(NamedTuple):
    """Counts from which all figures follow."""

    part: str                     # of the data
    step: int                     # of the checkpoint
    unit: str                     # what was counted: 'image' or 'pixel'
    class_names: tuple[str, ...]  # of the rows of `confusion`
    confusion: np.ndarray         # int64 [true class, predicted class]
    # float64 [BINS, 3], by the probability of the predicted class: how many there are,
    # the sum of these probabilities, and how many are right
    bins: np.ndarray


def measure(subject: Subject) -> Quality:
    """The figures of the part of the data that a subject comes from."""
    labels = subject.examples.labels
    predicted, confidence = subject.answers
    classes = max(len(subject.class_names), int(predicted.max()) + 1)
    return Quality(
        subject.part, subject.step, "pixel" if labels.ndim > 1 else "image",
        tuple(map(subject.class_name, range(classes))),
        confusion(labels, predicted, classes),
        calibration(confidence, predicted == labels))


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """int64 [classes, classes]: examples by true and by predicted class."""
    # Imported here, as below: scikit-learn takes a second, and few modes need it.
    from sklearn.metrics import confusion_matrix
    return confusion_matrix(labels.ravel(), predicted.ravel(), labels=range(classes))


def class_scores(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Of each class: its examples, precision, recall, F1 and intersection over union.

    With tp examples of the class named so, fp others named so, and fn of the class
    named otherwise:

        precision = tp / (tp + fp)        recall = tp / (tp + fn)
        F1 = 2 tp / (2 tp + fp + fn)      IoU = tp / (tp + fp + fn)

    NaN where that is 0 / 0: nothing was named so, or the class does not occur.
    """
    from sklearn.metrics import precision_recall_fscore_support
    truth, predicted = np.indices(confusion.shape).reshape(2, -1)
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, predicted, labels=range(len(confusion)), zero_division=np.nan,
        sample_weight=confusion.ravel())
    right = np.diag(confusion).astype(np.float64)
    either = confusion.sum(0) + confusion.sum(1) - right
    iou = np.divide(right, either, out=np.full(len(right), np.nan), where=either > 0)
    return {"examples": confusion.sum(1), "precision": precision, "recall": recall,
            "f1": f1, "iou": iou}


def means(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """The mean of each score over the classes that have one (the macro average)."""
    return {name: float(np.nanmean(scores[name])) if not np.isnan(scores[name]).all()
            else float("nan") for name in SCORES}


def calibration(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """`Quality.bins` from the probability of each predicted class, and whether it is
    right. Bin b holds b / BINS < probability <= (b + 1) / BINS."""
    inner = np.arange(1, BINS) / BINS
    place = np.digitize(confidence.ravel(), inner, right=True)
    return np.stack([np.bincount(place, weights, BINS) for weights in (
        np.ones(place.size), confidence.ravel().astype(np.float64),
        right.ravel().astype(np.float64))], axis=1)


def calibration_error(bins: np.ndarray) -> float:
    """The expected calibration error: the mean over all examples of how far the share
    of right ones is from the mean probability in the bin of the example,

        ECE = sum over the bins of n_b / n * |right_b / n_b - probability_b / n_b|

    Source: Guo et al., On calibration of modern neural networks, 2017, with 15 bins.
    """
    return float(np.abs(bins[:, 2] - bins[:, 1]).sum() / bins[:, 0].sum())


def confident_mistakes(labels: np.ndarray, predicted: np.ndarray,
                       confidence: np.ndarray, count: int) -> np.ndarray:
    """Places of the wrong answers [N], the most probable first; of equal ones the
    earlier."""
    wrong = np.flatnonzero(labels != predicted)
    return wrong[np.argsort(-confidence[wrong], kind="stable")[:count]]


def image_ious(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Of each mask [N, H, W] the mean IoU over the classes that it holds or is said to
    hold."""
    classes = int(max(labels.max(), predicted.max())) + 1
    pairs = labels.astype(np.int64) * classes + predicted
    return np.array([
        mean_iou(np.bincount(pair.ravel(), minlength=classes ** 2).reshape(classes, -1))
        for pair in pairs])


def save(quality: Quality, workdir: Path) -> None:
    """Writes quality.json: the counts, and what follows from them for people."""
    scores = class_scores(quality.confusion)
    rows = [{"class": name} | {key: number(values[i]) for key, values in scores.items()}
            for i, name in enumerate(quality.class_names)]
    write_atomically(workdir / FILE, json.dumps(sealed({
        "part": quality.part, "step": quality.step, "unit": quality.unit,
        "examples": int(quality.confusion.sum()),
        "calibration_error": calibration_error(quality.bins),
        "mean": {name: number(value) for name, value in means(scores).items()},
        "classes": rows,
        "confusion": quality.confusion.tolist(),
        "bins": quality.bins.tolist()}), indent=1) + "\n")


def number(value: Any) -> int | float | None:
    """A plain JSON value; NaN is null."""
    value = value.item() if hasattr(value, "item") else value
    return None if value != value else value


def load(workdir: Path) -> Quality | None:
    """What `save` wrote; None where it has not been measured."""
    path = workdir / FILE
    if not path.exists():
        return None
    found = read_sealed(path, FORM, AGAIN)
    classes = len(found["classes"])
    if not fits(found["confusion"], ((int,) * classes,) * classes):
        raise InputError(f"{path} has no count for each pair of its {classes} classes: "
                         f"{AGAIN}")
    counts = [count for row in found["confusion"] for count in row]
    if not counts or min(counts) < 0 or not 0 < sum(counts) < 2**53 or not all(
            0 <= value < 2**53 for row in found["bins"] for value in row):
        raise InputError(f"{path} holds what are no counts of examples: {AGAIN}")
    return Quality(
        found["part"], found["step"], found["unit"],
        tuple(row["class"] for row in found["classes"]),
        np.array(found["confusion"], np.int64), np.array(found["bins"], np.float64))
