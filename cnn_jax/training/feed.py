"""Feeds a run with batches: from arrays that stay on the devices, or as a stream.

`Resident` copies all images to the devices once; a call then gets only indices.
`Streamed` sends each batch while the previous one is trained. Both yield the same
batches in the same order.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from ml_collections import ConfigDict

from cnn_jax import data
from cnn_jax.data.batches import (EvalOrder, TrainOrder, concatenate, eval_order,
                                  train_order)
from cnn_jax.data.examples import Dataset, Examples
from cnn_jax.data.images import simplejpeg
from cnn_jax.data.info import SPLITS
from cnn_jax.data.lazy import LazyImages, cropped_when_read
from cnn_jax.data.progressive import ramp_of
from cnn_jax.installation import install_command
from cnn_jax.training import parallel
from cnn_jax.training.eval_batch import LARGEST, evaluation_batch
from cnn_jax.training.parallel import Placement
from cnn_jax.training.steps import (Metrics, TrainState, eval_batch, eval_rows,
                                    train_batches, train_steps)
from cnn_jax.workdir.progress import Progress, Row

LATE = 0.05  # fraction of an epoch; waiting longer for images gives advice
Arguments = tuple[Any, ...]  # of a compiled program, after the state


class Feed(Protocol):
    """Yields the arguments of the two programs that it provides."""

    train: Callable[..., tuple[TrainState, Metrics]]  # (state, *arguments, recipe)
    evaluate: Callable[..., Metrics]                  # (state, *arguments, recipe)
    # Whether each batch is sent when it is needed. Then at most one call may be queued:
    # the batches of more calls would fill the memory.
    streams: bool
    counts: dict[str, int]  # examples of each split
    eval_batch_size: int
    skips: bool             # whether images that cannot be decoded are skipped
    skipped: set[str]       # names of the images that this process skipped

    @property
    def ready(self) -> bool:
        """Tells whether the next batch has arrived."""

    def start(self, epoch: int, step: int) -> None:
        """Begins to read ahead for the call that starts at this step of this epoch."""

    def calls(self, epoch: int, ranges: Sequence[tuple[int, int]]
              ) -> Iterator[Arguments]:
        """Yields the arguments of the training calls for these steps of an epoch."""

    def batches(self, split: str) -> Iterator[Arguments]:
        """Yields the arguments of the evaluation calls for a split."""

    def example_call(self, steps: int, epoch: int = 0) -> Arguments:
        """Returns the arguments of some training call of an epoch, for the compiler."""

    def example_batch(self) -> Arguments:
        """Returns the arguments of some evaluation call, for the compiler."""

    def advice(self, row: Row) -> str | None:
        """Says how long the devices waited for images in an epoch, and what helps.

        It says so once, after the first epoch with more than `LATE` of waiting; other
        epochs give None.
        """

    def close(self) -> None:
        """Stops reading."""


class Resident:
    """Holds all images on the devices."""

    train, evaluate = staticmethod(train_steps), staticmethod(eval_rows)
    streams, ready = False, True

    def __init__(self, placement: Placement, dataset: Dataset, seed: int,
                 batch_size: int, eval_batch_size: int) -> None:
        examples, self.ranges = concatenate(dataset)
        self.data: Examples | None = placement.replicate(examples)
        self.placement, self.seed = placement, seed
        self.batch_size = batch_size
        self.counts = {split: len(rows) for split, rows in self.ranges.items()}
        self.eval_batch_size = evaluation_batch(eval_batch_size, self.counts, placement)
        self.skips, self.skipped = False, set[str]()

    def start(self, epoch: int, step: int) -> None:
        """Does nothing: all images are on the devices already."""

    def calls(self, epoch: int, ranges: Sequence[tuple[int, int]]
              ) -> Iterator[Arguments]:
        order = train_order(self.seed, epoch, self.ranges["train"], self.batch_size)
        for start, stop in ranges:
            yield self.data, self.placement.shard_batch(order[start:stop])

    def batches(self, split: str) -> Iterator[Arguments]:
        for indices, mask in zip(*eval_order(
                self.ranges[split], self.eval_batch_size)):
            yield (self.data, self.placement.shard_batch(indices),
                   self.placement.shard_batch(mask))

    def example_call(self, steps: int, epoch: int = 0) -> Arguments:
        rows = np.zeros((steps, self.batch_size), np.int32)
        return self.data, self.placement.shard_batch(rows)

    def example_batch(self) -> Arguments:
        return next(self.batches("train"))

    def advice(self, row: Row) -> None:
        """Returns None: the devices never wait for images."""

    def close(self) -> None:
        """Frees the images on the devices."""
        self.data = None


class Streamed:
    """Reads, decodes and sends batches while the devices compute."""

    train, evaluate = staticmethod(train_batches), staticmethod(eval_batch)
    streams = True

    def __init__(self, placement: Placement, dataset: Dataset, config: ConfigDict,
                 steps_per_call: int, eval_batch_size: int) -> None:
        # Imported here: grain takes a moment and defines command-line flags.
        from cnn_jax.data import stream
        self.placement, self.dataset, self.config = placement, dataset, config
        self.reading = stream.choose_reading(config.data.workers, config.data.prefetch,
                                             steps_per_call)
        self.stream: stream.Stream[Arguments] | None = None
        self.training = False  # whether the open stream is that of training
        self.epoch = 0         # the epoch that is being trained
        self.advised = False
        self.counts = {split: len(getattr(dataset, split).labels) for split in SPLITS}
        self.eval_batch_size = evaluation_batch(eval_batch_size, self.counts, placement)
        self.skips, self.skipped = config.data.on_error == "skip", set[str]()

    @property
    def ready(self) -> bool:
        return self.stream is not None and bool(self.stream.ready)

    def start(self, epoch: int, step: int) -> None:
        shares = {"train": self._training_share()}
        if self.counts["validation"]:
            shares["validation"] = self._evaluation_share("validation")
        self.stream = self._stream(shares, self.config.epochs)
        self.training = True
        self.stream.open("train", epoch, step)

    def calls(self, epoch: int, ranges: Sequence[tuple[int, int]]
              ) -> Iterator[Arguments]:
        self.epoch = epoch
        assert self.stream is not None, "start has been called"
        batches = self.stream.batches("train", epoch, ranges[0][0])
        for start, stop in ranges:
            yield tuple(next(batches)[0] for _ in range(start, stop)),

    def batches(self, split: str) -> Iterator[Arguments]:
        if self.training and split == "validation":
            assert self.stream is not None
            return self.stream.batches(split, self.epoch)
        self.close()
        self.stream = self._stream({split: self._evaluation_share(split)}, epochs=1)
        return self.stream.batches(split)

    def example_call(self, steps: int, epoch: int = 0) -> Arguments:
        examples, _ = self._example(self.config.batch_size,
                                    self._training_share().images_at(epoch).image_shape)
        return (examples,) * steps,

    def example_batch(self) -> Arguments:
        return self._example(self.eval_batch_size, self.dataset.train.images.shape[1:])

    def advice(self, row: Row) -> str | None:
        waited, speed = row["input_seconds"] / row["seconds"], row["images_per_second"]
        if waited <= LATE or self.advised:
            return None
        self.advised = True
        workers, threads, _ = self.reading
        readers = f"{workers} processes" if workers else f"{threads} threads"
        if jax.process_count() > 1:
            readers += f" of each of {jax.process_count()} training processes"
        install = "" if simplejpeg else f"simplejpeg ({install_command('fast_jpeg')}), "
        return (f"input: the devices waited {waited:.0%} of the epoch for images; "
                f"{speed:,.0f} images/s were read by {readers}, "
                f"{speed / (1 - waited):,.0f} images/s could be trained. What helps: "
                "more CPU cores, more data.workers, shards of smaller pictures (python "
                f"-m cnn_jax.pack), {install}a smaller data.image_size")

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream, self.training = None, False

    def _share(self, split: str, order: TrainOrder | EvalOrder) -> Any:
        from cnn_jax.data.shares import Share
        images, labels = getattr(self.dataset, split)
        settings, positions = (self.config.augment,
                               self.placement.positions(order.batch_size))
        if not (settings.crop_scale and cropped_when_read(
                images, data.task_of(self.config.data))):
            return Share(images, labels, order, positions)
        return Share(images, labels, order, positions, settings.crop_scale,
                     settings.crop_ratio, ramp_of(self.config.progressive))

    def _training_share(self) -> Any:
        return self._share("train", TrainOrder(
            self.config.seed, self.counts["train"], self.config.batch_size))

    def _evaluation_share(self, split: str) -> Any:
        return self._share(split, EvalOrder(self.counts[split], self.eval_batch_size))

    def _stream(self, shares: dict[str, Any], epochs: int) -> Any:
        from cnn_jax.data.stream import Stream
        return Stream(shares, epochs, self.reading, self._to_device)

    def _to_device(self, batch: Any) -> Arguments:
        """Sends this process's share of a batch to its devices."""
        self.skipped.update(batch.skipped)
        examples = Examples(batch.images, batch.labels)
        return jax.tree.map(self.placement.join_shares, (examples, batch.mask))

    def _example(self, batch_size: int,
                 image_shape: tuple[int, ...]) -> Arguments:
        count = len(self.placement.positions(batch_size))
        labels = self.dataset.train.labels
        return jax.tree.map(self.placement.join_shares, (
            Examples(np.zeros((count, *image_shape), np.uint8),
                     np.zeros((count, *labels.shape[1:]), labels.dtype)),
            np.zeros(count, np.float32)))


def open_feed(placement: Placement, dataset: Dataset, config: ConfigDict,
              steps_per_call: int, eval_batch_size: int | None = None) -> Feed:
    """Makes the feed of a data set: resident, or streamed if its images are lazy.

    eval_batch_size: the largest batch of evaluation, see `largest_batch`; None takes
        that of the config, without regard to memory.
    """
    largest = eval_batch_size or config.eval_batch_size or LARGEST
    if isinstance(dataset.train.images, LazyImages):
        return Streamed(placement, dataset, config, steps_per_call, largest)
    return Resident(placement, dataset, config.seed, config.batch_size, largest)


def record_skipped(feed: Feed, progress: Progress) -> None:
    """Adds the images that any process has skipped to `progress.skipped`.

    All processes must call this together.
    """
    if feed.skips:
        progress.skipped = parallel.union([*progress.skipped, *feed.skipped])
