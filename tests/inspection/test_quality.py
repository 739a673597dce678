"""What a network gets right and wrong, its units and its features: figures against
scikit-learn, and cases worked by hand."""

import dataclasses
import json

import flax.linen as nn
import numpy as np
import pytest
from sklearn import metrics

from cnn_jax import layers
from cnn_jax.data.examples import Examples
from cnn_jax.data.scaling import Scaling
from cnn_jax.errors import InputError
from cnn_jax.inspection.draw import classification_metrics as quality_pictures
from cnn_jax.inspection.explain import classification_metrics as quality, units
from cnn_jax.inspection.explain.embedding import penultimate, plane
from cnn_jax.inspection.explain.classification_metrics import Quality
from cnn_jax.inspection.settings import Settings
from cnn_jax.inspection.inspected_run import Subject
from cnn_jax.tasks.metrics import mean_iou

# Class 2 is never named, class 4 never occurs, class 3 is neither there nor named.
LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 0, 1, 0])
PREDICTED = np.array([0, 0, 1, 1, 4, 0, 1, 0, 1, 4])


def subject_of(network: nn.Module, params: dict, images: np.ndarray,
               labels: np.ndarray, class_names=("a", "b")) -> Subject:
    """A network with given parameters on given pixels, which it gets as they are."""
    return Subject(
        name="given", network=network, variables={"params": params, "batch_stats": {}},
        scaling=Scaling(0.0, 1.0), class_names=class_names, pixels=images[:1],
        labels=labels[:1], titles=("test 0",), part="test",
        examples=Examples(images, labels), config=None, info=None, step=7, history=())


# Confusion and scores

def test_scores_are_those_of_scikit_learn():
    table = quality.confusion(LABELS, PREDICTED, 5)
    assert table[0].tolist() == [3, 1, 0, 0, 1]  # of class 0: three right
    assert table[2].tolist() == [1, 1, 0, 0, 0] and table.sum() == 10
    scores = quality.class_scores(table)
    theirs = {name: score(LABELS, PREDICTED, labels=range(5), average=None,
                          zero_division=np.nan)
              for name, score in (("precision", metrics.precision_score),
                                  ("recall", metrics.recall_score),
                                  ("f1", metrics.f1_score))}
    for name, values in theirs.items():
        np.testing.assert_allclose(scores[name], values, err_msg=name)
    assert scores["examples"].tolist() == [5, 3, 2, 0, 0]
    assert np.isnan(scores["precision"][[2, 3]]).all()  # never named
    assert np.isnan(scores["recall"][[3, 4]]).all()     # never there
    np.testing.assert_allclose(scores["iou"], [3 / 6, 2 / 5, 0, np.nan, 0])
    assert quality.means(scores)["iou"] == pytest.approx(mean_iou(table))
    assert quality.means(scores)["recall"] == pytest.approx((3 / 5 + 2 / 3 + 0) / 3)


def test_scores_of_masks_count_pixels():
    truth = np.array([[[0, 0], [1, 2]], [[0, 1], [1, 1]]], np.uint8)
    said = np.array([[[0, 1], [1, 2]], [[0, 0], [1, 0]]], np.int32)
    table = quality.confusion(truth, said, 3)
    assert table.tolist() == [[2, 1, 0], [2, 2, 0], [0, 0, 1]]
    # Image 0: IoU 1/2, 1/2, 1; image 1: 1/3, 1/3 and no class 2.
    np.testing.assert_allclose(quality.image_ious(truth, said), [2 / 3, 1 / 3])


def test_calibration_error_of_a_case_by_hand():
    """Bins of 1/15: 0.55 and 0.6 (its upper edge) share one, 0.9 and 0.95 are alone.

    |1.15 - 1| + |0.9 - 0| + |0.95 - 1| = 1.1 over four examples.
    """
    confidence = np.array([0.95, 0.55, 0.9, 0.6])
    bins = quality.calibration(confidence, np.array([True, True, False, False]))
    assert bins.shape == (15, 3) and bins[:, 0].tolist() == [0] * 8 + [2] + [0] * 4 + [
        1, 1]
    np.testing.assert_allclose(bins[8], [2, 1.15, 1])
    assert quality.calibration_error(bins) == pytest.approx(1.1 / 4)
    sure = quality.calibration(np.ones(3, np.float32), np.ones(3, bool))
    assert quality.calibration_error(sure) == 0


def test_the_surest_mistakes_come_first_and_ties_in_order():
    confidence = np.array([.9, .5, .99, .7, .99, .3, .7, .9, .9, .6])
    wrong = np.flatnonzero(LABELS != PREDICTED)
    assert wrong.tolist() == [2, 4, 5, 6, 9]
    places = quality.confident_mistakes(LABELS, PREDICTED, confidence, 4)
    assert places.tolist() == [2, 4, 6, 9]


def given_quality(unit: str = "image") -> Quality:
    table = quality.confusion(LABELS, PREDICTED, 5)
    bins = quality.calibration(np.linspace(0.4, 0.99, 10), LABELS == PREDICTED)
    return Quality("test", 12, unit, ("zero", "one", "two", "three", "$\\four$"), table,
                   bins)


def test_figures_come_back_from_their_file(tmp_path):
    ours = given_quality()
    quality.save(ours, tmp_path)
    theirs = quality.load(tmp_path)
    assert theirs._replace(confusion=0, bins=0) == ours._replace(confusion=0, bins=0)
    np.testing.assert_array_equal(theirs.confusion, ours.confusion)
    np.testing.assert_array_equal(theirs.bins, ours.bins)
    written = json.loads((tmp_path / "quality.json").read_text())
    assert written["classes"][2]["precision"] is None  # JSON knows no NaN
    assert written["classes"][0]["recall"] == pytest.approx(3 / 5)
    assert quality.load(tmp_path / "nowhere") is None


@pytest.mark.parametrize("content", ["{", "[]", '{"part": "test"}', None])
def test_damaged_figures_are_one_line(tmp_path, content):
    quality.save(given_quality(), tmp_path)
    path = tmp_path / "quality.json"
    if content is None:  # a table of another size
        found = json.loads(path.read_text())
        content = json.dumps(found | {"confusion": [[1, 2], [3, 4]]})
    path.write_text(content)
    with pytest.raises(InputError, match="quality.json.*delete it"):
        quality.load(tmp_path)


@pytest.mark.parametrize("unit", ["image", "pixel"])
def test_pictures_of_the_figures(unit):
    """Also of a name that matplotlib would read as mathematics, and of a class without
    examples."""
    ours = given_quality(unit)
    matrix, curve = (draw(ours) for draw in (quality_pictures.draw_confusion,
                                             quality_pictures.draw_calibration))
    for picture in (matrix, curve):
        picture.figure.canvas.draw()
    assert f"5 of 10 {unit}s of the test part are right" in matrix.alt
    assert "wrong: zero taken for one once, zero taken for $" in matrix.alt
    assert f"{quality.calibration_error(ours.bins):.4f}" in curve.alt
    axes = matrix.figure.axes[0]
    assert sorted(text.get_text() for text in axes.texts) == sorted(
        str(n) for n in ours.confusion.ravel() if n)


def test_many_classes_are_drawn_without_numbers():
    table = np.eye(64, dtype=np.int64) * 3
    picture = quality_pictures.draw_confusion(Quality(
        "test", 1, "image", tuple(f"class {i}" for i in range(64)), table,
        quality.calibration(np.ones(2), np.ones(2, bool))))
    picture.figure.canvas.draw()
    assert not picture.figure.axes[0].texts
    assert picture.figure.get_figwidth() < 14


def test_a_long_pass_over_the_images_tells_how_far_it_is():
    told = []
    subject = dataclasses.replace(
        subject_of(Small("relu"), SMALL, PIXELS, np.array([0, 1])),
        progress=told.append)
    found = subject.over(PIXELS, lambda network, variables, images: images, batch=1)
    np.testing.assert_array_equal(found, PIXELS)
    assert told == ["images 0/2", "images 1/2"]


# Units

class Small(nn.Module):
    """Three units between known parameters."""

    kind: str

    @nn.compact
    def __call__(self, x, train: bool):
        x = layers.Flatten(name="flatten")(x)
        x = layers.Dense(3, name="fc")(x)
        x = layers.Activation(self.kind, name="act")(x)
        return layers.Dense(2, name="head")(x)


# Of x = (1, 2) and (3, 0): z = (-99, 0.5, 102) and (-97, -2.5, 100).
SMALL = {"fc": {"kernel": np.array([[1, -1, 0], [0, 0.5, 1]], np.float32),
                "bias": np.array([-100, 0.5, 100], np.float32)},
         "head": {"kernel": np.array([[1, 0], [0, 1], [1, -1]], np.float32),
                  "bias": np.zeros(2, np.float32)}}
PIXELS = np.array([[1, 2], [3, 0]], np.uint8).reshape(2, 1, 2, 1)


@pytest.mark.parametrize("kind,dead", [
    ("relu", [True, False, False]),      # below zero in every image
    ("relu6", [True, False, True]),      # and above six
    ("sigmoid", [True, False, True]),    # saturated
    ("tanh", [True, False, True]),
    ("lecun_tanh", [True, False, True]),
    ("selu", [True, False, False]),      # exp(-97) is no slope
])
def test_dead_units_of_a_network_by_hand(kind, dead):
    subject = subject_of(Small(kind), SMALL, PIXELS, np.array([0, 1]))
    drawn = {picture.name: picture for picture in units.units(subject, Settings())}
    assert drawn["dead_units"].arrays["act"].tolist() == dead
    assert f"{sum(dead)} units of 3 are dead" in drawn["dead_units"].alt
    there = layers.ACTIVATIONS[kind](np.float32([-99, -97, 0.5, -2.5, 102, 100]))
    seen = drawn["activations"].arrays["act"]
    assert np.abs(seen[:, None] - np.asarray(there)).min(1).max() < 1e-5


def test_a_unit_that_lives_in_one_image_is_not_dead():
    slope = np.array([[0, 0, 0.5], [0, 1e-3, 0], [1e-7, 0, 0]])
    assert units.is_dead(slope).tolist() == [True, False, False]


def test_weights_are_those_of_the_kernels_in_order():
    subject = subject_of(Small("relu"), dict(reversed(SMALL.items())), PIXELS,
                         np.array([0, 1]))
    picture, = units.weights(subject, Settings())
    assert list(picture.arrays) == ["fc", "head"]
    np.testing.assert_array_equal(picture.arrays["fc"], [1, -1, 0, 0, 0.5, 1])
    assert len(units.thinned(np.arange(10), 4)) == 4


@pytest.mark.filterwarnings("error")
def test_values_whose_squares_overflow_have_a_deviation():
    values = {"fc": np.array([-1e30, 1e30, 3e30], np.float32)}
    assert "standard deviation 1.6e+30" in units.spread_in_words(values, "kernel")


def test_histograms_of_a_deep_network_show_its_ends():
    names = [f"layer{i}" for i in range(61)]
    shown = units.shown(dict.fromkeys(names))
    assert len(shown) == 24 and (shown[0], shown[-1]) == ("layer0", "layer60")
    dead = {name: np.arange(61) < i for i, name in enumerate(names)}
    assert units.deadest(dead) == names[21:]  # those with most, in their order
    picture = units.draw_dead(dead, "3 images")
    assert "The 40 of 61 layers with most" in picture.caption
    assert "1830 units of 3,721 are dead" in picture.alt


# Answers and features

def test_mistakes_of_a_network_by_hand():
    """ReLU: (0, 0.5, 102) and (0, 0, 100) -> logits (102, -101.5), (100, -100)."""
    subject = subject_of(Small("relu"), SMALL, PIXELS, np.array([0, 1]))
    predicted, confidence = subject.answers
    assert predicted.tolist() == [0, 0] and np.all(confidence == 1)
    found = quality.measure(subject)
    assert found.confusion.tolist() == [[1, 0], [1, 0]] and found.unit == "image"
    assert quality.calibration_error(found.bins) == pytest.approx(0.5)
    *_, mistakes = quality_pictures.quality(subject, Settings())
    assert mistakes.arrays["index"].tolist() == [1]
    assert "b taken for a (100.0%)" in mistakes.alt
    right = dataclasses.replace(subject, examples=Examples(PIXELS, np.array([0, 0])))
    *_, mistakes = quality_pictures.quality(right, Settings())
    assert mistakes.alt.startswith("0 of 2 images are wrong")


def test_axes_of_the_plane_have_one_sign():
    """Points along (3, 0, -1.5), whose largest loading is made positive."""
    t, s = np.array([-2.0, -1, 0, 1, 2]), np.array([1.0, -1, 0, -1, 1])
    values = np.stack([3 * t, 0.1 * s, -1.5 * t], axis=1) + 5
    points, labels, shares = plane(values, np.arange(5))
    np.testing.assert_allclose(points[:, 0], t * np.sqrt(11.25), atol=1e-12)
    np.testing.assert_allclose(points[:, 1], 0.1 * s, atol=1e-12)
    np.testing.assert_allclose(shares, [112.5 / 112.54, 0.04 / 112.54])
    np.testing.assert_array_equal(plane(-values, labels)[0][:, 0], -points[:, 0])


def test_a_plane_of_one_feature_and_of_equal_points():
    points, _, shares = plane(np.array([[1.0], [3.0]]), np.zeros(2, int))
    np.testing.assert_allclose(points, [[-1, 0], [1, 0]])
    np.testing.assert_allclose(shares, [1, 0])
    assert not plane(np.ones((4, 3)), np.zeros(4, int))[0].any()


def test_features_are_the_input_of_the_last_layer():
    subject = subject_of(Small("relu"), SMALL, PIXELS, np.array([0, 1]))
    values, labels = penultimate(subject)
    np.testing.assert_allclose(values, [[0, 0.5, 102], [0, 0, 100]])
    assert labels.tolist() == [0, 1]


class Pixels(nn.Module):
    """A class for each pixel, from features of half the height and width."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = layers.AvgPool((2, 2), (2, 2), "VALID", name="pool")(x)
        return layers.ConvTranspose(2, (2, 2), 2, name="head")(x)


def test_features_of_pixels_have_the_labels_of_their_places():
    images = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    labels = (np.arange(16) % 7).reshape(1, 4, 4).astype(np.uint8)
    subject = subject_of(
        Pixels(), {"head": {"kernel": np.ones((2, 2, 2, 1), np.float32),
                            "bias": np.zeros(2, np.float32)}}, images, labels)
    values, found = penultimate(subject)
    corner = {2.5: 0, 4.5: 2, 10.5: 8, 12.5: 10}  # mean of a window: its first pixel
    assert {value: label for value, label in zip(values[:, 0].tolist(), found)} == {
        mean: first % 7 for mean, first in corner.items()}
