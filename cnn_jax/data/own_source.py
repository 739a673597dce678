"""Reads a set by the user's own function: data.name=MODULE:FUNCTION.

The function receives `config.data`. It returns {'train': ..., 'class_names': [...]},
with 'validation' and 'test' if they exist. A split is (images, labels), as in
arrays.py, or an object with

    labels           an array [N], known without reading a picture
    read(index)      -> (an encoded picture as bytes, or uint8 [H, W, C]; its label)

and optionally with `name(index)`, for messages, and `fingerprint`; see records.py.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cnn_jax import user_code
from cnn_jax.data import arrays
from cnn_jax.data.examples import Stored
from cnn_jax.data.records import Record, StoredRecords, digest, read_each
from cnn_jax.errors import InputError
from cnn_jax.tasks import Task

_SAMPLE = 16  # records whose content is part of the fingerprint


@dataclasses.dataclass(frozen=True, eq=False)
class OwnRecords:
    """The records of a user's object, with defaults for its optional methods."""

    source: Any
    labels: np.ndarray
    title: str

    @functools.cached_property
    def fingerprint(self) -> str:
        """The object's fingerprint, else a hash of labels and some records."""
        given = getattr(self.source, "fingerprint", None)
        if given is not None:
            return str(given)
        rows = np.linspace(0, len(self) - 1, min(_SAMPLE, len(self))).astype(int)
        return digest(self.labels, *(self.read(int(row))[0] for row in rows))

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Record:
        try:
            content, label = self.source.read(index)
        except OSError as error:
            raise InputError(f"{self.name(index)} cannot be read ({error})") from error
        pixels = isinstance(content, np.ndarray)
        if not isinstance(content, bytes) and not (
                pixels and content.dtype == np.uint8 and content.ndim == 3):
            received = f"{content.dtype} {content.shape}" if pixels else type(content)
            raise InputError(f"{self.name(index)} is {received}: read must return "
                             "(bytes of a picture, or uint8 [H, W, C]; label)")
        if not np.array_equal(label, self.labels[index]):
            raise InputError(f"{self.name(index)} has the label {label} when it is "
                             f"read, but {self.labels[index]} in labels: they must be "
                             "equal")
        return content, self.labels[index]

    __iter__ = read_each

    def name(self, index: int) -> str:
        name = getattr(self.source, "name", None)
        return str(name(index)) if callable(name) else f"{self.title} image {index}"


def own_source(config: ConfigDict, task: Task) -> Stored | StoredRecords:
    """Calls the function that `data.name` names, and checks what it returns.

    Raises InputError for anything but the sets that the module's docstring describes.
    """
    with user_code.field_errors("data.name", config.name):
        returned = user_code.load(config.name)(config)
    splits = dict(returned) if isinstance(returned, Mapping) else {"train": returned}
    if not any(hasattr(split, "read") for split in splits.values()):
        returned_task, stored = arrays.stored(returned, config.task)
        if returned_task.name != task.name:
            raise InputError(f"{config.name} returned labels for data.task="
                             f"{returned_task.name}, and data.task is {task.name}")
        return stored._replace(origin=config.name)
    names = tuple(map(str, splits.pop("class_names", None) or ()))
    if "train" not in splits or not {*splits} <= {"train", "validation", "test"}:
        raise InputError(f"{config.name} returned {', '.join(map(str, splits))}: it "
                         "must return train, and may return validation, test and "
                         "class_names")
    records = {split: OwnRecords(source, _labels(source, task, title), title)
               for split, source in splits.items()
               for title in [f"{config.name}: {split}"]}
    classes = task.count_classes([split.labels for split in records.values()])
    if names and len(names) < classes:
        raise InputError(f"{config.name} returned {len(names)} class_names for "
                         f"{classes} classes: give one for each class from 0")
    return StoredRecords(dict(records), names or tuple(map(str, range(classes))),
                         config.name)


def _labels(source: Any, task: Task, title: str) -> np.ndarray:
    """Returns the labels of a split in the dtype of its task."""
    if not (hasattr(source, "read") and hasattr(source, "labels")):
        raise InputError(f"{title} is {type(source).__name__} without labels and read: "
                         "give (images, labels), or an object with both")
    labels = np.asarray(source.labels)
    converted = labels.astype(task.label_dtype) if labels.dtype.kind in "biuf" else None
    if not labels.size or converted is None or (
            converted.dtype.kind != "f" and (converted != labels).any()):
        raise InputError(f"{title} has labels {labels.dtype} {labels.shape}: they must "
                         f"be {task.label_dtype} of at least one image")
    if task.exclusive and labels.min() < 0:
        raise InputError(f"{title} has the label {labels.min()}: classes count from 0")
    return converted
