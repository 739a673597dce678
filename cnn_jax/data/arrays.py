"""Takes arrays of a program as a set: training.run(config, data=(images, labels)).

The task follows from the shape of the labels, and data.name names it:

    arrays               labels int [N], or [N, 1]: one class for each image
    arrays_multilabel    labels [N, C] of 0 and 1: any number of the C classes
    arrays_segmentation  labels int [N, H, W]: a class for each pixel
    arrays_regression    labels float [N] or [N, K], with data.task=regress

With data.task=MODULE:TASK, your own task defines the labels.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cnn_jax.data.examples import Dataset, Examples, Stored
from cnn_jax.errors import InputError
from cnn_jax.tasks import Task, find_task, infer_task

# (images, labels), or a mapping with 'train', and 'validation', 'test' and
# 'class_names' if they exist, or a set that `data.load` has made
Arrays = tuple[Any, Any] | Mapping[str, Any] | Dataset
_KEYS = ("train", "validation", "test", "class_names")


def refuse(config: ConfigDict) -> Stored:
    """Raises InputError: a set of arrays cannot be read again."""
    raise InputError(
        f"data.name is {config.name}: its arrays are nowhere on disk. Pass them to "
        "training.run(config, workdir, data=...); --mode=predict and serve need none, "
        "and docs/howto/your_code.md says how to evaluate and inspect it in Python")


def stored(arrays: Arrays, task_name: str | None = None) -> tuple[Task, Stored]:
    """Checks arrays; returns their task and the set.

    Images are uint8 [N, H, W, C] with C = 1 or 3, or [N, H, W]. Raises an InputError
    that says what to change for all others.

    task_name: config.data.task.
    """
    given = _as_mapping(arrays)
    splits = {name: _examples(name, value) for name, value in given.items()
              if name != "class_names" and value is not None}
    if task_name is None:
        with _refused_labels("train", splits["train"]):
            task = infer_task(splits["train"].labels)
    else:
        task = find_task(task_name)
    for name, examples in splits.items():
        with _refused_labels(name, examples):
            splits[name] = examples._replace(
                labels=task.check_labels(examples.labels, examples.images))
    if len({(images.shape[1:], labels.shape[1:])
            for images, labels in splits.values()}) > 1:
        raise InputError("data: all splits must have images and labels of the same "
                         "shape, not " + ", ".join(
                             f"{name} {images.shape} and {labels.shape}"
                             for name, (images, labels) in splits.items()))
    if task_name is None and not task.exclusive:
        _check_not_one_hot(splits.values())
    count = task.count_classes([examples.labels for examples in splits.values()])
    if task.one_class_per_image and not given.get("class_names"):
        _check_no_gap(splits["train"].labels, count)
    names = tuple(map(str, given.get("class_names") or range(count)))
    if len(names) < count:
        raise InputError(f"data: {len(names)} class_names were given, but the largest "
                         f"label is {count - 1}: give a name for each class from 0")
    splits = {split: examples._replace(labels=examples.labels.astype(task.label_dtype))
              for split, examples in splits.items()}
    return task, Stored(splits, names, "arrays of the program")


@contextlib.contextmanager
def _refused_labels(split: str, examples: Examples) -> Iterator[None]:
    """Adds dtype and shapes to a ValueError about the labels of a split."""
    images, labels = examples
    try:
        yield
    except ValueError as error:
        raise InputError(f"data: the labels of {split} are {labels.dtype} "
                         f"{labels.shape} for images {images.shape}: {error}"
                         ) from error


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


def _examples(split: str, pair: Any) -> Examples:
    """Checks that a split is (images, labels), and its images."""
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
        pixels = np.issubdtype(images.dtype, np.floating) and 0 <= low <= high <= 255
        factor = "255 * " if high <= 1 else ""
        raise InputError(
            f"{title} from {low:g} to {high:g}: they must be whole numbers from 0 to "
            "255, which training scales itself (data.scaling)"
            + f"; use np.uint8(np.round({factor}images))" * bool(pixels))
    return Examples(images.astype(np.uint8, copy=False), labels)


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
