"""Reads batches ahead of the devices, in threads or worker processes, with grain.

`shares.py` says what is read: units of work, in the order of a run.
"""

import contextlib
import os
import re
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing import connection, parent_process
from typing import Any, Generic, NamedTuple, TypeVar

import grain
import jax
import numpy as np
from absl import flags

from cnn_jax.data.shares import HostBatch, Share, Units
from cnn_jax.errors import RunError

MANY_CORES, CORES_PER_WORKER = 16, 8
SMALL_BYTES = 1024  # workers send smaller arrays without shared memory

DeviceBatch = TypeVar("DeviceBatch")


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


class Stream(Generic[DeviceBatch]):
    """Yields batches in order, read ahead; out of order they are read on demand.

    to_device: converts the share of this process to the value that is yielded, usually
        an array on the devices; runs in its own thread.
    """

    def __init__(self, shares: dict[str, Share], epochs: int, reading: Reading,
                 to_device: Callable[[HostBatch], DeviceBatch]) -> None:
        self.splits = tuple(shares)
        self.units = Units(tuple(shares.values()), epochs)
        self.reading, self.to_device = reading, to_device
        self.iterator: grain.DatasetIterator[list[DeviceBatch]] | None = None
        self.following = -1, 0  # where the next batch of the iterator is, `Units.find`
        self.ready: deque[DeviceBatch] = deque()  # what the iterator has yielded

    def batches(self, split: str, epoch: int = 0, start: int = 0
                ) -> Iterator[DeviceBatch]:
        """Yields the batches of a split from number `start` of an epoch to its end."""
        share = self.units.shares[self.splits.index(split)]
        for batch in range(start, share.order.batches):
            if self.following != self._find(split, epoch, batch):
                self.open(split, epoch, batch)
            assert self.iterator is not None
            unit, index = self.following
            if not self.ready:
                with worker_errors():
                    self.ready.extend(next(self.iterator)[index:])
            device_batch = self.ready.popleft()
            self.following = ((unit, index + 1) if self.ready
                              else (unit + share.pieces, 0))
            yield device_batch

    def open(self, split: str, epoch: int, batch: int) -> None:
        """Starts to read ahead from one batch on."""
        self.close()
        self.following = self._find(split, epoch, batch)
        self.iterator = open_units(self.units, self.following[0], self.reading,
                                   self.to_device)
        self.iterator.start_prefetch()

    def _find(self, split: str, epoch: int, batch: int) -> tuple[int, int]:
        return self.units.find(epoch, self.splits.index(split), batch)

    def close(self) -> None:
        if self.iterator is not None:
            self.iterator.close()
            self.iterator, self.following = None, (-1, 0)
            self.ready.clear()


def open_units(units: Units, start: int, reading: Reading,
               to_device: Callable[[HostBatch], DeviceBatch]
               ) -> grain.DatasetIterator[list[DeviceBatch]]:
    """Opens an iterator over the batches from unit `start` on, one list for each unit.
    """
    buffer = reading.ahead * max(share.pieces for share in units.shares)
    groups = max(1, reading.ahead // max(share.group for share in units.shares))
    numbers = grain.MapDataset.source(units).slice(slice(start, None))
    copies = all(share.gathers for share in units.shares)
    if reading.workers and not copies:  # they would need a copy of the images
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
        threads = 0 if copies else reading.threads  # threads cost more than copies
        read = numbers.to_iter_dataset(grain.ReadOptions(
            num_threads=threads,
            prefetch_buffer_size=max(buffer, threads) if threads else 0))
    batches = _Joined(read).map(lambda batches: [to_device(batch) for batch in batches])
    return iter(grain.experimental.ThreadPrefetchIterDataset(
        batches, prefetch_buffer_size=groups))


class _Joined(grain.IterDataset[tuple[HostBatch, ...]]):
    """Joins pieces into batches."""

    def __iter__(self) -> "_JoinedIterator":
        return _JoinedIterator(iter(self._parent))


class _JoinedIterator(grain.DatasetIterator[tuple[HostBatch, ...]]):

    def __next__(self) -> tuple[HostBatch, ...]:
        pieces = next(self._parent)
        while not pieces[-1].last:
            pieces += next(self._parent)
        if pieces[0].last:
            return pieces
        images, labels, masks, skipped, _ = zip(*pieces)
        mask = None if masks[0] is None else np.concatenate(masks)
        return HostBatch(np.concatenate(images), np.concatenate(labels), mask,
                         sum(skipped, ()), last=True),

    def get_state(self) -> dict[str, Any]:
        return self._parent.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._parent.set_state(state)


def start_worker(index: int, count: int) -> None:
    """Prepares a worker process. If a source computes with JAX, it uses the CPU.

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
