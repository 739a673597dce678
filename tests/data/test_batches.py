"""The order of batches depends on (seed, epoch); every example counts once."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnn_jax.data import batches
from cnn_jax.data.batches import (concatenate, eval_order, permutation, steps_per_epoch,
                                  train_order)
from cnn_jax.data.examples import Dataset, Examples


@settings(max_examples=50, deadline=None)
@given(start=st.integers(0, 50), count=st.integers(1, 200), batch=st.integers(1, 70))
def test_evaluation_sees_every_example_once(start, count, batch):
    seen = []
    for indices, mask in zip(*eval_order(range(start, start + count), batch)):
        assert indices.shape == mask.shape == (batch,)
        assert set(mask) <= {0, 1}
        assert all(start <= i < start + count for i in indices)
        seen += list(indices[mask == 1])
    assert seen == list(range(start, start + count))


# Few sizes, because each one compiles a permutation.
@pytest.mark.parametrize("start,count,batch", [
    (0, 1, 1), (0, 1, 70), (3, 7, 7), (5, 7, 3), (50, 100, 64), (0, 100, 7)])
def test_an_epoch_holds_every_example_and_full_batches(start, count, batch):
    order = train_order(0, 3, range(start, start + count), batch)
    assert order.shape == (steps_per_epoch(count, batch), batch)
    flat = order.ravel()
    assert sorted(flat[:count]) == list(range(start, start + count))
    np.testing.assert_array_equal(flat, np.resize(flat[:count], flat.shape))


def test_order_depends_on_seed_and_epoch_alone():
    rows = range(100)
    first = train_order(0, 0, rows, 10)
    np.testing.assert_array_equal(first, train_order(0, 0, rows, 10))
    assert (first != train_order(0, 1, rows, 10)).any()
    assert (first != train_order(1, 0, rows, 10)).any()


@pytest.mark.parametrize("count", [1, 2, 1000, 1700, 70_001])  # one to two rounds
def test_permutations_are_those_of_jax(count):
    key = jax.random.key(count)
    np.testing.assert_array_equal(permutation(jax.random.key_data(key), count),
                                  jax.random.permutation(key, count))


def test_equal_random_numbers_keep_their_order(monkeypatch):
    numbers = np.array([2**31, 7, 2**16, 7, 2**31, 0, 2**16], np.uint32)
    monkeypatch.setattr(batches, "random_bits", lambda key, count: numbers)
    assert permutation(np.zeros(2, np.uint32), 7).tolist() == [5, 1, 3, 2, 6, 0, 4]


def test_published_epoch_lengths():
    """55,000 images in batches of 32 take 1719 steps, as Keras counts them."""
    assert steps_per_epoch(55_000, 32) == 1719


def test_concatenate_keeps_the_splits_apart():
    def split(n, value):
        return Examples(np.full((n, 2, 2, 1), value, np.uint8),
                        np.full(n, value, np.int32))

    whole, ranges = concatenate(Dataset("x", split(5, 1), split(2, 2), split(3, 3),
                                        ("a",), ""))
    assert ranges == {"train": range(5), "validation": range(5, 7),
                      "test": range(7, 10)}
    for name, value in (("train", 1), ("validation", 2), ("test", 3)):
        assert (whole.labels[ranges[name]] == value).all()
        assert (whole.images[ranges[name]] == value).all()
