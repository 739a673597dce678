"""Converts the arrays of our layers to the layouts of other libraries and back.

Ours: convolution kernels [h, w, in, out], dense kernels [in, out], vectors [features].
Each of their layouts is ours after a split of axes, a permutation, and a reshape.
"""

import math
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """Defines their layout: theirs = ours.reshape(split).transpose(axes).reshape(shape)

    If `reverse`, the input channels of a convolution kernel are reversed before: their
    network reads images as blue, green, red.
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
    """Keeps the layout."""
    return Layout(ours, ours, tuple(range(len(ours))), ours)


def permuted(ours: Shape, axes: tuple[int, ...]) -> Layout:
    """Permutes the axes."""
    return Layout(ours, ours, axes, tuple(ours[axis] for axis in axes))


def torch_kernel(ours: Shape) -> Layout:
    """Maps [h, w, in, out] to [out, in, h, w], and [in, out] to [out, in]."""
    return permuted(ours, (3, 2, 0, 1) if len(ours) == 4 else (1, 0))


def torch_pointwise(ours: Shape) -> Layout:
    """Maps [in, out] to [out, in, 1, 1]: a dense layer as a convolution."""
    return torch_kernel(ours)._replace(shape=(*ours[::-1], 1, 1))


def torch_flattened(ours: Shape, channels: int) -> Layout:
    """Maps [h * w * in, out] to [out, in * h * w]: a dense layer after a flatten."""
    rows, features = ours
    return Layout(ours, (rows // channels, channels, features), (2, 1, 0),
                  (features, rows))


def torch_window(ours: Shape, channels: int) -> Layout:
    """Maps [h * w * in, out] to [out, in, h, w]: a dense layer as a convolution.

    The map is square.
    """
    side = math.isqrt(ours[0] // channels)
    return torch_flattened(ours, channels)._replace(
        shape=(ours[1], channels, side, side))


def keras_depthwise(ours: Shape) -> Layout:
    """Maps [h, w, 1, channels] to [h, w, channels, 1]."""
    return permuted(ours, (0, 1, 3, 2))


def keras_pointwise(ours: Shape) -> Layout:
    """Maps [in, out] to [1, 1, in, out]: a dense layer as a convolution."""
    return same(ours)._replace(shape=(1, 1, *ours))
