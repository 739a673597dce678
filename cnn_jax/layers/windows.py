"""Pooling, the padding of windows, and the error for an image that is too small."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from cnn_jax import ops

Pair = tuple[int, int]
Padding = str | int | Sequence[Pair]


class WindowError(ValueError):
    """A window is larger than the image it moves over."""


def pairs(padding: Padding, window: Sequence[int]) -> Padding:
    """Turns 'symmetric' into (low, high) pairs, and keeps any other padding.

    'symmetric' pads (k - 1) // 2 on each side, as in torch and Caffe networks. SAME
    would put the extra zero of an odd total at the high end.
    """
    if padding == "symmetric":
        return tuple(((k - 1) // 2, (k - 1) // 2) for k in window)
    return padding


def not_empty(y: jax.Array, x: jax.Array, window: Sequence[int]) -> jax.Array:
    """Returns y; raises WindowError if no window fits into x [N, H, W, C]."""
    if 0 in y.shape[1:-1]:
        raise WindowError(f"a window of {window[0]}x{window[1]} does not fit into "
                          f"{x.shape[1]}x{x.shape[2]} pixels")
    return y


@functools.cache
def fitting(convolution: Callable) -> Callable:
    """Makes an implementation of convolution raise WindowError for an empty result."""
    @functools.wraps(convolution)
    def checked(x: jax.Array, kernel: jax.Array, *args: Any,
                **kwargs: Any) -> jax.Array:
        return not_empty(convolution(x, kernel, *args, **kwargs), x, kernel.shape[:2])
    return checked


class MaxPool(nn.Module):
    """Takes the maximum over windows; padding counts as -inf. See `ops.max_pool`."""

    window: Pair
    strides: Pair
    padding: Padding = "VALID"
    ceil_mode: bool = False
    dilation: Pair = (1, 1)
    implementation: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return not_empty(
            ops.max_pool(x, self.window, self.strides, self.padding,
                         ceil_mode=self.ceil_mode, dilation=self.dilation,
                         implementation=self.implementation),
            x, self.window)


class AvgPool(nn.Module):
    """Averages over windows. See `ops.avg_pool`."""

    window: Pair
    strides: Pair
    padding: Padding = "VALID"
    count_include_pad: bool = False
    ceil_mode: bool = False
    dilation: Pair = (1, 1)
    implementation: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return not_empty(
            ops.avg_pool(x, self.window, self.strides, self.padding,
                         count_include_pad=self.count_include_pad,
                         ceil_mode=self.ceil_mode, dilation=self.dilation,
                         implementation=self.implementation),
            x, self.window)
