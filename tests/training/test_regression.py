"""Runs that predict numbers, from a CSV file beside the pictures or from arrays."""

import numpy as np
import pytest
from PIL import Image
from tests.support.tiny_runs import tiny

from cnn_jax import data, training
from cnn_jax.config import check
from cnn_jax.errors import InputError
from cnn_jax.inspection.predict import as_json, as_line, predict, task_of
from cnn_jax.training.evaluate_run import evaluate_run
from cnn_jax.workdir.folder import read_data_info
from configs import regression

pytestmark = pytest.mark.usefixtures("compiled_once")


def photographs(folder, count=80, columns="file,brightness,weight", split=()):
    """Writes grey pictures; the targets are their brightness, in thousands, and its
    negative."""
    folder.mkdir(parents=True)
    rows = [columns]
    for k in range(count):
        level = int(np.random.default_rng(k).integers(0, 256))
        (folder / f"{k % 2}").mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), level, np.uint8)).save(
            folder / f"{k % 2}" / f"{k}.png")
        rows.append(f"{k % 2}/{k}.png,{1000 * level},{-level}")
    (folder / "levels.csv").write_text("\n".join(rows) + "\n")
    return folder


CHANGES = {
    "model.name": "baseline", "data.name": "csv", "data.split": "random",
    "data.limit": None, "data.validation": 0.2, "batch_size": 8, "epochs": 16,
    "checkpoint.monitor": "val_r2", "early_stopping.patience": None,
    "checkpoint.every_seconds": 1e6,
    "optimizer.learning_rate": 1e-2}


@pytest.fixture(scope="module")
def run(tmp_path_factory, compiled_once):
    root = tmp_path_factory.mktemp("regression")
    photographs(root / "photos")
    config = tiny(CHANGES | {"data.dir": str(root / "photos")})
    return root, config, training.run(config, root / "run", quiet=True)


def test_it_learns_numbers_in_their_units(run):
    root, config, results = run
    assert results.test_accuracy is None and results.validation_accuracy is None
    assert results.task_metrics["test_r2"] > 0.5
    info = read_data_info(root / "run")
    assert info.class_names == ("brightness", "weight")
    assert 1e4 < results.task_metrics["test_mean_absolute_error"] * 2 < 1e5
    header, *rows = (root / "run" / "history.csv").read_text().splitlines()
    assert "val_r2" in header and len(rows) == 16
    assert (root / "run" / "report.html").exists()
    again = evaluate_run(root / "run", quiet=True)["test"]
    # A later evaluation may fuse layers, which rounds differently.
    assert again["r2"] == pytest.approx(results.task_metrics["test_r2"], rel=1e-5)


def test_predictions_name_the_numbers(run):
    root, _, _ = run
    answers = predict(root / "run", [root / "photos" / "0" / "0.png"])
    task = task_of(root / "run")
    assert answers[0].classes == ("brightness", "weight")
    assert answers[0].scores[0] > 300 > 0 > answers[0].scores[1]
    assert f"brightness {answers[0].scores[0]:.4g}" in as_line(answers[0], task)
    assert "values" in as_json(answers[0], task)


def test_columns_and_splits(tmp_path):
    folder = tmp_path / "set"
    photographs(folder, 6)
    rows = (folder / "levels.csv").read_text().splitlines()
    names = ["split", "train", "Train", "val", "test", "train", "train"]
    (folder / "levels.csv").write_text(
        "\n".join(f"{row},{name}" for row, name in zip(rows, names)))
    config = tiny(CHANGES | {"data.dir": str(folder)})
    dataset = data.load(config.data, 0)
    assert "numbers" in dataset.source and "classes" not in dataset.source
    assert [len(part.labels) for part in (dataset.train, dataset.validation,
                                          dataset.test)] == [4, 1, 1]
    assert dataset.train.labels.dtype == np.float32
    np.testing.assert_array_equal(dataset.train.labels[:, 0],
                                  1000.0 * dataset.train.images[:, 0, 0, 0])


@pytest.mark.parametrize("text, facts", [
    ("file,age\n0/0.png,old\n", ["line 2", "age", "'old'"]),
    ("file,age\n0/0.png,nan\n", ["line 2", "finite"]),
    ("file,age\n../0.png,1\n", ["line 2", "below"]),
    ("file,age\n0/none.png,1\n", ["lacks 1 of the 1", "0/none.png"]),
    ("file\n0/0.png\n", ["no column of numbers"]),
    ("file,age,split\n0/0.png,1,dev\n", ["'dev'", "validation"]),
    ("file,age,split\n0/0.png,1,test\n", ["no rows for training"])])
def test_a_table_that_cannot_be_used(tmp_path, text, facts):
    photographs(tmp_path / "set", 1)
    (tmp_path / "set" / "levels.csv").write_text(text)
    with pytest.raises(InputError) as error:
        data.load(tiny(CHANGES | {"data.dir": str(tmp_path / "set")}).data, 0)
    for fact in facts:
        assert fact in str(error.value)


def test_the_config(tmp_path):
    config = regression.get_config()
    config.data.dir = str(tmp_path)
    check(config)
    assert data.task_of(config.data).name == "regress"


def test_arrays_with_numbers(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), np.uint8)
    config = tiny(CHANGES | {"data.name": "digits", "data.task": "regress"})
    accepted, stored = data.accept((images, images.mean((1, 2))), config)
    assert accepted.data.name == "arrays_regression"
    assert stored.splits["train"].labels.shape == (60, 1)
    loaded = data.load(accepted.data, 0, stored)
    assert len(loaded.test.labels) == 12
    with pytest.raises(InputError, match="finite"):
        data.accept((images, np.full(60, np.inf)), config)
