"""The two scripts of docs/howto/from_keras.md have the same network.

Needs the `peers` extra; then: pytest -m slow tests/documents/test_from_keras.py
"""

import os

import jax
import numpy as np
import pytest
from tests.support.pages import DOCS, cells, shown_file

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras", reason="needs the `peers` extra: keras")
# Keras' variables have an __array__ of NumPy 1.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning")]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """Runs both scripts; returns the variables that each of them leaves."""
    theirs, ours = {}, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("scripts"))
        with jax.numpy_rank_promotion("allow"):
            exec(shown_file("from_keras.md", "keras_digits.py").replace(
                "epochs=30", "epochs=2"), theirs)
        for cell in cells(DOCS / "howto" / "from_keras.md"):
            exec(cell, ours)
    return theirs, ours


def test_the_same_weights_give_the_same_logits(scripts):
    theirs, ours = scripts
    model, network = theirs["model"], ours["run"].network
    conv1, scale, bias, mean, variance, conv2, bias2, head, head_bias = (
        np.asarray(weight) for weight in model.get_weights()
        if np.issubdtype(weight.dtype, np.floating))
    variables = {
        "params": {"conv1": {"kernel": conv1}, "bn1": {"scale": scale, "bias": bias},
                   "conv2": {"kernel": conv2, "bias": bias2},
                   "head": {"kernel": head, "bias": head_bias}},
        "batch_stats": {"bn1": {"mean": mean, "var": variance}}}
    images = ours["x_test"]
    logits = network.apply(variables, np.float32(images) / 255, train=False)
    np.testing.assert_allclose(jax.nn.softmax(logits), theirs["probabilities"],
                               atol=1e-5)


def test_ours_learns(scripts):
    _, ours = scripts
    assert ours["results"].test_accuracy > 0.95
    assert np.mean(ours["classes"] == ours["y_test"]) == pytest.approx(
        ours["results"].test_accuracy)
