"""Defines `Task`: what the labels of a data set mean, and what depends on it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np

Shape = tuple[int, ...]
Sums = dict[str, jax.Array]


class LabelStatistics(NamedTuple):
    """Holds mean and standard deviation of each number in the training split."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def label_statistics(labels: np.ndarray) -> LabelStatistics:
    """Measures the numbers [N, K]; a number that never changes gets std 1."""
    mean, std = labels.mean(0, np.float64), labels.std(0, np.float64)
    return LabelStatistics(tuple(mean.tolist()),
                           tuple(np.where(std > 0, std, 1.0).tolist()))


def no_sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Sums:
    """Returns no sums besides loss, correct and count."""
    return {}


def no_metrics(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns no metrics besides loss and accuracy."""
    return {}


def check_count(labels: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Returns the labels. Raises ValueError unless there is one for each image."""
    if labels.shape[:1] != images.shape[:1]:
        raise ValueError(f"there must be {len(images)}, one for each image")
    return labels


def check_classes(labels: np.ndarray, shape: Shape) -> None:
    """Raises ValueError unless labels are numbers of classes in an array of a shape."""
    if labels.shape != shape:
        raise ValueError(f"they must have the shape {shape}")
    if labels.dtype.kind not in "biuf":
        raise ValueError("they must be whole numbers from 0; np.unique(labels, "
                         "return_inverse=True) returns the names, for class_names, "
                         "and the numbers")
    if (labels != np.round(labels)).any() or labels.min() < 0:
        raise ValueError("they must be whole numbers from 0, the numbers of classes; "
                         "to predict numbers, set config.data.task=regress")


def count_classes(labels: Sequence[np.ndarray]) -> int:
    """Counts the classes that the labels of all splits need.

    Labels [N, C] have a column for each class; others hold the numbers of classes.
    """
    if labels[0].ndim == 2:
        return labels[0].shape[1]
    return 1 + int(max(split.max() for split in labels))


@dataclasses.dataclass(frozen=True)
class Task:
    """Holds everything that depends on the kind of label.

    N is the number of images, H x W their pixels, C the number of classes. Logits are
    [N, C] if each image has a label, and [N, H, W, C] if each pixel has one. All
    functions of logits are pure JAX functions.
    """

    name: str
    # What a label is for. Labels of pixels move with their image in augmentation and
    # are drawn over it.
    unit: Literal["image", "pixel"]
    # Whether each image or pixel has exactly one class, so that there is a confusion
    # matrix.
    exclusive: bool
    # Whether cutout, random erasing, mixup and cutmix may be used.
    can_mix: bool

    label_dtype: str
    # (image shape (H, W, channels), C) -> shape of the label of one image
    label_shape: Callable[[Shape, int], Shape]

    # (logits, labels, label smoothing) -> float32 [N], where config.loss.name is None.
    # It must be linear in the target, since mixup and cutmix weight two losses.
    losses: Callable[..., jax.Array]
    # (logits, labels) -> float32 [N] from 0 to 1, whose mean is the accuracy; None for
    # a task without accuracy
    correct: Callable[[jax.Array, jax.Array], jax.Array] | None

    # logits -> probabilities of the same shape
    probabilities: Callable[[jax.Array], jax.Array]
    # logits -> predicted labels
    predict: Callable[[jax.Array], jax.Array]
    # logits -> float32 [N, C], the value to show for each class of each image
    scores: Callable[[jax.Array], jax.Array]
    # (scores [C] of one image, number of classes to name) -> classes, best first; a
    # task may ignore the number
    named_classes: Callable[[np.ndarray, int], list[int]]
    # the label of one image -> the classes that it holds
    label_classes: Callable[[np.ndarray], list[int]]

    # Names of the metrics of evaluation besides loss and accuracy. Each can be
    # monitored as `val_NAME`; higher is better, unless it ends with loss or error.
    monitors: tuple[str, ...] = ()
    # (logits, labels, mask [N]) -> exact sums over the examples whose mask is 1
    extra_sums: Callable[[jax.Array, jax.Array, jax.Array], Sums] = no_sums
    # sums over a whole split -> {monitor: value}
    extra_metrics: Callable[[Mapping[str, np.ndarray]], dict[str, float]] = no_metrics
    # labels -> targets that a loss of `LOSSES` compares with the logits
    encode: Callable[[jax.Array], jax.Array] = lambda labels: labels
    # What `scores` are: probabilities of classes, fractions of pixels, or numbers in
    # the units of the labels.
    figures: Literal["probabilities", "shares", "values"] = "probabilities"
    # LabelStatistics of the training split -> this task, which predicts in the units of
    # the labels; None for classes
    standardized: Callable[[LabelStatistics], "Task"] | None = None

    # Arrays that a program passes (data/arrays.py): the name of such a set, and the
    # number of axes of labels that have this task if config.data.task does not name it;
    # None if it must be named.
    set_name: str = "arrays"
    label_axes: int | None = None
    # (labels, images) -> labels of this task. Raises ValueError: "they must be ...".
    check_labels: Callable[[np.ndarray, np.ndarray], np.ndarray] = check_count
    # labels of each split -> number of classes
    count_classes: Callable[[Sequence[np.ndarray]], int] = count_classes

    @property
    def one_class_per_image(self) -> bool:
        """Whether each image has exactly one class: a split can be stratified."""
        return self.exclusive and self.unit == "image"

    def logits_shape(self, image_shape: Shape, classes: int) -> Shape:
        """Returns the shape of the logits of one image."""
        positions = image_shape[:2] if self.unit == "pixel" else ()
        return (*positions, classes)

    def label_text(self, label: np.ndarray, class_names: Sequence[str]) -> str:
        """Names the classes of one label: 'circle, line', or 'age 41.5'."""
        if self.figures == "values":
            return ", ".join(f"{class_name(class_names, i)} {value:.4g}"
                             for i, value in enumerate(label))
        return ", ".join(
            class_name(class_names, c) for c in self.label_classes(label)) or "none"


def class_name(names: Sequence[str], index: int) -> str:
    """Names a class; a head may have more outputs than the data set has names."""
    return names[index] if index < len(names) else f"class {index}"
