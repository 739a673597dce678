"""Labelled images that are read one at a time, however many they are.

`Examples` are decoded and in memory. `Records` are in files, mostly encoded; each can
be read at any time, in any process. A new format is one class.
"""

import dataclasses
import functools
import hashlib
import io
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from cnn_jax.data.examples import Examples
from cnn_jax.data.images import Crop, Preprocessing, convert_images, read_image

Content = bytes | np.ndarray  # an encoded picture, or uint8 [H, W, C]
Record = tuple[Content, np.ndarray]  # (image, label)


class Records(Protocol):
    """Labelled images of one split, with random access.

    Records are pickled to worker processes, so they must be small: a few bytes per
    record. They open their files in the process that reads, at the first read.
    """

    @property
    def labels(self) -> np.ndarray:
        """Labels of all records, known without decoding; for classes int32 [N]."""

    @property
    def fingerprint(self) -> str:
        """Identifies the records: 64 hex digits.

        It depends on names, labels and sizes, and does not read all the bytes.
        """

    def __len__(self) -> int:
        """Returns the number of records."""

    def read(self, index: int) -> Record:
        """Reads (image, label) of one record.

        Raises InputError, which names the record, if it cannot be read.
        """

    def __iter__(self) -> Iterator[Record]:
        """Reads all records in their order, faster than one by one if possible."""

    def name(self, index: int) -> str:
        """Names the file or member of a record, for messages."""


def read_each(records: Records) -> Iterator[Record]:
    """Reads all records one by one."""
    return map(records.read, range(len(records)))


class StoredRecords(NamedTuple):
    """A set as its source stores it, before any cut; see `Stored`."""

    splits: dict[str, Records]  # 'train', and 'validation' and 'test' if they exist
    class_names: tuple[str, ...]
    origin: str  # where the bytes are, for the log


class RecordDataset(NamedTuple):
    """A set in three splits, as training uses it; see `Dataset`."""

    name: str
    train: Records
    validation: Records
    test: Records
    class_names: tuple[str, ...]
    source: str  # one sentence for the log


@dataclasses.dataclass(frozen=True, eq=False)
class InMemory:
    """Decoded images as records."""

    examples: Examples
    title: str = "image"  # the name of one of them in messages

    @property
    def labels(self) -> np.ndarray:
        return self.examples.labels

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest(*self.examples)

    def __len__(self) -> int:
        return len(self.examples.labels)

    def read(self, index: int) -> Record:
        return self.examples.images[index], self.examples.labels[index]

    __iter__ = read_each

    def name(self, index: int) -> str:
        return f"{self.title} {index}"


@dataclasses.dataclass(frozen=True, eq=False)
class Subset:
    """Some records of another source, in the order of `rows` (int32 [N])."""

    records: Records
    rows: np.ndarray

    @functools.cached_property
    def labels(self) -> np.ndarray:
        return self.records.labels[self.rows]

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest(self.records.fingerprint.encode(), self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> Record:
        return self.records.read(int(self.rows[index]))

    __iter__ = read_each

    def name(self, index: int) -> str:
        return self.records.name(int(self.rows[index]))


@dataclasses.dataclass(frozen=True)
class NameOf:
    """Names a record in a message; only then it reads the name from its file."""

    records: Records
    index: int

    def __str__(self) -> str:
        return self.records.name(self.index)


def read_pixels(records: Records, index: int,
                preprocessing: Preprocessing = Preprocessing(),
                crop: Crop | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Reads, decodes and preprocesses one record: (uint8 [H, W, C], label)."""
    content, label = records.read(index)
    return to_pixels(content, preprocessing, NameOf(records, index), crop), label


def to_pixels(content: Content, preprocessing: Preprocessing, name: object,
              crop: Crop | None = None) -> np.ndarray:
    """Decodes and preprocesses an image: uint8 [H, W, C].

    The pixels are those of `read_image` and `convert_images`.
    """
    if isinstance(content, bytes):
        return read_image(io.BytesIO(content), preprocessing, name, crop)
    return convert_images(content[None], preprocessing, crop)[0]


def digest(*parts: bytes | np.ndarray) -> str:
    """Hashes bytes and arrays, each with its size, to 64 hex digits."""
    key = hashlib.sha256()
    for part in parts:
        array = np.frombuffer(part, np.uint8) if isinstance(part, bytes) else part
        key.update(repr((array.dtype.str, array.shape)).encode())
        key.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return key.hexdigest()
