"""Which images make up which batch: pure functions of (seed, epoch), nothing to save.

The whole set is one uint8 array, `[train; validation; test]`, that stays on the
devices; a batch is a row of indices into it.
"""

from collections.abc import Iterator

import jax
import numpy as np

from cnn_jax.data.examples import Dataset, Examples
from cnn_jax.rng import draw_key


def concatenate(dataset: Dataset) -> tuple[Examples, dict[str, range]]:
    """One array of all examples, and where each part lies in it."""
    parts = {name: getattr(dataset, name) for name in ("train", "validation", "test")}
    spans, start = {}, 0
    for name, part in parts.items():
        spans[name] = range(start, start + len(part.labels))
        start += len(part.labels)
    return Examples(*map(np.concatenate, zip(*parts.values()))), spans


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Every example at least once: the last batch counts, as in Keras."""
    return -(-examples // batch_size)


def train_order(seed: int, epoch: int, span: range, batch_size: int) -> np.ndarray:
    """int32 [steps, batch_size]: the examples of each step of an epoch, shuffled.

    The last batch is filled up with the epoch's first examples, so that all batches
    have one shape and none is padded (padding would enter batch-norm statistics).
    """
    key = draw_key(seed, "order", epoch)
    order = span.start + np.asarray(jax.random.permutation(key, len(span)))
    steps = steps_per_epoch(len(span), batch_size)
    return np.resize(order, (steps, batch_size)).astype(np.int32)


def eval_order(span: range, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(indices, mask) of each batch: every example once, the last batch padded."""
    for start in range(span.start, span.stop, batch_size):
        indices = np.arange(start, min(start + batch_size, span.stop))
        padding = batch_size - len(indices)
        mask = np.r_[np.ones(len(indices)), np.zeros(padding)]
        yield (np.pad(indices, (0, padding), mode="edge").astype(np.int32),
               mask.astype(np.float32))
