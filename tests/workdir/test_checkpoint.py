"""Checkpoints: which are kept; no damage or mismatch is restored silently."""

import gc
import json
import os
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from tests.support.tiny_runs import assert_same_bits, prepare, tiny

from cnn_jax import training
from cnn_jax.errors import InputError, RunError
from cnn_jax.training.recipe import abstract_state, first_state
from cnn_jax.workdir.checkpoints import Checkpoints, restore, step_folders
from cnn_jax.workdir.checkpoints.orbax_errors import first_line
from cnn_jax.workdir.progress import Progress
from cnn_jax.workdir.trained import best_checkpoint

pytestmark = pytest.mark.usefixtures("compiled_once", "undrawn")


def progress(step: int, **accuracies: float) -> Progress:
    """Makes the progress at a step; s10=0.5 is an epoch that ended at step 10."""
    return Progress(step, [
        {"epoch": epoch, "step": int(name[1:]), "val_accuracy": accuracy}
        for epoch, (name, accuracy) in enumerate(accuracies.items(), 1)])


def open_checkpoints(folder: Path, keep: int = 2) -> Checkpoints:
    return Checkpoints(folder, "val_accuracy", keep)


def save(folder: Path, state: dict, step_progress: Progress) -> None:
    with open_checkpoints(folder) as checkpoints:
        checkpoints.save(state, step_progress)


def example_state(step: int = 7) -> dict:
    """Makes a nested state with empty parts and values that differ only in bits."""
    rng = np.random.default_rng(0)
    return {
        "step": np.array(step, np.int32),
        "params": {"conv1": {"kernel": rng.normal(size=(3, 3, 1, 4)).astype(np.float32),
                             "bias": np.zeros(4, np.float32)},
                   "odd": np.array([np.nan, -0.0, 1e-45, -np.inf], np.float32)},
        "batch_stats": {},
        "opt_state": {"0": {"mu": {"conv1": rng.normal(size=(2, 5))}, "nu": {}}}}


@pytest.fixture
def saved(tmp_path):
    """Saves one checkpoint of `example_state`, at step 7; returns its folder."""
    save(tmp_path / "checkpoints", example_state(), progress(7, s7=0.5))
    return tmp_path / "checkpoints"


def read(folder, like=None, step=7):
    return restore(folder / str(step), example_state() if like is None else like)


# Restoring

def test_round_trip_keeps_every_bit(saved):
    state, meta = read(saved)
    assert_same_bits(state, example_state())
    assert state["batch_stats"] == {} and meta == progress(7, s7=0.5)
    plain, meta = restore(saved / "7")  # without the expected structure
    assert_same_bits(plain, example_state())
    assert "batch_stats" not in plain and meta == progress(7, s7=0.5)


def test_meta_keeps_nan_and_infinity(tmp_path):
    written = progress(7, s3=float("nan"), s7=float("-inf"))
    written.train_seconds = 1 / 3
    save(tmp_path, example_state(), written)
    assert repr(restore(tmp_path / "7")[1]) == repr(written)


@pytest.mark.parametrize("name", ["sgd", "nesterov", "rmsprop", "adamw", "muon"])
def test_the_state_of_every_kind_of_optimizer_comes_back(tmp_path, name):
    config = tiny({"optimizer.name": name, "optimizer.clip_norm": 1.0,
                   "optimizer.ema_decay": 0.9, "optimizer.accumulate_steps": 2})
    _, recipe, shape = prepare(config)
    rng = np.random.default_rng(3)
    state = jax.tree.map(
        lambda leaf: np.asarray(rng.integers(0, 9, leaf.shape), leaf.dtype),
        abstract_state(recipe, shape))
    step = int(state.step)
    save(tmp_path, state, Progress(step))
    restored, _ = restore(tmp_path / str(step), abstract_state(recipe, shape))
    assert_same_bits(restored, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)


# Keeping

def steps_in(folder) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir())


def save_all(folder: Path, scores: dict[int, float | None], keep: int = 2) -> None:
    """Saves a checkpoint for each step; a step with a score ends an epoch."""
    accuracies: dict[str, float] = {}
    with open_checkpoints(folder, keep) as checkpoints:
        for step, score in scores.items():
            if score is not None:
                accuracies[f"s{step}"] = score
            checkpoints.save(example_state(step), progress(step, **accuracies))


def test_the_best_is_never_deleted(tmp_path):
    folder, scores = tmp_path / "checkpoints", {
        1: 0.5, 2: None, 3: 0.9, 4: 0.8, 5: 0.2, 6: None, 7: None}
    save_all(folder, scores)
    assert steps_in(folder) == [3, 6, 7]
    assert best_checkpoint(tmp_path, "val_accuracy")[0] == folder / "3"
    last = restore(folder / "7")[1]
    last.history.append({"epoch": 5, "step": 8, "val_accuracy": 0.95})
    with open_checkpoints(folder) as checkpoints:
        assert (checkpoints.steps, checkpoints.latest) == ([3, 6, 7], 7)
        for step in (8, 9):
            last.step = step
            checkpoints.save(example_state(step), last)
    assert steps_in(folder) == [8, 9]
    assert best_checkpoint(tmp_path, "val_accuracy")[0] == folder / "8"


@pytest.mark.parametrize("files", [
    0, 5, *(pytest.param(count, marks=pytest.mark.slow) for count in (1, 1000))])
def test_a_kill_during_a_deletion_is_not_damage(tmp_path, files):
    """An old step has only some of its files."""
    folder = tmp_path / "checkpoints"
    save_all(folder, {20: 0.9, 30: 0.6, 40: 0.7})
    shutil.copytree(folder / "30", folder / "10")
    for path in [p for p in sorted((folder / "10").rglob("*")) if p.is_file()][files:]:
        path.unlink()
    assert best_checkpoint(tmp_path, "val_accuracy")[0] == folder / "20"
    last = restore(folder / "40")[1]
    last.step = 50
    save(folder, example_state(50), last)
    assert steps_in(folder) == [20, 40, 50]  # the deletion was completed


def test_without_a_finished_epoch_or_the_best_checkpoint_reading_fails(tmp_path):
    folder = tmp_path / "checkpoints"
    with pytest.raises(InputError, match=str(tmp_path)):
        best_checkpoint(tmp_path, "val_accuracy")
    save_all(folder, {1: None})
    with pytest.raises(InputError, match="whole epoch"):
        best_checkpoint(tmp_path, "val_accuracy")
    save_all(folder, {2: 0.9, 3: 0.5})
    shutil.rmtree(folder / "2")
    with pytest.raises(RunError, match=str(folder / '2')):
        best_checkpoint(tmp_path, "val_accuracy")


def test_a_missing_device_is_not_damage(saved, monkeypatch):
    def devices():
        raise RuntimeError("no cuda here")

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(RuntimeError, match="no cuda here") as error:
        read(saved)
    assert not isinstance(error.value, RunError)


def test_damaged_files_are_one_error_and_no_log(tmp_path, caplog):
    """Orbax reads the other leaves in tasks that nobody waits for."""
    rng = np.random.default_rng(0)  # incompressible leaves get their own files
    state = {"params": {f"layer{i}": rng.normal(size=(30, 40)) for i in range(12)}}
    save(tmp_path, state, Progress(7))
    refusals = []
    gc.freeze()  # the collector need not visit objects of other tests
    for path in sorted((tmp_path / "7" / "state").rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        for size in {0, len(content) // 2} if content else ():
            path.write_bytes(content[:size])
            try:
                read(tmp_path, state)
            except RunError as error:
                refusals.append(str(error))
            path.write_bytes(content)
            gc.collect()
    assert len(refusals) >= 6 and not caplog.records
    assert all(re.search(f"{tmp_path}/7 .*(state/|leaf )", line)
               for line in refusals), refusals


def test_a_step_is_never_written_twice(saved):
    with pytest.raises(RunError, match="/7 "):
        save(saved, example_state(), Progress(7))


def test_a_writer_clears_away_unfinished_saves(saved):
    (saved / "8.orbax-checkpoint-tmp").mkdir()
    assert step_folders(saved) == [saved / "7"]
    save(saved, example_state(9), progress(9, s7=0.5))
    assert steps_in(saved) == [7, 9]


# Damage: `tests/faults/corrupt.py` damages every file of a step

def test_a_flipped_bit_in_a_weight_names_step_and_leaf(tmp_path):
    """A large random leaf is incompressible, so it is stored nearly as it is."""
    state = {"params": {"kernel": np.random.default_rng(1).normal(
        size=(64, 64)).astype(np.float32)}}
    save(tmp_path, state, Progress(7))
    payload = max((tmp_path / "7" / "state").rglob("d/*"), key=os.path.getsize)
    content = payload.read_bytes()
    caught = []
    for place in np.random.default_rng(2).integers(0, len(content), 12):
        damaged = bytearray(content)
        damaged[place] ^= 1
        payload.write_bytes(damaged)
        try:
            assert_same_bits(read(tmp_path, state)[0], state)
        except RunError as error:
            caught.append(str(error))
    assert any(f"{tmp_path / '7'} is damaged: leaf params/kernel" in line
               for line in caught), caught


@pytest.mark.parametrize("part, content", [
    ("integrity", {"step": {}}), ("integrity", None),
    ("integrity", {"step": {"shape": [], "dtype": "int99", "crc32": 0}}),
    ("integrity", {"step": {"shape": [2**60], "dtype": "int32", "crc32": 0}}),
    ("meta", {"step": "x"}), ("meta", {"extra": 1}), ("meta", {"history": [{}]}),
    ("meta", {"step": 7, "history": [{"epoch": 1, "step": 7},
                                     {"epoch": 2, "step": 7, "loss": 1}]})])
def test_senseless_parts_are_refused(saved, part, content):
    path = saved / "7" / part / "data.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RunError, match=str(saved / '7')) as error:
        restore(saved / "7")
    assert f"{part}/data.json" in str(error.value), str(error.value)
    assert "\n" not in str(error.value)


def test_the_error_names_the_step_to_resume_from(tmp_path):
    save_all(tmp_path, {10: 0.9, 20: 0.5, 30: 0.6})
    for step in (10, 20, 30):
        (tmp_path / str(step) / "meta" / "data.json").unlink()
    for step, facts in ((30, f"{tmp_path}/30 .*step 20"),
                        (10, "--workdir")):
        with pytest.raises(RunError, match=facts):
            restore(tmp_path / str(step))
    for step in (20, 30):
        shutil.rmtree(tmp_path / str(step))
    with pytest.raises(RunError, match=f"{tmp_path}/10"):
        restore(tmp_path / "10")


# Folders

def test_a_checkpoint_of_another_step_is_refused(saved):
    shutil.copytree(saved / "7", saved / "999")
    with pytest.raises(RunError, match="/999 .*step 7"):
        read(saved, step=999)
    read(saved)


def test_quoted_names_are_not_cut():
    error = NotADirectoryError(20, "Not a directory", "/a/b")
    assert first_line(error) == "[Errno 20] Not a directory: '/a/b'"
    assert first_line(KeyError("no such leaf")) == "no such leaf"


# Restoring into another structure

def without(tree: dict, *path) -> dict:
    head, *rest = path
    if not rest:
        return {key: value for key, value in tree.items() if key != head}
    return tree | {head: without(tree[head], *rest)}


def replaced(tree: dict, value, *path) -> dict:
    head, *rest = path
    return tree | {head: replaced(tree.get(head, {}), value, *rest) if rest else value}


KERNEL = ("params", "conv1", "kernel")
NEW = np.zeros((2, 2), np.float32)
MISMATCHES = {
    "shape": (replaced(example_state(), np.zeros((3, 3, 1, 8), np.float32), *KERNEL),
              "params/conv1/kernel", "float32 [3, 3, 1, 8]", "float32 [3, 3, 1, 4]"),
    "dtype": (replaced(example_state(), np.zeros((3, 3, 1, 4), np.int32), *KERNEL),
              "params/conv1/kernel", "int32 [3, 3, 1, 4]", "float32 [3, 3, 1, 4]"),
    "missing": (replaced(example_state(), NEW, "params", "conv2"),
                "params/conv2", "float32 [2, 2]", "none"),
    "extra": (without(example_state(), *KERNEL),
              "params/conv1/kernel", "none", "float32 [3, 3, 1, 4]"),
    "empty part filled": (replaced(example_state(), NEW, "batch_stats", "mean"),
                          "batch_stats/mean", "float32 [2, 2]", "none"),
}


@pytest.mark.parametrize("kind", MISMATCHES)
def test_another_structure_names_leaf_expected_and_found(saved, kind):
    like, leaf, expected, found = MISMATCHES[kind]
    with pytest.raises(InputError) as caught:
        read(saved, like)
    assert (f"checkpoint {saved / '7'}: leaf {leaf}: expected {expected}, found {found}"
            in str(caught.value))


@pytest.mark.parametrize("changes, leaf", [
    ({"model.name": "lenet5"}, "batch_stats/group1_conv1/bn/mean"),
    ({"optimizer.name": "momentum"}, "opt_state/"),
    ({"model.num_classes": 12}, "head/bias: expected float32 [12], found float32 [10]"),
])
def test_another_config_is_refused_by_leaf(tmp_path, changes, leaf):
    _, recipe, shape = prepare(tiny())
    state = first_state(recipe, shape).replace(step=np.array(1, np.int32))
    save(tmp_path, state, Progress(1))
    _, other, shape = prepare(tiny(changes))
    with pytest.raises(InputError) as caught:
        restore(tmp_path / "1", abstract_state(other, shape))
    message = str(caught.value)
    assert leaf in message and "expected" in message and "found" in message, message


def test_an_empty_step_folder_is_named(saved):
    (saved / "9").mkdir()
    for step in (9, 11):  # step 11 has not even a folder
        path = saved / str(step) / "meta" / "data.json"
        with pytest.raises(RunError, match=str(path)):
            read(saved, step=step)


# Through the commands

def test_a_damaged_checkpoint_ends_a_run_which_resumes_without_it(tmp_path):
    """It resumes from the step that the error names, and ends with the same bits."""
    whole = training.run(tiny(epochs=3), tmp_path, quiet=True)
    for payload in (tmp_path / "checkpoints" / "24" / "state").rglob("d/*"):
        os.truncate(payload, payload.stat().st_size // 2)
    latest = tmp_path / "checkpoints" / "24"
    with pytest.raises(RunError, match=f"{latest} .*step 16"):
        training.run(tiny(epochs=3), tmp_path, quiet=True)
    shutil.rmtree(latest)
    (tmp_path / "results.json").unlink()
    again = training.run(tiny(epochs=3), tmp_path, quiet=True)
    for name in ("params_sha256", "test_loss", "best_epoch"):
        assert getattr(again, name) == getattr(whole, name)


def test_a_damaged_or_missing_best_checkpoint_is_reported_at_once(tmp_path, capsys):
    """The error comes before the remaining epochs."""
    config = tiny({"optimizer.learning_rate": 1e-12}, epochs=3)  # the first is the best
    training.run(config, tmp_path, quiet=True)
    assert steps_in(tmp_path / "checkpoints") == [8, 16, 24]
    shutil.rmtree(tmp_path / "checkpoints" / "24")
    best = tmp_path / "checkpoints" / "8"
    for payload in (best / "state").rglob("d/*"):
        os.truncate(payload, 0)
    with pytest.raises(RunError, match=f"{best} .*state"):
        training.run(config, tmp_path, quiet=True)
    shutil.rmtree(best)
    with pytest.raises(RunError, match="step 8"):
        training.run(config, tmp_path)
    assert f"{best} is missing" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(InputError, match="file"):
        training.run(tiny(), blocked / "run", quiet=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("not a folder either")
    with pytest.raises(RunError, match="run/checkpoints .*File"):
        training.run(tiny(), tmp_path / "run", quiet=True)


# Held in memory

def test_the_best_and_the_latest_are_held(tmp_path):
    """Step 20 is the best of 10 ... 40; later changes of the state do not matter."""
    state = example_state(10)
    with open_checkpoints(tmp_path) as checkpoints:
        seen = {}
        for step, accuracy in ((10, 0.4), (20, 0.9), (30, 0.5), (40, 0.6)):
            seen[f"s{step}"] = accuracy
            state["step"] = np.array(step, np.int32)
            state["params"]["conv1"]["bias"][:] = step
            checkpoints.hold(state, progress(step, **seen))
        assert checkpoints.steps == []
        state["params"]["conv1"]["bias"][:] = -1
        checkpoints.flush()
        assert checkpoints.steps == [20, 40]
        checkpoints.flush()  # nothing is left
        best, of_best = checkpoints.restore(20)
        assert of_best == progress(20, s10=0.4, s20=0.9)
        assert best["params"]["conv1"]["bias"].tolist() == [20] * 4


@pytest.mark.parametrize("best, steps", [(20, [20, 50]), (50, [50])])
def test_a_save_first_writes_the_best_that_is_held(tmp_path, best, steps):
    accuracies = {f"s{step}": 0.9 if step == best else 0.1 for step in (20, 40, 50)}
    with open_checkpoints(tmp_path) as checkpoints:
        for count, step in enumerate((20, 40), 1):
            checkpoints.hold(example_state(step), progress(
                step, **dict(list(accuracies.items())[:count])))
        checkpoints.save(example_state(50), progress(50, **accuracies))
        assert checkpoints.steps == steps
        assert checkpoints.seconds_since_save < 60
