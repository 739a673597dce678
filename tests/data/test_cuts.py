"""The cuts of a set are those of scikit-learn, whose numbers earlier runs have used."""

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from cnn_jax.data.cuts import random_choice, stratified_choice


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("total,count", [(2, 1), (100, 33), (70_000, 9_999)])
def test_a_random_choice_is_that_of_scikit_learn(total, count, seed):
    chosen = random_choice(total, count, seed)
    _, expected = train_test_split(np.arange(total), test_size=count, random_state=seed)
    assert np.flatnonzero(chosen).tolist() == sorted(expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sizes,count", [
    ([2, 2], 2), ([10] * 7, 10), ([10] * 7, 63),  # ties of equal classes
    ([3, 0, 5, 1000, 0, 17], 57),                 # classes without examples
    ([178, 182, 177, 183, 181, 182, 181, 179, 174, 180], 359),
    ([130] * 300, 1000), (range(2, 400), 4321)])
def test_a_stratified_choice_is_that_of_scikit_learn(sizes, count, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    labels = np.random.default_rng(seed).permutation(labels)
    chosen = stratified_choice(labels, count, seed)
    _, expected = train_test_split(np.arange(len(labels)), test_size=count,
                                   random_state=seed, stratify=labels)
    assert np.flatnonzero(chosen).tolist() == sorted(expected)
