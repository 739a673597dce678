"""`PoolSpec`: the shapes and options of one pooling, checked once."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cnn_jax.ops.geometry import (Padding, Pairs, output_size, per_axis,
                                  resolve_padding)


class PoolSpec(NamedTuple):
    """One pooling: its shapes and options, one entry per axis."""

    x_shape: tuple[int, ...]  # [N, *spatial, C]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: Pairs  # ceil mode included: the high side may exceed what was asked for
    counted: Pairs  # the padding whose zeros an average counts
    out: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.x_shape[0], *self.out, self.x_shape[-1])

    @property
    def padded(self) -> tuple[int, ...]:
        return tuple(n + lo + hi
                     for n, (lo, hi) in zip(self.x_shape[1:-1], self.padding))

    @property
    def lhs_dilation(self) -> tuple[int, ...]:
        return (1,) * len(self.window)

    @property
    def reach(self) -> tuple[int, ...]:
        """The pixels from the first tap to the last, both included."""
        return reach_of(self.window, self.dilation)

    @property
    def taps(self) -> list[tuple[int, ...]]:
        """The offsets of the taps from the first one, pixels, in row-major order."""
        return list(itertools.product(*(
            range(0, r, d) for r, d in zip(self.reach, self.dilation))))


def reach_of(window: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    return tuple((k - 1) * d + 1 for k, d in zip(window, dilation))


def inside(spec: PoolSpec, borders: Pairs | None = None
           ) -> list[tuple[np.ndarray, np.ndarray]]:
    """Finds which taps of each window lie in the image: [(first, end), ...] by axis.

    first, end: int [out], the numbers of a window's first tap inside the image and of
        its first tap beyond. `borders` widens the image by (low, high) pixels per axis.
    """
    ranges = []
    for n, k, s, d, o, (lo, _), (before, after) in zip(
            spec.x_shape[1:-1], spec.window, spec.strides, spec.dilation, spec.out,
            spec.padding, borders or ((0, 0),) * len(spec.out)):
        start = np.arange(o) * s - lo
        ranges.append(((-np.minimum(start + before, 0) + d - 1) // d,
                       np.minimum((n + after - 1 - start) // d + 1, k)))
    return ranges


def pool_spec(x_shape: Sequence[int], window: int | Sequence[int],
              strides: int | Sequence[int] | None = None, padding: Padding = "VALID",
              ceil_mode: bool = False, count_include_pad: bool = True,
              dilation: int | Sequence[int] = 1) -> PoolSpec:
    """Checks a pooling of x [N, *spatial, C]; strides None = the window.

    `ceil_mode` rounds the output size up. As in PyTorch it leaves out a last window
    that would start beyond the image and its low padding. Raises ValueError if a window
    has no tap in the image, as a dilated one can where the image is small.
    """
    x_shape = tuple(x_shape)
    if len(x_shape) < 3:
        raise ValueError(f"pooling takes x [N, *spatial, C], received x {x_shape}")
    spatial, where = x_shape[1:-1], f"pooling of x {x_shape}: "
    window = per_axis(f"{where}window", window, len(spatial))
    strides = window if strides is None else strides
    strides = per_axis(f"{where}strides", strides, len(spatial))
    dilation = per_axis(f"{where}dilation", dilation, len(spatial))
    reach = reach_of(window, dilation)
    padding = resolve_padding(padding, spatial, reach, strides, where)
    if any(not 0 <= p < r for pair, r in zip(padding, reach) for p in pair):
        raise ValueError(f"{where}padding {padding} must be at least 0 and less than "
                         f"the window, which reaches over {reach} pixels")
    if not isinstance(ceil_mode, bool):
        raise ValueError(f"{where}ceil_mode {ceil_mode!r} must be True or False")
    if 0 in spatial and any(map(any, padding)):
        raise ValueError(f"{where}there is only padding {padding} to pool: give an "
                         "image of at least one pixel")
    out, enlarged = [], []
    for n, r, s, (lo, hi) in zip(spatial, reach, strides, padding):
        o = output_size(n + lo + hi, r, s)
        if ceil_mode and n + lo + hi >= r:
            o = -(-(n + lo + hi - r) // s) + 1
            o -= (o - 1) * s >= n + lo
        out.append(o)
        enlarged.append((lo, max(hi, (o - 1) * s + r - n - lo)))
    counted = padding if count_include_pad else ((0, 0),) * len(spatial)
    spec = PoolSpec(x_shape, window, strides, tuple(enlarged), counted, tuple(out),
                    dilation)
    if any((first >= end).any() for first, end in inside(spec)):
        raise ValueError(f"{where}a window {window} of dilation {dilation} has no tap "
                         "in the image: use less padding or dilation")
    return spec
