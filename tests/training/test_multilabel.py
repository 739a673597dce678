"""Runs with several classes for one image."""

import jax
import numpy as np
import pytest
from sklearn.metrics import f1_score
from tests.support.tiny_runs import read_rows, tiny

from cnn_jax import data, training
from cnn_jax.data.scaling import scale
from cnn_jax.errors import InputError
from cnn_jax.training import train
from cnn_jax.training.evaluate_run import evaluate_run
from cnn_jax.workdir import trained
from configs import multilabel

pytestmark = pytest.mark.usefixtures("compiled_once")
# Mixed images and smoothed labels use other parts of the loss.
CHANGES = {
    "model.name": "lenet5", "data.name": "shapes_multilabel", "data.split": "first",
    "data.limit": 640, "batch_size": 32, "eval_batch_size": 300, "epochs": 6,
    "checkpoint.monitor": "val_macro_f1", "optimizer.learning_rate": 3e-3,
    "checkpoint.every_seconds": 1e6,
    "augment.mixup": 0.1, "loss.label_smoothing": 0.05}


@pytest.fixture(scope="module")
def run(tmp_path_factory, compiled_once):
    path = tmp_path_factory.mktemp("run") / "a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "draw", lambda *_: None)
        return path, training.run(tiny(CHANGES), path, quiet=True)


def test_it_learns_and_its_metrics_equal_scikit_learn(run):
    path, results = run
    loaded, test = trained.load(path), data.load(tiny(CHANGES).data, 0).test
    logits = np.asarray(jax.jit(lambda variables, images: loaded.network.apply(
        variables, scale(images, loaded.info.scaling), train=False))(
            loaded.variables, test.images))
    predicted = logits > 0
    assert results.test_accuracy == pytest.approx(
        (predicted == test.labels).all(1).mean(), abs=2e-3)
    assert results.task_metrics["test_macro_f1"] == pytest.approx(
        f1_score(test.labels, predicted, average="macro"), abs=2e-3)
    # Predicting every class for every image would give an F1 of 2 / 3.
    assert results.task_metrics["test_macro_f1"] > 0.7


def test_the_monitor_is_in_every_file_and_chooses_the_best_epoch(run):
    path, results = run
    rows = [row for row in read_rows(path) if row["kind"] == "epoch"]
    values = [row["val_macro_f1"] for row in rows]
    assert results.best_epoch == 1 + int(np.argmax(values))
    assert results.task_metrics["validation_macro_f1"] == max(values)
    assert (path / "history.csv").read_text().splitlines()[0].endswith(",val_macro_f1")
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]


@pytest.mark.slow
def test_it_is_evaluated_again_on_other_batches(run):
    path, results = run
    again = evaluate_run(path, tiny(CHANGES, eval_batch_size=64), quiet=True)["test"]
    assert again["accuracy"] == results.test_accuracy
    assert again["macro_f1"] == results.task_metrics["test_macro_f1"]


@pytest.mark.parametrize("changes, facts", [
    ({"data.split": "stratified"}, ("data.split", "first", "last")),
    ({"checkpoint.monitor": "val_mean_iou"}, ("val_mean_iou", "segment"))])
def test_settings_that_multilabel_runs_refuse(tmp_path, changes, facts):
    with pytest.raises(InputError) as caught:
        training.run(tiny(CHANGES | changes), tmp_path / "a", quiet=True)
    assert all(word in str(caught.value) for word in facts)


@pytest.mark.slow
def test_the_config_reaches_an_exact_match_of_nine_in_ten(tmp_path):
    results = training.run(multilabel.get_config(), tmp_path / "a")
    assert results.test_accuracy >= 0.93 and results.params == 61_581
