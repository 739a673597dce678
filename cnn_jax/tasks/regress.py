"""Defines the task of K numbers per image: labels float32 [N, K] in their own units.

The network learns standardized numbers, (number - mean) / std of the training split, so
its logits [N, K] are near 0 and 1 whatever the units are. Predictions and metrics are
in the units of the labels.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.tasks.task import LabelStatistics, Shape, Sums, Task


def label_shape(image_shape: Shape, classes: int) -> Shape:
    return (classes,)


def named_classes(scores: np.ndarray, top: int) -> list[int]:
    """Names all numbers in their order."""
    return list(range(len(scores)))


def label_classes(label: np.ndarray) -> list[int]:
    return list(range(len(label)))


def check_labels(labels: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Returns finite numbers as [N, K]."""
    labels = labels[:, None] if labels.ndim == 1 else labels
    if labels.ndim != 2 or len(labels) != len(images) or not (
            np.issubdtype(labels.dtype, np.number) and np.isfinite(labels).all()):
        raise ValueError("they must be finite numbers [N] or [N, numbers]")
    return labels


def metrics(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Computes the mean absolute error and R2, both averaged over the numbers.

    R2 = 1 - sum of squared errors / sum of squared distances from the mean of the
    split. It is 0 for a number that does not vary there.
    """
    count = sums["count"]  # the squares are in standard deviations
    spread = sums["squares"] - sums["sum"] ** 2 / count
    r2 = np.where(spread > 1e-9 * count,
                  1 - sums["squared_error"] / np.maximum(spread, 1e-30), 0.0)
    return {"mean_absolute_error": float((sums["absolute_error"] / count).mean()),
            "r2": float(r2.mean())}


def standardized(statistics: LabelStatistics) -> Task:
    """Makes the task for numbers with this mean and standard deviation."""
    mean, std = (np.array([values], np.float32) for values in statistics)  # [1, K]

    def encode(labels: jax.Array) -> jax.Array:
        return jnp.divide(labels - mean, std)

    def predict(logits: jax.Array) -> jax.Array:
        """Returns the numbers in the units of the labels."""
        return jnp.add(mean, std * logits.astype(jnp.float32))

    def losses(logits: jax.Array, labels: jax.Array,
               label_smoothing: float = 0.0) -> jax.Array:
        """Averages the squared error in standard deviations, float32 [N]."""
        return jnp.square(logits.astype(jnp.float32) - encode(labels)).mean(-1)

    def sums(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> Sums:
        truth, counted = encode(labels), mask[:, None]
        error = logits.astype(jnp.float32) - truth

        def total(values: jax.Array) -> jax.Array:
            return (values * counted).sum(0)

        return {"absolute_error": total(jnp.multiply(std, jnp.abs(error))),
                "squared_error": total(jnp.square(error)),
                "sum": total(truth), "squares": total(jnp.square(truth))}

    return Task(
        name="regress", unit="image", exclusive=False, can_mix=True,
        label_dtype="float32", label_shape=label_shape, losses=losses, correct=None,
        probabilities=predict, predict=predict, scores=predict,
        named_classes=named_classes, label_classes=label_classes,
        monitors=("mean_absolute_error", "r2"), extra_sums=sums, extra_metrics=metrics,
        encode=encode, figures="values", standardized=standardized,
        set_name="arrays_regression", check_labels=check_labels)


TASK = standardized(LabelStatistics((0.0,), (1.0,)))
