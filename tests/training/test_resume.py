"""A run that resumes from a checkpoint ends with the bits of an uninterrupted one.

`tests/faults/test_faults.py` kills and stops real processes. The runs have batch norm,
dropout, augmentation, an average of the parameters, gradient accumulation, adam and a
schedule, and checkpoints within epochs too.
"""

import shutil

import pytest
from tests.support.tiny_runs import RICH, assert_same_run, killed_after, tiny

from cnn_jax import training
from cnn_jax.config import to_json

pytestmark = pytest.mark.usefixtures("compiled_once", "undrawn")

STEPS_PER_EPOCH = 8  # 128 images, 16 a step; RICH trains 3 epochs
EACH = RICH | {"log.every_steps": 1}  # a checkpoint is logged as well
IN_ONE_CALL = RICH | {"steps_per_call": 3}  # 3 + 3 + 1 + 1 steps an epoch


def run_whole(folder, changes):
    """Trains without interruption and keeps the checkpoint of every step."""
    training.run(tiny(changes | {"checkpoint.keep": 1000}), folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, compiled_once, undrawn):
    return run_whole(tmp_path_factory.mktemp("runs") / "whole",
                     EACH | {"checkpoint.every_steps": 1})


@pytest.fixture(scope="module")
def whole_in_calls(tmp_path_factory, compiled_once, undrawn):
    return run_whole(tmp_path_factory.mktemp("runs") / "whole", IN_ONE_CALL)


def resume(whole, workdir, step, changes):
    """Resumes a copy of a run after `step`, and compares it with the run.

    The copy saves once an epoch, as if its config had said so from the start.
    """
    killed_after(whole, workdir, step)
    config = tiny(changes | {"checkpoint.every_steps": None})
    (workdir / "config.json").write_text(to_json(config))
    training.run(config, workdir, quiet=True)
    assert_same_run(workdir, whole)


BOUNDARIES = {"mid-epoch": 11, "last step of an epoch": STEPS_PER_EPOCH,
              "first of the next": STEPS_PER_EPOCH + 1,
              "before the last step of the run": 3 * STEPS_PER_EPOCH - 1,
              "last step of the run": 3 * STEPS_PER_EPOCH}


# test_short_epochs.py has a fast test of an end of an epoch.
SLOW = ("last step of an epoch", "first of the next",
        "before the last step of the run")


@pytest.mark.parametrize("boundary", [
    pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
    for name in BOUNDARIES])
def test_resume_at_boundary(whole, tmp_path, boundary):
    resume(whole, tmp_path / "run", BOUNDARIES[boundary], EACH)


def test_resume_at_boundary_of_a_complete_run_trains_no_step(
        whole, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    files = {path: path.read_bytes() for path in workdir.iterdir() if path.is_file()}

    def fail(*_):
        raise AssertionError("a complete run was trained further")
    monkeypatch.setattr("cnn_jax.training.train.fit", fail)
    training.run(tiny(EACH | {"checkpoint.every_steps": 1, "checkpoint.keep": 1000}),
                 workdir, quiet=True)
    for path, content in files.items():
        assert path.read_bytes() == content, path


@pytest.mark.slow  # test_progressive_runs.py has a fast test of two steps a call
@pytest.mark.parametrize("step", [3, 6, STEPS_PER_EPOCH + 3])
def test_resume_at_boundary_of_several_steps_in_one_call(
        whole_in_calls, tmp_path, step):
    resume(whole_in_calls, tmp_path / "run", step, IN_ONE_CALL)
