"""Decodes records into arrays in memory. The result for pictures is cached."""

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cnn_jax.data import cache
from cnn_jax.data.examples import Examples, Stored
from cnn_jax.data.images import Preprocessing, allocate
from cnn_jax.data.records import Content, StoredRecords, to_pixels
from cnn_jax.errors import InputError

_BLOCK = 1024  # records that are read, then decoded, on all cores
_SHOWN = 20    # names of pictures that an error lists


def decode(stored: StoredRecords, preprocessing: Preprocessing) -> Stored:
    """Decodes and preprocesses all records.

    If `preprocessing` sets no size or no channels, all pictures must have the same.

    Raises:
        InputError: a picture that is damaged or differs in shape.
    """
    splits = stored.splits.values()
    count = sum(map(len, splits))
    content, _ = stored.splits["train"].read(0)
    if isinstance(content, bytes):
        path = cache.cache_path((_bytes(content) for split in splits
                                 for content, _ in split), preprocessing)
        images = cache.read(path, count)
        note = f", decoded earlier, read from {path}"
        if images is None:
            images = _decode(stored, count, preprocessing)
            note = f", {cache.write(path, images)}"
    else:
        images, note = _decode(stored, count, preprocessing), ""
    decoded, start = {}, 0
    for name, split in stored.splits.items():
        decoded[name] = Examples(images[start:start + len(split)], split.labels)
        start += len(split)
    return Stored(decoded, stored.class_names, f"{stored.origin}{note}")


def _decode(stored: StoredRecords, count: int,
            preprocessing: Preprocessing) -> np.ndarray:
    """Decodes all records into one array, on all cores."""
    bad: list[tuple[str, InputError]] = []  # names of pictures, and what is wrong
    contents = enumerate(_contents(stored))
    for row, (content, first_name) in contents:
        try:
            first = to_pixels(content, preprocessing, first_name)
            break
        except InputError as error:
            bad.append((first_name, error))
    else:
        raise _cannot_be_used(bad)
    images = allocate(count, first.shape)
    images[row] = first

    def decode_into(row: int, content: Content, name: str) -> None:
        try:
            image = to_pixels(content, preprocessing, name)
        except InputError as error:
            bad.append((name, error))
            return
        if image.shape != first.shape:
            raise InputError(
                f"{name} is {_shape(image)} but {first_name} is {_shape(first)}; set "
                "data.image_size and data.channels, so that all are converted to one "
                "shape")
        images[row] = image

    # Pillow releases the interpreter lock while it decodes and resizes.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while block := list(itertools.islice(contents, _BLOCK)):
            try:
                for _ in pool.map(lambda item: decode_into(item[0], *item[1]), block):
                    pass
            except InputError:
                pool.shutdown(cancel_futures=True)
                raise
    if bad:
        raise _cannot_be_used(bad)
    return images


def _cannot_be_used(bad: list[tuple[str, InputError]]) -> InputError:
    """Makes the error that names the pictures that cannot be decoded, up to a limit."""
    (_, first), *others = sorted(bad, key=lambda pair: pair[0])
    names = ", ".join(name for name, _ in others[:_SHOWN])
    more = f" and {len(others) - _SHOWN:,} more" * (len(others) > _SHOWN)
    title = "others" if len(others) > 1 else "other"
    also = f"; nor can {len(others):,} {title}: {names}{more}" * bool(others)
    return InputError(f"{first}{also}; or set data.stream=true and "
                      "data.on_error=skip to go on without")


def _contents(stored: StoredRecords) -> Iterator[tuple[Content, str]]:
    """Reads all records in order: (content, name)."""
    for split in stored.splits.values():
        for index, (content, _) in enumerate(split):
            yield content, split.name(index)


def _bytes(content: Content) -> bytes | memoryview:
    return content if isinstance(content, bytes) else np.ascontiguousarray(content).data


def _shape(image: np.ndarray) -> str:
    return " x ".join(str(n) for n in image.shape)
