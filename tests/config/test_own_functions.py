"""Losses, optimizers, augmentations, metrics and tasks can be in a user's module."""

import sys
import textwrap

import numpy as np
import pytest
from tests.support.pages import shown_file
from tests.support.tiny_runs import tiny

from cnn_jax import data, training
from cnn_jax.cli.explain import own_code
from cnn_jax.config import check
from cnn_jax.data.info import describe
from cnn_jax.errors import InputError
from cnn_jax.tasks import TASKS, losses
from cnn_jax.training import train
from cnn_jax.training.evaluate_run import evaluate_run
from cnn_jax.training.recipe import create_recipe
from cnn_jax.workdir import trained
from configs import folder

# The file of the page, then more functions.
SOURCE = shown_file("your_code.md", "mine.py") + textwrap.dedent("""

    not_callable = 3


    def twice(logits, labels, settings):
        '''Twice the cross-entropy.'''
        return 2 * optax.softmax_cross_entropy_with_integer_labels(logits, labels)


    def bad_loss(logits, labels, settings):
        return no_key(settings)


    def no_key(settings):
        return settings["no_key"]


    def short_loss(logits, labels):
        return logits.sum(-1)


    def my_schedule(peak, start, stop, epoch, settings):
        return lambda update: peak / (1 + update)
""")
OWN = {"loss.name": "mine_for_tests:twice",
       "optimizer.name": "mine_for_tests:my_optimizer",
       "schedule.name": "mine_for_tests:my_schedule",
       "augment.own": "mine_for_tests:my_noise",
       "eval.metrics": "macro_f1,mine_for_tests:near",
       "checkpoint.monitor": "val_near", "epochs": 1}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Writes a user's modules, which are not part of the package."""
    (tmp_path / "mine_for_tests.py").write_text(SOURCE)
    (tmp_path / "grades.py").write_text(shown_file("new_task.md", "grades.py"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(train, "draw", lambda *_: None)
    yield tmp_path
    for module in ("mine_for_tests", "grades"):
        sys.modules.pop(module, None)


@pytest.mark.usefixtures("compiled_once", "undrawn")
def test_a_run_with_functions_of_the_user(mine):
    results = training.run(tiny(OWN), mine / "run", quiet=True)
    assert set(results.task_metrics) == {
        f"{split}_{name}" for split in ("validation", "test")
        for name in ("macro_f1", "near")}
    assert results.test_accuracy <= results.task_metrics["test_near"] <= 1
    rows = (mine / "run" / "history.csv").read_text().splitlines()
    assert rows[0].endswith("val_macro_f1,val_near")
    again = evaluate_run(mine / "run", quiet=True)["test"]  # the config names them
    assert again["near"] == results.task_metrics["test_near"]
    # Another program, which rounds otherwise.
    assert again["loss"] == pytest.approx(results.test_loss, rel=1e-5)
    # Twice the cross-entropy: against the probabilities of the network.
    assert trained.load(mine / "run").history[0]["val_loss"] > 2


@pytest.mark.parametrize("name, error, frames", [
    ("bad_loss", KeyError, ["in bad_loss", "in no_key"]),
    ("short_loss", TypeError, [])])
def test_an_error_in_own_code_shows_its_frames_and_field(mine, name, error, frames):
    settings = tiny({"loss.name": f"mine_for_tests:{name}"}).loss
    loss = losses.loss_of(TASKS["classify"], settings)
    with pytest.raises(error) as raised:
        loss(np.zeros((2, 3), np.float32), np.zeros(2, int))
    shown, line = own_code(raised.value)
    assert f"config.loss.name = mine_for_tests:{name}" in line
    assert error.__name__ in line and "\n" not in line
    assert all(frame in shown for frame in frames) and "losses.py" not in shown
    assert shown.count("mine_for_tests.py") == len(frames)


def test_an_error_of_no_own_code_is_not_explained():
    with pytest.raises(KeyError) as raised:
        losses.LOSSES["none"]
    assert own_code(raised.value.with_traceback(None)) is None


def test_a_task_of_the_user_on_arrays(mine):
    images, labels = np.zeros((80, 8, 8), np.uint8), np.arange(80) % 4
    config, stored = data.accept((images, labels), tiny({
        "data.task": "grades:TASK", "data.limit": None}))
    check(config)
    dataset = data.load(config.data, 0, stored)
    recipe = create_recipe(config, describe(dataset, config.data))
    assert recipe.task.name == "grades"
    # More than 0, more than 1, not more than 2.
    logits = np.array([[9, 9, -9, -9]], np.float32)
    assert recipe.loss(logits, np.array([2])) == pytest.approx(0, abs=1e-3)
    assert recipe.task.predict(logits) == 2
    command = folder.get_config()
    command.data.dir, command.data.task = "photos", "grades:TASK"
    command.checkpoint.monitor = "val_grade_error"
    check(command)
    with pytest.raises(InputError, match="80, 8, 8"):
        data.accept((images, np.zeros((80, 8, 8), int)), config)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_once")
def test_a_run_with_a_task_of_the_user(mine):
    results = training.run(tiny({
        "data.task": "grades:TASK", "checkpoint.monitor": "val_grade_error",
        "epochs": 8}), mine / "run", quiet=True)
    history = trained.load(mine / "run").history
    errors = [row["val_grade_error"] for row in history]
    assert history[results.best_epoch - 1]["val_grade_error"] == min(errors) < errors[0]
    assert 1 - results.test_accuracy <= results.task_metrics["test_grade_error"] < 4.5


@pytest.mark.parametrize("changes, facts", [
    ({"loss.name": "mine_for_tests:other"}, ["loss", "no function other"]),
    ({"loss.name": "mine_for_tests:not_callable"}, ["no function not_callable"]),
    ({"optimizer.name": "no_such_module_y:make"},
     ["optimizer.name", "no_such_module_y", "current folder"]),
    ({"schedule.name": "mine_for_tests:none"}, ["schedule.name", "none"]),
    ({"augment.own": "mine_for_tests:none"}, ["augment.own", "none"]),
    ({"data.task": "mine_for_tests:my_loss"}, ["data.task", "no Task my_loss"]),
    ({"data.task": "multilabel"}, ["data.task", "classify"]),
    ({"eval.metrics": "accurracy"}, ["eval.metrics", "macro_f1"]),
    ({"eval.metrics": "mine_for_tests:not_callable"}, ["neither a function"]),
    ({"eval.metrics": "macro_f1,macro_f1"}, ["twice"]),
    ({"checkpoint.monitor": "val_macro_f1"}, ["eval.metrics", "val_accuracy"]),
    ({"loss.name": "mse"}, ["classify", "focal"]),
    ({"loss.class_weights": "1,none"}, ["balanced"]),
    ({"loss.class_weights": "balanced", "data.name": "shapes_multilabel",
      "data.split": "first"}, ["class_weights", "multilabel"])])
def test_functions_that_cannot_be_used_are_refused(mine, changes, facts):
    with pytest.raises(InputError) as error:
        check(tiny(changes))
    for fact in facts:
        assert fact in str(error.value)


def test_a_scalar_loss_is_refused(monkeypatch):
    monkeypatch.setitem(losses.LOSSES, "mine", lambda logits, labels, _: logits.sum())
    loss = losses.loss_of(data.task_of(tiny({}).data), tiny({"loss.name": "mine"}).loss)
    with pytest.raises(InputError, match="mine.*5 images"):
        loss(np.ones((5, 3), np.float32), np.zeros(5, np.int32))


def test_a_function_added_to_a_table_in_python(monkeypatch):
    monkeypatch.setitem(losses.LOSSES, "mine", lambda logits, labels, settings: logits)
    check(tiny({"loss.name": "mine"}))
