"""The types of the data stage and the split into train, validation and test.

Images stay uint8 until they are on the device; labels are class numbers.
"""

from typing import NamedTuple

import numpy as np

from cnn_jax.errors import InputError


class Examples(NamedTuple):
    """Labelled images of one part of a set."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int32 [N]; masks, a label for each pixel: uint8 [N, H, W]

    def take(self, index) -> "Examples":
        """The examples at `index` (a slice or an int array), in that order."""
        return Examples(self.images[index], self.labels[index])


class Stored(NamedTuple):
    """A set as its source holds it, before any split of ours."""

    parts: dict[str, Examples]  # 'train', and 'validation' and 'test' where it has them
    class_names: tuple[str, ...]
    origin: str  # where the bytes came from, and whether they were checked


class Dataset(NamedTuple):
    """What the training loop gets."""

    name: str
    train: Examples
    validation: Examples
    test: Examples
    class_names: tuple[str, ...]
    source: str  # one sentence for the log


def split(stored: Stored, config, seed: int) -> tuple[Examples, Examples, Examples]:
    """Train, validation and test examples of a stored set.

    A part that the set brings with it is used whole. A missing test part is cut
    from the training part first (`config.test`, always stratified), a missing
    validation part second (`config.validation`, by `config.split`); both keep the
    stored order. The cuts depend on the set, the config and `seed` alone.
    `config.limit` is applied last, to the training part only. With
    `config.validation_is_test` the set's validation part becomes its test part first.

    Args:
        stored: the set.
        config: the `data` config.
        seed: of the stratified cuts, 0 <= seed < 2**32.
    """
    train, parts = stored.parts["train"], dict(stored.parts)
    if config.validation_is_test:
        if "validation" not in parts or "test" in parts:
            raise InputError(
                f'data.validation_is_test is true but the set has {", ".join(parts)}; '
                "it is for sets of train and validation without test")
        parts["test"] = parts.pop("validation")
    empty = train.take(slice(0))
    if "test" in parts:
        test = parts["test"]
    elif config.test:
        count = int(round(config.test * len(train.labels)))
        train, test = _cut(train, count, "stratified", seed, "data.test")
    else:
        test = empty
    if "validation" in parts:
        validation = parts["validation"]
    elif config.validation:
        count = config.validation
        if count < 1:
            count *= len(train.labels)
        train, validation = _cut(
            train, int(round(count)), config.split, seed, "data.validation")
    else:
        validation = empty
    return train.take(slice(config.limit or None)), validation, test


def _cut(examples, count, how, seed, field) -> tuple[Examples, Examples]:
    """Splits off `count` examples: (the rest, those)."""
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
    if examples.labels.ndim > 1:
        raise InputError(
            f"{field} asks for a stratified cut, but an image of this set has more "
            "than one class; set data.split to first or last")
    # Imported here: scikit-learn takes a second to import.
    from sklearn.model_selection import train_test_split
    try:
        rest, chosen = train_test_split(
            np.arange(total), test_size=count, random_state=seed,
            stratify=examples.labels)
    except ValueError as error:
        raise InputError(
            f"{field} asks for a stratified cut of {count:,} of {total:,} images, "
            f"which cannot be made ({error}); change {field}, or data.split to first "
            "or last") from error
    return examples.take(np.sort(rest)), examples.take(np.sort(chosen))
