"""Decodes records into arrays in memory, once: the result is cached."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cnn_jax.data import cache
from cnn_jax.data.examples import Examples, Stored
from cnn_jax.data.images import Preprocessing, allocate
from cnn_jax.data.records import Records, StoredRecords, read_pixels
from cnn_jax.errors import InputError


def decode(stored: StoredRecords, preprocessing: Preprocessing) -> Stored:
    """Decodes and preprocesses all records.

    Where its size and channels are not set, all pictures must have one size and one
    number of channels.

    Raises:
        InputError: a picture that is damaged or differs in shape.
    """
    records = [(split, index) for split in stored.splits.values()
               for index in range(len(split))]
    path = cache.cache_path((_bytes(split, index) for split, index in records),
                            preprocessing)
    images = cache.read(path, len(records))
    how = f"decoded earlier, read from {path}"
    if images is None:
        images = _decode(records, preprocessing)
        how = cache.write(path, images)
    splits, start = {}, 0
    for name, split in stored.splits.items():
        splits[name] = Examples(images[start:start + len(split)], split.labels)
        start += len(split)
    return Stored(splits, stored.class_names, f"{stored.origin}, {how}")


def _decode(records: list[tuple[Records, int]],
            preprocessing: Preprocessing) -> np.ndarray:
    """Decodes all pictures into one array, on all cores."""
    first, _ = read_pixels(*records[0], preprocessing)
    images = allocate(len(records), first.shape)

    def decode(row: int) -> None:
        split, index = records[row]
        image, _ = read_pixels(split, index, preprocessing)
        if image.shape != first.shape:
            split_of_first, first_index = records[0]
            raise InputError(
                f"{split.name(index)} is {_shape(image)} but "
                f"{split_of_first.name(first_index)} is {_shape(first)}; set "
                "data.image_size and data.channels, so that all are converted to one "
                "shape")
        images[row] = image

    # Pillow releases the interpreter lock while it decodes and resizes.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for _ in pool.map(decode, range(len(records))):
                pass
        except InputError:
            pool.shutdown(cancel_futures=True)
            raise
    return images


def _bytes(split: Records, index: int) -> bytes | memoryview:
    content, _ = split.read(index)
    return content if isinstance(content, bytes) else np.ascontiguousarray(content).data


def _shape(image: np.ndarray) -> str:
    return " x ".join(str(n) for n in image.shape)
