"""Short epochs are not saved one by one; only a kill loses some of them."""

import shutil

import pytest
from tests.support.tiny_runs import RICH, assert_same_run, tiny

from cnn_jax import training
from cnn_jax.errors import RunError
from cnn_jax.training import loop
from cnn_jax.workdir import trained
from cnn_jax.workdir.checkpoints import step_folders
from cnn_jax.workdir.checkpoints.save import Checkpoints

pytestmark = pytest.mark.usefixtures("compiled_once", "undrawn")
EACH = RICH | {"checkpoint.every_steps": None, "epochs": 4}
RARE = EACH | {"checkpoint.every_seconds": 1e6}


def steps(workdir):
    return [int(folder.name) for folder in step_folders(workdir / "checkpoints")]


@pytest.fixture(scope="module")
def each(tmp_path_factory, compiled_once, undrawn):
    """Trains a run that saves after each of its four epochs of 8 steps."""
    folder = tmp_path_factory.mktemp("each") / "run"
    training.run(tiny(EACH | {"checkpoint.keep": 100}), folder, quiet=True)
    return folder


def test_the_run_is_the_same_with_its_best_epoch(each, tmp_path, monkeypatch):
    written, write = [], Checkpoints._write

    def counted(self, state, progress):
        written.append(progress.step)
        write(self, state, progress)

    monkeypatch.setattr(Checkpoints, "_write", counted)
    training.run(tiny(RARE), tmp_path, quiet=True)
    assert steps(each) == [8, 16, 24, 32]
    best = trained.load(each).step
    assert written == sorted({best, 32}) == steps(tmp_path)
    assert_same_run(tmp_path, each)


@pytest.mark.parametrize("error", [
    KeyboardInterrupt, pytest.param(OSError, marks=pytest.mark.slow)])
def test_it_resumes_after_a_kill_from_the_last_checkpoint(
        each, tmp_path, monkeypatch, error):
    """The second epoch is saved, since the interval has passed; the kill is later."""
    clock, finish = iter([0.0, 2e6, 0.0]), loop.finish_epoch
    monkeypatch.setattr(Checkpoints, "seconds_since_save",
                        property(lambda self: next(clock)))

    def killed(run, state, progress, *rest):
        if progress.step == 32:
            raise error
        finish(run, state, progress, *rest)

    monkeypatch.setattr(loop, "finish_epoch", killed)
    with pytest.raises(error):
        training.run(tiny(RARE), tmp_path / "run", quiet=True)
    assert max(steps(tmp_path / "run")) == 16
    monkeypatch.undo()
    training.run(tiny(RARE), tmp_path / "run", quiet=True)
    assert_same_run(tmp_path / "run", each)


def test_a_run_that_diverges_keeps_the_epoch_before(tmp_path):
    changes = {"epochs": 3, "schedule.name": "step", "schedule.factor": 1e30,
               "schedule.boundaries_epochs": (1.0,), "checkpoint.every_seconds": 1e6}
    with pytest.raises(RunError, match="step 8"):
        training.run(tiny(changes), tmp_path, quiet=True)
    assert steps(tmp_path) == [8]


def test_a_signal_saves_the_epoch(each, tmp_path, monkeypatch):
    finish = loop.finish_epoch

    def signalled(run, state, progress, *rest):
        finish(run, state, progress, *rest)
        if progress.step == 16:
            monkeypatch.setattr(loop.parallel, "any_process_signal", lambda _: 15)

    monkeypatch.setattr(loop, "finish_epoch", signalled)
    with pytest.raises(training.Stopped):
        training.run(tiny(RARE), tmp_path / "run", quiet=True)
    monkeypatch.undo()
    assert max(steps(tmp_path / "run")) == 16
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    training.run(tiny(RARE), tmp_path / "copy", quiet=True)
    assert_same_run(tmp_path / "copy", each)
