"""Types of the data stage, and the split into train, validation and test.

Images stay uint8 until they are on the device.
"""

from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cnn_jax.errors import InputError
from cnn_jax.tasks import TASKS, Task


class Examples(NamedTuple):
    """Labelled images of one split."""

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


def split(stored: Stored, config: ConfigDict, seed: int,
          task: Task = TASKS["classify"]) -> tuple[Examples, Examples, Examples]:
    """Splits a stored set into train, validation and test.

    It takes these steps, in this order:

    1. `config.validation_is_test` renames the set's validation split to test.
    2. A set without a test split gets one, cut from the training split: a fraction
       `config.test`, always stratified.
    3. A set without a validation split gets one, cut from what is left: a fraction
       `config.validation`, or `config.validation_count` images, chosen by
       `config.split`.
    4. `config.limit` shortens the training split.

    Cuts keep the stored order. They depend only on the set, the config and the seed.

    Args:
        stored: the set.
        config: the `data` section of a config.
        seed: seed of the stratified cuts, 0 <= seed < 2**32.
        task: says whether a cut can be stratified.
    """
    splits = dict(stored.splits)
    if config.validation_is_test:
        if "validation" not in splits or "test" in splits:
            raise InputError(
                f'data.validation_is_test is true but the set has {", ".join(splits)}; '
                "it is only for sets with train and validation but no test")
        splits["test"] = splits.pop("validation")
    train = splits["train"]
    empty = train.take(slice(0))
    test, validation = splits.get("test"), splits.get("validation")
    if test is None:
        test = empty
        if config.test:
            count = int(round(config.test * len(train.labels)))
            train, test = _cut(train, count, "stratified", seed, task, "data.test")
    if validation is None:
        validation = empty
        if config.validation_count is not None:
            train, validation = _cut(train, config.validation_count, config.split, seed,
                                     task, "data.validation_count")
        elif config.validation:
            count = int(round(config.validation * len(train.labels)))
            train, validation = _cut(train, count, config.split, seed, task,
                                     "data.validation")
    return train.take(slice(config.limit)), validation, test


def _cut(examples: Examples, count: int, how: str, seed: int, task: Task,
         field: str) -> tuple[Examples, Examples]:
    """Cuts off `count` examples; returns (what remains, what was cut off)."""
    total = len(examples.labels)
    if not 0 < count < total:
        raise InputError(
            f"{field} asks for {count:,} of {total:,} training images: it must leave "
            f"at least 1 on each side; change {field}")
    if how == "first":
        return examples.take(slice(count, None)), examples.take(slice(count))
    if how == "last":
        return (examples.take(slice(total - count)),
                examples.take(slice(total - count, None)))
    if not task.can_stratify:
        raise InputError(
            f"{field} asks for a stratified cut, which needs one class for each image; "
            f"the task of this set is {task.name}: set data.split to first or last")
    # Imported here: scikit-learn takes a second to import.
    from sklearn.model_selection import train_test_split
    try:
        kept, chosen = train_test_split(
            np.arange(total), test_size=count, random_state=seed,
            stratify=examples.labels)
    except ValueError as error:
        raise InputError(
            f"{field} asks for a stratified cut of {count:,} of {total:,} images, "
            f"which cannot be made ({error}); change {field}, or data.split to first "
            "or last") from error
    return examples.take(np.sort(kept)), examples.take(np.sort(chosen))
