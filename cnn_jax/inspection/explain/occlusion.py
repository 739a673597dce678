"""Computes occlusion: how much the score of a class falls if a square is hidden."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cnn_jax.errors import InputError
from cnn_jax.inspection.explain.scores import compute_scores, score_weights
from cnn_jax.inspection.forward import compiled, compute_logits

# 32 images of 224 x 224: the largest map of VGG-16 takes 0.4 GB then.
MOST_PIXELS = 32 * 224 * 224


def occlusion(network: nn.Module, variables: Any, images: jax.Array,
              targets: jax.Array | None = None, *, window: int,
              stride: int | None = None, fill: ArrayLike = 0.0,
              most_pixels: int = MOST_PIXELS, track: Callable = iter) -> jax.Array:
    """Computes how much the score falls if a square is hidden: [N, H, W].

    The value of a pixel is the mean over the squares that cover it. The squares are
    `stride` pixels apart, and the last square of a row ends at the border of the image.

    window: side of the square in pixels.
    stride: by default half of `window`.
    fill: the value inside the square, in units of the input, one for all channels or
        one for each.
    most_pixels: how many pixels the images of one call may have in all.
    track: wraps the loop over the calls, to show progress.
    Source: Zeiler, Fergus: Visualizing and understanding convolutional networks, 2014.
    """
    height, width = images.shape[1:3]
    if not 1 <= window <= min(height, width):
        raise InputError(f"a window of {window} pixels does not fit into images of "
                         f"{height} x {width}: use 1 to {min(height, width)}")
    masks = np.stack([  # [squares, H, W]
        np.outer(interval(y, window, height), interval(x, window, width))
        for y in starts(height, window, stride) for x in starts(width, window, stride)])
    weights = score_weights(compiled(compute_logits)(network, variables, images),
                            targets)
    score = functools.partial(compiled(compute_scores), network, variables)
    whole = score(images, weights)
    falls = jnp.zeros(images.shape[:3])
    size = min(max(1, most_pixels // (len(images) * height * width)), len(masks))
    for first in track(range(0, len(masks), size)):
        # The last chunk is padded with empty squares, so that one program serves all.
        group = np.zeros((size, height, width), bool)
        chunk = masks[first:first + size]
        group[:len(chunk)] = chunk
        hidden = jnp.where(group[:, None, ..., None],
                           jnp.broadcast_to(fill, images.shape)[None], images[None])
        after = score(hidden.reshape(-1, *images.shape[1:]),
                      jnp.tile(weights, (size, *(1,) * (weights.ndim - 1))))
        fall = whole[None] - after.reshape(size, -1)
        falls += jnp.einsum("pn,phw->nhw", fall, group.astype(jnp.float32))
    return falls / masks.sum(0)[None]


def interval(first: int, count: int, size: int) -> np.ndarray:
    """Marks first ... first + count - 1 along an axis, bool [size]."""
    index = np.arange(size)
    return (index >= first) & (index < first + count)


def starts(size: int, window: int, stride: int | None = None) -> list[int]:
    """Lists where the squares begin along an axis."""
    stride = stride or max(1, window // 2)
    return [*range(0, size - window, stride), size - window]
