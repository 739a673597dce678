"""Checkpoints: what is kept, and that no damage or mismatch is restored in silence."""

import os

import jax
import numpy as np
import pytest
from tiny_runs import assert_same_bits, main, prepare, refusal, tiny

from cnn_jax import training
from cnn_jax.errors import InputError, RunError
from cnn_jax.training.checkpoint import Checkpoints
from cnn_jax.training.setup import abstract_state, first_state

pytestmark = pytest.mark.usefixtures("compiled_once")


def example_state() -> dict:
    """Nested, with empty parts, and with values that only bits can tell apart."""
    rng = np.random.default_rng(0)
    return {
        "step": np.array(7, np.int32),
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
        checkpoints.save(1, example_state(), meta, score=(float("-inf"), 1))
        found = checkpoints.restore(1, example_state())[1]
        assert checkpoints.best == 1
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
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        found, _ = checkpoints.restore(1, abstract_state(recipe, shape))
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
                                     f"{where / 'integrity'} is missing")


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
    with pytest.raises(RunError, match="run/checkpoints.* could not be written"):
        training.run(tiny(), tmp_path / "run", quiet=True)
