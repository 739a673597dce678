"""The keys and random numbers of the host are those of JAX."""

import jax
import numpy as np
import pytest

from cnn_jax import rng

SEEDS = [0, 1, 42, 2**31, 2**32 - 1]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("purpose", rng.PURPOSES)
@pytest.mark.parametrize("index", [0, 1, 89, 2**31 - 1])
def test_keys_are_those_of_jax(seed, purpose, index):
    expected = jax.random.key_data(rng.draw_key(seed, purpose, index))
    np.testing.assert_array_equal(rng.host_key(seed, purpose, index), expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_split_keys_are_those_of_jax(seed):
    key = jax.random.key(seed)
    expected = jax.random.key_data(jax.random.split(key, 3))
    for number in range(3):
        np.testing.assert_array_equal(
            rng.fold_in(np.asarray(jax.random.key_data(key)), number), expected[number])


@pytest.mark.parametrize("count", [1, 2, 1000, rng.BLOCK, 70_000])
def test_random_bits_are_those_of_jax(count):
    key = rng.host_key(3, "order", 5)
    expected = jax.random.bits(jax.random.wrap_key_data(key), (count,))
    np.testing.assert_array_equal(rng.random_bits(key, count), expected)
