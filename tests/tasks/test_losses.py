"""The losses of the table equal NumPy, SciPy and each other."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.tasks import TASKS, losses, regress
from cnn_jax.tasks.task import label_statistics
from cnn_jax.tasks.metrics import class_counts, f1_of_counts, top5_accuracy

RNG = np.random.default_rng(5)
LOGITS, LABELS = RNG.normal(size=(6, 4)), np.array([0, 1, 2, 3, 1, 1])
MANY = RNG.integers(0, 2, (6, 4)).astype(np.uint8)


def settings(**values):
    return types.SimpleNamespace(**{
        "name": None, "label_smoothing": 0.0, "gamma": 2.0, "class_weights": None}
        | values)


def softmax(logits):
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def test_the_focal_loss_by_its_formula():
    p = softmax(LOGITS)[np.arange(6), LABELS]
    np.testing.assert_allclose(losses.focal(LOGITS, LABELS, settings(gamma=1.5)),
                               -(1 - p) ** 1.5 * np.log(p), rtol=1e-5)
    p = 1 / (1 + np.exp(-LOGITS))
    want = np.where(MANY, -(1 - p) ** 2 * np.log(p), -p ** 2 * np.log(1 - p)).mean(-1)
    np.testing.assert_allclose(losses.focal(LOGITS, MANY, settings()), want, rtol=1e-5)


@pytest.mark.parametrize("task, labels", [("classify", LABELS), ("multilabel", MANY)])
def test_without_gamma_it_is_cross_entropy(task, labels):
    smooth = settings(gamma=0.0, label_smoothing=0.1)
    np.testing.assert_allclose(losses.focal(LOGITS, labels, smooth),
                               TASKS[task].losses(LOGITS, labels, 0.1), rtol=1e-5)


def test_the_gradient_is_finite_for_extreme_logits():
    gradient = jax.grad(lambda z: losses.focal(z, LABELS, settings(gamma=0.5)).sum())(
        jnp.asarray(1e3 * np.eye(4)[LABELS]))
    assert np.isfinite(gradient).all()


def test_binary_cross_entropy_of_one_class():
    np.testing.assert_allclose(
        losses.binary_cross_entropy(LOGITS, LABELS, settings()),
        TASKS["multilabel"].losses(LOGITS, np.eye(4)[LABELS]), rtol=1e-6)


def test_class_weights():
    weights = losses.class_weights("balanced", LABELS, 5)
    np.testing.assert_allclose(weights, [6 / 5, 6 / 15, 6 / 5, 6 / 5, 0])
    assert losses.class_weights(None, LABELS, 5) is None
    with pytest.raises(ValueError, match="3 numbers.*4 classes"):
        losses.class_weights("1,2,3", LABELS, 4)
    given = losses.class_weights("1,2,3,0.5", LABELS, 4)
    loss = losses.loss_of(TASKS["classify"], settings(), given)
    np.testing.assert_allclose(
        loss(LOGITS, LABELS), given[LABELS] * TASKS["classify"].losses(LOGITS, LABELS),
        rtol=1e-6)
    # In masks, each pixel has the weight of its class.
    logits, masks = RNG.normal(size=(2, 3, 5, 4)), RNG.integers(0, 4, (2, 3, 5))
    pixels = TASKS["classify"].losses(logits, masks)
    np.testing.assert_allclose(
        losses.loss_of(TASKS["segment"], settings(), given)(logits, masks),
        (given[masks] * pixels).mean((1, 2)), rtol=1e-6)


@pytest.mark.parametrize("name, want", [
    ("mse", lambda d: d ** 2), ("mae", abs),
    ("huber", lambda d: np.where(abs(d) < 1, d ** 2 / 2, abs(d) - 0.5))])
def test_losses_of_numbers_are_in_standard_deviations(name, want):
    numbers = RNG.normal(50, 20, (6, 4)).astype(np.float32)
    targets = label_statistics(numbers)
    loss = losses.loss_of(regress.standardized(targets), settings(name=name))
    difference = LOGITS - (numbers - numbers.mean(0)) / numbers.std(0)
    np.testing.assert_allclose(loss(LOGITS, numbers), want(difference).mean(-1),
                               rtol=1e-4)


def test_metrics_of_numbers_against_scikit_learn():
    from sklearn.metrics import mean_absolute_error, r2_score
    numbers = RNG.normal(50, 20, (6, 4)).astype(np.float32)
    task = regress.standardized(label_statistics(numbers + 3))
    mask = np.array([1, 1, 1, 1, 1, 0.0])
    sums = task.extra_sums(LOGITS, numbers, mask) | {"count": 5.0}
    metrics = task.extra_metrics(jax.tree.map(np.asarray, sums))
    predicted = np.asarray(task.predict(LOGITS))[:5]
    assert metrics["mean_absolute_error"] == pytest.approx(
        mean_absolute_error(numbers[:5], predicted), rel=1e-5)
    assert metrics["r2"] == pytest.approx(r2_score(numbers[:5], predicted), rel=1e-4)


def test_macro_f1_and_top5_against_scikit_learn():
    from sklearn.metrics import f1_score, top_k_accuracy_score
    logits, labels = RNG.normal(size=(40, 9)), RNG.integers(0, 9, 40)
    got = f1_of_counts(jax.tree.map(np.asarray, class_counts(
        jnp.asarray(logits), jnp.asarray(labels), jnp.ones(40))))
    assert got == pytest.approx(f1_score(labels, logits.argmax(1), average="macro"))
    assert float(top5_accuracy(jnp.asarray(logits), jnp.asarray(labels)).mean()
                 ) == pytest.approx(top_k_accuracy_score(labels, logits, k=5,
                                                         labels=range(9)))
