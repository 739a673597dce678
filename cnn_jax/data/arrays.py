"""Takes arrays of a program as a set: training.run(config, data=(images, labels)).

The task follows from the shape of the labels, and data.name names it:

    arrays               labels int [N], or [N, 1]: one class for each image
    arrays_multilabel    labels [N, C] of 0 and 1: any number of the C classes
    arrays_segmentation  labels int [N, H, W]: a class for each pixel
    arrays_regression    labels float [N] or [N, K], with data.task=regress

With data.task=MODULE:TASK, your own task defines the labels.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cnn_jax import own
from cnn_jax.data.examples import Dataset, Examples, Stored
from cnn_jax.errors import InputError
from cnn_jax.tasks import TASKS, Task

# (images, labels), or a mapping with 'train', and 'validation', 'test' and
# 'class_names' if they exist, or a set that `data.load` has made
Arrays = tuple[Any, Any] | Mapping[str, Any] | Dataset
# (split, labels, images) -> labels, or InputError
CheckLabels = Callable[[str, np.ndarray, np.ndarray], np.ndarray]
TASK_OF = {"arrays": "classify", "arrays_multilabel": "multilabel",
           "arrays_segmentation": "segment", "arrays_regression": "regress"}
_KEYS = ("train", "validation", "test", "class_names")
_NAME_OF_RANK = {1: "arrays", 2: "arrays_multilabel", 3: "arrays_segmentation"}


def refuse(config: ConfigDict) -> Stored:
    """Raises InputError: a set of arrays cannot be read again."""
    raise InputError(
        f"data.name is {config.name}: its arrays are nowhere on disk. Pass them to "
        "training.run(config, workdir, data=...); --mode=predict and serve need none, "
        "and docs/howto/your_code.md says how to evaluate and inspect it in Python")


def stored(arrays: Arrays, task_name: str | None = None) -> tuple[str, Stored]:
    """Checks arrays; returns the name of their kind of set, and the set.

    Images are uint8 [N, H, W, C] with C = 1 or 3, or [N, H, W]. Raises an InputError
    that says what to change for all others.

    task_name: config.data.task.
    """
    splits_and_names = _as_mapping(arrays)
    check_labels = _labels
    if task_name == "regress":
        check_labels = _numbers
    elif own.is_own(task_name):
        check_labels = _any_labels
    splits = {name: _examples(name, value, check_labels)
              for name, value in splits_and_names.items()
              if name != "class_names" and value is not None}
    shapes = {examples.images.shape[1:] for examples in splits.values()}
    ranks = {examples.labels.ndim for examples in splits.values()}
    if len(shapes) > 1 or len(ranks) > 1:
        raise InputError("data: all splits must have images and labels of the same "
                         "shape, not " + ", ".join(
                             f"{name} {examples.images.shape} and "
                             f"{examples.labels.shape}"
                             for name, examples in splits.items()))
    name = ("arrays_regression" if task_name == "regress"
            else _NAME_OF_RANK.get(ranks.pop(), "arrays"))
    task = TASKS[TASK_OF[name]]
    if own.is_own(task_name):
        task = own.load(str(task_name), Task)
    if name == "arrays_multilabel" and task_name is None:
        _check_not_one_hot(splits.values())
    count, largest = _count_classes(splits, task)
    if task.name == "classify" and not splits_and_names.get("class_names"):
        _check_no_gap(splits["train"].labels, count)
    names = tuple(map(str, splits_and_names.get("class_names") or range(count)))
    if len(names) < count:
        raise InputError(f"data: {len(names)} class_names were given, but the largest "
                         f"label is {largest}: give a name for each class from 0")
    splits = {split: examples._replace(labels=examples.labels.astype(task.label_dtype))
              for split, examples in splits.items()}
    return name, Stored(splits, names, "arrays of the program")


def _as_mapping(arrays: Arrays) -> Mapping[str, Any]:
    if isinstance(arrays, Dataset):
        return {split: getattr(arrays, split) for split in _KEYS[:3]
                if len(getattr(arrays, split).labels)} | {
                    "class_names": arrays.class_names}
    if isinstance(arrays, Mapping):
        unknown = [key for key in arrays if key not in _KEYS]
        if unknown or arrays.get("train") is None:
            raise InputError(
                f"data has the keys {', '.join(map(str, arrays))}: it must have "
                f"'train', and may have {', '.join(_KEYS[1:])}")
        return arrays
    return {"train": arrays}


def _examples(split: str, pair: Any, check_labels: CheckLabels) -> Examples:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise InputError(f"data: {split} must be (images, labels), not "
                         f"{type(pair).__name__}")
    images, labels = map(np.asarray, pair)
    title = f"data: the images of {split} are {images.dtype} {images.shape}"
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
        raise InputError(f"{title}: they must be [N, height, width, channels] with 1 "
                         "or 3 channels, or [N, height, width]")
    low, high = images.min(), images.max()
    if not np.issubdtype(images.dtype, np.integer) or low < 0 or high > 255:
        scaled = np.issubdtype(images.dtype, np.floating) and 0 <= low <= high <= 1
        raise InputError(
            f"{title} from {low:g} to {high:g}: they must be whole numbers from 0 to "
            "255, which training scales itself (data.scaling)"
            + "; use np.uint8(np.round(255 * images))" * bool(scaled))
    return Examples(images.astype(np.uint8, copy=False),
                    check_labels(split, labels, images))


def _numbers(split: str, labels: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Checks the numbers to predict, and returns them as [N, K]."""
    labels = labels[:, None] if labels.ndim == 1 else labels
    if labels.ndim != 2 or len(labels) != len(images) or not (
            np.issubdtype(labels.dtype, np.number) and np.isfinite(labels).all()):
        raise InputError(f"data: the labels of {split} are {labels.dtype} "
                         f"{labels.shape}: for data.task=regress they must be finite "
                         f"numbers [{len(images)}] or [{len(images)}, numbers]")
    return labels


def _any_labels(split: str, labels: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Checks that there is a label for each image; the task checks their shape."""
    if labels.shape[:1] != images.shape[:1]:
        raise InputError(f"data: the labels of {split} are {labels.dtype} "
                         f"{labels.shape}, but there are {len(images)} images")
    return labels


def _labels(split: str, labels: np.ndarray, images: np.ndarray) -> np.ndarray:
    title = f"data: the labels of {split} are {labels.dtype} {labels.shape}"
    if labels.ndim == 2 and labels.shape[1] == 1:  # like Keras's labels of CIFAR-10
        labels = labels[:, 0]
    fits = (labels.shape[:1] == images.shape[:1]
            and (labels.ndim in (1, 2) or labels.shape == images.shape[:3]))
    if not fits:
        raise InputError(f"{title}, but the images are {images.shape}: labels must be "
                         "[N] for classes, [N, classes] for several classes per image, "
                         "or [N, height, width] for a class for each pixel")
    integral = np.issubdtype(labels.dtype, np.integer) or labels.dtype == bool
    if not integral and np.issubdtype(labels.dtype, np.floating):
        integral = bool((labels == np.round(labels)).all())
    if not integral or labels.min() < 0:
        raise InputError(f"{title}: they must be whole numbers from 0, the numbers of "
                         "classes; to predict numbers, set config.data.task=regress")
    if labels.ndim == 2 and labels.max() > 1:
        raise InputError(f"{title} with values up to {labels.max():g}: labels of "
                         "several classes per image must be 0 or 1")
    return labels


def _check_no_gap(labels: np.ndarray, count: int) -> None:
    """Raises InputError for a class without a training image."""
    missing = np.setdiff1d(np.arange(count), labels)
    if missing.size:
        raise InputError(
            f"data: no image of train has the label {missing[0]}, and the largest "
            f"label is {count - 1}: labels must count from 0 without a gap. Use "
            "np.unique(labels, return_inverse=True)[1], or give class_names")


def _check_not_one_hot(splits: Iterable[Examples]) -> None:
    """Raises InputError if each row has a single 1, which is one class for each image.
    """
    if all((examples.labels.sum(1) == 1).all() for examples in splits):
        raise InputError("data: the labels are one-hot: pass labels.argmax(1), or set "
                         "config.data.task=multilabel, where an image may show "
                         "several classes")


def conversion(stored: Stored, image_shape: tuple[int, int, int]) -> str | None:
    """Returns a warning if training converts the arrays to another shape, else None.

    image_shape: (height, width, channels) in training.
    """
    images = stored.splits["train"].images
    if images.shape[1:] == image_shape:
        return None
    before, after = (" x ".join(map(str, shape))
                     for shape in (images.shape[1:], image_shape))
    return (f"the arrays have images of {before}, and training converts them "
            f"to {after}; config.data.image_size = None and config.data.channels = "
            "None keep them as they are")


def _count_classes(splits: Mapping[str, Examples], task: Task) -> tuple[int, int]:
    """Returns the number of classes that the labels need, and the largest label."""
    if task.name in ("multilabel", "regress"):
        count = {examples.labels.shape[1] for examples in splits.values()}
        if len(count) > 1:
            raise InputError("data: the splits have labels of different numbers of "
                             f"columns: {sorted(count)}")
        return max(count), max(count) - 1
    largest = int(max(examples.labels.max() for examples in splits.values()))
    return largest + 1, largest
