"""Defines the task of one class per pixel: masks uint8 [N, H, W] as labels.

The logits are [N, H, W, C].
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.tasks import classify
from cnn_jax.tasks.metrics import mean_iou
from cnn_jax.tasks.task import Shape, Sums, Task, check_classes


def losses(logits: jax.Array, labels: jax.Array,
           label_smoothing: float = 0.0) -> jax.Array:
    """Averages softmax cross-entropy over the pixels of each image, float32 [N]."""
    return classify.losses(logits, labels, label_smoothing).mean((1, 2))


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes the fraction of each image's pixels whose class is right."""
    return classify.correct(logits, labels).mean((1, 2))


def confusion(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Sums:
    """Counts pixels by true and predicted class, exactly, as int32 [true, predicted].
    """
    classes = logits.shape[-1]
    pairs = labels.astype(jnp.int32) * classes + classify.predict(logits)
    counted = jnp.broadcast_to(mask.astype(jnp.int32)[:, None, None], pairs.shape)
    counts = jnp.zeros(classes ** 2, jnp.int32).at[pairs.ravel()].add(counted.ravel())
    return {"confusion": counts.reshape(classes, classes)}


def metrics(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {"mean_iou": mean_iou(sums["confusion"])}


def scores(logits: jax.Array) -> jax.Array:
    """Computes the fraction of each image's pixels that each class covers."""
    return jax.nn.one_hot(classify.predict(logits), logits.shape[-1]).mean((1, 2))


def named_classes(scores: np.ndarray, top: int) -> list[int]:
    """Names every class that occurs, the largest first; `top` does not limit them."""
    return classify.named_classes(scores, int(np.count_nonzero(scores)))


def label_shape(image_shape: Shape, classes: int) -> Shape:
    return image_shape[:2]


def label_classes(label: np.ndarray) -> list[int]:
    return np.unique(label).tolist()


def check_labels(labels: np.ndarray, images: np.ndarray) -> np.ndarray:
    check_classes(labels, images.shape[:3])
    return labels


TASK = Task(
    name="segment", unit="pixel", exclusive=True, can_mix=False,
    label_dtype="uint8", label_shape=label_shape, losses=losses, correct=correct,
    probabilities=classify.probabilities, predict=classify.predict, scores=scores,
    named_classes=named_classes, label_classes=label_classes,
    monitors=("mean_iou",), extra_sums=confusion, extra_metrics=metrics,
    figures="shares", set_name="arrays_segmentation", label_axes=3,
    check_labels=check_labels)
