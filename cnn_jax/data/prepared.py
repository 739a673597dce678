"""Reads sets that tensorflow-datasets has prepared, with random access.

It needs no TensorFlow. Pictures stay encoded (JPEG, PNG) where the set stores them so.
Labels are inside the records, so reading all of them takes a pass over the files: they
are kept beside the files, or in `CNN_JAX_CACHE` where their folder cannot be written.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cnn_jax.data.records import Content, Record, Records, StoredRecords, digest
from cnn_jax.errors import InputError, first_line
from cnn_jax.files import load_beside, save_beside

_BLOCK = 1024  # records per read, when all are read
_LABELS_NAME = "cnn_jax_labels_{}.npz"
_NAMES = ("train", "validation", "test")


@dataclasses.dataclass(eq=False)
class PreparedRecords:
    """The images of a split of a prepared set."""

    folder: str  # of the prepared set, with its version
    split: str
    labels: np.ndarray
    fingerprint: str
    # The id of the process that has opened the files, and its reader.
    _opened: tuple[int, Any] = dataclasses.field(default=(0, None), repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": (0, None)}

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Record:
        try:
            example = self._source()[index]
        except Exception as error:  # array_record raises RuntimeError and others
            raise self.unreadable(self.name(index), error) from error
        return self._content(example["image"], index), self.labels[index]

    def __iter__(self) -> Iterator[Record]:
        for index, example in enumerate(self.examples()):
            yield self._content(example["image"], index), self.labels[index]

    def examples(self) -> Iterator[dict[str, Any]]:
        """Yields all examples as the set stores them, read in blocks."""
        try:
            source = self._source()
            for start in range(0, len(source), _BLOCK):
                yield from source.__getitems__(
                    range(start, min(start + _BLOCK, len(source))))
        except Exception as error:
            name = f"the prepared copy in {self.folder}"
            raise self.unreadable(name, error) from error

    def name(self, index: int) -> str:
        return f"{self.folder}: {self.split} example {index}"

    def _source(self) -> Any:
        """Opens the files in this process: a fork must not share a reader."""
        process, source = self._opened
        if process != os.getpid():
            builder = tfds.builder_from_directory(self.folder)
            source = builder.as_data_source(
                split=self.split, decoders={"image": tfds.decode.SkipDecoding()})
            self._opened = os.getpid(), source
        return source

    def _content(self, image: Any, index: int) -> Content:
        if isinstance(image, bytes):
            return image
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
            raise InputError(
                f"{self.name(index)} is an image of {image.dtype}{list(image.shape)}; "
                "only uint8 images with 1 or 3 channels can be used")
        return image

    def unreadable(self, name: str, error: Exception) -> InputError:
        """Makes the error for files that cannot be read."""
        return InputError(f"{name} cannot be read ({first_line(error)}); delete "
                          f"{self.folder} and run again")


def open_prepared(builder: tfds.core.DatasetBuilder) -> StoredRecords:
    """Opens the train, validation and test splits of a prepared set.

    Raises:
        InputError: a set without an image and a class, without a training split, with
            another number of examples than it states, or that cannot be read.
    """
    features = builder.info.features
    if not {"image", "label"} <= set(features) or not isinstance(
            features["label"], tfds.features.ClassLabel):
        raise InputError(
            f'{builder.name} has the features {", ".join(features)}; classification '
            "needs 'image' and a class 'label'")
    names = [name for name in _NAMES if name in builder.info.splits]
    if "train" not in names:
        raise InputError(
            f'{builder.name} has the splits {", ".join(builder.info.splits)}; a train '
            "split is needed")
    splits: dict[str, Records] = {name: _open_split(builder, name) for name in names}
    return StoredRecords(splits, tuple(features["label"].names),
                         f"tensorflow-datasets copy in {builder.data_path}")


def _open_split(builder: tfds.core.DatasetBuilder, name: str) -> PreparedRecords:
    """Opens one split; reads its labels, unless they are kept from an earlier run."""
    info, folder = builder.info.splits[name], Path(builder.data_path)
    records = PreparedRecords(str(folder), name, np.empty(0, np.int32), "")
    files = [folder / file for file in sorted(info.filenames)]
    try:
        status = [path.stat() for path in files]
    except OSError as error:
        raise records.unreadable(str(folder), error) from error
    state = np.array([(file.st_size, file.st_mtime_ns) for file in status], np.int64)
    for saved in load_beside(folder, _LABELS_NAME.format(name)):
        if np.array_equal(saved.get("files", ()), state):
            records.labels = saved["labels"]
    if not len(records.labels):
        records.labels = np.array(
            [example["label"] for example in records.examples()], np.int32)
        if len(records.labels) != info.num_examples or not info.num_examples:
            raise InputError(
                f"the prepared copy in {folder} holds {len(records.labels):,} {name} "
                f"examples instead of {info.num_examples:,}; delete that folder and "
                "run again")
        save_beside(folder, _LABELS_NAME.format(name), files=state,
                    labels=records.labels)
    records.fingerprint = digest(
        f"{builder.info.full_name} {name} {info.num_bytes}".encode(), state[:, 0],
        records.labels)
    return records
