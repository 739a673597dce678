"""Averages predictions over views of an image: test-time augmentation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cnn_jax.tasks.task import Task

SHIFT = 16  # a shift is 1 / SHIFT of a side, at least one pixel


def flips(images: jax.Array) -> list[jax.Array]:
    """Mirrors images [N, H, W, C] left to right."""
    return [images[:, :, ::-1]]


def shifts(images: jax.Array) -> list[jax.Array]:
    """Moves images by a sixteenth of a side in four directions; edges are repeated."""
    height, width = images.shape[1:3]
    rows, columns = max(1, height // SHIFT), max(1, width // SHIFT)
    padded = jnp.pad(images, ((0, 0), (rows, rows), (columns, columns), (0, 0)), "edge")
    return [padded[:, top:top + height, left:left + width]
            for top, left in ((0, columns), (2 * rows, columns),
                              (rows, 0), (rows, 2 * columns))]


VIEWS: dict[str, Callable[[jax.Array], list[jax.Array]]] = {
    "flip": flips, "shift": shifts}


def views(images: jax.Array, names: tuple[str, ...]) -> list[jax.Array]:
    """Returns the images and the named views of them."""
    return [images, *(view for name in names for view in VIEWS[name](images))]


def average(logits: list[jax.Array], task: Task) -> jax.Array:
    """Returns the logits of the mean probabilities over the views.

    For a task of numbers, these are the means of the numbers.
    """
    stacked = jnp.stack(logits).astype(jnp.float32)
    if task.figures == "values":
        return stacked.mean(0)
    count = jnp.log(len(logits))
    if task.exclusive:
        return jax.nn.logsumexp(jax.nn.log_softmax(stacked), 0) - count
    yes, no = (jax.nn.logsumexp(jax.nn.log_sigmoid(sign * stacked), 0)
               for sign in (1, -1))
    return yes - no
