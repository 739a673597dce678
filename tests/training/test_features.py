"""Only the head learns, on features that the frozen layers compute once."""

import shutil

import jax
import numpy as np
import pytest
from tests.support.tiny_runs import (assert_same_bits, assert_same_run, distance, main,
                                     read_results, tiny, untrained)

from cnn_jax import training
from cnn_jax.errors import InputError
from cnn_jax.training import features
from cnn_jax.training.evaluate_run import evaluate_run
from cnn_jax.workdir import trained
from cnn_jax.workdir.imported import write_imported

pytestmark = pytest.mark.usefixtures("compiled_once", "undrawn")
HEAD = {"model.train": "head", "epochs": 3, "checkpoint.keep": 5,
        "optimizer.learning_rate": 0.02, "model.bn": "keras"}


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    """Turns off the pictures at the end of runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnn_jax.training.train.draw", lambda *_: None)
        yield


def config(source, changes=None):
    """Makes the config of a run that starts from the source, without dropout."""
    made = tiny(HEAD | {"model.init_from": str(source)} | (changes or {}))
    with made.unlocked():
        made.model.fields.update(dropout=0.0)
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Stores a network of seven classes with random weights and statistics."""
    folder = tmp_path_factory.mktemp("source")
    network = untrained(config("x", {"model.init_from": None, "model.train": "all"}),
                        (8, 8, 1), tuple("abcdefg"))
    params = jax.tree.map(lambda leaf: 4 * leaf, network.variables["params"])
    write_imported(folder, network._replace(variables=network.variables | {
        "params": params}))
    return folder


@pytest.fixture(scope="module")
def run(source, tmp_path_factory, compiled_once):
    folder = tmp_path_factory.mktemp("head")
    training.run(config(source), folder, quiet=True)
    return folder


def test_it_trains_the_head_as_through_the_frozen_network(source, run, tmp_path):
    changes = {"model.train": "all", "model.freeze": "trunk"}
    training.run(config(source, changes), tmp_path, quiet=True)
    through, alone = trained.load(tmp_path), trained.load(run)
    assert distance(alone.variables, through.variables) < 1e-5
    old = trained.load(source).variables
    for kind in ("params", "batch_stats"):
        for layer, tree in alone.variables[kind].items():
            if layer != "head":
                assert_same_bits(tree, old[kind][layer])
    assert np.ptp(alone.variables["params"]["head"]["bias"]) > 0.01
    assert [row["val_accuracy"] for row in alone.history] == [
        row["val_accuracy"] for row in through.history]
    np.testing.assert_allclose([row["loss"] for row in alone.history],
                               [row["loss"] for row in through.history], rtol=1e-4)


def test_evaluation_through_the_whole_network_agrees(run):
    results, test = read_results(run), evaluate_run(run, quiet=True)["test"]
    assert test["accuracy"] == results["test_accuracy"] > 0.3
    np.testing.assert_allclose(test["loss"], results["test_loss"], rtol=1e-4)


def test_a_resumed_run_reads_the_features_and_ends_with_the_same_bits(
        source, run, tmp_path, monkeypatch):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    (again / "results.json").unlink()
    for step in (16, 24):  # of 8 in an epoch
        shutil.rmtree(again / "checkpoints" / str(step))
    with monkeypatch.context() as patch:
        patch.setattr(features, "features_of", None)
        training.run(config(source), again, quiet=True)
    assert_same_run(again, run)


def test_features_of_other_weights_are_computed_again(source, run, tmp_path):
    kept = dict(np.load(run / features.FILE))
    assert kept["train"].shape == (128, 128) and kept["test"].shape[0] == 359
    with np.load(run / features.FILE) as archive:
        np.savez(tmp_path / features.FILE, **dict(archive) | {
            "fingerprint": "other", "train": np.zeros((128, 128), np.float32)})
    training.run(config(source), tmp_path, quiet=True)
    assert_same_run(tmp_path, run)


@pytest.mark.parametrize("changes,pattern", [
    ({"model.init_from": None}, "init_from"),
    ({"model.freeze": "group1"}, "freeze = 'group1'"),
    ({"augment.horizontal_flip": True}, "horizontal_flip = True.*freeze = trunk"),
    ({"data.on_error": "skip"}, "on_error"),
    ({"progressive.sides": (4, 8), "progressive.epochs": (0, 1)}, "progressive.sides"),
])
def test_settings_that_do_not_fit_head_only_training(changes, pattern, tmp_path):
    with pytest.raises(InputError, match=pattern):
        training.run(config("x", changes), tmp_path / "x", quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["jit", "pmap"])
def test_on_two_devices(source, run, tmp_path, parallel):
    changes = HEAD | {"model.init_from": source, "parallel": parallel}
    code, _, errors = main(tmp_path / "two", changes, devices=2)
    assert code == 0, errors
    kept, ours = (dict(np.load(folder / features.FILE))
                  for folder in (run, tmp_path / "two"))
    for split in ("train", "validation", "test"):
        np.testing.assert_allclose(ours[split], kept[split], rtol=1e-4, atol=1e-5)
    assert jax.tree.all(jax.tree.map(
        lambda a, b: np.allclose(a, b, atol=1e-3),
        trained.load(tmp_path / "two").variables, trained.load(run).variables))
