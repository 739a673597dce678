"""Sets with a label for each pixel: metric, run, and what is refused."""

import json

import numpy as np
import pytest
from tiny_runs import tiny

from cnn_jax import predict, training
from cnn_jax.errors import InputError
from cnn_jax.training import config as rules
from cnn_jax.training.metrics import mean, mean_iou

pytestmark = pytest.mark.usefixtures("compiled_once")
SHAPES = {
    "model.name": "shapes_fcn", "data.name": "shapes_segmentation",
    "data.split": "first", "data.validation": 70, "data.limit": 64, "batch_size": 16,
    "epochs": 2, "checkpoint.monitor": "val_mean_iou", "optimizer.learning_rate": 3e-3}


def test_mean_iou_by_hand():
    """Class 0: 3 right of 3 + 1 + 2; class 1: 4 of 4 + 3 + 0; class 2: never seen."""
    confusion = np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    np.testing.assert_allclose(mean_iou(confusion), (3 / 6 + 4 / 7) / 2)
    confusion[2, 0] = 2  # there, never predicted
    np.testing.assert_allclose(mean_iou(confusion), (3 / 8 + 4 / 7 + 0) / 3)
    sums = {"loss": 6.0, "correct": 3.0, "count": 4.0, "confusion": confusion}
    assert mean(sums) == {"loss": 1.5, "accuracy": 0.75,
                          "mean_iou": mean_iou(confusion)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run that also moves images and masks."""
    path = tmp_path_factory.mktemp("run") / "a"
    changes = SHAPES | {"augment.horizontal_flip": True, "augment.crop_padding": 2,
                        "augment.rotation_range": 5.0}
    return path, training.run(tiny(changes), path, quiet=True)


def test_a_run_reports_mean_iou_everywhere(trained):
    path, results = trained
    assert 0 < results["test_mean_iou"] < results["test_accuracy"] < 1
    assert results["test_examples"] == 1000
    header, *rows = (path / "history.csv").read_text().splitlines()
    assert header.endswith(",val_mean_iou") and len(rows) == 2
    best = max(float(row.rpartition(",")[2]) for row in rows)
    assert results["validation_mean_iou"] == best
    kept = [json.loads(line) for line in (path / "metrics.jsonl").open()]
    assert sum("val_mean_iou" in row for row in kept) == 2


@pytest.mark.parametrize("size", [37, 512])
def test_evaluation_is_exact_on_any_batch_size(trained, size, monkeypatch):
    """Against a confusion matrix counted by NumPy from all logits at once."""
    import jax

    from cnn_jax import data
    from cnn_jax.training import steps
    from cnn_jax.training import trained as runs
    path, _ = trained
    config = tiny(SHAPES | {"augment.horizontal_flip": True, "augment.crop_padding": 2,
                            "augment.rotation_range": 5.0, "eval_batch_size": size})
    found = runs.evaluate(path, config, quiet=True)["validation"]
    run = runs.load(path)
    validation = data.load(config.data, 0).validation
    logits = np.asarray(jax.jit(lambda state, x: steps.predict_logits(
        state, x, run.recipe))(run.state, validation.images))
    counts = np.zeros((6, 6), int)
    np.add.at(counts, (validation.labels, logits.argmax(-1)), 1)
    assert found["mean_iou"] == mean_iou(counts) and found["examples"] == 70
    np.testing.assert_allclose(found["accuracy"], np.trace(counts) / counts.sum(),
                               rtol=1e-6)


def test_predict_says_that_it_names_whole_pictures(trained, tmp_path):
    with pytest.raises(InputError, match="a class for each pixel"):
        predict.classify(trained[0], [tmp_path])


@pytest.mark.parametrize("changes,words", [
    ({"model.name": "baseline"}, "CBAPDNet answers for each image.*each pixel"),
    ({"data.name": "digits", "data.image_size": (8, 8), "data.validation": 0.1,
      "checkpoint.monitor": "val_loss"}, "FCN answers for each pixel.*each image"),
    ({"data.split": "stratified"}, "data.split to first or last"),
])
def test_networks_and_data_that_do_not_fit(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        training.run(tiny(SHAPES | changes), tmp_path / "a", quiet=True)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("changes,words", [
    ({"augment.mixup": 0.2}, "augment.mixup = 0.2 is not for shapes_segmentation"),
    ({"augment.cutmix": 1.0}, "augment.cutmix"),
    ({"augment.cutout": 8}, "augment.cutout"),
    ({"data.name": "shapes_both"}, "checkpoint.monitor = 'val_mean_iou' is for sets")])
def test_settings_that_masks_do_not_take(changes, words):
    with pytest.raises(InputError, match=words):
        rules.check(tiny(SHAPES | changes))
