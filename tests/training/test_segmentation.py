"""Segmentation: its metric, its runs, and bad settings."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score
from tests.support.tiny_runs import main, refusal, tiny

from cnn_jax import data, training
from cnn_jax.cli import commands
from cnn_jax.cli.request import Request
from cnn_jax.inspection import predict
from cnn_jax.data import shapes
from cnn_jax.data.scaling import scale
from cnn_jax.errors import InputError
from cnn_jax.inspection.draw.drawing import class_colours
from cnn_jax.inspection.draw.overlays import overlay
from cnn_jax.config import check
from cnn_jax.training.evaluate_run import evaluate_run
from cnn_jax import console
from cnn_jax.workdir import trained as runs
from cnn_jax.tasks import segment
from cnn_jax.tasks.metrics import mean_iou
from configs import segmentation

pytestmark = pytest.mark.usefixtures("compiled_once", "few_shapes", "undrawn")
SHAPES = {
    "model.name": "shapes_fcn", "data.name": "shapes_segmentation",
    "data.split": "first", "data.validation_count": 70, "data.limit": 64,
    "batch_size": 16,
    "epochs": 2, "checkpoint.monitor": "val_mean_iou", "optimizer.learning_rate": 3e-3}


def test_mean_iou_by_hand():
    """Class 0 has 3 / (3 + 1 + 2), class 1 has 4 / (4 + 1 + 2), class 2 is absent."""
    confusion = np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    np.testing.assert_allclose(mean_iou(confusion), (3 / 6 + 4 / 7) / 2)
    confusion[2, 0] = 2  # it occurs but is never predicted
    np.testing.assert_allclose(mean_iou(confusion), (3 / 8 + 4 / 7 + 0) / 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, compiled_once, few_shapes, undrawn):
    """Trains a short run that also augments images and masks."""
    path = tmp_path_factory.mktemp("run") / "a"
    changes = SHAPES | {"augment.horizontal_flip": True, "augment.crop_padding": 2,
                        "augment.rotation_range": 5.0}
    return path, training.run(tiny(changes), path, quiet=True)


def test_a_run_reports_mean_iou_everywhere(trained):
    path, results = trained
    figures = results.task_metrics
    assert 0 < figures["test_mean_iou"] < results.test_accuracy < 1
    assert results.test_examples == 200
    header, *rows = (path / "history.csv").read_text().splitlines()
    assert header.endswith(",val_mean_iou") and len(rows) == 2
    best = max(float(row.rpartition(",")[2]) for row in rows)
    assert figures["validation_mean_iou"] == best
    kept = [json.loads(line) for line in
            (path / "metrics.jsonl").read_text().splitlines()]
    assert sum("val_mean_iou" in row for row in kept) == 2


def network_logits(run, images) -> np.ndarray:
    return np.asarray(jax.jit(lambda variables, x: run.network.apply(
        variables, scale(x, run.info.scaling), train=False))(run.variables, images))


@pytest.mark.parametrize("size", [37, pytest.param(512, marks=pytest.mark.slow)])
def test_evaluation_is_exact_on_any_batch_size(trained, size, monkeypatch):
    """The reference is a confusion matrix by NumPy from all logits at once."""
    path, _ = trained
    config = tiny(SHAPES | {"augment.horizontal_flip": True, "augment.crop_padding": 2,
                            "augment.rotation_range": 5.0, "eval_batch_size": size})
    figures = evaluate_run(path, config, quiet=True)["validation"]
    run = runs.load(path)
    validation = data.load(config.data, 0).validation
    logits = network_logits(run, validation.images)
    counts = np.zeros((6, 6), int)
    np.add.at(counts, (validation.labels, logits.argmax(-1)), 1)
    assert figures["mean_iou"] == mean_iou(counts) and figures["examples"] == 70
    np.testing.assert_allclose(figures["accuracy"], np.trace(counts) / counts.sum(),
                               rtol=1e-6)


def random_classes(shape, classes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, shape)


@pytest.mark.parametrize("absent", [None, 2])
def test_mean_iou_equals_scikit_learn(absent):
    """Pixels of padding do not count, nor do classes that do not occur."""
    truth, seen = (random_classes((5, 6, 7), 4, seed) for seed in (0, 1))
    if absent is not None:
        truth, seen = (np.where(x == absent, 0, x) for x in (truth, seen))
    mask = np.array([1, 1, 0, 1, 0], np.float32)
    logits = np.random.default_rng(2).uniform(0, 1, (*seen.shape, 4))
    np.put_along_axis(logits, seen[..., None], 2.0, -1)
    counts = np.asarray(segment.confusion(
        jnp.asarray(logits), jnp.asarray(truth), jnp.asarray(mask))["confusion"])
    kept = mask > 0
    want = jaccard_score(truth[kept].ravel(), seen[kept].ravel(), average="macro")
    assert mean_iou(counts) == pytest.approx(want, rel=1e-12)
    assert counts.sum() == 3 * 6 * 7


def test_an_overlay_by_hand():
    """Background becomes grey; other pixels have 35 % of that and 65 % class colour."""
    image = np.array([[[30, 60, 90], [0, 0, 0]], [[255, 255, 255], [30, 60, 90]]],
                     np.uint8)
    drawn = overlay(image, np.array([[0, 1], [2, 0]]))
    np.testing.assert_array_equal(drawn[[0, 1], [0, 1]], [[60] * 3] * 2)
    colours = class_colours().astype(float)
    np.testing.assert_array_equal(drawn[0, 1], np.rint(0.65 * colours[1]))
    np.testing.assert_array_equal(drawn[1, 0], np.rint(0.35 * 255 + 0.65 * colours[2]))
    assert len(np.unique(colours[:6], axis=0)) == 6


def write_test_images(folder: Path, count: int):
    """Writes the first test images as files; returns them with their masks."""
    test = data.load(tiny(SHAPES).data, 0).test.take(slice(count))
    paths = [folder / f"{i:03}.png" for i in range(count)]
    for path, image in zip(paths, test.images):
        Image.fromarray(image).save(path)
    return paths, test


def run_mode(mode: str, workdir: Path, **fields) -> None:
    commands.run(Request(mode, None, workdir, **fields))


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_pixels_of_pictures_get_the_classes_that_evaluation_counts(
        trained, tmp_path, monkeypatch, capsys):
    """Files take several calls, the last one padded; progress is reported."""
    paths, test = write_test_images(tmp_path, 10)
    monkeypatch.setattr(predict, "BATCH", 4)
    monkeypatch.setattr(console, "QUIET_SECONDS", -1.0)
    predictions = predict.predict(trained[0], [tmp_path])
    output = capsys.readouterr()
    assert "pictures - step 2/3 - batches of 4" in output.err and output.out == ""
    run = runs.load(trained[0])
    logits = network_logits(run, test.images)
    np.testing.assert_array_equal([one.label for one in predictions], logits.argmax(-1))
    np.testing.assert_array_equal([one.pixels for one in predictions], test.images)
    for path, one in zip(paths, predictions, strict=True):
        assert one.image == str(path) and sum(one.scores) == pytest.approx(1)
        assert one.scores == tuple(sorted(one.scores, reverse=True))
        for name, share in zip(one.classes, one.scores):
            number = run.info.class_names.index(name)
            assert share == (one.label == number).mean()


def test_predict_prints_shares_and_draws(trained, tmp_path, capsys, monkeypatch):
    paths, _ = write_test_images(tmp_path, 3)
    output = tmp_path / "new" / "a.png"
    run_mode("predict", trained[0], paths=(str(paths[1]), str(paths[0])),
             output=output)
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.partition(": background ")[0] for line in lines] == [
        str(paths[1]), str(paths[0])]
    assert all(" %" in line for line in lines)
    assert str(output) in last and "2 pictures" in last
    assert opened(output).min() == 0 and min(opened(output).shape[:2]) > 200

    monkeypatch.setattr(predict, "ROWS", 2)
    run_mode("predict", trained[0], paths=tuple(map(str, paths)), json=True)
    answers = json.loads(capsys.readouterr().out)
    assert [answer["image"] for answer in answers] == list(map(str, paths))
    assert (trained[0] / "predictions.png").is_file()
    run_mode("predict", trained[0], paths=tuple(map(str, paths)))
    assert "the first 2 of 3 pictures" in capsys.readouterr().out


def test_overlays_of_test_images(trained, tmp_path, capsys, monkeypatch):
    """The picture shows the truth, the run's prediction, and the IoU of each image."""
    made = []

    def keep(*arguments):
        made.append(real(*arguments))
        return made[-1]

    real = predict.overlays
    monkeypatch.setattr(predict, "overlays", keep)
    run_mode("overlays", trained[0])
    path = trained[0] / "overlays.png"
    assert capsys.readouterr().out == f"{path}: the first 8 of 200 test images\n"
    pixels = opened(path)
    paths, test = write_test_images(tmp_path, 8)
    drawn, grid = made[0].arrays, np.reshape(made[0].figure.axes, (8, 4))
    assert [axes.get_title() for axes in grid[0]] == ["image", "truth", "prediction",
                                                      "wrong pixels"]
    np.testing.assert_array_equal(drawn["images"], test.images)
    np.testing.assert_array_equal(drawn["truth"], test.labels)
    predictions = predict.predict(trained[0], paths)
    for one, predicted, truth, (axes, *_, wrong) in zip(
            predictions, drawn["predicted"], test.labels, grid, strict=True):
        np.testing.assert_array_equal(one.label, predicted)
        want = jaccard_score(truth.ravel(), predicted.ravel(), average="macro",
                             zero_division=0)
        assert axes.get_ylabel() == f"IoU {want:.2f}"
        np.testing.assert_array_equal(
            wrong.images[0].get_array(), 255 * (predicted != truth))
    # The colours of the truth are in the picture.
    for number in np.unique(test.labels)[1:]:
        tone = overlay(np.zeros((1, 1, 3), np.uint8), np.array([[number]]))[0, 0]
        fills = test.images[test.labels == number].mean(-1)
        tone = np.rint(tone + 0.35 * fills[0])
        assert (np.abs(pixels - tone).max(-1) <= 2).any(), number


def test_overlays_from_the_command_line(trained, tmp_path):
    bad = main(tmp_path / "a", {}, "--mode=overlays", f"--output={tmp_path}/x.jpeg")
    line = refusal(bad, 2)
    assert "x.jpeg" in line and ".png" in line


def test_each_task_says_what_it_draws(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "read_config", lambda workdir: tiny())
    with pytest.raises(InputError, match="--mode=overlays"):
        run_mode("overlays", trained[0])
    with pytest.raises(InputError, match="--output=a.png"):
        run_mode("predict", trained[0], paths=("a.png",), output=Path("a.png"))


def test_overlays_of_other_data_are_refused(trained):
    """Masks of another set would make the network look bad."""
    config = runs.load(trained[0]).config.copy_and_resolve_references().unlock()
    config.data.seed = 1
    with pytest.raises(InputError, match="sha256"):
        predict.draw_test_images(trained[0], config)


@pytest.mark.slow
def test_the_config_reaches_a_mean_iou_of_0_9(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "COUNTS_LARGE", (5000, 1000))
    results = training.run(segmentation.get_config(), tmp_path / "a")
    assert results.task_metrics["test_mean_iou"] >= 0.90 and results.params == 64_694


@pytest.mark.parametrize("changes,pattern", [
    ({"model.name": "baseline"}, "CBAPDNet.*image.*pixel"),
    ({"data.name": "digits", "data.image_size": (8, 8), "data.validation": 0.1,
      "checkpoint.monitor": "val_loss"}, "FCN.*pixel.*image"),
    ({"data.split": "stratified"}, "data.split.*first.*last"),
])
def test_networks_and_data_that_do_not_fit(tmp_path, changes, pattern):
    with pytest.raises(InputError, match=pattern):
        training.run(tiny(SHAPES | changes), tmp_path / "a", quiet=True)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("changes,pattern", [
    ({"augment.mixup": 0.2}, "augment.mixup = 0.2.*shapes_segmentation"),
    ({"augment.cutmix": 1.0}, "augment.cutmix"),
    ({"augment.cutout": 8}, "augment.cutout"),
    ({"data.name": "shapes_both"}, "checkpoint.monitor = 'val_mean_iou'")])
def test_settings_that_segmentation_refuses(changes, pattern):
    with pytest.raises(InputError, match=pattern):
        check(tiny(SHAPES | changes))
