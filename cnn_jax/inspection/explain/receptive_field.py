"""Computes the theoretical and the effective receptive field of a unit."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.networks.named_layers import layers_of, pick
from cnn_jax.networks.receptive_field import field_of_layer
from cnn_jax.networks.trace import features


class PixelBox(NamedTuple):
    """Holds a box of pixels, from `top` to `top + height` and `left` to `left + width`.

    The values are edges: 0 is the left or upper edge of pixel 0. A fitted box need not
    end at the edges of pixels.
    """

    top: float
    left: float
    height: float
    width: float


def theoretical_field(network: nn.Module, image_shape: tuple[int, int, int], layer: str,
                      position: tuple[int, int]) -> PixelBox | None:
    """Returns the pixels that the unit at a position of a layer depends on.

    The box may go beyond the image. None if it is not known; see
    `networks.receptive_field`.
    """
    fields = field_of_layer(network, image_shape, layer)
    if fields is None:
        return None
    top, left = (field.stride * p + field.offset for field, p in zip(fields, position))
    return PixelBox(top, left, fields[0].size, fields[1].size)


def effective_field(network: nn.Module, variables: Any, images: jax.Array, layer: str,
                    position: tuple[int, int], filters: tuple[int, ...] | None = None
                    ) -> jax.Array:
    """Measures how strongly a unit at a position depends on each pixel, [H, W].

        sum over input channels of |d/dx of the sum of the unit's filters|,
        mean over the images [N, H, W, C]

    filters: some filters of the layer; None: all filters.
    Source: Luo et al.: Understanding the effective receptive field, 2016.
    """
    _, height, width, channels = images.shape
    pick(layers_of(network, variables, (height, width, channels)), layer,
         type(network).__name__, maps=True)
    index = slice(None) if filters is None else jnp.array(filters)

    def unit(images: jax.Array) -> jax.Array:
        out = features(network, variables, images, inner="/" in layer)[layer]
        return out[:, *position, index].astype(jnp.float32).sum()

    return jnp.abs(jax.grad(unit)(images)).sum(-1).mean(0)


def fit_box(weights: np.ndarray) -> PixelBox | None:
    """Fits a box of equal weights with the mean and variance of weights >= 0 [H, W].

    Along each axis, the box is centred on the mean and has

        size = sqrt(12 variance + 1)

    so that a box of equal weights is fitted exactly. None if all weights are 0.
    """
    total = weights.sum(dtype=np.float64)
    if total == 0:
        return None
    intervals = []
    for axis in (0, 1):
        density = weights.sum(1 - axis, dtype=np.float64) / total
        middles = np.arange(len(density)) + 0.5
        mean = float(density @ middles)
        size = math.sqrt(12 * (density @ (middles - mean) ** 2) + 1)
        intervals.append((mean - size / 2, size))
    (top, height), (left, width) = intervals
    return PixelBox(top, left, height, width)
