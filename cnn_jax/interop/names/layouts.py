"""How other programs lay out the arrays of our layers.

Ours: convolution kernels [h, w, in, out], dense kernels [in, out], vectors [features].
Every layout of theirs is ours split, its axes permuted, and reshaped.
"""

import math
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """theirs = ours.reshape(split).transpose(axes).reshape(shape)

    Before that, `reverse` reverses the input channels of a convolution kernel: the
    network of theirs reads images as blue, green, red.
    """

    ours: Shape
    split: Shape
    axes: tuple[int, ...]
    shape: Shape  # of theirs
    reverse: bool = False

    def to_theirs(self, array: np.ndarray) -> np.ndarray:
        if self.reverse:
            array = array[:, :, ::-1]
        return array.reshape(self.split).transpose(self.axes).reshape(self.shape)

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        moved = array.reshape([self.split[axis] for axis in self.axes])
        array = moved.transpose(np.argsort(self.axes)).reshape(self.ours)
        return array[:, :, ::-1] if self.reverse else array


def same(ours: Shape) -> Layout:
    """Keeps the array."""
    return Layout(ours, ours, tuple(range(len(ours))), ours)


def permuted(ours: Shape, axes: tuple[int, ...]) -> Layout:
    """Permutes the axes."""
    return Layout(ours, ours, axes, tuple(ours[axis] for axis in axes))


def torch_kernel(ours: Shape) -> Layout:
    """[h, w, in, out] -> [out, in, h, w] and [in, out] -> [out, in]."""
    return permuted(ours, (3, 2, 0, 1) if len(ours) == 4 else (1, 0))


def torch_pointwise(ours: Shape) -> Layout:
    """[in, out] -> [out, in, 1, 1]: a dense layer as a convolution."""
    return torch_kernel(ours)._replace(shape=(*ours[::-1], 1, 1))


def torch_flattened(ours: Shape, channels: int) -> Layout:
    """[h * w * in, out] -> [out, in * h * w]: the dense layer after a flattened map."""
    rows, features = ours
    return Layout(ours, (rows // channels, channels, features), (2, 1, 0),
                  (features, rows))


def torch_window(ours: Shape, channels: int) -> Layout:
    """[h * w * in, out] -> [out, in, h, w] of a square map: as a convolution."""
    side = math.isqrt(ours[0] // channels)
    return torch_flattened(ours, channels)._replace(
        shape=(ours[1], channels, side, side))


def keras_depthwise(ours: Shape) -> Layout:
    """[h, w, 1, channels] -> [h, w, channels, 1]."""
    return permuted(ours, (0, 1, 3, 2))


def keras_pointwise(ours: Shape) -> Layout:
    """[in, out] -> [1, 1, in, out]: a dense layer as a convolution."""
    return same(ours)._replace(shape=(1, 1, *ours))
