"""Runs on arrays of the caller: training.run(config, workdir, data=...)."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cnn_jax import data, training
from cnn_jax.data import arrays
from cnn_jax.errors import InputError
from cnn_jax.inspection.predict import predict_arrays
from cnn_jax.training.evaluate_run import evaluate_run
from tests.support.tiny_runs import tiny

pytestmark = pytest.mark.usefixtures("compiled_once", "undrawn")


def digits(count=160) -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    return (np.uint8(images[:count].reshape(-1, 8, 8) * 15.9375),
            labels[:count].astype(np.int64))


def random(shape, high, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def test_a_run_on_arrays_equals_that_on_their_source(tmp_path):
    config = tiny({"data.limit": None, "epochs": 1})
    named = data.load(config.data, config.seed)
    first = training.run(config, tmp_path / "source", quiet=True)
    second = training.run(config, tmp_path / "arrays", quiet=True, data=named)
    assert second.params_sha256 == first.params_sha256
    assert config.data.name == "digits"  # the caller's is not changed
    saved = json.loads((tmp_path / "arrays" / "config.json").read_text())
    assert saved["data"]["name"] == "arrays"
    again = training.run(config, tmp_path / "arrays", quiet=True, data=named)
    assert again.params_sha256 == first.params_sha256


def test_other_arrays_in_the_workdir_are_refused(tmp_path):
    x, y = digits()
    config = tiny({"data.limit": None, "epochs": 1, "data.validation": 0.2,
                   "data.image_size": (8, 7)})
    with pytest.warns(match="8 x 8 x 1.* 8 x 7 x 1") as warned:  # quiet or not
        training.run(config, tmp_path / "run", quiet=True, data=(x, y))
    assert warned[0].filename == __file__
    with pytest.warns(), pytest.raises(InputError, match="sha256"):
        training.run(config, tmp_path / "run", quiet=True, data=(255 - x, y))
    folder = str(tmp_path / "run")  # as text
    _, predicted = predict_arrays(folder, x[:5])
    metrics = evaluate_run(folder, quiet=True, data=(x, y))
    assert predicted.shape == (5,) and metrics["test"]["examples"] == 32  # 160 / 5


@pytest.mark.parametrize("labels, task", [
    (random((9,), 3, np.int64), "arrays"),
    (random((9, 1), 3, np.int32), "arrays"),
    (random((9,), 2, bool), "arrays"),
    (random((9,), 3, np.float64), "arrays"),
    (random((9, 3), 2, np.float32), "arrays_multilabel"),
    (random((9, 6, 5), 4, np.int64), "arrays_segmentation")])
def test_the_shape_of_the_labels_decides_the_task(labels, task):
    inferred, stored = arrays.stored((random((9, 6, 5, 3), 256), labels))
    assert inferred.set_name == task
    images, kept = stored.splits["train"]
    assert images.dtype == np.uint8 and images.shape == (9, 6, 5, 3)
    np.testing.assert_array_equal(kept, labels.reshape(kept.shape))
    assert len(stored.class_names) > kept.max()


def test_parts_and_names():
    x, y = digits(30)
    task, stored = arrays.stored({
        "train": (x[:20], y[:20]), "test": (x[20:], y[20:]), "validation": None,
        "class_names": [f"digit {n}" for n in range(12)]})
    assert task.name == "classify" and [*stored.splits] == ["train", "test"]
    assert stored.splits["test"].images.shape == (10, 8, 8, 1)
    assert stored.class_names[11] == "digit 11" and len(stored.class_names) == 12


X, Y = random((4, 5, 5, 3), 256), np.arange(4)


@pytest.mark.parametrize("given, facts", [
    ((X / 255, Y), ["float64", "0 to 255", "np.uint8(np.round(255 * images))"]),
    ((X.astype(np.float32), Y), ["float32", "np.uint8(np.round(images))"]),
    ((X.astype(np.int64) + 1, Y), ["int64", "256", "0 to 255"]),
    ((X - 0.5, Y), ["float64", "-0.5"]),
    ((X[..., :2], Y), ["(4, 5, 5, 2)", "1 or 3"]),
    ((X[0, 0], Y), ["(5, 3)"]),
    ((X[:0], Y[:0]), ["(0, 5, 5, 3)"]),
    ((X, Y[:3]), ["(3,)", "(4, 5, 5, 3)"]),
    ((X, Y - 1), ["from 0"]),
    ((X, Y + 0.5), ["float64", "whole"]),
    ((X, np.array(list("abca"))), ["<U1", "return_inverse", "class_names"]),
    ((X, np.full((4, 2), 2)), ["0 or 1", "2"]),
    ((X, np.zeros((4, 5, 4), int)), ["(4, 5, 4)"]),
    (X, ["(images, labels)", "ndarray"]),
    ((X, Y + 1), ["label 0", "4", "class_names"]),
    ({"train": (X, Y % 3), "test": (X, Y)}, ["label 3"]),
    ((X, np.eye(4)[Y]), ["argmax(1)", "multilabel"]),
    ({"test": (X, Y)}, ["test", "'train'"]),
    ({"train": (X, Y), "val": (X, Y)}, ["val", "validation"]),
    ({"train": (X, Y), "test": (X[:, 1:], Y)}, ["(4, 4, 5, 3)", "(4, 5, 5, 3)"]),
    ({"train": (X, Y), "class_names": ["a", "b"]}, ["2 class_names", "3"])])
def test_bad_arrays_are_refused(given, facts):
    with pytest.raises(InputError) as error:
        arrays.stored(given)
    for fact in facts:
        assert fact in str(error.value)


def test_a_conversion_to_another_shape_is_named():
    _, stored = arrays.stored((X, Y))
    assert arrays.conversion(stored, (5, 5, 3)) is None
    line = arrays.conversion(stored, (8, 6, 1))
    assert "5 x 5 x 3" in line and "8 x 6 x 1" in line and "image_size" in line


def test_classes_without_images_need_names():
    _, stored = arrays.stored({"train": (X, Y + 1), "class_names": "abcde"})
    assert stored.class_names == tuple("abcde")
    assert arrays.stored((X, np.eye(4)[Y]), "multilabel")[0].name == "multilabel"


def test_a_set_of_arrays_cannot_be_read_again():
    config = tiny({"data.name": "arrays", "data.limit": None})
    with pytest.raises(InputError, match="data=..."):
        data.load(config.data, 0)
