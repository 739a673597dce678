"""Runs that end early, that differ in the seed, or that resume on other data."""

import re
import signal

import numpy as np
import pytest
from tests.support.tiny_runs import (picture_folder, read_results, read_rows, restore,
                                     scalars, tiny)

from cnn_jax import training
from cnn_jax.cli import commands
from cnn_jax.cli.request import Request
from cnn_jax.errors import InputError, RunError
from cnn_jax.training import loop, train
from cnn_jax.training.evaluate_run import evaluate_run
from cnn_jax.workdir import trained
from cnn_jax.workdir.folder import default_path
from cnn_jax.workdir.progress import best_row

pytestmark = pytest.mark.usefixtures("compiled_once", "undrawn")


def test_a_run_that_failed_names_step_and_rate_and_leaves_the_folder_free(tmp_path):
    """In a notebook the frames of the error stay alive, and could hold the lock."""
    with pytest.raises(RunError) as kept:
        training.run(tiny({"optimizer.learning_rate": 1e30}), tmp_path, quiet=True)
    with pytest.raises(RunError, match="not finite|loss is"):
        training.run(tiny({"optimizer.learning_rate": 1e30}), tmp_path, quiet=True)
    assert re.search(r"loss is (nan|inf) at step [1-9]\d* \(epoch 1\).* 1e\+30.*"
                     "no checkpoint", str(kept.value))


def test_a_loss_that_is_not_finite_stops_at_the_next_log(tmp_path, monkeypatch):
    """It does not continue to the end of the epoch, which has 8 steps. The first update
    makes the parameters infinite; no step is computed after step 2."""
    compile_training, made = loop.compile_training, []

    def counted(*args):
        (size, program), = compile_training(*args).items()

        def step(*operands):
            made.append(size)
            return program(*operands)
        return {size: step}
    monkeypatch.setattr(loop, "compile_training", counted)
    with pytest.raises(RunError, match=r"loss .*step [12] \(epoch 1\)"):
        training.run(tiny({"optimizer.learning_rate": 1e30, "log.every_steps": 2}),
                     tmp_path, quiet=True)
    assert [count for _, count in made] == [1, 1]


def test_the_last_finite_checkpoint_stays(tmp_path):
    """The rate jumps to 1e27 after the first of three epochs."""
    changes = {"epochs": 3, "schedule.name": "step", "schedule.factor": 1e30,
               "schedule.boundaries_epochs": (1.0,)}
    with pytest.raises(RunError, match=r"epoch 2\).* 1e\+27.*step 8"):
        training.run(tiny(changes), tmp_path, quiet=True)
    state = restore(tmp_path, tiny(changes))
    assert int(state.step) == 8
    assert trained.load(tmp_path).step == 8
    assert all(np.isfinite(leaf).all() for leaf in
               state.params["head"].values())


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_a_parameter_that_is_not_finite_is_not_saved(tmp_path):
    """The run has one step, with a finite loss and a rate that is infinite in float32.
    """
    changes = {"optimizer.name": "sgd", "optimizer.learning_rate": 1e39,
               "data.limit": 16, "epochs": 1}
    with pytest.raises(RunError, match=r"step 1 \(epoch 1\)"):
        training.run(tiny(changes), tmp_path, quiet=True)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_run_ends_normally_without_git(tmp_path, monkeypatch):
    """A container often has .git and no git; the commit is then unknown."""
    monkeypatch.setenv("PATH", "")
    training.run(tiny({"epochs": 1}), tmp_path, quiet=True)
    assert read_results(tmp_path)["commit"] is None


def test_early_stopping_ends_the_run(tmp_path, capsys):
    results = training.run(
        tiny({"epochs": 8, "early_stopping.patience": 2,
              "early_stopping.min_delta": 100.0}), tmp_path)
    assert results.epochs == 3, "one epoch that counts, two that do not improve"
    assert re.search("early stopping.*val_loss", capsys.readouterr().out)
    before = (tmp_path / "results.json").read_bytes()
    training.run(tiny({"epochs": 8, "early_stopping.patience": 2,
                       "early_stopping.min_delta": 100.0}), tmp_path)
    output = capsys.readouterr().out
    assert "finished" in output and "epoch 3" in output
    assert (tmp_path / "results.json").read_bytes() == before
    training.run(tiny({"epochs": 9, "early_stopping.patience": 2,
                       "early_stopping.min_delta": 100.0}), tmp_path)
    output = capsys.readouterr().out  # more epochs change nothing
    assert "epoch 3" in output and "--config.early_stopping.patience=none" in output
    assert read_results(tmp_path)["epochs"] == 3


def test_the_best_checkpoint_is_by_the_chosen_metric(tmp_path):
    """The rate is so high that the last epoch has not the lowest validation loss."""
    monitor = "val_loss"
    results = training.run(
        tiny({"epochs": 4, "checkpoint.monitor": monitor,
              "optimizer.learning_rate": 0.03}), tmp_path, quiet=True)
    rows = [row for row in read_rows(tmp_path) if row["kind"] == "epoch"]
    values = [row[monitor] for row in rows]
    assert results.best_epoch == 1 + int(np.argmin(values))
    best = rows[results.best_epoch - 1]
    assert results.validation_accuracy == best["val_accuracy"]
    assert trained.load(tmp_path).step == best["step"]


def test_the_best_of_equal_epochs_is_the_first():
    rows = [{"epoch": k, "loss": loss, "val_accuracy": accuracy} for k, loss, accuracy
            in ((1, 0.9, 0.5), (2, 0.4, 0.7), (3, 0.3, 0.7), (4, 0.5, 0.6))]
    assert best_row(rows, "val_accuracy")["epoch"] == 2
    assert best_row(rows, "loss")["epoch"] == 3


def test_a_seed_decides_everything(tmp_path):
    """It decides the first parameters, the order, dropout and augmentation."""
    changes = {"data.limit": 64, "augment.zoom_range": 0.2, "epochs": 1}
    shas = [training.run(tiny(changes, seed=seed), tmp_path / str(number), quiet=True)
            .params_sha256 for number, seed in enumerate((3, 3, 4))]
    assert shas[0] == shas[1] != shas[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_training_waits_for_the_pictures(
        tmp_path, monkeypatch, number):
    drawn = []

    def interrupted(*args):
        signal.raise_signal(number)
        drawn.append(args)
    monkeypatch.setattr(train, "draw", interrupted)
    with pytest.raises(training.Stopped, match=str(tmp_path / "run")) as caught:
        training.run(tiny(epochs=1), tmp_path / "run", quiet=True)
    assert caught.value.signum == number
    assert len(drawn) == 1 and read_results(tmp_path / "run")["epochs"] == 1


def test_events_are_not_doubled_after_an_end_before_the_first_checkpoint(
        tmp_path, monkeypatch):
    def die(*_, **__):
        raise KeyboardInterrupt
    monkeypatch.setattr(loop, "save", die)
    with pytest.raises(KeyboardInterrupt):
        training.run(tiny(), tmp_path, quiet=True)
    monkeypatch.undo()
    training.run(tiny(), tmp_path, quiet=True)
    assert [step for step, _ in scalars(tmp_path / "train")["loss"]] == [8, 16]


# Other data behind the same config

def test_other_data_in_the_workdir_of_a_run_is_refused_and_nothing_is_lost(tmp_path):
    ours = tiny(picture_folder(tmp_path / "a", ["cat", "dog"], 250))
    training.run(ours, tmp_path / "run", quiet=True)
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.json")}
    for name, classes, field in (("b", ["red", "blue"], "class_names"),
                                 ("c", ["cat", "dog"], "sha256")):
        theirs = tiny(picture_folder(tmp_path / name, classes, 100))
        with pytest.raises(InputError, match=field):
            training.run(theirs, tmp_path / "run", quiet=True)
        with pytest.raises(InputError, match=field):
            evaluate_run(tmp_path / "run", theirs, quiet=True)
        assert default_path(ours) != default_path(theirs)
    assert before == {path: path.read_bytes() for path in before}


def test_a_moved_data_folder_is_the_same_data(tmp_path):
    changes = picture_folder(tmp_path / "a", ["cat", "dog"], 250)
    training.run(tiny(changes), tmp_path / "run", quiet=True)
    (tmp_path / "a").rename(tmp_path / "b")
    moved = tiny(changes | {"data.dir": str(tmp_path / "b")})
    figures = evaluate_run(tmp_path / "run", moved, quiet=True)
    assert figures["test"]["examples"] == 5


@pytest.mark.parametrize("changes", [
    pytest.param({}, marks=pytest.mark.slow),
    {"optimizer.name": "adam", "augment.horizontal_flip": True}])
def test_a_finished_run_is_extended(tmp_path, changes):
    """With a constant rate it equals a run of as many epochs, bit for bit."""
    whole = training.run(tiny(changes, epochs=3), tmp_path / "whole", quiet=True)
    training.run(tiny(changes, epochs=1), tmp_path / "run", quiet=True)
    extended = training.run(tiny(changes, epochs=3), tmp_path / "run", quiet=True)
    assert extended.params_sha256 == whole.params_sha256
    assert extended.epochs == whole.epochs == 3
    assert read_rows(tmp_path / "run") == read_rows(tmp_path / "whole")
    with pytest.raises(InputError, match="epochs: 3 -> 2"):
        training.run(tiny(changes, epochs=2), tmp_path / "run", quiet=True)
    with pytest.raises(InputError, match="init_from"):
        training.run(tiny(changes | {"seed": 5}, epochs=4), tmp_path / "run",
                     quiet=True)


def test_the_workdir_alone_resumes_and_extends(tmp_path, capsys):
    training.run(tiny(epochs=1), tmp_path / "run", quiet=True)
    commands.run(Request("train", None, tmp_path / "run"))
    output = capsys.readouterr().out
    assert "finished" in output and "epoch 1" in output
    commands.run(Request("train", tiny(epochs=2), tmp_path / "run"))
    output = capsys.readouterr().out
    assert "2 epochs" in output and "resuming after step 8" in output
