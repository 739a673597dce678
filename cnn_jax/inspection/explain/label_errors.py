"""Finds probable label errors by confident learning.

The probabilities must be out of sample: of images that the network has not trained on.
Source: Northcutt, Jiang and Chuang, Confident learning: estimating uncertainty in
dataset labels, 2021. The errors are the examples off the diagonal of the confident
joint, ranked by normalized margin. As in the authors' cleanlab, an example whose label
is the predicted class is no error.
"""

from typing import NamedTuple

import numpy as np


class LabelErrors(NamedTuple):
    """Holds examples whose label is probably wrong, the most probable one first."""

    rows: np.ndarray       # int [errors]
    suggested: np.ndarray  # int [errors], the classes that they probably are


def class_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Computes t_j, the mean probability of class j over the examples with label j.

    labels: int [N]. probabilities: [N, C]. Returns float64 [C]; a class without labels
    has the threshold infinity.
    """
    classes = probabilities.shape[1]
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    counts = np.bincount(labels, minlength=classes)
    return np.divide(np.bincount(labels, of_label, classes), counts,
                     out=np.full(classes, np.inf), where=counts > 0)


def confident_classes(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Returns the class that the confident joint counts each example as, int [N].

    It is the most probable one of the classes j whose probability reaches t_j; -1 if
    there is none. The joint is the table of labels and these classes.
    """
    reached = probabilities >= class_thresholds(labels, probabilities)[None]
    return np.where(reached.any(1), np.where(reached, probabilities, -1).argmax(1), -1)


def normalized_margin(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Computes the probability of the label minus the largest one of another class.

    It is from -1 to 1, and negative if another class is predicted. Returns [N].
    """
    rows, others = np.arange(len(labels)), probabilities.copy()
    others[rows, labels] = -np.inf
    return probabilities[rows, labels] - others.max(1)


def find_label_errors(labels: np.ndarray, probabilities: np.ndarray) -> LabelErrors:
    """Finds the examples that confidently belong to another class than their label."""
    counted = confident_classes(labels, probabilities)
    margin = normalized_margin(labels, probabilities)
    rows = np.flatnonzero((counted >= 0) & (counted != labels) & (margin < 0))
    rows = rows[np.argsort(margin[rows], kind="stable")]
    return LabelErrors(rows, counted[rows])
