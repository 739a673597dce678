"""Keeps many file names in little memory, or in a file."""

import itertools
import os
import sys
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np


_CHUNK = 2**14  # strings at a time: as Python objects they take 100 bytes each
LARGE = 2**20   # bytes of names; fewer stay in memory


def compact(numbers: np.ndarray) -> np.ndarray:
    """Stores numbers from 0 on in as few bytes as the largest one needs."""
    return numbers.astype(np.min_scalar_type(numbers.max(initial=0)), copy=False)


class PackedStrings(Sequence[str]):
    """Strings in one block of bytes.

    A string costs its bytes and at most 4 more (8 in blocks above 4 GB); a `str` in a
    list costs about 60 more.
    """

    def __init__(self, strings: Iterable[str] = ()) -> None:
        encoded = [os.fsencode(string) for string in strings]
        self.block = b"".join(encoded)
        self.starts = compact(np.cumsum([0, *map(len, encoded)]))

    @classmethod
    def of(cls, block: bytes, starts: np.ndarray) -> "PackedStrings":
        """Makes strings from their bytes; string i is block[starts[i]:starts[i + 1]].
        """
        strings = cls.__new__(cls)
        strings.block, strings.starts = block, compact(starts)
        return strings

    @classmethod
    def concatenate(cls, sequences: Iterable["PackedStrings"]) -> "PackedStrings":
        """Joins sequences one after the other."""
        sequences = list(sequences)
        lengths = [np.zeros(1, np.int64),
                   *(np.diff(strings.starts).astype(np.int64) for strings in sequences)]
        return cls.of(b"".join(strings.block for strings in sequences),
                      np.cumsum(np.concatenate(lengths)))

    def slice(self, start: int, stop: int) -> "PackedStrings":
        """Returns strings `start` to `stop - 1`."""
        starts = self.starts[start:stop + 1]
        return self.of(self.block[starts[0]:starts[-1]], starts - starts[0])

    def take(self, index: np.ndarray) -> "PackedStrings":
        """Returns the strings at `index`, in that order."""
        starts = np.zeros(len(index) + 1, np.int64)
        np.cumsum(np.diff(self.starts)[index], out=starts[1:])
        block = bytearray()
        for first in range(0, len(index), _CHUNK):
            rows = index[first:first + _CHUNK]
            block += b"".join(self.block[start:stop] for start, stop in zip(
                self.starts[rows].tolist(), self.starts[rows + 1].tolist()))
        return self.of(bytes(block), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: Any) -> Any:
        return os.fsdecode(self.block[self.starts[index]:self.starts[index + 1]])

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _CHUNK):
            for start, stop in itertools.pairwise(
                    self.starts[first:first + _CHUNK + 1].tolist()):
                yield os.fsdecode(self.block[start:stop])


class FileStrings(Sequence[str]):
    """Strings in a file without a name: they take no memory, nor do pickles of them.

    Other processes open the file through /proc while the process that made it runs.
    Linux then deletes it, also after a kill.
    """

    def __init__(self, strings: PackedStrings) -> None:
        """Writes the strings. Raises OSError."""
        self.length, self.dtype = len(strings), strings.starts.dtype
        with tempfile.TemporaryFile() as file:
            file.write(strings.starts.data)
            file.write(strings.block)
            file.flush()
            self._open(_link(file.fileno()))
        self.path = _link(self.file)

    def _open(self, path: str) -> None:
        self.file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.file)

    def __getstate__(self) -> dict[str, Any]:
        return {"length": self.length, "dtype": self.dtype, "path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open(self.path)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        width, place = self.dtype.itemsize, range(self.length)[index]
        start, stop = np.frombuffer(
            os.pread(self.file, 2 * width, width * place), self.dtype).tolist()
        return os.fsdecode(os.pread(self.file, stop - start,
                                    width * (self.length + 1) + start))


def _link(file: int) -> str:
    """Names an open file of this process in a way that its other processes can open."""
    return f"/proc/{os.getpid()}/fd/{file}"


def in_file(strings: PackedStrings) -> Sequence[str]:
    """Moves many strings to a file; returns them as they are where that fails."""
    if len(strings.block) < LARGE or sys.platform != "linux":
        return strings
    try:
        return FileStrings(strings)
    except OSError:  # no space or no /proc: they stay in memory
        return strings
