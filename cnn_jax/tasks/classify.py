"""Defines the task of one class per image: labels int32 [N], logits [N, C]."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cnn_jax.tasks.task import Shape, Task, check_classes


def losses(logits: jax.Array, labels: jax.Array,
           label_smoothing: float = 0.0) -> jax.Array:
    """Computes softmax cross-entropy, [..., C], [...] -> float32 [...].

    Label smoothing s mixes the target with the uniform distribution:
    (1 - s) one_hot + s / C (Szegedy et al., 2016).
    """
    targets = jax.nn.one_hot(labels, logits.shape[-1])
    return optax.softmax_cross_entropy(
        logits.astype(jnp.float32), optax.smooth_labels(targets, label_smoothing))


def correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns 1 where the class with the largest logit is right, else 0."""
    return (logits.argmax(-1) == labels).astype(jnp.float32)


def probabilities(logits: jax.Array) -> jax.Array:
    """Computes the softmax in float32."""
    return jax.nn.softmax(logits.astype(jnp.float32))


def predict(logits: jax.Array) -> jax.Array:
    """Predicts the class with the largest logit."""
    return logits.argmax(-1).astype(jnp.int32)


def named_classes(scores: np.ndarray, top: int) -> list[int]:
    """Names the `top` most probable classes."""
    return np.argsort(-scores, kind="stable")[:top].tolist()


def label_shape(image_shape: Shape, classes: int) -> Shape:
    return ()


def label_classes(label: np.ndarray) -> list[int]:
    return [int(label)]


def check_labels(labels: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Returns labels [N]; Keras gives those of CIFAR-10 as [N, 1]."""
    labels = labels[:, 0] if labels.shape[1:] == (1,) else labels
    check_classes(labels, images.shape[:1])
    return labels


TASK = Task(
    name="classify", unit="image", exclusive=True, can_mix=True,
    label_dtype="int32", label_shape=label_shape, losses=losses, correct=correct,
    probabilities=probabilities, predict=predict, scores=probabilities,
    named_classes=named_classes, label_classes=label_classes,
    label_axes=1, check_labels=check_labels)
