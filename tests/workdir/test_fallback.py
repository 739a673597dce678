"""checkpoint.fallback: a damaged checkpoint is named, and an older one is gone on from.

`python -m tests.faults.corrupt` does it to every file of real runs.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.support.tiny_runs import read_results, tiny

from cnn_jax import training
from cnn_jax.errors import InputError, RunError
from cnn_jax.workdir.checkpoints.write import Checkpoints
from cnn_jax.config.rules import check, differences, fingerprint, to_json
from cnn_jax.workdir.checkpoints.fallback import fall_back
from cnn_jax.json_files import sealed
from cnn_jax.workdir.progress import Progress, progress_of
from cnn_jax.workdir.folder import read_config

pytestmark = pytest.mark.usefixtures("compiled_once")

STATE = {"step": np.array(3, np.int32), "params": {"kernel": np.arange(6.0)}}
ACCURACY = {10: 0.5, 20: 0.9, 30: 0.6, 40: 0.7}  # the best is step 20


@pytest.fixture
def workdir(tmp_path):
    """Checkpoints 20 (the best), 30 and 40, as a run of four epochs leaves them."""
    history = []
    with Checkpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        for epoch, (step, accuracy) in enumerate(ACCURACY.items(), 1):
            history.append({"epoch": epoch, "step": step, "val_accuracy": accuracy})
            checkpoints.save(step, STATE | {"step": np.array(step, np.int32)},
                             dataclasses.asdict(Progress(step, history)),
                             (accuracy, epoch))
        assert checkpoints.steps == [20, 30, 40]
    return tmp_path


def damage(workdir, step: int) -> None:
    for payload in (workdir / "checkpoints" / str(step) / "state").rglob("d/*"):
        os.truncate(payload, 0)


def steps_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_without_damage_nothing_is_moved(workdir):
    assert fall_back(workdir, STATE, "val_accuracy") == []
    assert steps_in(workdir / "checkpoints") == ["20", "30", "40"]
    assert steps_in(workdir / "damaged") == []


@pytest.mark.parametrize("damaged, used, moved", [
    ([40], 30, ["40-1"]),
    ([30], 40, []),             # not needed, and verified when it is
    ([30, 40], 20, ["30-1", "40-1"]),
], ids=["newest", "one between", "all but the best"])
# What orbax leaves behind in its threads when a file cannot be read.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning",
                            "ignore:coroutine .* was never awaited:RuntimeWarning")
def test_the_newest_whole_step_is_used(workdir, damaged, used, moved):
    for step in damaged:
        damage(workdir, step)
    lines = fall_back(workdir, STATE, "val_accuracy")
    assert steps_in(workdir / "damaged") == moved
    with Checkpoints(workdir / "checkpoints", writing=False) as checkpoints:
        assert (checkpoints.latest, checkpoints.best) == (used, 20)
        checkpoints.restore(used, STATE)
    assert len(lines) == len(moved) + bool(moved)
    if moved:
        assert lines[-1] == (f"going on from the checkpoint of step {used}, which was "
                             "verified")
        assert str(workdir / "checkpoints" / "40") in lines[-2]
        assert f"moved to {workdir / 'damaged' / '40-1'}" in lines[-2]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning",
                            "ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_run_does_not_go_on_without_its_best_checkpoint(workdir):
    """Steps 30 and 40 are whole, but what the end of the run needs is damaged."""
    damage(workdir, 20)
    with pytest.raises(RunError, match=f"checkpoint {workdir}/checkpoints/20 .*another "
                                       "--workdir"):
        fall_back(workdir, STATE, "val_accuracy")
    assert steps_in(workdir / "checkpoints") == ["20", "30", "40"]


SCORES = [None, b"", b'{"score": 9.0, "epoch": 2}', b"[" * 100_000,
          json.dumps(sealed({"score": "a", "epoch": []})).encode(),
          json.dumps(sealed({"x": 1})).encode()]
NAMES = ["lost", "empty", "changed", "nested", "of other types", "another's"]


def damage_score(workdir, step: int, content: bytes | None) -> None:
    path = workdir / "checkpoints" / str(step) / "metrics" / "metrics"
    path.unlink() if content is None else path.write_bytes(content)


@pytest.mark.parametrize("content", SCORES, ids=NAMES)
def test_a_damaged_score_is_no_longer_a_checkpoint(workdir, content):
    damage_score(workdir, 40, content)
    with pytest.raises(RunError, match="checkpoints/40 is damaged"):
        Checkpoints(workdir / "checkpoints", writing=False)
    lines = fall_back(workdir, STATE, "val_accuracy")
    assert "checkpoints/40 is damaged" in lines[0] and "step 30" in lines[1]


@pytest.mark.parametrize("content", SCORES, ids=NAMES)
def test_a_damaged_score_of_the_best_is_refused_whenever_one_asks(workdir, content):
    """Not moved away by the first refusal, so that the second does not see it."""
    damage_score(workdir, 20, content)
    for _ in range(2):
        with pytest.raises(RunError, match="checkpoints/20 is damaged"):
            fall_back(workdir, STATE, "val_accuracy")
        assert steps_in(workdir / "checkpoints") == ["20", "30", "40"]
        assert not (workdir / "damaged").exists()


def prune(workdir, keep_files: int) -> list[Path]:
    """Brings back step 10, which was deleted, with so many of its files: what a kill
    while it is being deleted leaves. Its score goes first, then its checksums."""
    folder = workdir / "checkpoints" / "10"
    shutil.copytree(workdir / "checkpoints" / "30", folder)
    order = "metrics", "integrity"
    files = sorted((path for path in folder.rglob("*") if path.is_file()),
                   key=lambda path: (*(path.parent.name != one for one in order),
                                     str(path)))
    for path in files[:len(files) - keep_files]:
        path.unlink()
    return files


@pytest.mark.parametrize("fallback", [False, True])
def test_a_kill_while_a_checkpoint_is_deleted_is_no_damage(workdir, fallback):
    """At every file: the newest and the best are whole."""
    files = prune(workdir, 0)
    shutil.rmtree(workdir / "checkpoints" / "10")
    assert len(files) > 10
    for left in range(len(files)):
        prune(workdir, left)
        if fallback:
            assert fall_back(workdir, STATE, "val_accuracy") == []
        with Checkpoints(workdir / "checkpoints", writing=False) as checkpoints:
            assert (checkpoints.latest, checkpoints.best) == (40, 20)
            checkpoints.restore(40, STATE)
        shutil.rmtree(workdir / "checkpoints" / "10")
    prune(workdir, len(files) - 1)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(50, STATE | {"step": np.array(50, np.int32)}, {}, (0.1, 5))
        assert checkpoints.steps == [20, 40, 50]  # and the deletion was ended


def test_without_its_best_checkpoint_a_run_does_not_go_on(workdir):
    shutil.rmtree(workdir / "checkpoints" / "20")
    with pytest.raises(RunError, match="checkpoints/20 is missing, the best one up to"):
        fall_back(workdir, STATE, "val_accuracy")
    assert steps_in(workdir / "checkpoints") == ["30", "40"]


@pytest.mark.parametrize("part", ["state", "metrics", "meta", "integrity"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning",
                            "ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_best_checkpoint_that_was_surpassed_is_not_needed(workdir, part):
    """Step 50 is the best, so 20 was deleted; then a part of 50 is damaged. Also when
    the run is killed and started again before it has made 50 anew."""
    with Checkpoints(workdir / "checkpoints", keep=2) as checkpoints:
        _, meta = checkpoints.restore(40, STATE)
        history = [*meta["history"], {"epoch": 5, "step": 50, "val_accuracy": 0.95}]
        checkpoints.save(50, STATE | {"step": np.array(50, np.int32)},
                         dataclasses.asdict(Progress(50, history)), (0.95, 5))
    assert steps_in(workdir / "checkpoints") == ["40", "50"]
    for path in (workdir / "checkpoints" / "50" / part).rglob("*"):
        if path.is_file():
            os.truncate(path, 0)
    assert "from the checkpoint of step 40" in fall_back(
        workdir, STATE, "val_accuracy")[-1]
    assert fall_back(workdir, STATE, "val_accuracy") == []
    assert steps_in(workdir / "damaged") == ["50-1"]


def test_a_copied_checkpoint_is_gone_past(workdir):
    """Also a renamed one, which would make a run skip or repeat steps."""
    shutil.copytree(workdir / "checkpoints" / "40", workdir / "checkpoints" / "999")
    (workdir / "checkpoints" / "40").rename(workdir / "checkpoints" / "35")
    lines = fall_back(workdir, STATE, "val_accuracy")
    for step, line in zip((35, 999), lines):
        assert f"checkpoints/{step} is damaged: state is of step 40" in line
    assert "from the checkpoint of step 30" in lines[2]


PROGRESS = dataclasses.asdict(Progress(8, [{"epoch": 1, "step": 8, "loss": 1.5}]))


@pytest.mark.parametrize("changes, words", [
    ({"extra": 1}, "another version"), ({"step": "x"}, "another version"),
    ({"step": 8.0}, "another version"), ({"history": [{}]}, "another version"),
    ({"history": {}}, "another version"), ({"sums": {}}, "another version"),
    ({"history": [{"epoch": 1, "step": 8, "accuracy": 0.5}]}, "another version"),
    ({"history": [*PROGRESS["history"], {"epoch": 2, "step": 16, "loss": 1, "x": 2}]},
     "another version"),
    ({"train_seconds": None}, "another version"),
    ({"step": 3}, "meta/data.json is of step 3")])
def test_what_is_no_progress_of_this_step_is_refused(tmp_path, changes, words):
    assert progress_of(PROGRESS, tmp_path / "8", "loss") == Progress(**PROGRESS)
    with pytest.raises(RunError, match=f"checkpoint {tmp_path}/8 is damaged.*{words}"):
        progress_of(PROGRESS | changes, tmp_path / "8", "loss")


def test_a_structure_of_another_config_is_no_damage(workdir):
    with pytest.raises(InputError, match="params/kernel.*another config"):
        fall_back(workdir, STATE | {"params": {}}, "val_accuracy")
    assert steps_in(workdir / "checkpoints") == ["20", "30", "40"]


def test_what_was_moved_before_is_not_replaced(workdir):
    (workdir / "damaged" / "40-1").mkdir(parents=True)
    damage(workdir, 40)
    fall_back(workdir, STATE, "val_accuracy")
    assert steps_in(workdir / "damaged") == ["40-1", "40-2"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning",
                            "ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_run_goes_on_from_an_older_step_and_ends_alike(tmp_path, capsys):
    whole = training.run(tiny(epochs=3), tmp_path / "run", quiet=True)
    damage(tmp_path / "run", 24)
    with pytest.raises(RunError, match="checkpoints/24 .*checkpoint.fallback=true"):
        training.run(tiny(epochs=3), tmp_path / "run", quiet=True)
    training.run(tiny({"checkpoint.fallback": True}, epochs=3), tmp_path / "run")
    output = capsys.readouterr().out
    assert "going on from the checkpoint of step 16, which was verified" in output
    assert "resuming after step 16" in output
    again = read_results(tmp_path / "run")
    for name in ("params_sha256", "test_loss", "best_epoch"):
        assert again[name] == whole[name]


@pytest.mark.parametrize("fallback", [False, True])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning",
                            "ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_run_without_its_best_checkpoint_is_refused_at_once(tmp_path, fallback):
    """Not after the epochs that are left; also where it is damaged."""
    config = tiny({"checkpoint.fallback": fallback, "optimizer.learning_rate": 1e-12},
                  epochs=3)  # all epochs are equal, so the first is the best
    training.run(config, tmp_path / "run", quiet=True)
    assert steps_in(tmp_path / "run" / "checkpoints") == ["16", "24", "8"]
    damage(tmp_path / "run", 8)
    with pytest.raises(RunError, match="checkpoints/8 .*state"):
        training.run(config, tmp_path / "run", quiet=True)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "8")
    with pytest.raises(RunError, match="checkpoints/8 is missing, the best one up to"):
        training.run(config, tmp_path / "run", quiet=True)


def test_the_config_of_an_older_workdir_may_lack_the_fields(tmp_path):
    values = json.loads(to_json(tiny()))
    del values["debug"], values["checkpoint"]["fallback"], values["crc32"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = tiny({"debug.determinism": True, "checkpoint.fallback": True})
    assert differences(config, read_config(tmp_path)) == []
    assert fingerprint(config) == fingerprint(tiny())


def test_several_processes_are_refused():
    with pytest.raises(InputError, match="checkpoint.fallback = True.*one process"):
        check(tiny({"checkpoint.fallback": True, "coordinator": "auto"}))


def test_an_empty_folder_is_a_fresh_run(tmp_path):
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    assert fall_back(tmp_path, STATE, "val_accuracy") == []
