"""Computes what a unit sees of the image: its theoretical and effective field."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.networks.named_layers import layers_of, pick
from cnn_jax.networks.receptive_field import field_of_layer
from cnn_jax.networks.trace import features


class Box(NamedTuple):
    """The pixels first ... first + size along each axis.

    The values are borders: 0 is the left edge of pixel 0. A fitted box need not end at
    the borders of pixels.
    """

    top: float
    left: float
    height: float
    width: float


def theoretical_field(network: nn.Module, image_shape: tuple[int, int, int], layer: str,
                      position: tuple[int, int]) -> Box | None:
    """Returns the pixels that the unit at a position of a layer can see.

    The box may go beyond the image. None where it is not known; see
    `networks.receptive_field`.
    """
    fields = field_of_layer(network, image_shape, layer)
    if fields is None:
        return None
    top, left = (field.stride * p + field.offset for field, p in zip(fields, position))
    return Box(top, left, fields[0].size, fields[1].size)


def effective_field(network: nn.Module, variables: Any, images: jax.Array, layer: str,
                    position: tuple[int, int], filters: tuple[int, ...] | None = None
                    ) -> jax.Array:
    """Measures how much the unit at a position of a layer follows each pixel, [H, W].

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


def fit_box(weights: np.ndarray) -> Box | None:
    """Fits a box of equal weights that has the mean and spread of weights >= 0 [H, W].

    Along each axis

        size = sqrt(12 variance + 1), around the mean

    so that a field of equal weights is fitted exactly. None if all weights are 0.
    """
    total = weights.sum(dtype=np.float64)
    if total == 0:
        return None
    intervals = []
    for axis in (0, 1):
        share = weights.sum(1 - axis, dtype=np.float64) / total
        middles = np.arange(len(share)) + 0.5
        mean = share @ middles
        size = np.sqrt(12 * (share @ (middles - mean) ** 2) + 1)
        intervals.append((mean - size / 2, size))
    (top, height), (left, width) = intervals
    return Box(top, left, height, width)
