"""Test-time augmentation: views of images, and means of predictions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.config import check
from cnn_jax.errors import InputError
from cnn_jax.tasks import TASKS
from cnn_jax.tasks.tta import average, views
from tests.support.tiny_runs import tiny

RNG = np.random.default_rng(1)


def test_the_views_are_moved_and_mirrored_images():
    images = RNG.integers(0, 256, (2, 32, 32, 1)).astype(np.uint8)
    plain, flipped, *shifted = map(np.asarray, views(images, ("flip", "shift")))
    np.testing.assert_array_equal(plain, images)
    np.testing.assert_array_equal(flipped, images[:, :, ::-1])
    assert len(shifted) == 4 and all(v.dtype == np.uint8 for v in shifted)
    down, up, right, left = shifted  # by two pixels
    np.testing.assert_array_equal(down[:, 2:], images[:, :-2])
    np.testing.assert_array_equal(up[:, :-2], images[:, 2:])
    np.testing.assert_array_equal(right[:, :, 2:], images[:, :, :-2])
    np.testing.assert_array_equal(left[:, :, :-2], images[:, :, 2:])


@pytest.mark.parametrize("name", ["classify", "multilabel"])
def test_the_answer_is_that_of_the_mean_probabilities(name):
    task, logits = TASKS[name], list(RNG.normal(scale=3, size=(3, 5, 4)))
    want = np.mean([task.probabilities(jnp.asarray(part)) for part in logits], 0)
    got = task.probabilities(average(logits, task))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_numbers_are_averaged():
    logits = list(RNG.normal(size=(3, 5, 2)))
    np.testing.assert_allclose(average(logits, TASKS["regress"]), np.mean(logits, 0),
                               rtol=1e-5)
    assert jax.tree.leaves(average(logits, TASKS["regress"]))[0].shape == (5, 2)


@pytest.mark.parametrize("changes, facts", [
    ({"eval.tta": "flip,rotate"}, ["'rotate'", "shift"]),
    ({"eval.tta": "flip", "data.name": "shapes_segmentation", "data.split": "first",
      "model.name": "shapes_fcn"}, ["pixels"]),
    ({"optimizer.swa_epochs": 1, "optimizer.ema_decay": 0.9}, ["two averages"]),
    ({"optimizer.swa_epochs": 3}, ["config.epochs = 2"])])
def test_bad_averages_are_refused(changes, facts):
    with pytest.raises(InputError) as error:
        check(tiny(changes))
    for fact in facts:
        assert fact in str(error.value)
