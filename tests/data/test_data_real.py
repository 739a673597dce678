"""The real sets are read correctly from the folder that CNN_JAX_DATA names."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from tests.support.data_samples import data_config

from cnn_jax import data
from cnn_jax.data import official
from cnn_jax.data.batches import TrainOrder
from cnn_jax.data.shares import Share
from cnn_jax.data.stream import Reading, Stream

ROOT = Path(os.environ.get("CNN_JAX_DATA") or "/nonexistent")


def needs(*paths):
    """Skips the test unless the folder holds all of these."""
    missing = [path for path in paths if not (ROOT / path).exists()]
    return pytest.mark.skipif(
        bool(missing), reason=f'CNN_JAX_DATA holds no {", ".join(missing)}')


needs_mnist = needs("mnist/train-images-idx3-ubyte.gz")
needs_fashion = needs("fashion_mnist/train-images-idx3-ubyte.gz")
needs_monkeys = needs("monkey_species/training")
JPEG75 = "cifar10/cifar-10-images-jpeg75.tar.gz"
PREFIX = "cifar10/cifar-10-python-exact-prefix.tar.gz"
FIRST200 = "cifar10/cifar-10-binary-exact-first200.tar.gz"


@needs_mnist
def test_mnist():
    loaded = data.load(
        data_config(name="mnist", validation_count=5000, split="last"), 0)
    assert "sha256 checked" in loaded.source
    assert loaded.train.images.shape == (55000, 28, 28, 1)
    assert loaded.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    counts = np.bincount(loaded.train.labels) + np.bincount(loaded.validation.labels)
    assert counts.tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    # Published: mean 0.1307, standard deviation 0.3081 of the 60,000 images.
    images = np.concatenate([loaded.train.images, loaded.validation.images])
    np.testing.assert_allclose(images.mean() / 255, 0.1307, atol=5e-5)


@needs_fashion
def test_fashion_mnist():
    loaded = data.load(data_config(name="fashion_mnist", validation=0.1), 0)
    assert np.bincount(loaded.train.labels).tolist() == [5400] * 10
    assert np.bincount(loaded.validation.labels).tolist() == [600] * 10
    assert loaded.class_names[loaded.test.labels[0]] == "Ankle boot"


@needs(PREFIX, FIRST200, "cifar10/labels_official_order.npy")
def test_cifar10_layouts_agree_and_have_the_official_labels():
    python = official.read_cifar10_archive(ROOT / PREFIX)
    binary = official.read_cifar10_archive(ROOT / FIRST200)
    np.testing.assert_array_equal(
        python["test"].images[:200], binary["test"].images)
    np.testing.assert_array_equal(
        python["train"].images[:200], binary["train"].images[:200])
    labels = np.load(ROOT / "cifar10/labels_official_order.npy")
    np.testing.assert_array_equal(python["train"].labels[:4000], labels[:4000])
    np.testing.assert_array_equal(python["test"].labels, labels[50000:51017])
    np.testing.assert_array_equal(binary["train"].labels[200:400], labels[10000:10200])


@needs_monkeys
def test_monkey_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path))
    config = data_config(name="folder", dir=str(ROOT / "monkey_species"),
                         image_size=(32, 24), test=0)
    loaded = data.load(config, 0)
    assert loaded.train.images.shape == (1098, 32, 24, 3)
    held_out = [26, 28, 27, 30, 26, 28, 26, 28, 27, 26]
    assert np.bincount(loaded.validation.labels).tolist() == held_out
    assert loaded.class_names[:2] == ("mantled_howler", "patas_monkey")
    assert "1,370 pictures: .jpg (lossy)" in loaded.source
    config.validation_is_test = True
    loaded = data.load(config, 0)
    assert np.bincount(loaded.test.labels).tolist() == held_out
    assert (len(loaded.train.labels), len(loaded.validation.labels)) == (988, 110)


@needs_monkeys
def test_streamed_monkeys_are_those_in_memory(tmp_path, monkeypatch):
    """All batches of an epoch, bit for bit, decoded from the photographs twice."""
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path))
    config = data_config(name="folder", dir=str(ROOT / "monkey_species"),
                         image_size=(32, 24), test=0)
    in_memory = data.load(config, 0).train
    config.stream = True
    lazy = data.load(config, 0).train
    order = TrainOrder(5, len(lazy.labels), 64)
    share = Share(lazy.images, lazy.labels, order, np.arange(64))
    stream = Stream({"train": share}, 2, Reading(0, 2, 2), lambda batch: batch)
    with contextlib.closing(stream):
        for rows, batch in zip(order.rows(1)[0], stream.batches("train", 1),
                               strict=True):
            np.testing.assert_array_equal(batch.images, in_memory.images[rows])
            np.testing.assert_array_equal(batch.labels, in_memory.labels[rows])


@pytest.mark.slow
@needs(JPEG75, PREFIX, "cifar10/labels_official_order.npy")
def test_cifar10_in_jpeg_files(tmp_path, monkeypatch):
    """The k-th picture of a class is the k-th of that label in official order."""
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path))
    loaded = data.load(data_config(name="folder", dir=str(ROOT / JPEG75)), 0)
    assert "60,000 pictures: .jpg (lossy)" in loaded.source
    assert np.bincount(loaded.train.labels).tolist() == [4500] * 10
    assert loaded.class_names == official.CLASS_NAMES["cifar10"]
    exact = official.read_cifar10_archive(ROOT / PREFIX)["test"]
    test, seen = loaded.test, []
    assert np.bincount(test.labels).tolist() == [1000] * 10
    for k, label in enumerate(exact.labels):
        rank = (exact.labels[:k] == label).sum()
        seen.append(np.flatnonzero(test.labels == label)[rank])
    error = (test.images[seen].astype(float) - exact.images) ** 2
    assert (10 * np.log10(255 ** 2 / error.mean((1, 2, 3)))).min() > 23  # dB
