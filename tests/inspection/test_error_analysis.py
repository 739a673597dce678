"""Losses, confusions, neighbours and label errors equal cases worked by hand."""

import csv
import dataclasses

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from tests.support.inspected_runs import inspect_settings, inspected
from tests.support.small_network import Small

from cnn_jax.data.examples import Examples
from cnn_jax.inspection.draw import error_analysis
from cnn_jax.inspection.explain.label_errors import (class_thresholds,
                                                     confident_classes,
                                                     find_label_errors)
from cnn_jax.inspection.explain.neighbours import nearest
from cnn_jax.inspection.inspected_run import InspectedRun
from cnn_jax.inspection.predictions_csv import save_predictions, suspects

# The features of an image of two pixels (a, b) are (a, b, 0); its logits are
# (a / 10, b / 10, 1).
PARAMS = {"fc": {"kernel": np.array([[1, 0, 0], [0, 1, 0]], np.float32),
                 "bias": np.zeros(3, np.float32)},
          "head": {"kernel": np.array([[.1, 0, 0], [0, .1, 0], [0, 0, 0]], np.float32),
                   "bias": np.array([0, 0, 1], np.float32)}}
TRAIN = Examples(np.array([[200, 10], [10, 90], [50, 50], [90, 120], [3, 1]], np.uint8
                          ).reshape(-1, 1, 2, 1), np.array([0, 1, 2, 1, 2], np.int32))
TEST = Examples(np.array([[40, 10], [10, 50], [60, 20], [0, 0], [20, 40], [70, 10]],
                         np.uint8).reshape(-1, 1, 2, 1),
                np.array([0, 1, 1, 2, 0, 1], np.int32))
VALIDATION = Examples(np.array([[0, 30], [30, 0]], np.uint8).reshape(-1, 1, 2, 1),
                      np.array([1, 0], np.int32))


@pytest.fixture(scope="module")
def run() -> InspectedRun:
    """Inspects a network that is wrong about the test images 2, 4 and 5."""
    made = inspected(Small("relu", 3), {"params": PARAMS}, *TEST,
                     class_names=("猫", "b", "$c$"))
    return dataclasses.replace(
        made, splits={"test": TEST, "validation": VALIDATION, "train": TRAIN},
        image_name=lambda split, index: f"{split}/{index}.png")


@pytest.fixture(scope="module")
def pictures(run):
    return {picture.name: picture
            for picture in error_analysis.error_analysis(run, inspect_settings())}


def probabilities(images: np.ndarray) -> np.ndarray:
    logits = np.concatenate([images.reshape(-1, 2) / 10, np.ones((len(images), 1))], 1)
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def test_label_errors_of_a_case_by_hand():
    """t = (1.5 / 3, 1.8 / 3, 1.44 / 3); example 8 reaches none of them."""
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 1, 2])
    chances = np.array([[.8, .1, .1], [.6, .3, .1], [.1, .85, .05], [.2, .7, .1],
                        [.05, .9, .05], [.1, .2, .7], [.55, .05, .4], [.1, .2, .7],
                        [.36, .3, .34]])
    np.testing.assert_allclose(class_thresholds(labels, chances), [.5, .6, .48])
    assert confident_classes(labels, chances).tolist() == [0, 0, 1, 1, 1, 2, 0, 2, -1]
    errors = find_label_errors(labels, chances)
    assert errors.rows.tolist() == [2, 7, 6]  # margins -0.75, -0.5, -0.15
    assert errors.suggested.tolist() == [1, 2, 0]


def test_of_two_classes_above_their_thresholds_the_more_probable_counts():
    """t = (0.45, 0.375): examples 0 and 2 reach both."""
    labels = np.array([0, 0, 1, 1])
    chances = np.array([[.6, .4], [.3, .7], [.55, .45], [.7, .3]])
    assert confident_classes(labels, chances).tolist() == [0, 1, 0, 0]
    assert find_label_errors(labels, chances).rows.tolist() == [1, 3, 2]


def test_a_predicted_label_is_no_error_and_a_class_without_labels_is_never_suggested():
    """t = (0.725, 0.45, infinity): example 1 counts as class 1, and is predicted 0."""
    labels = np.array([0, 0, 1, 1])
    chances = np.array([[.9, .1, 0], [.53, .47, 0], [.1, .8, .1], [.3, .1, .6]])
    assert confident_classes(labels, chances).tolist() == [0, 1, 1, -1]
    assert not len(find_label_errors(labels, chances).rows)


def test_planted_label_errors_are_found():
    """Most of 5 % wrong labels, which were not trained on, are listed, and few others.
    """
    images, truth = load_digits(return_X_y=True)
    held_out = np.arange(len(truth)) % 2 == 1
    listed = correct = planted = 0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        wrong = rng.random(len(truth)) < 0.05
        labels = np.where(wrong, (truth + rng.integers(1, 10, len(truth))) % 10, truth)
        model = KNeighborsClassifier(10).fit(images[~held_out], labels[~held_out])
        errors = find_label_errors(labels[held_out],
                                   model.predict_proba(images[held_out]))
        right = wrong[held_out][errors.rows]
        assert (errors.suggested == truth[held_out][errors.rows])[right].mean() > 0.95
        listed, correct = listed + len(right), correct + right.sum()
        planted += wrong[held_out].sum()
    assert correct / listed > 0.9 and correct / planted > 0.7
    assert (listed, correct, planted) == (108, 99, 138)


def test_neighbours_are_those_of_the_smallest_angle():
    features = np.array([[2.0, 0, 0], [0, 3, 0], [5, 4, 0], [0, 0, 0]])
    rows, similarity = nearest(np.array([[1.0, 0.5, 0]]), features, 3)
    assert rows.tolist() == [[2, 0, 1]]
    np.testing.assert_allclose(similarity, np.array([[7, np.sqrt(41), np.sqrt(41 / 4)]])
                               / np.sqrt(1.25) / np.sqrt([41, 41, 41]))


def test_images_are_sorted_by_their_loss(run, pictures):
    losses = -np.log(probabilities(TEST.images)[np.arange(6), TEST.labels])
    picture = pictures["highest_loss"]
    assert picture.arrays["index"].tolist() == [5, 2, 4, 3, 0, 1]
    np.testing.assert_allclose(picture.arrays["loss"], np.sort(losses)[::-1], rtol=1e-4,
                               atol=1e-6)
    assert picture.figure.axes[0].get_title().startswith("5: loss 6")


def test_cells_of_the_confusion_matrix_show_their_images(pictures):
    arrays = pictures["confusion_cells"].arrays
    assert arrays["cells"].tolist() == [[1, 0], [0, 1]]
    assert arrays["counts"].tolist() == [2, 1]
    assert arrays["index"].tolist() == [5, 2, 4]


def test_mistakes_stand_beside_training_images(pictures):
    """The directions of 5, 2 and 4 are those of the angles 8, 18 and 63 degrees."""
    arrays = pictures["neighbours"].arrays
    assert arrays["index"].tolist() == [5, 2, 4]
    angles = np.degrees(np.arctan2(*TRAIN.images.reshape(-1, 2).T[::-1].astype(float)))
    for own, row, similarity in zip(np.degrees(np.arctan2([10, 20, 40], [70, 60, 20])),
                                    arrays["neighbours"], arrays["similarity"]):
        assert row.tolist() == np.argsort(np.abs(angles - own)).tolist()
        np.testing.assert_allclose(similarity, np.cos(np.radians(angles - own))[row],
                                   atol=1e-6)


def test_a_row_for_every_image_that_was_not_trained_on(run, tmp_path):
    save_predictions(run, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "predictions_test.csv", "predictions_validation.csv"}
    with open(tmp_path / "predictions_test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    chances = probabilities(TEST.images)
    for i, (row, label) in enumerate(zip(rows, TEST.labels, strict=True)):
        best, other = chances[i].argmax(), np.delete(chances[i], label).max()
        assert (row["index"], row["image"]) == (str(i), f"test/{i}.png")
        assert row["label"] == run.class_names[label] and row["step"] == "7"
        assert row["prediction"] == run.class_names[best]
        assert row["correct"] == str(int(best == label))
        np.testing.assert_allclose(
            [float(row[name]) for name in ("loss", "label_probability",
                                           "prediction_probability", "margin")],
            [-np.log(chances[i, label]), chances[i, label], chances[i, best],
             chances[i, label] - other], rtol=2e-4, atol=1e-6)
    rows = {int(row["label_error"]): (int(row["index"]), row["suggested_label"])
            for row in rows if row["label_error"]}
    assert rows == {1: (5, "猫"), 2: (2, "猫"), 3: (4, "b")}


def test_label_errors_are_those_of_all_splits_that_were_not_trained_on(run, pictures):
    assert [suspect[:2] for suspect in suspects(run)] == [
        ("test", 5), ("test", 2), ("test", 4)]
    caption = pictures["label_errors"].caption
    assert "3 labels of 8" in caption and "62%" in caption
    assert "mistake of the network" not in caption
    only_trained = dataclasses.replace(run, split="train", examples=TRAIN, splits={
        "train": TRAIN})
    assert not suspects(only_trained)  # its probabilities are not out of sample
    names = [picture.name for picture in error_analysis.error_analysis(
        only_trained, inspect_settings())]
    assert names == ["highest_loss", "confusion_cells"]


def test_a_list_of_a_network_that_is_mostly_wrong_says_so(run):
    wrong = Examples(TEST.images, np.array([1, 0, 0, 2, 2, 1], np.int32))
    doubtful = dataclasses.replace(run, examples=wrong, splits={"test": wrong})
    caption = error_analysis.draw_label_errors(doubtful, suspects(doubtful)).caption
    assert "33%" in caption and "mistake of the network" in caption


@pytest.mark.parametrize("task, labels, columns", [
    ("multilabel", np.array([[1, 0, 0], [1, 1, 0]], np.uint8),
     ["label", "prediction", "loss", "correct"]),
    ("regress", np.array([[1.5, 0, 2], [1, 1, 0]], np.float32),
     ["a", "predicted a", "b", "predicted b", "c", "predicted c", "loss"])])
def test_other_tasks_have_losses_and_no_label_errors(tmp_path, task, labels, columns):
    images = TEST.images[:2]
    run = inspected(Small("relu", 3), {"params": PARAMS}, images, labels, task=task,
                    class_names=("a", "b", "c"))
    picture, = error_analysis.error_analysis(run, inspect_settings())
    assert sorted(picture.arrays["index"].tolist()) == [0, 1] and not suspects(run)
    save_predictions(run, tmp_path)
    with open(tmp_path / "predictions_test.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "index", "image", *columns]
    if task == "regress":  # with mean 0 and standard deviation 1
        loss = np.square(np.array([4, 1, 1]) - labels[0]).mean()
        assert float(rows[0]["loss"]) == pytest.approx(loss, rel=1e-5)
        assert float(rows[0]["predicted a"]) == 4
    else:
        assert [row["correct"] for row in rows] == ["0", "0"]
