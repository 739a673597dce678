"""`load` reads, splits, converts and resizes the digits; `check` refuses bad fields."""

import numpy as np
import pytest
from tests.support.data_samples import data_config

from cnn_jax import data
from cnn_jax.data.examples import Examples, Stored, split
from cnn_jax.errors import InputError


def rows(examples) -> set[bytes]:
    return {image.tobytes() for image in examples.images}


def test_digits_are_the_1797_of_scikit_learn():
    loaded = data.load(data_config(), seed=3)
    splits = (loaded.train, loaded.validation, loaded.test)
    counts = [len(split.labels) for split in splits]
    assert counts == [1294, 144, 359] and sum(counts) == 1797
    assert loaded.train.images.shape == (1294, 8, 8, 1)
    assert loaded.train.images.dtype == np.uint8
    assert loaded.train.labels.dtype == np.int32
    assert loaded.class_names == tuple("0123456789")
    assert "scikit-learn" in loaded.source and "1,294" in loaded.source


def test_digit_values_go_from_0_16_to_0_255():
    # Row 1 of the first digit is 0 0 13 15 10 15 5 0 in sixteenths.
    whole = data.load(data_config(validation=0, test=0), seed=0).train
    assert whole.labels[0] == 0
    assert whole.images[0, 1, :, 0].tolist() == [0, 0, 207, 239, 159, 239, 80, 0]
    assert whole.images.max() == 255


def test_split_is_disjoint_stratified_and_fixed_by_the_seed():
    first, again, other = (data.load(data_config(), seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.test.images, again.test.images)
    np.testing.assert_array_equal(first.validation.labels, again.validation.labels)
    assert rows(first.test) != rows(other.test)
    assert not rows(first.test) & rows(first.train)
    assert not rows(first.validation) & (rows(first.train) | rows(first.test))
    counts = np.bincount(first.validation.labels, minlength=10)
    assert counts.min() >= 14 and counts.max() <= 15


@pytest.mark.parametrize("how, expected", [("first", [0, 1, 2]), ("last", [7, 8, 9])])
@pytest.mark.parametrize("validation", [{"validation_count": 3}, {"validation": 0.3}])
def test_first_and_last_examples_become_validation(how, expected, validation):
    train = Examples(np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1),
                     np.arange(10, dtype=np.int32))
    config = data_config(**validation, split=how, test=0, limit=4)
    kept, chosen, test = split(Stored({"train": train}, (), ""), config, 0)
    assert chosen.labels.tolist() == expected
    assert chosen.images.ravel().tolist() == expected
    # `limit` keeps the first images of the training split, and all of other splits.
    assert kept.labels.tolist() == [n for n in range(10) if n not in expected][:4]
    assert len(test.labels) == 0


def test_splits_that_the_set_has_are_used_whole():
    def examples(n):
        return Examples(np.zeros((n, 1, 1, 1), np.uint8), np.arange(n, dtype=np.int32))
    stored = Stored({"train": examples(8), "validation": examples(3),
                     "test": examples(2)}, (), "")
    splits = split(stored, data_config(validation=0.5, test=0.5), 0)
    assert [len(split.labels) for split in splits] == [8, 3, 2]


def test_the_source_names_the_limit():
    loaded = data.load(data_config(limit=50), seed=0)
    assert len(loaded.train.labels) == 50 and len(loaded.test.labels) == 359
    assert "limited to 50" in loaded.source


def test_image_size_and_channels():
    loaded = data.load(data_config(image_size=(12, 16), channels=3), seed=0)
    assert loaded.train.images.shape == (1294, 12, 16, 3)
    red, green, blue = np.moveaxis(loaded.train.images, -1, 0)
    assert (red == green).all() and (green == blue).all()


def test_nothing_held_out():
    loaded = data.load(data_config(validation=0, test=0), seed=0)
    assert len(loaded.train.labels) == 1797
    assert loaded.validation.images.shape == loaded.test.images.shape == (0, 8, 8, 1)


@pytest.mark.parametrize("changes, facts", [
    (dict(name="minst"), ["minst", "fashion_mnist", "tfds:NAME"]),
    (dict(name=""), ["digits"]),
    (dict(name="tfds:"), ["tfds:NAME"]),
    (dict(name="tfds:../../x"), ["tfds:NAME"]),
    (dict(name="tfds:huggingface:mnist"), ["tfds:NAME"]),
    (dict(name="folder"), ["data.dir is not set"]),
    (dict(dir="/tmp"), ["digits", "data.dir"]),
    (dict(name="cifar10", dir="tests"), ["tests holds no CIFAR-10", "name=folder"]),
    (dict(name="mnist", dir="/nowhere"), ["'/nowhere'", "mnist"]),
    (dict(validation_count=5000), ["5,000", "1,438", "data.validation_count"]),
    (dict(validation=0.0001), ["data.validation", "at least 1"]),
    (dict(validation_count=3), ["stratified", "data.split"]),
    (dict(name="shapes_both", dir="/tmp"), ["data.dir", "drawn"]),
    (dict(name="shapes_both", biased_triangles=True), ["shapes_colour and"]),
    (dict(biased_triangles=True), ["digits", "data.biased_triangles"]),
    (dict(validation_is_test=True), ["digits", "folder"]),
    (dict(name="shapes_segmentation", image_size=(64, 64)), ["32 x 32", "(64, 64)"]),
    (dict(shorter_side=8), ["data.shorter_side", "not set"]),
    (dict(shorter_side=8, image_size=(9, 8)), ["data.shorter_side", "(9, 8)"]),
    (dict(name="shapes_segmentation"), ["data.split", "first or last"]),
])
def test_values_that_are_refused(changes, facts):
    with pytest.raises(InputError) as caught:
        data.load(data_config(**changes), seed=0)
    message = str(caught.value)
    assert "\n" not in message
    assert all(fact in message for fact in facts), message
