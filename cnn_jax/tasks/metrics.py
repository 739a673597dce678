"""Computes metrics from sums over examples, and from all scores."""

from collections.abc import Mapping

import numpy as np


def mean(sums: Mapping[str, float | np.ndarray]) -> dict[str, float]:
    """Computes loss and accuracy from sums over examples, with one division."""
    count = float(sums["count"])
    return {"loss": float(sums["loss"]) / count,
            "accuracy": float(sums["correct"]) / count}


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
    last = np.append(scores[1:] != scores[:-1], True)  # of equal scores
    precision = positives[last] / (np.flatnonzero(last) + 1)
    recall = positives[last] / positives[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))
