"""Reads folders of pictures, with one sub-folder per class as in Keras and Kaggle.

`listing.py` says which layouts are known and lists them.
"""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from cnn_jax.console import counted
from cnn_jax.data.images import EXTENSIONS
from cnn_jax.data.listing import (ARCHIVES, Listing, Pictures, class_pictures,
                                  list_archive, list_folder, other_files)
from cnn_jax.data.packed_strings import PackedStrings, compact, in_file
from cnn_jax.data.records import Record, Records, StoredRecords, digest, read_each
from cnn_jax.errors import InputError
from cnn_jax.files import expanded

_LOSSY = (".jpg", ".jpeg", ".webp")
_SIZES = 1024  # files of a split whose size is part of its fingerprint


@dataclasses.dataclass(frozen=True, eq=False)
class FolderRecords:
    """The pictures of a split in class folders; see `Pictures`."""

    root: str
    directories: tuple[str, ...]
    directory: np.ndarray  # integers [N]
    files: Sequence[str]
    labels: np.ndarray
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Record:
        try:
            with open(self.name(index), "rb") as file:
                return file.read(), self.labels[index]
        except OSError as error:
            raise InputError(f"{self.name(index)} cannot be read ({error.strerror}); "
                             "replace or remove it") from error

    __iter__ = read_each

    def name(self, index: int) -> str:
        return os.path.join(self.root, self.directories[self.directory[index]],
                            self.files[index])


@dataclasses.dataclass(frozen=True, eq=False)
class ArchiveRecords:
    """The pictures of a split in an archive, which is in memory."""

    archive: str
    contents: tuple[bytes, ...]
    pictures: Pictures
    fingerprint: str

    @property
    def labels(self) -> np.ndarray:
        return self.pictures.labels

    def __len__(self) -> int:
        return len(self.contents)

    def read(self, index: int) -> Record:
        return self.contents[index], self.pictures.labels[index]

    __iter__ = read_each

    def name(self, index: int) -> str:
        return f"{self.archive}: {self.pictures.path(index)}"


def class_folders(config: ConfigDict) -> StoredRecords:
    """Lists the class folders, or the archive of them, that `data.dir` names.

    Raises:
        InputError: a layout that `class_pictures` refuses, or a bad archive.
    """
    root = expanded(config.dir, "data.dir")
    if root.is_dir():
        listing, records = list_folder(root), folder_records
    elif root.is_file() and root.name.endswith(ARCHIVES):
        listing, records = list_archive(root), _archive_records
    else:
        raise InputError(
            f"data.dir is {config.dir!r}, which is neither a folder nor a "
            f'{" or ".join(ARCHIVES)} file; name what holds the class folders')
    pictures, class_names = class_pictures(listing)
    splits = {name: records(listing, split) for name, split in pictures.items()}
    return StoredRecords(splits, class_names, f"{_kinds(pictures)}, in {root}"
                         + _left_out(other_files(listing)))


def folder_records(listing: Listing, pictures: Pictures) -> Records:
    """Makes the records of a split. Sizes of some files are part of its fingerprint."""
    rows = np.unique(np.linspace(0, len(pictures.labels) - 1, _SIZES).astype(int))
    try:
        sizes = [os.path.getsize(listing.root / pictures.path(row)) for row in rows]
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}); replace "
                         "or remove it") from error
    fingerprint = _fingerprint(pictures, np.array(sizes, np.int64))
    return FolderRecords(
        str(listing.root), pictures.directories, compact(pictures.directory),
        in_file(pictures.files), pictures.labels, fingerprint)


def _archive_records(listing: Listing, pictures: Pictures) -> Records:
    contents = tuple(listing.contents[pictures.path(index)]
                     for index in range(len(pictures.labels)))
    sizes = np.array([len(content) for content in contents], np.int64)
    return ArchiveRecords(str(listing.root), contents, pictures,
                          _fingerprint(pictures, sizes))


def _fingerprint(pictures: Pictures, sizes: np.ndarray) -> str:
    """Hashes names, labels and sizes, but not the path of the root."""
    return digest(*map(os.fsencode, pictures.directories), pictures.directory,
                  pictures.files.block, pictures.files.starts.astype(np.int64),
                  pictures.labels, sizes)


def _kinds(splits: dict[str, Pictures]) -> str:
    """Describes pictures for the log: '1,370 pictures: .jpg (lossy)'."""
    kinds = set().union(*(_extensions(pictures.files) for pictures in splits.values()))
    described = ", ".join(f"{kind} (lossy)" if kind in _LOSSY else kind
                          for kind in sorted(kinds))
    count = sum(len(pictures.labels) for pictures in splits.values())
    return f"{count:,} pictures: {described}"


def _extensions(files: PackedStrings) -> set[str]:
    """Returns which of `EXTENSIONS` the names have, for a million of them in 0.1 s."""
    found, block, ends = set(), np.frombuffer(files.block, np.uint8), files.starts[1:]
    for extension in EXTENSIONS:
        matches = np.ones(len(ends), bool)
        for back, letter in enumerate(reversed(extension.encode()), 1):
            matches &= block[ends - back] | 32 == letter  # 32: in lower case
        if matches.any():
            found.add(extension)
        ends = ends[~matches]
    return found


def _left_out(names: list[str]) -> str:
    """Says which files are not pictures: ', without 3 other files (.heic, .txt)'."""
    kinds = sorted({os.path.splitext(name)[1].lower() or name for name in names})
    shown = ", ".join(kinds[:5]) + ", ..." * (len(kinds) > 5)
    return (f", without {counted(len(names), 'other file')} ({shown})" if names
            else "")
