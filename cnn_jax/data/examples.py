"""Types of the data stage, and the split into train, validation and test.

Images stay uint8 until they are on the device.
"""

from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cnn_jax import tasks
from cnn_jax.data.cuts import random_choice, stratified_choice
from cnn_jax.errors import InputError
from cnn_jax.tasks import Task, class_name


class Examples(NamedTuple):
    """Labelled images of one split.

    In a set that is streamed, `lazy.LazyImages` replace the array: they know its shape,
    and an index decodes the images that it selects.
    """

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # [N, ...], as the task defines; for classes int32 [N]

    def take(self, index: slice | np.ndarray) -> "Examples":
        """Selects the examples at `index` (a slice or an int array), in that order."""
        return Examples(self.images[index], self.labels[index])


class Stored(NamedTuple):
    """A set as its source stores it, before any cut."""

    splits: dict[str, Examples]  # 'train', and 'validation' and 'test' if they exist
    class_names: tuple[str, ...]
    origin: str  # where the bytes came from, and whether they were checked


class Dataset(NamedTuple):
    """A set in three splits, as training uses it."""

    name: str
    train: Examples
    validation: Examples
    test: Examples
    class_names: tuple[str, ...]
    source: str  # one sentence for the log


class Selection(NamedTuple):
    """Says which examples of a stored set become a split."""

    stored: str        # the stored split that they are in
    rows: np.ndarray   # int32, ascending


def split(stored: Stored, config: ConfigDict, seed: int,
          task: Task = tasks.classify.TASK) -> tuple[Examples, Examples, Examples]:
    """Splits a stored set into train, validation and test; see `split_rows`."""
    labels = {name: examples.labels for name, examples in stored.splits.items()}
    train, validation, test = (
        stored.splits[selection.stored].take(_as_slice(selection.rows))
        for selection in split_rows(labels, stored.class_names, config, seed, task))
    return train, validation, test


def split_rows(labels: dict[str, np.ndarray], class_names: tuple[str, ...],
               config: ConfigDict, seed: int, task: Task = tasks.classify.TASK
               ) -> tuple[Selection, Selection, Selection]:
    """Decides which stored examples are for train, validation and test.

    It takes these steps, in this order:

    1. `config.validation_is_test` renames the set's validation split to test.
    2. A set without a test split gets one, cut from the training split: a fraction
       `config.test`, stratified, or at random where the task cannot be stratified.
    3. A set without a validation split gets one, cut from what is left: a fraction
       `config.validation`, or `config.validation_count` images, chosen by
       `config.split`. If `config.protocol` is 'published', the test split validates
       instead, and nothing is cut.
    4. `config.limit` shortens the training split.

    Cuts keep the stored order. They depend only on the labels, the config and the seed,
    so they are the same for images in memory and in files.

    Args:
        labels: labels of each stored split: 'train', and 'validation' and 'test' if
            they exist.
        class_names: for messages.
        config: the `data` section of a config.
        seed: seed of the stratified cuts, 0 <= seed < 2**32.
        task: says whether a cut can be stratified.
    """
    splits = {name: Selection(name, np.arange(len(labels[name]), dtype=np.int32))
              for name in labels}
    if config.validation_is_test:
        if "validation" not in splits or "test" in splits:
            raise InputError(
                f'data.validation_is_test is true but the set has {", ".join(splits)}; '
                "it is only for sets with train and validation but no test")
        splits["test"] = splits.pop("validation")
    train = splits["train"]
    empty = Selection("train", train.rows[:0])
    test, validation = splits.get("test"), splits.get("validation")

    def cut(count: int, how: str, field: str) -> tuple[Selection, Selection]:
        kept, chosen = (train.rows[index] for index in _cut(
            labels["train"][train.rows], class_names, count, how, seed, task, field))
        return Selection("train", kept), Selection("train", chosen)

    if test is None:
        test = empty
        if config.test:
            count = int(round(config.test * len(train.rows)))
            how = "stratified" if task.one_class_per_image else "random"
            train, test = cut(count, how, "data.test")
    if config.protocol == "published":
        if validation is not None or not len(test.rows):
            raise InputError(
                "data.protocol is published, so the test split validates, but the set "
                + ("has a validation split" if validation else "has no test split"))
        validation = test
    elif validation is None:
        validation = empty
        if config.validation_count is not None:
            train, validation = cut(config.validation_count, config.split,
                                    "data.validation_count")
        elif config.validation:
            count = int(round(config.validation * len(train.rows)))
            train, validation = cut(count, config.split, "data.validation")
    return Selection("train", train.rows[:config.limit]), validation, test


def _as_slice(rows: np.ndarray) -> slice | np.ndarray:
    """Returns ascending rows without gaps as a slice, which copies no images."""
    if not len(rows):
        return slice(0)
    if rows[-1] - rows[0] == len(rows) - 1:
        return slice(rows[0], rows[-1] + 1)
    return rows


def _cut(labels: np.ndarray, class_names: tuple[str, ...], count: int, how: str,
         seed: int, task: Task, field: str
         ) -> tuple[slice | np.ndarray, slice | np.ndarray]:
    """Cuts off `count` examples; returns (what remains, what was cut off)."""
    total = len(labels)
    if not 0 < count < total:
        raise InputError(
            f"{field} asks for {count:,} of {total:,} training images: it must leave "
            f"at least 1 on each side; change {field}")
    if how == "first":
        return slice(count, None), slice(count)
    if how == "last":
        return slice(total - count), slice(total - count, None)
    if how == "random":
        return _rows(random_choice(total, count, seed))
    if not task.one_class_per_image:
        raise InputError(
            f"{field} asks for a stratified cut, which needs one class for each image; "
            f"the task of this set is {task.name}: set data.split to random, first or "
            "last")
    sizes = np.bincount(labels)
    single = np.flatnonzero(sizes == 1)
    if len(single):
        raise InputError(
            f"{field} asks for a stratified cut, which needs 2 images of each class, "
            f"but there is only 1 of {_listed(class_names, single)}: add images or "
            "remove the class")
    classes = np.count_nonzero(sizes)
    if min(count, total - count) < classes:
        raise InputError(
            f"{field} asks for a stratified cut of {count:,} of {total:,} images, which"
            f" leaves less than one image of each of the {classes:,} classes on a side;"
            f" add images, or change {field}"
            + " or data.split" * (field != "data.test"))
    return _rows(stratified_choice(labels, count, seed))


def _rows(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (the other rows, the chosen rows), ascending."""
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _listed(class_names: tuple[str, ...], classes: np.ndarray) -> str:
    """Lists the names of classes, at most three."""
    names = [class_name(class_names, label) for label in classes[:3]]
    more = f" and {len(classes) - 3} more classes" if len(classes) > 3 else ""
    return ", ".join(names) + more
