"""The metrics of predictions equal scikit-learn and cases worked by hand."""

import dataclasses
import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from sklearn import metrics
from tests.support.inspected_runs import inspect_settings, inspected
from tests.support.small_network import PARAMS, PIXELS, Small

from cnn_jax.data.examples import Examples
from cnn_jax.errors import InputError
from cnn_jax.inspection.draw import classification_metrics as drawn
from cnn_jax.inspection.draw import saliency
from cnn_jax.inspection.explain import classification_metrics as ours
from cnn_jax.inspection.explain.classification_metrics import ClassificationMetrics
from cnn_jax.tasks.metrics import mean_iou

# Class 2 is never predicted, class 4 never occurs, class 3 is neither.
LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 0, 1, 0])
PREDICTED = np.array([0, 0, 1, 1, 4, 0, 1, 0, 1, 4])
NAMES = ("zero", "one", "two", "three", "$\\four$")
# Labels of images with several classes, and predicted probabilities.
SEVERAL = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]], np.uint8)
PROBABLE = np.array([[.9, .2, .1], [.4, .8, .3], [.7, .6, .2], [.1, .95, .4]],
                    np.float32)


def measured(unit: str = "image") -> ClassificationMetrics:
    return ours.measure(LABELS, PREDICTED, np.linspace(0.4, 0.99, 10), NAMES, "test",
                        12, unit)


def measured_several() -> ClassificationMetrics:
    return ours.measure_multilabel(SEVERAL, (PROBABLE > 0.5).astype(np.uint8), PROBABLE,
                                   ("a", "b", "c"), "test", 12)


def test_scores_are_those_of_scikit_learn():
    stats = measured()
    table = stats.confusion
    np.testing.assert_array_equal(
        table, metrics.confusion_matrix(LABELS, PREDICTED, labels=range(5)))
    assert (stats.correct, stats.examples) == (5, 10)
    scores = ours.class_scores(stats.counts)
    for name, theirs in (("precision", metrics.precision_score),
                         ("recall", metrics.recall_score), ("f1", metrics.f1_score)):
        np.testing.assert_allclose(scores[name], theirs(
            LABELS, PREDICTED, labels=range(5), average=None, zero_division=np.nan))
    assert scores["examples"].tolist() == [5, 3, 2, 0, 0]
    np.testing.assert_allclose(scores["iou"], [3 / 6, 2 / 5, 0, np.nan, 0])
    assert ours.mean_known(scores["iou"]) == pytest.approx(mean_iou(table))
    assert ours.mean_known(scores["recall"]) == pytest.approx((3 / 5 + 2 / 3 + 0) / 3)


def test_scores_of_several_classes_are_those_of_scikit_learn():
    stats = measured_several()
    named = PROBABLE > 0.5
    assert stats.counts.tolist() == [[1, 1, 1], [2, 1, 0], [0, 0, 0]]
    assert (stats.correct, stats.examples) == (1, 4) and stats.confusion is None
    scores = ours.class_scores(stats.counts)
    for name, theirs in (("precision", metrics.precision_score),
                         ("recall", metrics.recall_score), ("f1", metrics.f1_score)):
        np.testing.assert_allclose(scores[name], theirs(
            SEVERAL, named, average=None, zero_division=np.nan))
    np.testing.assert_allclose(stats.average_precision[:2], [
        metrics.average_precision_score(SEVERAL[:, i], PROBABLE[:, i]) for i in (0, 1)])
    assert np.isnan(stats.average_precision[2])  # no image shows the class
    np.testing.assert_allclose(stats.bins.sum(0), [12, PROBABLE.sum(), SEVERAL.sum()],
                               rtol=1e-6)


def test_scores_of_masks_count_pixels():
    truth = np.array([[[0, 0], [1, 2]], [[0, 1], [1, 1]]], np.uint8)
    predicted = np.array([[[0, 1], [1, 2]], [[0, 0], [1, 0]]], np.int32)
    table = ours.confusion(truth, predicted, 3)
    assert table.tolist() == [[2, 1, 0], [2, 2, 0], [0, 0, 1]]
    # Image 0: IoU 1/2, 1/2, 1; image 1: 1/3, 1/3 and no class 2.
    np.testing.assert_allclose(ours.image_ious(truth, predicted), [2 / 3, 1 / 3])


def test_calibration_error_of_a_case_by_hand():
    """The bins are 1/15 wide: 0.55 and 0.6 share one, 0.9 and 0.95 have their own.

    |1.15 - 1| + |0.9 - 0| + |0.95 - 1| = 1.1 over four examples.
    """
    confidence = np.array([0.95, 0.55, 0.9, 0.6])
    bins = ours.calibration(confidence, np.array([True, True, False, False]))
    assert bins.shape == (15, 3) and bins[:, 0].tolist() == [0] * 8 + [2] + [0] * 4 + [
        1, 1]
    np.testing.assert_allclose(bins[8], [2, 1.15, 1])
    assert ours.calibration_error(bins) == pytest.approx(1.1 / 4)
    sure = ours.calibration(np.ones(3, np.float32), np.ones(3, bool))
    assert ours.calibration_error(sure) == 0


def test_the_most_confident_mistakes_come_first_and_ties_in_order():
    confidence = np.array([.9, .5, .99, .7, .99, .3, .7, .9, .9, .6])
    right = LABELS == PREDICTED
    assert np.flatnonzero(~right).tolist() == [2, 4, 5, 6, 9]
    assert ours.confident_mistakes(right, confidence, 4).tolist() == [2, 4, 6, 9]


@pytest.mark.parametrize("stats", [measured(), measured_several()],
                         ids=["one class", "several"])
def test_metrics_come_back_from_their_file(tmp_path, stats):
    ours.save(stats, tmp_path)
    file = ours.load(tmp_path)
    for name in ("split", "step", "unit", "examples", "correct"):
        assert getattr(file, name) == getattr(stats, name)
    assert file.calibration_error == ours.calibration_error(stats.bins)
    np.testing.assert_array_equal(file.bins, stats.bins)
    np.testing.assert_array_equal(file.confusion, stats.confusion)
    scores = ours.class_scores(stats.counts)
    assert file.mean["f1"] == ours.mean_known(scores["f1"])
    for i, row in enumerate(file.classes):
        assert (row.name, row.examples) == (stats.class_names[i], scores["examples"][i])
        np.testing.assert_equal(np.array(row.f1, float), scores["f1"][i])
    assert file.classes[2].precision is None  # JSON has no NaN
    assert ours.load(tmp_path / "nowhere") is None


@pytest.mark.parametrize("changes", [
    "{", "[]", '{"split": "test"}', {"step": "1"}, {"bins": [[1, 1]]}], ids=str)
def test_damaged_metrics_are_one_line(tmp_path, changes):
    ours.save(measured(), tmp_path)
    path = tmp_path / ours.FILE
    path.write_text(changes if isinstance(changes, str) else json.dumps(
        json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=ours.FILE) as error:
        ours.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("unit", ["image", "pixel"])
def test_pictures_of_the_metrics(unit):
    """They include a name with "$" and a class without examples."""
    stats = measured(unit)
    matrix, curve = drawn.draw_confusion(stats), drawn.draw_calibration(stats)
    for picture in (matrix, curve):
        picture.figure.canvas.draw()
    assert f"5 of 10 {unit}s" in matrix.alt
    assert "zero as one (1)" in matrix.alt
    assert f"{ours.calibration_error(stats.bins):.4f}" in curve.alt
    axes = matrix.figure.axes[0]
    assert sorted(text.get_text() for text in axes.texts) == sorted(
        str(n) for n in stats.confusion.ravel() if n)


def test_pictures_of_several_classes():
    stats = measured_several()
    bars, curve = drawn.draw_class_scores(stats), drawn.draw_calibration(stats)
    for picture in (bars, curve):
        picture.figure.canvas.draw()
    assert "1 of 4 images" in bars.alt
    np.testing.assert_allclose(bars.arrays["recall"], [0.5, 1, np.nan])


@pytest.mark.parametrize("count", [64, 1000])
def test_many_classes_are_drawn_without_numbers(count):
    labels = np.arange(count)
    picture = drawn.draw_confusion(ours.measure(
        labels, labels, np.ones(count), tuple(f"class {i}" for i in labels), "test", 1,
        "image"))
    picture.figure.canvas.draw()
    assert not picture.figure.axes[0].texts
    assert picture.figure.get_figwidth() < 14


def test_a_long_pass_over_the_images_reports_progress():
    lines = []
    run = dataclasses.replace(
        inspected(Small("relu"), {"params": PARAMS}, PIXELS, np.array([0, 1])),
        progress=lines.append)
    pixels = run.map_batches(PIXELS, lambda network, variables, images: images, batch=1)
    np.testing.assert_array_equal(pixels, PIXELS)
    assert lines == ["images 0/2", "images 1/2"]


def test_mistakes_of_a_network_by_hand():
    run = inspected(Small("relu"), {"params": PARAMS}, PIXELS, np.array([0, 1]))
    predicted, confidence = run.predictions
    assert predicted.tolist() == [0, 0] and np.all(confidence == 1)
    stats = drawn.measure_run(run)
    assert stats.confusion.tolist() == [[1, 0], [1, 0]] and stats.unit == "image"
    assert ours.calibration_error(stats.bins) == pytest.approx(0.5)
    *_, mistakes = drawn.metrics(run, inspect_settings())
    assert mistakes.arrays["index"].tolist() == [1]
    assert "b as a (100.0%)" in mistakes.alt
    right = dataclasses.replace(run, examples=Examples(PIXELS, np.array([0, 0])))
    *_, mistakes = drawn.metrics(right, inspect_settings())
    assert mistakes.alt.startswith("0 of 2")


def test_mistakes_with_several_classes_by_hand():
    """Class 0 is predicted for both images; the third output has no name and no label.
    """
    run = inspected(Small("relu"), {"params": PARAMS}, PIXELS,
                    np.array([[1, 0], [1, 1]], np.uint8), task="multilabel")
    predicted, probability = run.predictions
    assert predicted.tolist() == [[1, 0], [1, 0]] and probability[0, 0] == 1
    stats = drawn.measure_run(run)
    assert stats.counts.tolist() == [[2, 0, 0], [0, 0, 1]] and stats.correct == 1
    first, _, mistakes = drawn.metrics(run, inspect_settings())
    assert first.name == "class_scores" and mistakes.arrays["index"].tolist() == [1]
    assert "a, b as a (100.0%)" in mistakes.alt
    assert saliency.row_label(run, np.array([0]), 0) == "test 0\nis a\npredicted a 100%"
    assert saliency.row_label(run, np.array([1]), 0).endswith("\nwhy b?")


def test_long_names_stay_inside_their_panels():
    names = ("common_squirrel_monkey", "a very long name of a class with many words",
             "WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW", "$x^$ \x1b and more of it")
    params = {"fc": PARAMS["fc"], "head": {
        "kernel": np.ones((3, 4), np.float32), "bias": np.zeros(4, np.float32)}}
    pixels = np.resize(PIXELS, (12, 1, 2, 1))
    run = inspected(Small("relu", 4), {"params": params}, pixels, 1 + np.arange(12) % 3,
                    class_names=names)
    figure = drawn.draw_mistakes(run).figure
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [axes.title.get_window_extent(renderer) for axes in figure.axes]
    for row in range(4):
        ends = boxes[3 * row:3 * row + 3]
        assert ends[0].x0 >= 0 and ends[2].x1 <= figure.bbox.width
        assert all(a.x1 < b.x0 for a, b in zip(ends, ends[1:])), row
    above = [axes.get_window_extent(renderer) for axes in figure.axes]
    assert all(image.y0 > title.y1 for image, title in zip(above, boxes[3:]))
    assert any("\n" in axes.title.get_text().partition("\nis ")[0]
               for axes in figure.axes)  # a long name takes two lines
