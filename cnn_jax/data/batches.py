"""Decides which images make up which batch, as pure functions of (seed, epoch).

So the order of the data is not part of a checkpoint. The whole set is one uint8 array,
`[train; validation; test]`, that stays on the devices; a batch is a row of indices.
"""

import math
from typing import NamedTuple

import jax
import numpy as np

from cnn_jax.data.examples import Dataset, Examples
from cnn_jax.rng import draw_key

BLOCK = 2**13  # random numbers that are drawn at a time
ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)  # bits, of Threefry 2x32


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
    order = rows.start + permutation(draw_key(seed, "order", epoch), len(rows))
    steps = steps_per_epoch(len(rows), batch_size)
    return np.pad(order, (0, steps * batch_size - len(order)), mode="wrap").reshape(
        steps, batch_size)


def permutation(key: jax.Array, count: int) -> np.ndarray:
    """Computes `jax.random.permutation(key, count)`, which sorts slowly on a CPU.

    Each round sorts by random numbers of 32 bits. With the position as the lower 32
    bits, NumPy's fast sort is as stable as JAX's.
    """
    order, keys = np.arange(count, dtype=np.int32), np.empty(count, np.uint64)
    for _ in range(math.ceil(3 * math.log(max(1, count)) / math.log(2**32 - 1))):
        key, subkey = jax.random.split(key)
        data = np.asarray(jax.random.key_data(subkey))
        for start in range(0, count, BLOCK):
            positions = np.arange(start, min(start + BLOCK, count), dtype=np.uint32)
            bits = random_bits(data, positions).astype(np.uint64)
            keys[start:start + BLOCK] = bits << 32 | positions
        keys.sort()
        keys &= 2**32 - 1
        order = order[keys.view(np.int64)]
    return order


def random_bits(key: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Computes the numbers of `jax.random.bits(key)` at some positions, uint32.

    They are Threefry 2x32 with 20 rounds (Salmon et al., 2011). In blocks, NumPy takes
    half of XLA's time, no memory, and no time to compile.
    """
    keys = key[:1], key[1:2], key[:1] ^ key[1:2] ^ np.uint32(0x1BD11BDA)
    high, low = np.full_like(positions, keys[0]), positions + keys[1]
    for i in range(5):
        for bits in ROTATIONS[i % 2]:
            high += low
            low = low << bits | low >> 32 - bits
            low ^= high
        high += keys[(i + 1) % 3]
        low += keys[(i + 2) % 3] + np.uint32(i + 1)
    return high ^ low


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
