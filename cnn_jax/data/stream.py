"""Reads batches ahead of the devices, in threads or worker processes, with grain.

All batches of a run are one sequence: the training steps of epoch 0, the batches of the
validation split, the training steps of epoch 1, and so on. The content of batch n is a
pure function of n. So reading can start at any step, continues past the end of an
epoch, and is the same for any number of threads and processes. Each process of a run
reads only its share of a batch.
"""

import bisect
import contextlib
import dataclasses
import functools
import itertools
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import connection, parent_process
from typing import Any, Generic, NamedTuple, TypeVar

import grain
import jax
import numpy as np
from absl import flags

from cnn_jax.data.batches import EvalOrder, TrainOrder
from cnn_jax.data.crops import training_crop
from cnn_jax.data.images import Crop
from cnn_jax.data.lazy import LazyImages
from cnn_jax.data.progressive import Ramp
from cnn_jax.errors import InputError, RunError

PIECE = 32  # pictures that are decoded as one unit of work
MANY_CORES, CORES_PER_WORKER = 16, 8
SMALL_BYTES = 1024  # workers send smaller arrays without shared memory

Placed = TypeVar("Placed")


class HostBatch(NamedTuple):
    """This process's share of a batch, or a piece of it."""

    images: np.ndarray         # uint8 [n, H, W, C]
    labels: np.ndarray         # [n, ...]
    mask: np.ndarray | None    # float32 [n]: 0 where evaluation pads or skips; None
    #                            in training, where all images count
    skipped: tuple[str, ...]   # names of the images that could not be decoded
    last: bool                 # whether the batch ends with this piece


class Share(NamedTuple):
    """The share of this process in the batches of a split."""

    images: LazyImages
    labels: np.ndarray
    order: TrainOrder | EvalOrder
    positions: np.ndarray  # of its examples in the global batch, int [n]
    # Of the random-resized crops of training, see crops.py
    crop_scale: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    ramp: Ramp | None = None  # of their sizes, see progressive.py

    @property
    def pieces(self) -> int:
        """Counts the pieces of a batch: one where no picture is decoded."""
        return 1 if self.gathers else -(-len(self.positions) // PIECE)

    @property
    def gathers(self) -> bool:
        """Tells whether images are copied from memory, without decoding."""
        return self.crop_scale is None and self.images.gathered

    def read(self, epoch: int, batch: int, piece: int) -> HostBatch:
        """Reads one piece of a batch."""
        positions = np.array_split(self.positions, self.pieces)[piece]
        rows, mask = (array[batch, positions] for array in _rows(self.order, epoch))
        counted = mask if isinstance(self.order, EvalOrder) else None
        if self.gathers:
            return HostBatch(self.images.gather(rows), self.labels[rows], counted, (),
                             last=True)
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
class Pieces:
    """All pieces that a run reads, in order and with random access: grain's source."""

    shares: tuple[Share, ...]  # of the splits, in their order in an epoch
    epochs: int

    @functools.cached_property
    def starts(self) -> list[int]:
        """The number of the first piece of each split in epoch 0, then of epoch 1."""
        counts = (share.order.batches * share.pieces for share in self.shares)
        return [0, *itertools.accumulate(counts)]

    def number(self, epoch: int, split: int, batch: int) -> int:
        """Returns the number of the first piece of a batch."""
        return (epoch * self.starts[-1] + self.starts[split]
                + batch * self.shares[split].pieces)

    def __len__(self) -> int:
        return self.epochs * self.starts[-1]

    def __getitem__(self, number: int) -> HostBatch:
        epoch, number = divmod(number, self.starts[-1])
        split = bisect.bisect(self.starts, number) - 1
        share = self.shares[split]
        return share.read(epoch, *divmod(number - self.starts[split], share.pieces))


class Reading(NamedTuple):
    """Says how pieces are read."""

    workers: int  # processes; 0 reads in threads of this process
    threads: int  # of each of them
    ahead: int    # batches that wait on the devices, and as many on the host


def choose_reading(workers: int | None, prefetch: int | None,
                   steps_per_call: int) -> Reading:
    """Chooses the values that `data.workers` and `data.prefetch` do not set.

    Pillow and simplejpeg release the interpreter lock while they decode. The remaining
    Python code still keeps a process from using many cores.
    """
    cores = (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
             else os.cpu_count() or 1)
    if workers is None:
        workers = cores // CORES_PER_WORKER if cores > MANY_CORES else 0
    return Reading(workers, max(1, cores // max(1, workers)),
                   prefetch or max(4, 2 * steps_per_call))


class Stream(Generic[Placed]):
    """Yields batches in order, read ahead; out of order they are read on demand.

    to_device: converts the share of this process to the value that is yielded, usually
        an array on the devices; runs in its own thread.
    """

    def __init__(self, shares: dict[str, Share], epochs: int, reading: Reading,
                 to_device: Callable[[HostBatch], Placed]) -> None:
        self.splits = tuple(shares)
        self.pieces = Pieces(tuple(shares.values()), epochs)
        self.reading, self.to_device = reading, to_device
        self.next_piece = -1  # of the open iterator
        self.iterator: grain.DatasetIterator[Placed] | None = None

    def batches(self, split: str, epoch: int = 0, start: int = 0) -> Iterator[Placed]:
        """Yields the batches of a split from number `start` of an epoch to its end."""
        share = self.pieces.shares[self.splits.index(split)]
        for batch in range(start, share.order.batches):
            if self.next_piece != self._number(split, epoch, batch):
                self.open(split, epoch, batch)
            assert self.iterator is not None
            with worker_errors():
                placed = next(self.iterator)
            self.next_piece += share.pieces
            yield placed

    def open(self, split: str, epoch: int, batch: int) -> None:
        """Starts to read ahead from one batch on."""
        self.close()
        self.next_piece = self._number(split, epoch, batch)
        self.iterator = open_pieces(self.pieces, self.next_piece, self.reading,
                                    self.to_device)
        self.iterator.start_prefetch()

    def _number(self, split: str, epoch: int, batch: int) -> int:
        return self.pieces.number(epoch, self.splits.index(split), batch)

    def close(self) -> None:
        if self.iterator is not None:
            self.iterator.close()
            self.iterator, self.next_piece = None, -1


def open_pieces(pieces: Pieces, start: int, reading: Reading,
                to_device: Callable[[HostBatch], Placed]
                ) -> grain.DatasetIterator[Placed]:
    """Opens an iterator over the batches that begin at piece `start`."""
    most_pieces = max(share.pieces for share in pieces.shares)
    buffer = reading.ahead * most_pieces
    numbers = grain.MapDataset.source(pieces).slice(slice(start, None))
    if reading.workers:
        # grain reads its flag even if no command line is parsed, as in notebooks.
        flags.FLAGS["grain_enable_multiprocess_worker_profiling"].present = True
        per_worker = -(-buffer // reading.workers)
        read = numbers.to_iter_dataset(grain.ReadOptions(
            num_threads=reading.threads, prefetch_buffer_size=reading.threads))
        read = grain.experimental.WithOptionsIterDataset(
            read, grain.experimental.DatasetOptions(min_shm_size=SMALL_BYTES))
        read = read.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=reading.workers,
                                         per_worker_buffer_size=per_worker),
            worker_init_fn=start_worker)
    else:
        copies = all(share.gathers for share in pieces.shares)
        threads = 0 if copies else reading.threads  # threads cost more than copies
        read = numbers.to_iter_dataset(grain.ReadOptions(
            num_threads=threads,
            prefetch_buffer_size=max(buffer, threads) if threads else 0))
    placed = _Joined(read).map(to_device)
    return iter(grain.experimental.ThreadPrefetchIterDataset(
        placed, prefetch_buffer_size=reading.ahead))


class _Joined(grain.IterDataset[HostBatch]):
    """Joins pieces into batches."""

    def __iter__(self) -> "_JoinedIterator":
        return _JoinedIterator(iter(self._parent))


class _JoinedIterator(grain.DatasetIterator[HostBatch]):

    def __next__(self) -> HostBatch:
        pieces = [next(self._parent)]
        while not pieces[-1].last:
            pieces.append(next(self._parent))
        if len(pieces) == 1:
            return pieces[0]
        images, labels, masks, skipped, _ = zip(*pieces)
        mask = None if masks[0] is None else np.concatenate(masks)
        return HostBatch(np.concatenate(images), np.concatenate(labels), mask,
                         sum(skipped, ()), last=True)

    def get_state(self) -> dict[str, Any]:
        return self._parent.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._parent.set_state(state)


def start_worker(index: int, count: int) -> None:
    """Prepares a worker process, which also computes the order of an epoch with JAX.

    It ignores signals: the training process receives them and ends its workers. If that
    process is killed, the workers end by themselves.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    jax.config.update("jax_platforms", "cpu")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


@contextlib.contextmanager
def worker_errors() -> Iterator[None]:
    """Turns the end of a worker process into a RunError."""
    try:
        yield
    except RuntimeError as error:
        match = re.search(r"Worker process .* exit code (-?\d+)", str(error))
        if not match:
            raise
        code = int(match[1])
        reason = {-signal.SIGBUS: "shared memory (/dev/shm) is full; a container may "
                                  "need a larger --shm-size",
                  -signal.SIGKILL: "perhaps memory is short"}.get(code, "see above")
        raise RunError(
            f"a process that reads data ended with exit code {code} ({reason}): use "
            "fewer data.workers, or data.workers=0; the same command resumes at the "
            "last checkpoint") from error
