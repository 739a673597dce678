"""Reads the share of a process in the batches of a run, as units of work.

All batches of a run are one sequence: the training steps of epoch 0, the batches of the
validation split, the training steps of epoch 1, and so on. The content of batch n is a
pure function of n. So reading can start at any step, continues past the end of an
epoch, and is the same for any number of threads and processes. Each process of a run
reads only its share of a batch.

A unit of work is a piece of a batch whose pictures are decoded. Where images are only
copied from memory it is a group of batches, because handling a unit takes longer than
copying a batch.
"""

import bisect
import dataclasses
import functools
import itertools
import math
import threading
from typing import NamedTuple

import numpy as np

from cnn_jax.data.batches import EvalOrder, TrainOrder
from cnn_jax.data.crops import training_crop
from cnn_jax.data.images import Crop
from cnn_jax.data.lazy import LazyImages
from cnn_jax.data.progressive import Ramp
from cnn_jax.errors import InputError

PIECE = 32  # pictures of a piece
GROUP, GROUP_BYTES = 8, 2**22  # batches of a group at most, and their pixels


class HostBatch(NamedTuple):
    """This process's share of a batch, or a piece of it."""

    images: np.ndarray         # uint8 [n, H, W, C]
    labels: np.ndarray         # [n, ...]
    mask: np.ndarray | None    # float32 [n]: 0 where evaluation pads or skips; None
    #                            in training, where all images count
    skipped: tuple[str, ...]   # names of the images that could not be decoded
    last: bool                 # whether the batch ends with this piece


@dataclasses.dataclass(frozen=True, eq=False)
class Share:
    """The share of this process in the batches of a split."""

    images: LazyImages
    labels: np.ndarray
    order: TrainOrder | EvalOrder
    positions: np.ndarray  # of its examples in the global batch, int [n]
    # Of the random-resized crops of training, see crops.py
    crop_scale: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    ramp: Ramp | None = None  # of their sizes, see progressive.py

    @functools.cached_property
    def pieces(self) -> int:
        """Counts the pieces of a batch: one where no picture is decoded."""
        return 1 if self.gathers else -(-len(self.positions) // PIECE)

    @functools.cached_property
    def group(self) -> int:
        """Counts the batches of a unit: one where pictures are decoded."""
        pixels = len(self.positions) * math.prod(self.images.image_shape)
        return min(GROUP, max(1, GROUP_BYTES // pixels)) if self.gathers else 1

    @property
    def units(self) -> int:
        """Counts the units of an epoch."""
        return -(-self.order.batches // self.group) * self.pieces

    @property
    def gathers(self) -> bool:
        """Tells whether images are copied from memory, without decoding."""
        return self.crop_scale is None and self.images.gathered

    def read(self, epoch: int, unit: int) -> tuple[HostBatch, ...]:
        """Reads one unit: some batches, or a piece of one."""
        if self.gathers:
            return self._read_group(epoch, unit * self.group)
        return self._read_piece(epoch, *divmod(unit, self.pieces)),

    def _read_group(self, epoch: int, first: int) -> tuple[HostBatch, ...]:
        batches = slice(first, first + self.group)
        rows, mask = (array[batches, self.positions]
                      for array in _rows(self.order, epoch))
        masks = mask if isinstance(self.order, EvalOrder) else [None] * len(rows)
        return tuple(HostBatch(*batch, (), last=True) for batch in zip(
            self.images.gather(rows), self.labels[rows], masks))

    def _read_piece(self, epoch: int, batch: int, piece: int) -> HostBatch:
        positions = np.array_split(self.positions, self.pieces)[piece]
        rows, mask = (array[batch, positions] for array in _rows(self.order, epoch))
        counted = mask if isinstance(self.order, EvalOrder) else None
        source = self.images_at(epoch)
        images = np.zeros((len(rows), *source.image_shape), np.uint8)
        skipped: list[str] = []
        for i in np.flatnonzero(mask):
            row = self._read_into(images[i], source, int(rows[i]), epoch, skipped)
            if row is None:
                mask[i] = 0
            else:
                rows[i] = row
        return HostBatch(images, self.labels[rows], counted, tuple(skipped),
                         last=piece == self.pieces - 1)

    def images_at(self, epoch: int) -> LazyImages:
        """Returns the images at the size that they have in an epoch."""
        if self.ramp is None or isinstance(self.order, EvalOrder):
            return self.images
        return self.images.at_size(self.ramp.size(epoch))

    def crop(self, epoch: int, row: int) -> Crop | None:
        """Returns the random crop of an image, which its reader cuts out, or None."""
        if isinstance(self.order, EvalOrder):
            return None
        return training_crop(self.order.seed, epoch, row, self.crop_scale,
                             self.crop_ratio)

    def _read_into(self, image: np.ndarray, source: LazyImages, row: int, epoch: int,
                   skipped: list[str]) -> int | None:
        """Reads the image of a row; returns the row that was read.

        If the image cannot be decoded and may be skipped, training reads the next image
        of the split that can be decoded, and evaluation reads none.
        """
        for tried in range(len(self.images)):
            candidate = (row + tried) % len(self.images)
            pixels = source.try_read(candidate, self.crop(epoch, candidate))
            if pixels is not None:
                image[...] = pixels
                return candidate
            skipped.append(self.images.records.name(candidate))
            if isinstance(self.order, EvalOrder):
                return None
        raise InputError(f"none of the {len(self.images):,} images can be decoded, "
                         f"such as {self.images.records.name(row)}")


_lock = threading.Lock()


def _rows(order: TrainOrder | EvalOrder, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns `order.rows(epoch)`; several threads compute it only once."""
    with _lock:
        return _computed_rows(order, epoch)


@functools.lru_cache(maxsize=4)
def _computed_rows(order: TrainOrder | EvalOrder,
                   epoch: int) -> tuple[np.ndarray, np.ndarray]:
    return order.rows(epoch)


@dataclasses.dataclass(frozen=True, eq=False)
class Units:
    """All units that a run reads, in order and with random access: grain's source."""

    shares: tuple[Share, ...]  # of the splits, in their order in an epoch
    epochs: int

    @functools.cached_property
    def starts(self) -> list[int]:
        """The number of the first unit of each split in epoch 0, then of epoch 1."""
        return [0, *itertools.accumulate(share.units for share in self.shares)]

    def find(self, epoch: int, split: int, batch: int) -> tuple[int, int]:
        """Returns the number of the first unit of a batch, and the batch's index in it.
        """
        group, index = divmod(batch, self.shares[split].group)
        return (epoch * self.starts[-1] + self.starts[split]
                + group * self.shares[split].pieces), index

    def __len__(self) -> int:
        return self.epochs * self.starts[-1]

    def __getitem__(self, number: int) -> tuple[HostBatch, ...]:
        epoch, number = divmod(number, self.starts[-1])
        split = bisect.bisect(self.starts, number) - 1
        return self.shares[split].read(epoch, number - self.starts[split])
