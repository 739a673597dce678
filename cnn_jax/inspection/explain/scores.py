"""Computes the score that is explained: one class of each image.

The score is the logit of the class. For a network that predicts a class for each pixel,
it is the mean logit over the pixels that are predicted to be of the class, or over all
pixels if there are none.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.inspection.forward import compute_logits


def predicted_classes(logits: jax.Array) -> jax.Array:
    """Returns the class with the largest logit of each image, int [N].

    For logits [N, H, W, classes] it is the class of most pixels; class 0, the
    background, is returned only if no pixel has another class.
    """
    classes = logits.argmax(-1)
    if classes.ndim == 1:
        return classes
    counts = jax.nn.one_hot(classes, logits.shape[-1]).sum((1, 2))
    return (counts.at[:, 0].multiply(1e-9)).argmax(-1)


def score_weights(logits: jax.Array, targets: jax.Array | None) -> jax.Array:
    """Returns weights of the shape of the logits: score = sum of weights * logits.

    The weights are constants for `jax.grad`.
    targets: classes [N]; None: the predicted ones.
    """
    logits = lax.stop_gradient(logits)
    targets = predicted_classes(logits) if targets is None else jnp.asarray(targets)
    chosen = jax.nn.one_hot(targets, logits.shape[-1])
    if logits.ndim == 2:
        return chosen
    where = logits.argmax(-1) == targets[:, None, None]
    where = jnp.where(where.any((1, 2), keepdims=True), where, True)
    return chosen[:, None, None] * (
        where / where.sum((1, 2), keepdims=True))[..., None]


def weighted_logits(logits: jax.Array, weights: jax.Array) -> jax.Array:
    """Sums weights * logits for each image, [N]."""
    return (logits * weights).sum(tuple(range(1, logits.ndim)))


def compute_scores(network: nn.Module, variables: Any, images: jax.Array,
                   weights: jax.Array) -> jax.Array:
    """Computes the score of each image, [N]."""
    return weighted_logits(compute_logits(network, variables, images), weights)


def score_gradient(network: nn.Module, variables: Any, images: jax.Array,
                   weights: jax.Array) -> jax.Array:
    """Computes d score / d image, [N, H, W, C]."""
    return jax.grad(lambda images: compute_scores(
        network, variables, images, weights).sum())(images)
