"""Writes pictures into tar shards, the same bytes in each run.

A shard is written under another name, then renamed. So a shard with its final name is
complete, even if the program was killed.
"""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from cnn_jax.files import file_errors


class Sample(NamedTuple):
    """An encoded picture of the source."""

    position: int    # in the order of packing
    extension: str   # ".jpg"
    content: bytes
    label: int


class PackedShard(msgspec.Struct, frozen=True):
    """The content of a shard."""

    name: str
    count: int   # pictures
    size: int    # bytes
    sha256: str
    stop: int    # position of the first picture that is not in this or earlier shards


class _Hashing:
    """A file that hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        return self.file.write(content)

    def tell(self) -> int:
        return self.file.tell()

    def close(self) -> None:
        self.file.close()


def write_shard(path: Path, samples: Iterable[Sample], first: int,
                digits: int) -> PackedShard:
    """Writes one shard; `first` is the number of its first picture in the split."""
    partial, count, stop = path.with_name(path.name + ".partial"), 0, 0
    with file_errors(path):
        with partial.open("wb") as raw:
            file: Any = _Hashing(raw)
            with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
                for sample in samples:
                    key = f"{first + count:0{digits}d}"
                    _add(tar, key + sample.extension, sample.content)
                    _add(tar, key + ".cls", str(sample.label).encode())
                    count, stop = count + 1, sample.position + 1
            raw.flush()
            os.fsync(raw.fileno())
            size = raw.tell()
        os.replace(partial, path)
    return PackedShard(path.name, count, size, file.sha256.hexdigest(), stop)


def fill(samples: Iterator[Sample], limit: float) -> Iterator[Sample]:
    """Yields the samples of one shard, until it has at least `limit` bytes."""
    size = 0
    while size < limit and (sample := next(samples, None)) is not None:
        size += 2048 + len(sample.content)  # two headers, and a label and padding
        yield sample


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Adds a file whose header holds no time and no owner."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
