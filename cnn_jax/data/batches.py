"""Decides which images make up which batch, as pure functions of (seed, epoch).

So the order of the data is not part of a checkpoint. The whole set is one uint8 array,
`[train; validation; test]`, that stays on the devices; a batch is a row of indices.
"""

import math
from typing import NamedTuple

import numpy as np

from cnn_jax.data.examples import Dataset, Examples
from cnn_jax.rng import fold_in, host_key, random_bits


def concatenate(dataset: Dataset) -> tuple[Examples, dict[str, range]]:
    """Joins all splits into one array; returns it and each split's range of rows."""
    splits = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
    split_ranges, start = {}, 0
    for name, examples in splits.items():
        split_ranges[name] = range(start, start + len(examples.labels))
        start += len(examples.labels)
    return Examples(*map(np.concatenate, zip(*splits.values()))), split_ranges


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Counts the steps that show every example at least once, as Keras does."""
    return -(-examples // batch_size)


def train_order(seed: int, epoch: int, rows: range, batch_size: int) -> np.ndarray:
    """Shuffles the rows of an epoch: int32 [steps, batch_size].

    The last batch is filled up with the epoch's first examples. So all batches have one
    shape, and none is padded: padding would enter the statistics of batch norm.
    """
    order = rows.start + permutation(host_key(seed, "order", epoch), len(rows))
    steps = steps_per_epoch(len(rows), batch_size)
    return np.pad(order, (0, steps * batch_size - len(order)), mode="wrap").reshape(
        steps, batch_size)


def permutation(key: np.ndarray, count: int) -> np.ndarray:
    """Computes `jax.random.permutation(key, count)`, which sorts slowly on a CPU.

    Each round is a stable sort by random numbers of 32 bits: by their lower, then by
    their upper half. For 16 bits NumPy has a radix sort.
    """
    order = np.arange(count, dtype=np.int32)
    for _ in range(math.ceil(3 * math.log(max(1, count)) / math.log(2**32 - 1))):
        key, subkey = fold_in(key, 0), fold_in(key, 1)  # jax.random.split
        numbers = random_bits(subkey, count)
        for half in (0, 16):
            rank = np.argsort((numbers >> half).astype(np.uint16), kind="stable")
            order, numbers = order[rank], numbers[rank]
    return order


def eval_order(rows: range, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (indices, mask) of all batches: every row once, the last batch padded.

    indices: int32 [batches, batch_size]. mask: float32, 0 where padded, else 1.
    """
    batches = steps_per_epoch(len(rows), batch_size)
    indices = np.arange(rows.start, rows.start + batches * batch_size, dtype=np.int32
                        ).reshape(batches, batch_size)
    mask = (indices < rows.stop).astype(np.float32)
    return np.minimum(indices, rows.stop - 1), mask


class TrainOrder(NamedTuple):
    """The order of a training split: all batches of any epoch."""

    seed: int
    examples: int
    batch_size: int

    @property
    def batches(self) -> int:
        return steps_per_epoch(self.examples, self.batch_size)

    def rows(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (indices, mask), both [batches, batch_size]; see `train_order`."""
        order = train_order(self.seed, epoch, range(self.examples), self.batch_size)
        return order, np.broadcast_to(np.float32(1), order.shape)


class EvalOrder(NamedTuple):
    """The order of a split that is evaluated: the order of its rows."""

    examples: int
    batch_size: int

    @property
    def batches(self) -> int:
        return steps_per_epoch(self.examples, self.batch_size)

    def rows(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (indices, mask), both [batches, batch_size]; see `eval_order`."""
        return eval_order(range(self.examples), self.batch_size)
