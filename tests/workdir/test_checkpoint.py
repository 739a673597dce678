"""Checkpoints: what is kept, and that no damage or mismatch is restored in silence."""

import gc
import json
import os
import re
import shutil

import jax
import numpy as np
import pytest
from tests.support.tiny_runs import (assert_same_bits, end, losses, main, prepare,
                                     read_results, refusal, start_python, tiny)

from cnn_jax import training
from cnn_jax.errors import InputError, RunError
from cnn_jax.json_files import fits, json_crc32, sealed
from cnn_jax.json_files import read as read_json
from cnn_jax.workdir.checkpoints.write import Checkpoints
from cnn_jax.workdir.recorder import Recorder
from cnn_jax.workdir.checkpoints.orbax_errors import first_line
from cnn_jax.training.recipe import abstract_state, first_state
from cnn_jax.workdir.checkpoints.read import step_folders

pytestmark = pytest.mark.usefixtures("compiled_once")


def example_state(step: int = 7) -> dict:
    """Nested, with empty parts, and with values that only bits can tell apart."""
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
    """A folder with one checkpoint of `example_state`, of step 7."""
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(7, example_state(), {"step": 7, "loss": 0.5}, score=(0.5, 1))
    return tmp_path / "checkpoints"


def read(folder, like=None, step=7):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(step, example_state() if like is None else like)


# What comes back

def test_round_trip_keeps_every_bit(saved):
    state, meta = read(saved)
    assert_same_bits(state, example_state())
    assert state["batch_stats"] == {} and meta == {"step": 7, "loss": 0.5}


def test_meta_keeps_floats_that_are_no_numbers(tmp_path):
    meta = {"loss": float("nan"), "best": float("-inf"), "third": 1 / 3}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, example_state(), meta, score=(float("-inf"), 1))
        found = checkpoints.restore(7, example_state())[1]
        assert checkpoints.best == 7
    assert repr(found) == repr(meta)


@pytest.mark.parametrize("name", ["sgd", "nesterov", "rmsprop", "adamw", "muon"])
def test_the_state_of_every_kind_of_optimiser_comes_back(tmp_path, name):
    config = tiny({"optimizer.name": name, "optimizer.clip_norm": 1.0,
                   "optimizer.ema_decay": 0.9, "optimizer.accumulate_steps": 2})
    _, recipe, shape = prepare(config)
    rng = np.random.default_rng(3)
    state = jax.tree.map(
        lambda leaf: np.asarray(rng.integers(0, 9, leaf.shape), leaf.dtype),
        abstract_state(recipe, shape))
    step = int(state.step)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(step, state, {})
        found, _ = checkpoints.restore(step, abstract_state(recipe, shape))
    assert_same_bits(found, state)
    assert jax.tree.structure(found) == jax.tree.structure(state)


# What is kept

def steps_in(folder) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir())


def test_the_best_is_never_deleted(tmp_path):
    scores = {1: 0.5, 2: None, 3: 0.9, 4: 0.8, 5: 0.2, 6: None, 7: None}
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step, score in scores.items():
            checkpoints.save(step, example_state(), {},
                             None if score is None else (score, step))
        assert (checkpoints.latest, checkpoints.best) == (7, 3)
    assert steps_in(tmp_path) == [3, 6, 7]
    with Checkpoints(tmp_path) as checkpoints:  # and a new process sees the same
        assert (checkpoints.latest, checkpoints.best) == (7, 3)
        checkpoints.save(8, example_state(), {}, (0.95, 8))
        checkpoints.save(9, example_state(), {})
    assert steps_in(tmp_path) == [8, 9]


def test_of_equal_scores_the_earlier_epoch_is_best(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for epoch in range(1, 6):
            checkpoints.save(10 * epoch, example_state(), {},
                             (0.5 if epoch == 1 else 0.9, epoch))
        assert checkpoints.best == 20
    assert steps_in(tmp_path) == [20, 40, 50]


def test_damaged_files_are_one_error_and_no_log(tmp_path, caplog):
    """Orbax reads the other leaves in tasks that nobody waits for."""
    rng = np.random.default_rng(0)  # what does not shrink has a file of its own
    state = {"params": {f"layer{i}": rng.normal(size=(30, 40)) for i in range(30)}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, state, {})
    refusals = []
    for path in sorted((tmp_path / "7" / "state").rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        for size in {0, 1, len(content) // 9, len(content) // 2} if content else ():
            path.write_bytes(content[:size])
            try:
                read(tmp_path, state)
            except RunError as error:
                refusals.append(str(error))
            path.write_bytes(content)
            gc.collect()
    assert len(refusals) >= 6 and not caplog.records
    assert all(re.search("checkpoints?/?.*/7 .*(state/|leaf )", one)
               for one in refusals), refusals


def test_a_step_is_never_written_twice(saved):
    with Checkpoints(saved) as checkpoints:
        with pytest.raises(RunError, match="checkpoints/7 .*already exists"):
            checkpoints.save(7, example_state(), {})


def test_only_a_writer_clears_away_unfinished_saves(saved):
    unfinished = saved / "8.orbax-checkpoint-tmp"
    unfinished.mkdir()
    with Checkpoints(saved, writing=False) as checkpoints:
        assert checkpoints.latest == 7
    assert unfinished.exists(), "a reader would break the save of a run under way"
    with Checkpoints(saved) as checkpoints:
        checkpoints.save(9, example_state(), {})
    assert steps_in(saved) == [7, 9]


# Damage: `tests/faults/corrupt.py` does it to every file of a step

def store_plain(folder, state):
    """One checkpoint whose values orbax stores as they are, so a flip is a weight."""
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(7, state, {})


def test_a_flipped_bit_in_a_weight_names_step_and_leaf(tmp_path):
    """A large random leaf is stored nearly as it is: compression finds nothing."""
    state = {"params": {"kernel": np.random.default_rng(1).normal(
        size=(64, 64)).astype(np.float32)}}
    store_plain(tmp_path, state)
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


def test_without_the_checksum_orbax_restores_wrong_weights(tmp_path, monkeypatch):
    """The test above can fail: with the comparison off, damage goes unseen."""
    state = {"kernel": np.random.default_rng(1).normal(
        size=(64, 64)).astype(np.float32)}
    store_plain(tmp_path, state)
    monkeypatch.setattr("zlib.crc32", lambda content: 0)
    store_plain(tmp_path / "blind", state)
    payload = max((tmp_path / "blind" / "7" / "state").rglob("d/*"),
                  key=os.path.getsize)
    content, wrong = payload.read_bytes(), 0
    for place in np.random.default_rng(2).integers(0, len(content), 12):
        damaged = bytearray(content)
        damaged[place] ^= 1
        payload.write_bytes(damaged)
        try:
            found = read(tmp_path / "blind", state)[0]["kernel"]
        except RunError:
            continue
        wrong += not np.array_equal(found, state["kernel"])
    assert wrong > 0


# JSON that is whole, and yet no part of a checkpoint

@pytest.mark.parametrize("name, content", [
    ("metrics/metrics", {"score": "a", "epoch": []}),
    ("metrics/metrics", {"score": 0.5}),
    ("metrics/metrics", {"score": 0.5, "epoch": 1, "more": 1}),
    ("integrity/data.json", {"leaves": [1], "meta": 0}),
    ("integrity/data.json", {"leaves": {"step": {}}, "meta": 0}),
    ("integrity/data.json", {"leaves": {}}),
    ("integrity/data.json", {"leaves": {"step": {
        "shape": [1.5], "dtype": "int32", "crc32": 0}}, "meta": 0})])
def test_senseless_parts_with_a_right_checksum_are_refused(saved, name, content):
    (saved / "7" / name).write_text(json.dumps(sealed(content)))
    with pytest.raises(RunError, match=f"checkpoint {saved / '7'} is damaged or of "
                                       f"another version: {name}"):
        read(saved)


@pytest.mark.parametrize("name", ["metrics/metrics", "integrity/data.json",
                                  "meta/data.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 900 + "]" * 900, "[1]", "nul",
                                  "9" * 5000])
def test_damaged_json_is_one_line(saved, name, text):
    (saved / "7" / name).write_text(text)
    with pytest.raises(RunError, match=f"checkpoint {saved / '7'} is damaged.*{name}"):
        read(saved)


def test_one_digit_in_meta_is_noticed(saved):
    path = saved / "7" / "meta" / "data.json"
    path.write_text(path.read_text().replace("0.5", "0.6"))
    with pytest.raises(RunError, match=f"{saved / '7'} is damaged: meta/data.json does "
                                       "not have the checksum"):
        read(saved)


def test_forms_of_json():
    assert fits([1, 2.5, float("nan")], [float]) and not fits([True], [float])
    assert fits(1, int) and not fits(1.0, int) and not fits(True, int)
    assert fits({"a": [1, "x"]}, {"a": (int, str)})
    assert not fits({"a": [1]}, {"a": (int, str)}) and not fits({}, {"a": int})
    assert not fits({"a": 1, "b": 1}, {"a": int})
    assert fits({"a": 1, "b": 2}, {"a": int, str: int})
    assert not fits({"a": 1, "b": "2"}, {"a": int, str: int})
    assert fits(None, object) and not fits([], {str: object})
    optional = {"a": float | None}
    assert all(fits(value, optional) for value in ({}, {"a": None}, {"a": 1}))
    assert not fits({"a": "1"}, optional) and not fits({"b": 1}, optional)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_json_is_nested_as_deep_as_what_we_write(tmp_path):
    (tmp_path / "a.json").write_text(nested(20))
    read_json(tmp_path / "a.json")
    for depth in (21, 600, 100_000):
        (tmp_path / "a.json").write_text(nested(depth))
        with pytest.raises(ValueError, match="nested|recursion"):
            read_json(tmp_path / "a.json")


def test_a_pipe_in_a_state_is_not_waited_for(saved):
    for path in (saved / "7" / "state").rglob("_METADATA"):
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(RunError, match=f"checkpoint {saved / '7'} is damaged: .*_META"):
        read(saved)


@pytest.mark.parametrize("kind", ["pipe", "device", "large"])
def test_what_is_no_small_file_is_not_waited_for(saved, kind):
    path = saved / "7" / "meta" / "data.json"
    path.unlink()
    if kind == "large":
        path.write_text("[]")
        os.truncate(path, 2**25 + 1)
    else:
        os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(RunError, match=f"{path} cannot be read: .*(device|33,554,433)"):
        read(saved)


def test_no_nesting_has_a_checksum_by_accident():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert json_crc32(deep) == -1


# Folders

def test_a_checkpoint_of_another_step_is_refused(saved):
    shutil.copytree(saved / "7", saved / "999")
    with pytest.raises(RunError, match="checkpoints/999 is damaged: state is of step "
                                       "7: the folder was copied or renamed"):
        read(saved, step=999)
    read(saved)


def test_only_folders_named_by_a_step_are_checkpoints(saved):
    (saved / "99").write_text("a file")
    (saved / "8").symlink_to("nowhere")
    for name in ("007", "\u0663", "\u00b2", ".hidden", "7.partial"):
        (saved / name).mkdir()
    assert step_folders(saved) == [saved / "7"]
    with Checkpoints(saved, writing=False) as checkpoints:
        assert checkpoints.steps == [7]


def test_the_quotes_of_a_name_stay_whole():
    error = NotADirectoryError(20, "Not a directory", "/a/b")
    assert first_line(error) == "[Errno 20] Not a directory: '/a/b'"
    assert first_line(KeyError("no such leaf")) == "no such leaf"


# Restoring into something else

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
    "rank": (replaced(example_state(), np.zeros((9, 4), np.float32), *KERNEL),
             "params/conv1/kernel", "float32 [9, 4]", "float32 [3, 3, 1, 4]"),
    "dtype": (replaced(example_state(), np.zeros((3, 3, 1, 4), np.int32), *KERNEL),
              "params/conv1/kernel", "int32 [3, 3, 1, 4]", "float32 [3, 3, 1, 4]"),
    "missing": (replaced(example_state(), NEW, "params", "conv2"),
                "params/conv2", "float32 [2, 2]", "none"),
    "extra": (without(example_state(), *KERNEL),
              "params/conv1/kernel", "none", "float32 [3, 3, 1, 4]"),
    "renamed": (replaced(without(example_state(), "params", "odd"), NEW,
                         "params", "even"),
                "params/even", "float32 [2, 2]", "none"),
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
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, first_state(recipe, shape), {})
        _, other, shape = prepare(tiny(changes))
        with pytest.raises(InputError) as caught:
            checkpoints.restore(1, abstract_state(other, shape))
    message = str(caught.value)
    assert leaf in message and "expected" in message and "found" in message, message


def test_an_empty_step_folder_is_named(saved):
    (saved / "9").mkdir()
    for step in (9, 11):  # 11: not even a folder
        where = saved / str(step)
        with pytest.raises(RunError) as caught:
            read(saved, step=step)
        assert str(caught.value) == (f"checkpoint {where} is damaged: "
                                     f"{where / 'integrity/data.json'} is missing")


def test_a_folder_that_was_moved_away_is_not_made_anew(tmp_path):
    place, state = tmp_path / "checkpoints", {"x": np.arange(3.0)}
    with Checkpoints(place) as checkpoints:
        checkpoints.save(1, state, {})
        place.rename(tmp_path / "elsewhere")
        with pytest.raises(RunError, match="checkpoints was moved or deleted"):
            checkpoints.save(2, state, {})
        assert not place.exists()
        place.mkdir()
        with pytest.raises(RunError, match="checkpoints was moved or deleted"):
            checkpoints.save(3, state, {})


def test_what_orbax_s_threads_meet_too_late_is_not_told(tmp_path):
    """As when a save has timed out: they log what they hand to who waits for them."""
    code = """
import sys
from absl import logging
from cnn_jax.workdir.checkpoints.write import Checkpoints
from orbax.checkpoint._src.futures.future import _SignalingThread
def fail():
    raise RuntimeError('too late')
with Checkpoints(sys.argv[1]):
    pass
thread = _SignalingThread(target=fail, send_signals=[], receive_signals=[],
                          timeout_secs=10)
thread.start()
try:
    thread.join()
except RuntimeError as error:
    print(error)
logging.error('another')
"""
    code, output, errors = end(start_python("-c", code, tmp_path))
    assert (code, output) == (0, "too late\n"), errors
    line, = [line for line in errors.splitlines() if not line.startswith("WARNING")]
    assert line.endswith("another")


# As a user sees it

def test_a_damaged_checkpoint_ends_a_run_with_code_1(tmp_path):
    training.run(tiny(), tmp_path, quiet=True)
    latest = max((tmp_path / "checkpoints").iterdir(), key=lambda p: int(p.name))
    for payload in (latest / "state").rglob("d/*"):
        os.truncate(payload, payload.stat().st_size // 2)
    message = refusal(main(tmp_path, {"epochs": 2}), 1)
    assert f"checkpoint {latest} " in message


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(InputError, match="cannot be written"):
        training.run(tiny(), blocked / "run", quiet=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("not a folder either")
    for loop in (False, True):
        if loop:
            (tmp_path / "run" / "checkpoints").unlink()
            (tmp_path / "run" / "checkpoints").symlink_to("checkpoints")
        with pytest.raises(RunError, match="run/checkpoints could not be written: "
                                           "File exists: move away what lies there"):
            training.run(tiny(), tmp_path / "run", quiet=True)


def test_lost_rows_of_metrics_are_said_and_change_nothing(tmp_path, capsys):
    whole, copy = tmp_path / "whole", tmp_path / "copy"
    training.run(tiny(), whole, quiet=True)
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / "checkpoints" / "16")
    for name in ("metrics.jsonl", "results.json"):
        (copy / name).unlink()
    training.run(tiny(), copy)
    output = capsys.readouterr().out
    assert "resuming after step 8" in output
    assert (f"{copy / 'metrics.jsonl'} was deleted or damaged: it lacks rows up to "
            "step 8, which do not come back") in output
    assert losses(copy) == losses(whole)
    assert read_results(copy)["params_sha256"] == read_results(whole)["params_sha256"]


def test_rows_that_are_there_are_not_said_to_be_lost(tmp_path):
    """Rows after the step are taken back, and a kill may have cut the last one."""
    rows = [json.dumps({"step": step}) + "\n" for step in (4, 8, 12)]
    for text, step, lost in [("".join(rows), 8, False), ("".join(rows), 16, True),
                             ("".join(rows) + '{"st', 12, False), (rows[1], 8, False),
                             ("".join(rows[1:]), 12, False), (rows[2], 12, True),
                             ("", 0, False)]:
        (tmp_path / "metrics.jsonl").write_text(text)
        recorder = Recorder(tmp_path, step, [{"epoch": 1, "step": 8}] * (step > 8))
        recorder.close()
        assert bool(recorder.lost) == lost, (text, step)


def test_a_folder_in_place_of_the_metrics_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(RunError, match="metrics.jsonl could not be written: Is a "
                                       "directory: move away what lies there"):
        Recorder(tmp_path, 0, [])
