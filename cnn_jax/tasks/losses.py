"""LOSSES: what training minimizes, by name.

A loss is a pure function

    (logits, labels, settings) -> float32 [N, ...]

of the logits [N, ..., C], the labels as the task defines them, and the `loss` section
of the config. It gives a number for each label, [N] for images and [N, H, W] for
pixels. A loss of your own has the same form: name it MODULE:FUNCTION, or add it to
`LOSSES`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax import user_code
from cnn_jax.errors import InputError
from cnn_jax.tasks import classify, multilabel
from cnn_jax.tasks.task import Task

LossFunction = Callable[[jax.Array, jax.Array, Any], jax.Array]


def cross_entropy(logits: jax.Array, labels: jax.Array, settings: Any) -> jax.Array:
    """Computes softmax cross-entropy, with label smoothing."""
    return classify.losses(logits, labels, settings.label_smoothing)


def binary_cross_entropy(logits: jax.Array, labels: jax.Array,
                         settings: Any) -> jax.Array:
    """Averages sigmoid cross-entropy over the classes, with label smoothing.

    If each image or pixel has one class, the target is 1 for that class, 0 for others.
    """
    targets = jax.nn.one_hot(labels, logits.shape[-1]) if (
        labels.ndim < logits.ndim) else labels
    return multilabel.losses(logits, targets, settings.label_smoothing)


def focal(logits: jax.Array, labels: jax.Array, settings: Any) -> jax.Array:
    """Computes the focal loss of Lin et al. (2017), sum over classes of

        -t (1 - p)^gamma log p

    with p = softmax(logits) and the smoothed target t. For multi-label data it is the
    mean over classes of

        -t (1 - p)^gamma log p - (1 - t) p^gamma log(1 - p)

    with p = sigmoid(logit). With gamma = 0 both are cross-entropy.
    """
    logits, gamma = logits.astype(jnp.float32), settings.gamma
    if labels.ndim < logits.ndim:
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]),
                                      settings.label_smoothing)
        log_p = jax.nn.log_softmax(logits)
        return -(targets * _focus(log_p, gamma) * log_p).sum(-1)
    targets = multilabel.smooth_targets(labels, logits, settings.label_smoothing)
    log_yes, log_no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -(targets * _focus(log_yes, gamma) * log_yes
             + (1 - targets) * _focus(log_no, gamma) * log_no).mean(-1)


def _focus(log_p: jax.Array, gamma: float) -> jax.Array:
    """Computes (1 - p)^gamma, whose gradient is finite where p rounds to 1."""
    return jnp.exp(gamma * jnp.log(jnp.maximum(-jnp.expm1(log_p), 1e-7)))


def mse(logits: jax.Array, labels: jax.Array, settings: Any) -> jax.Array:
    """Averages (prediction - number)^2 over the numbers of an image."""
    return jnp.square(logits.astype(jnp.float32) - labels).mean(-1)


def mae(logits: jax.Array, labels: jax.Array, settings: Any) -> jax.Array:
    """Averages |prediction - number| over the numbers of an image."""
    return jnp.abs(logits.astype(jnp.float32) - labels).mean(-1)


def huber(logits: jax.Array, labels: jax.Array, settings: Any) -> jax.Array:
    """Averages Huber's loss with delta = 1 over the numbers of an image."""
    return optax.huber_loss(logits.astype(jnp.float32), labels).mean(-1)


LOSSES: dict[str, LossFunction] = {
    "cross_entropy": cross_entropy, "focal": focal,
    "binary_cross_entropy": binary_cross_entropy, "mse": mse, "mae": mae,
    "huber": huber}


def predicts_numbers(task: Task) -> bool:
    return task.figures == "values"


def predicts_classes(task: Task) -> bool:
    return not predicts_numbers(task)


def one_class(task: Task) -> bool:
    return task.exclusive


# The condition of a loss on its task; a loss that is not listed has none.
CONDITIONS: dict[str, Callable[[Task], bool]] = {
    "cross_entropy": one_class,
    "focal": predicts_classes, "binary_cross_entropy": predicts_classes,
    "mse": predicts_numbers, "mae": predicts_numbers, "huber": predicts_numbers}


def supports(name: str, task: Task) -> bool:
    """Tells whether a loss is for a task."""
    return name not in CONDITIONS or CONDITIONS[name](task)


def check(task: Task, settings: Any) -> None:
    """Raises ValueError for a loss that does not exist or is not for the task."""
    name = settings.name
    if name is not None:
        try:
            user_code.find(LOSSES, name)
        except ValueError as error:
            raise ValueError(f"name = {error}") from error
        if not supports(name, task):
            raise ValueError(
                f"name = {name} is not for the task {task.name}: use "
                + ", ".join(other for other in LOSSES if supports(other, task))
                + ", or MODULE:FUNCTION of your own")
    if settings.class_weights is not None:
        if not task.exclusive:
            raise ValueError("class_weights need exactly one class for each image or "
                             f"pixel, unlike the task {task.name}: use none")
        if settings.class_weights != "balanced":
            parse_weights(settings.class_weights)


def parse_weights(text: str) -> np.ndarray:
    """Parses '1,2,0.5'. Raises ValueError for anything but numbers above 0."""
    try:
        weights = np.array([float(word) for word in text.split(",")], np.float32)
    except ValueError:
        weights = np.zeros(1, np.float32)
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise ValueError(f"class_weights = {text!r} must be 'balanced', or a number "
                         "above 0 for each class, such as '1,2,0.5'")
    return weights


def class_weights(text: str | None, labels: np.ndarray,
                  classes: int) -> np.ndarray | None:
    """Returns the weight of each class, float32 [classes], or None.

    'balanced' is N / (classes * N_c), for N_c of N training labels of class c, so that
    the mean weight of a label is 1; the weight of a class without labels is 0.
    Raises ValueError unless there is one weight for each class.
    """
    if text is None:
        return None
    if text == "balanced":
        counts = np.bincount(labels.ravel(), minlength=classes)
        return np.where(counts, labels.size / (classes * np.maximum(counts, 1)), 0
                        ).astype(np.float32)
    weights = parse_weights(text)
    if len(weights) != classes:
        raise ValueError(f"class_weights = {text!r} has {len(weights)} numbers, and "
                         f"there are {classes} classes: give one for each")
    return weights


def loss_of(task: Task, settings: Any, weights: np.ndarray | None = None
            ) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Makes the function (logits, labels) -> float32 [N] of the `loss` section.

    The loss of a label is multiplied by the weight of its class. The pixels of an image
    are averaged.
    """
    name = settings.name or ("cross_entropy" if weights is not None else None)
    if name is None:
        return lambda logits, labels: task.losses(logits, labels,
                                                  settings.label_smoothing)
    function = user_code.find(LOSSES, name)

    def losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
        with user_code.field_errors("loss.name", name):
            values = jnp.asarray(function(logits, task.encode(labels), settings))
        if values.shape[:1] != logits.shape[:1]:
            raise InputError(f"config.loss.name = {name}: the function returned shape "
                             f"{values.shape} for {len(logits)} images: return a loss "
                             "for each image, [N]; training averages them")
        if weights is not None:
            values = values * jnp.asarray(weights)[labels]
        return values.reshape(len(logits), -1).mean(1)

    return losses


def evaluation_loss(task: Task, settings: Any
                    ) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns the loss of evaluation: without label smoothing and class weights.

    Raises InputError if there is no loss of the given name.
    """
    if settings.name is None:
        return task.losses
    settings = settings.copy_and_resolve_references()
    with settings.unlocked():
        settings.label_smoothing = 0.0
    try:
        return loss_of(task, settings)
    except ValueError as error:
        raise InputError(f"config.loss.{error}") from error
