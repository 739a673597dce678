"""Images that stay in their records until they are read: a set of any size.

`LazyImages` replace the array of images in `Examples`. Training reads batches of them
ahead, see stream.py; everything else reads a few images.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
from ml_collections import ConfigDict

from cnn_jax.data.examples import Dataset, Examples, Stored
from cnn_jax.data.images import Crop, Preprocessing
from cnn_jax.data.memory import limit
from cnn_jax.data.records import (InMemory, RecordDataset, Records, StoredRecords,
                                  Subset, read_pixels)
from cnn_jax.errors import InputError
from cnn_jax.tasks import Task

SAMPLE = 1024  # images on which the scaling is measured


class WrongShape(InputError):
    """An image has another shape than the first one: the config must set the shape."""


@dataclasses.dataclass(frozen=True, eq=False)
class LazyImages:
    """Stands for the array uint8 [N, H, W, C] of all images of some records.

    An index decodes what it selects: `images[7]`, `images[:8]`, `images[rows]`.
    """

    records: Records
    preprocessing: Preprocessing
    image_shape: tuple[int, int, int]  # (H, W, C)
    skip: bool = False  # whether `try_read` may leave out what cannot be decoded

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.records), *self.image_shape)

    def __len__(self) -> int:
        return len(self.records)

    def at_size(self, size: tuple[int, int] | None) -> "LazyImages":
        """Returns the same images at another (height, width); None keeps theirs."""
        if size is None:
            return self
        return dataclasses.replace(
            self, preprocessing=self.preprocessing._replace(size=size),
            image_shape=(*size, self.image_shape[2]))

    def read(self, row: int, crop: Crop | None = None) -> np.ndarray:
        """Decodes one image: uint8 [H, W, C].

        crop: chooses the box of the picture that is resized, see `images.read_image`.
        Raises InputError, which names the record, if it cannot be decoded, and
        WrongShape if its shape is not `image_shape`.
        """
        pixels, _ = read_pixels(self.records, row, self.preprocessing, crop)
        if pixels.shape != self.image_shape:
            raise WrongShape(
                f"{self.records.name(row)} is {_shape(pixels.shape)} but the first "
                f"image is {_shape(self.image_shape)}; set data.image_size and "
                "data.channels, so that all are converted to one shape")
        return pixels

    @property
    def gathered(self) -> bool:
        """Tells whether the images are in memory and need no preprocessing."""
        subset = self.records
        return (isinstance(subset, Subset) and isinstance(subset.records, InMemory)
                and not self.preprocessing.changes(
                    subset.records.examples.images.shape[1:]))

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Takes rows of `gathered` images: uint8 [n, H, W, C]."""
        subset = cast(Subset, self.records)
        return cast(InMemory, subset.records).examples.images[subset.rows[rows]]

    def try_read(self, row: int, crop: Crop | None = None) -> np.ndarray | None:
        """Decodes one image as `read` does; None if it fails and `skip` is true."""
        try:
            return self.read(row, crop)
        except WrongShape:
            raise
        except InputError as error:
            if self.skip:
                return None
            raise InputError(f"{error}, or set data.on_error=skip to go on without it"
                             ) from error

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = np.arange(len(self))[index]
        return self.read_rows(rows) if rows.ndim else self.read(int(rows))

    def read_rows(self, rows: np.ndarray,
                  crop_of: Callable[[int], Crop | None] = lambda row: None
                  ) -> np.ndarray:
        """Decodes the images of some rows, each with its own crop, on all cores."""
        images = np.empty((len(rows), *self.image_shape), np.uint8)

        def decode(i: int) -> None:
            row = int(rows[i])
            images[i] = self.read(row, crop_of(row))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(decode, range(len(rows))):
                pass
        return images

    def sample(self) -> np.ndarray:
        """Decodes at most `SAMPLE` images, at equal distances."""
        rows = np.linspace(0, len(self) - 1, min(SAMPLE, len(self))).astype(int)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            images = [image for image in pool.map(self.try_read, rows.tolist())
                      if image is not None]
        return np.stack(images)


def streams(stored: Stored | StoredRecords, preprocessing: Preprocessing,
            config: ConfigDict) -> tuple[bool, str]:
    """Decides whether a set stays in its records; returns (whether, the reason).

    `config.stream` decides. If it is None, a set is streamed if its pixels would take
    more than `memory.limit`.
    """
    if config.stream is not None:
        return bool(config.stream), ""
    count = sum(len(split.labels) for split in stored.splits.values())
    shape = shape_of(stored.splits["train"], preprocessing, skip=True)
    most = limit()
    return (count * math.prod(shape) > most.size,
            f", more than {most.reason}, {most.size / 2**30:.2g} GiB")


def shape_of(split: Examples | Records, preprocessing: Preprocessing,
             skip: bool) -> tuple[int, int, int]:
    """Returns the shape (H, W, C) of preprocessed images.

    It may decode the first image, or with `skip` the first that can be decoded.
    """
    if preprocessing.size and preprocessing.channels:
        return (*preprocessing.size, preprocessing.channels)
    if isinstance(split, Examples):
        height, width, channels = split.images.shape[1:]
        return (*(preprocessing.size or (height, width)),
                preprocessing.channels or channels)
    reasons = []
    for row in range(len(split)):
        try:
            height, width, channels = read_pixels(split, row, preprocessing)[0].shape
            return height, width, channels
        except InputError as error:
            if not skip:
                raise InputError(f"{error}, or set data.on_error=skip to go on without "
                                 "it") from error
            reasons.append(str(error))
    raise InputError(f"none of {len(split):,} images can be decoded: {reasons[0]}")


def cropped_when_read(images: np.ndarray, task: Task) -> bool:
    """Tells whether random-resized crops are cut when a picture is read.

    For other sets the devices cut them. Masks are cut with their images.
    """
    return isinstance(images, LazyImages) and task.unit == "image"


def lazy_dataset(records: RecordDataset, preprocessing: Preprocessing,
                 skip: bool, reason: str = "") -> Dataset:
    """Makes the data set whose images stay in `records`; `reason` is for the log."""
    image_shape = shape_of(records.train, preprocessing, skip)

    def examples(split: Records) -> Examples:
        images = LazyImages(split, preprocessing, image_shape, skip)
        return Examples(cast(np.ndarray, images), split.labels)

    size = math.prod(image_shape) * sum(
        len(split) for split in (records.train, records.validation, records.test))
    return Dataset(
        records.name, examples(records.train), examples(records.validation),
        examples(records.test), records.class_names,
        f"{records.source}, {_shape(image_shape)}; {size / 2**30:.2g} GiB of pixels "
        f"are streamed{reason}")


def leave_out(dataset: Dataset, names: Collection[str]) -> Dataset:
    """Leaves out the lazy images with some names, such as those that a run skipped."""
    if not names:
        return dataset

    def kept(examples: Examples) -> Examples:
        images = cast(LazyImages, examples.images)
        rows = np.array([row for row in range(len(images))
                         if images.records.name(row) not in names], np.int32)
        images = dataclasses.replace(images, records=Subset(images.records, rows))
        return Examples(cast(np.ndarray, images), examples.labels[rows])

    return dataset._replace(train=kept(dataset.train), test=kept(dataset.test),
                            validation=kept(dataset.validation))


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)
