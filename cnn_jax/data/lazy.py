"""Images that stay in their records until they are asked for: a set of any size.

`LazyImages` stand in `Examples` where other sets have an array. Training on them reads
batches ahead, see stream.py; everything else asks for a few images.
"""

import dataclasses
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np

from cnn_jax.data.examples import Dataset, Examples, Stored
from cnn_jax.data.images import MAX_BYTES, Preprocessing
from cnn_jax.data.records import RecordDataset, Records, StoredRecords, read_pixels
from cnn_jax.errors import InputError

SAMPLE = 1024  # images that the scaling is measured on


@dataclasses.dataclass(frozen=True, eq=False)
class LazyImages:
    """Stands for the array uint8 [N, H, W, C] of all images of some records.

    An index decodes what it selects: `images[7]`, `images[:8]`, `images[rows]`.
    """

    records: Records
    preprocessing: Preprocessing
    image_shape: tuple[int, int, int]  # (H, W, C)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self.records), *self.image_shape)

    def __len__(self) -> int:
        return len(self.records)

    def read(self, row: int) -> np.ndarray:
        """Decodes one image: uint8 [H, W, C].

        Raises InputError, which names the record, if it cannot be decoded or has
        another shape.
        """
        pixels, _ = read_pixels(self.records, row, self.preprocessing)
        if pixels.shape != self.image_shape:
            raise InputError(
                f"{self.records.name(row)} is {_shape(pixels.shape)} but the first "
                f"image is {_shape(self.image_shape)}; set data.image_size and "
                "data.channels, so that all are converted to one shape")
        return pixels

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = np.arange(len(self))[index]
        if rows.ndim == 0:
            return self.read(int(rows))
        images = np.empty((len(rows), *self.image_shape), np.uint8)

        def decode(place: int) -> None:
            images[place] = self.read(int(rows[place]))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(decode, range(len(rows))):
                pass
        return images

    def sample(self) -> np.ndarray:
        """Decodes at most `SAMPLE` images, at equal distances."""
        count = min(SAMPLE, len(self))
        return self[np.linspace(0, len(self) - 1, count).astype(int)]


def streams(stored: Stored | StoredRecords, preprocessing: Preprocessing,
            asked: bool | None) -> bool:
    """Decides whether a set stays in its records.

    asked: `data.stream`. If it is None, a set streams where its pixels would be more
        than `MAX_BYTES`.
    """
    if asked is not None:
        return asked
    return pixel_bytes(stored, preprocessing) > MAX_BYTES


def pixel_bytes(stored: Stored | StoredRecords, preprocessing: Preprocessing) -> int:
    """Computes the size of all images of a set, preprocessed."""
    count = sum(len(split.labels) for split in stored.splits.values())
    return count * math.prod(shape_of(stored.splits["train"], preprocessing))


def shape_of(split: Examples | Records,
             preprocessing: Preprocessing) -> tuple[int, int, int]:
    """Returns the shape (H, W, C) of preprocessed images; it may decode the first."""
    if preprocessing.size and preprocessing.channels:
        return (*preprocessing.size, preprocessing.channels)
    if isinstance(split, Examples):
        height, width, channels = split.images.shape[1:]
        return (*(preprocessing.size or (height, width)),
                preprocessing.channels or channels)
    height, width, channels = read_pixels(split, 0, preprocessing)[0].shape
    return height, width, channels


def lazy_dataset(records: RecordDataset, preprocessing: Preprocessing) -> Dataset:
    """Makes the data set whose images stay in `records`."""
    image_shape = shape_of(records.train, preprocessing)

    def examples(split: Records) -> Examples:
        images = LazyImages(split, preprocessing, image_shape)
        return Examples(cast(np.ndarray, images), split.labels)

    size = math.prod(image_shape) * sum(
        len(split) for split in (records.train, records.validation, records.test))
    return Dataset(
        records.name, examples(records.train), examples(records.validation),
        examples(records.test), records.class_names,
        f"{records.source}, {_shape(image_shape)}; {size / 2**30:.2g} GiB of pixels "
        "are streamed")


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)
