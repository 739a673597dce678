"""The tasks equal NumPy and scikit-learn: losses, gradients, sums, metrics."""

import ast
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from cnn_jax.tasks import TASKS, classify, multilabel, segment
from cnn_jax.tasks.metrics import average_precision, macro_f1, mean
from cnn_jax.training.steps import mixup_mean

# The tasks with classes; test_losses.py tests the task with numbers.
CLASS_TASKS = [name for name, task in TASKS.items() if task.figures != "values"]
NAMES = ("circle", "rectangle", "line")
RNG = np.random.default_rng(3)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def draw(name: str, count: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Draws (logits, labels) of a task, for images of 2 x 3 pixels and 3 classes."""
    task, image_shape = TASKS[name], (2, 3, 1)
    logits = RNG.normal(size=(count, *task.logits_shape(image_shape, 3)))
    high = 3 if task.exclusive else 2
    labels = RNG.integers(0, high, (count, *task.label_shape(image_shape, 3)))
    return logits, labels.astype(task.label_dtype)


def test_the_names_of_the_registry_are_those_of_the_tasks():
    assert {name: task.name for name, task in TASKS.items()} == {
        name: name for name in ("classify", "segment", "multilabel", "regress")}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_cross_entropy_against_numpy(smoothing):
    logits, labels = draw("classify")
    targets = np.eye(3)[labels] * (1 - smoothing) + smoothing / 3
    want = -(targets * log_softmax(logits)).sum(-1)
    np.testing.assert_allclose(classify.losses(logits, labels, smoothing), want,
                               rtol=1e-5)


def test_masks_are_scored_pixel_by_pixel():
    logits, masks = RNG.normal(size=(4, 3, 5, 6)), RNG.integers(0, 6, (4, 3, 5))
    log = log_softmax(logits)
    want = [-np.mean([log[n, r, c, masks[n, r, c]] for r in range(3) for c in range(5)])
            for n in range(4)]
    np.testing.assert_allclose(segment.losses(logits, masks), want, rtol=1e-5)
    np.testing.assert_allclose(segment.correct(logits, masks),
                               (logits.argmax(-1) == masks).mean((1, 2)), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_sigmoid_cross_entropy_and_its_gradient_by_hand(smoothing):
    """With p = sigmoid(z), the derivative of the loss with respect to z is (p - t) / C.
    """
    logits = np.array([[2.0, -1.0, 0.5], [-3.0, 0.0, 4.0]])
    labels = np.array([[1, 0, 0], [0, 1, 1]], np.uint8)
    p = 1 / (1 + np.exp(-logits))
    t = labels * (1 - smoothing) + smoothing / 2
    want = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(-1)
    losses = functools.partial(multilabel.losses, label_smoothing=smoothing)
    np.testing.assert_allclose(losses(logits, labels), want, rtol=1e-6)
    grads = jax.grad(lambda z: losses(z, labels).sum())(jnp.asarray(logits))
    np.testing.assert_allclose(grads, (p - t) / 3, rtol=1e-5, atol=1e-7)


def test_exact_match_and_the_counts_of_each_class_by_hand():
    logits = jnp.array([[2.0, -1, 1], [1, 1, -1], [-1, -1, 3], [5, 5, 5]])
    labels = jnp.array([[1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0]], jnp.uint8)
    assert multilabel.correct(logits, labels).tolist() == [1, 0, 0, 0]
    sums = multilabel.counts(logits, labels, jnp.array([1.0, 1, 1, 0]))
    assert {name: value.tolist() for name, value in sums.items()} == {
        "true_positives": [2, 0, 2], "false_positives": [0, 1, 0],
        "false_negatives": [0, 1, 0]}
    assert {value.dtype for value in sums.values()} == {jnp.dtype("int32")}
    metrics = TASKS["multilabel"].extra_metrics(jax.tree.map(np.asarray, sums))
    assert metrics == {"macro_f1": pytest.approx((1 + 0 + 1) / 3)}


def test_outputs_beyond_the_classes_have_the_label_0():
    logits = np.array([[2.0, -1, 1, -4, -5]])
    labels = np.array([[1, 0, 1]], np.uint8)
    wide = np.array([[1, 0, 1, 0, 0]], np.uint8)
    assert multilabel.correct(logits, labels).tolist() == [1]
    np.testing.assert_array_equal(multilabel.losses(logits, labels),
                                  multilabel.losses(logits, wide))
    assert multilabel.correct(-logits, labels).tolist() == [0]


def test_macro_f1_against_scikit_learn():
    truth, predicted = RNG.integers(0, 2, (2, 40, 4))
    both = (truth & predicted).sum(0)
    got = macro_f1(both, predicted.sum(0) - both, truth.sum(0) - both)
    assert got == pytest.approx(f1_score(truth, predicted, average="macro"), rel=1e-12)
    # A class that neither occurs nor is predicted does not count.
    assert macro_f1(np.array([3, 0]), np.array([1, 0]), np.array([2, 0])) == 6 / 9
    assert macro_f1(*np.zeros((3, 2), int)) == 0.0


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_against_scikit_learn(ties):
    labels = RNG.integers(0, 2, (50, 3))
    scores = RNG.normal(size=(50, 3)).round(0 if ties else 6)
    np.testing.assert_allclose(average_precision(scores, labels),
                               average_precision_score(labels, scores, average=None),
                               rtol=1e-12)


def test_average_precision_by_hand():
    """Hits at ranks 1 and 3 of 4 give (1 + 2/3) / 2; a class without hits gives NaN."""
    scores = np.array([[0.1, 0], [0.9, 0], [0.4, 0], [0.5, 0]])
    labels = np.array([[0, 0], [1, 0], [1, 0], [0, 0]])
    got = average_precision(scores, labels)
    assert got[0] == pytest.approx((1 + 2 / 3) / 2) and np.isnan(got[1])


def soft(labels: np.ndarray) -> np.ndarray:
    """Returns the target of each class, 0 or 1."""
    return np.eye(3)[labels] if labels.ndim == 1 else labels.astype(float)


@pytest.mark.parametrize("name", [n for n in CLASS_TASKS if TASKS[n].can_mix])
def test_the_loss_of_mixed_images_is_the_loss_against_the_mixed_target(name):
    """The target has 0.3 of one label and 0.7 of another, with label smoothing."""
    task = TASKS[name]
    (logits, labels), (_, others) = draw(name, 3), draw(name, 3)
    share = np.array([0.3, 0.6, 1.0])
    target = share[:, None] * soft(labels) + (1 - share[:, None]) * soft(others)
    if name == "classify":
        want = -((0.9 * target + 0.1 / 3) * log_softmax(logits)).sum(-1)
    else:
        t, p = 0.9 * target + 0.05, 1 / (1 + np.exp(-logits))
        want = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(-1)
    got = mixup_mean(lambda y: task.losses(logits, y, 0.1),
                     ((labels, share), (others, 1 - share)))
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("name", CLASS_TASKS)
def test_a_perfect_answer_is_right_and_has_the_best_metrics(name):
    """This holds for every task with classes, also for a new one."""
    task = TASKS[name]
    _, labels = draw(name, 8)
    eye = np.eye(3)[labels] if task.exclusive else labels
    logits = jnp.asarray(20.0 * eye - 10.0)
    assert task.correct(logits, labels).tolist() == [1.0] * 8
    assert (np.asarray(task.losses(logits, labels)) < 1e-3).all()
    predicted = np.asarray(task.predict(logits))
    np.testing.assert_array_equal(predicted, labels)
    assert predicted.shape[1:] == task.label_shape((2, 3, 1), 3)
    sums = task.extra_sums(logits, jnp.asarray(labels), jnp.ones(8))
    metrics = task.extra_metrics(jax.tree.map(np.asarray, sums))
    assert metrics == dict.fromkeys(task.monitors, 1.0)
    assert mean({"loss": 6.0, "correct": 3.0, "count": 4.0}) | metrics == metrics | {
        "loss": 1.5, "accuracy": 0.75}
    scores = np.asarray(task.scores(logits))
    assert scores.shape == (8, 3) and task.probabilities(logits).shape == logits.shape
    for label, row in zip(labels, scores):
        held = task.label_classes(label)
        assert sorted(task.named_classes(row, 1)) == held
        assert task.label_text(label, NAMES) == (
            ", ".join(NAMES[c] for c in held) or "none")


def test_classes_that_an_answer_names():
    scores = np.array([0.2, 0.99, 0.97])
    assert classify.named_classes(scores, 2) == [1, 2]
    assert multilabel.named_classes(scores, 1) == [1, 2]  # those above one half
    assert multilabel.named_classes(np.array([0.2, 0.5, 0.1]), 3) == []
    assert segment.named_classes(np.array([0.9, 0.0, 0.1]), 1) == [0, 2]


def test_a_class_without_a_name_is_named_by_its_number():
    assert TASKS["classify"].label_text(np.array(7), ("cat", "dog")) == "class 7"
    assert TASKS["classify"].label_text(np.array(1), ("cat", "dog")) == "dog"


def test_only_the_files_of_tasks_know_their_names():
    """So a new task is one file and a row: all others ask the `Task`."""
    package = Path(__file__).parents[2] / "cnn_jax"
    for path in package.rglob("*.py"):
        if path.parent.name != "tasks":
            nodes = ast.walk(ast.parse(path.read_text()))
            strings = {node.value for node in nodes if isinstance(node, ast.Constant)}
            assert not strings & {*TASKS}, path


def test_sets_of_arrays_have_names_of_their_own():
    assert len({task.set_name for task in TASKS.values()}) == len(TASKS)
