"""Keeps many file names in little memory."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np


_CHUNK = 2**14  # strings at a time: as Python objects they take 100 bytes each


def compact(numbers: np.ndarray) -> np.ndarray:
    """Stores numbers from 0 on in 32 bits, if these suffice."""
    fit = not len(numbers) or numbers.max() < 2**32
    return numbers.astype(np.uint32, copy=False) if fit else numbers


class PackedStrings(Sequence[str]):
    """Strings in one block of bytes.

    A string costs its bytes and 4 more; a `str` in a list costs about 60 more. So the
    1.28 million file names of ImageNet take 31 MB, also in a pickle.
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
                   *(np.diff(strings.starts) for strings in sequences)]
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
