"""Fine-tuning starts from the parameters of a trained run and can freeze some."""

import jax
import numpy as np
import pytest
from tests.support.tiny_runs import tiny

from cnn_jax import training
from cnn_jax.errors import InputError
from cnn_jax.workdir import trained

pytestmark = pytest.mark.usefixtures("compiled_once", "undrawn")


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    """Turns off the pictures at the end of runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnn_jax.training.train.draw", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory, compiled_once, no_pictures):
    path = tmp_path_factory.mktemp("source")
    training.run(tiny(), path, quiet=True)
    return path


def differing(a, b) -> set[str]:
    """Names the layers of two trees in which any leaf differs."""
    return {layer for layer in a if any(
        (x != y).any() for x, y in zip(jax.tree.leaves(a[layer]),
                                       jax.tree.leaves(b[layer])))}


@pytest.mark.parametrize("optimizer", [
    pytest.param("adam", marks=pytest.mark.slow), "muon"])
def test_frozen_parts_stay_and_the_others_learn(source, tmp_path, optimizer):
    layers = list(trained.load(source).variables["params"])
    config = tiny()
    config.seed = 5
    config.optimizer.name = optimizer
    config.model.init_from = str(source)
    config.model.freeze = f"{layers[0]},{layers[1]}"
    training.run(config, tmp_path, quiet=True)
    old, new = trained.load(source).variables, trained.load(tmp_path).variables
    assert differing(old["params"], new["params"]) == set(layers[2:])
    assert not differing(old["batch_stats"], new["batch_stats"])


def test_without_freezing_all_layers_learn_from_the_trained_values(source, tmp_path):
    config = tiny()
    config.seed = 5
    config.model.init_from = str(source)
    config.optimizer.learning_rate = 1e-6
    config.optimizer.ema_decay = 0.99  # the averages start there too
    training.run(config, tmp_path, quiet=True)
    old, new = trained.load(source).variables, trained.load(tmp_path).variables
    for a, b in zip(jax.tree.leaves(old["params"]), jax.tree.leaves(new["params"])):
        np.testing.assert_allclose(a, b, atol=1e-3)
    assert differing(old["params"], new["params"]) == set(old["params"])


def test_another_number_of_classes_gets_a_fresh_head(source, tmp_path):
    config = tiny()
    config.model.init_from, config.model.num_classes = str(source), 12
    training.run(config, tmp_path, quiet=True)
    assert trained.load(tmp_path).variables["params"]["head"]["bias"].shape == (12,)


@pytest.mark.parametrize("field,value,pattern", [
    ("freeze", "group1,stage9", "stage9"),
    ("freeze", "group1,fc1,head", "group1,fc1,head"),
    ("init_from", "/nowhere", "config.model.init_from = /nowhere"),
])
def test_bad_fields_are_refused(tmp_path, field, value, pattern):
    config = tiny()
    config.model[field] = value
    with pytest.raises(InputError, match=pattern):
        training.run(config, tmp_path / "x", quiet=True)
