"""The README's accuracies are reached when measured again (slow)."""

import os
from pathlib import Path

import numpy as np
import pytest

from cnn_jax import training
from configs import lenet

pytestmark = pytest.mark.slow
MNIST = Path(os.environ.get("CNN_JAX_DATA", "")) / "mnist"


def accuracies(variant: str, seeds, tmp_path) -> list[float]:
    accuracies = []
    for seed in seeds:
        config = lenet.get_config(variant)
        config.seed = seed
        results = training.run(config, tmp_path / f"{variant}-{seed}")
        accuracies.append(results.test_accuracy)
    print(variant, accuracies)
    return accuracies


def test_digits_mean_over_five_seeds(tmp_path):
    assert np.mean(accuracies("digits", range(5), tmp_path)) >= 0.985


@pytest.mark.skipif(not MNIST.is_dir(), reason="CNN_JAX_DATA holds no mnist/")
def test_mnist_in_five_epochs(tmp_path):
    assert lenet.get_config("mnist").epochs <= 5
    assert np.mean(accuracies("mnist", [0], tmp_path)) >= 0.990
