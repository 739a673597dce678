"""A run on a streamed set is that on the set in memory, bit for bit, and resumes."""

import pytest
from tests.support.tiny_runs import assert_same_run, picture_folder, tiny

from cnn_jax import training

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    """40 pictures: 23 to train, 6 steps an epoch; each of them is decoded when read."""
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNN_JAX_CACHE", str(root / "cache"))
        yield picture_folder(root / "set", ["ant", "bee", "cat", "dog"], 256) | {
            "epochs": 2, "augment.horizontal_flip": True, "eval_batch_size": 3,
            "checkpoint.every_steps": 2, "checkpoint.keep": 100}


@pytest.fixture(scope="module")
def streamed(changes, tmp_path_factory, compiled_once):
    workdir = tmp_path_factory.mktemp("runs") / "streamed"
    training.run(tiny(changes | {"data.stream": True}), workdir, quiet=True)
    return workdir


def test_a_streamed_run_is_the_run_in_memory(changes, streamed, tmp_path):
    training.run(tiny(changes | {"data.stream": False}), tmp_path, quiet=True)
    assert_same_run(streamed, tmp_path)
