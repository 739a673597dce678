"""Defines the task of any number of classes per image: labels uint8 [N, C] of 0 and 1.

The logits are [N, C]. Each class is a separate yes-or-no question: it is predicted
where its probability, sigmoid(logit), is above one half.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax.tasks.metrics import macro_f1
from cnn_jax.tasks.task import Shape, Sums, Task, check_classes


def pad_classes(labels: jax.Array, logits: jax.Array) -> jax.Array:
    """Pads labels with classes that never occur, if the head has more outputs."""
    return jnp.pad(labels, [(0, 0), (0, logits.shape[-1] - labels.shape[-1])])


def smooth_targets(labels: jax.Array, logits: jax.Array,
                   label_smoothing: float) -> jax.Array:
    """Returns the targets (1 - s) label + s / 2 with label smoothing s, float32 [N, C].
    """
    targets = pad_classes(labels, logits).astype(jnp.float32)
    return (1 - label_smoothing) * targets + label_smoothing / 2


def losses(logits: jax.Array, labels: jax.Array,
           label_smoothing: float = 0.0) -> jax.Array:
    """Averages sigmoid cross-entropy over the classes, float32 [N].

    With p = sigmoid(logit) and the target t of a class, the mean over the classes of

        -t log(p) - (1 - t) log(1 - p),      t = (1 - s) label + s / 2.

    Label smoothing s mixes the target with one half, the uniform distribution over yes
    and no.
    """
    targets = smooth_targets(labels, logits, label_smoothing)
    return optax.sigmoid_binary_cross_entropy(
        logits.astype(jnp.float32), targets).mean(-1)


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns 1 where all classes of an image are right (exact match), else 0."""
    right = predict(logits) == pad_classes(labels, logits)
    return right.all(-1).astype(jnp.float32)


def counts(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Sums:
    """Counts the right and wrong predictions of each class, exactly, as int32 [C]."""
    predicted, truth = predict(logits) > 0, pad_classes(labels, logits) > 0
    counted = mask[:, None] > 0

    def count(where: jax.Array) -> jax.Array:
        return (where & counted).sum(0, dtype=jnp.int32)

    return {"true_positives": count(predicted & truth),
            "false_positives": count(predicted & ~truth),
            "false_negatives": count(~predicted & truth)}


def metrics(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {"macro_f1": macro_f1(sums["true_positives"], sums["false_positives"],
                                 sums["false_negatives"])}


def probabilities(logits: jax.Array) -> jax.Array:
    """Computes the sigmoid in float32."""
    return jax.nn.sigmoid(logits.astype(jnp.float32))


def predict(logits: jax.Array) -> jax.Array:
    """Returns 1 for each class whose probability is above one half, else 0."""
    return (logits > 0).astype(jnp.uint8)


def named_classes(scores: np.ndarray, top: int) -> list[int]:
    """Names the classes whose probability is above one half; `top` does not limit them.
    """
    order = np.argsort(-scores, kind="stable")
    return order[:np.count_nonzero(scores > 0.5)].tolist()


def label_shape(image_shape: Shape, classes: int) -> Shape:
    return (classes,)


def label_classes(label: np.ndarray) -> list[int]:
    return np.flatnonzero(label).tolist()


def check_labels(labels: np.ndarray, images: np.ndarray) -> np.ndarray:
    if labels.ndim != 2:
        raise ValueError("they must be [N, classes]")
    check_classes(labels, (len(images), labels.shape[1]))
    if labels.max() > 1:
        raise ValueError(f"with values up to {labels.max():g}, they must be 0 or 1")
    return labels


TASK = Task(
    name="multilabel", unit="image", exclusive=False, can_mix=True,
    label_dtype="uint8", label_shape=label_shape, losses=losses, correct=correct,
    probabilities=probabilities, predict=predict, scores=probabilities,
    named_classes=named_classes, label_classes=label_classes,
    monitors=("macro_f1",), extra_sums=counts, extra_metrics=metrics,
    set_name="arrays_multilabel", label_axes=2, check_labels=check_labels)
