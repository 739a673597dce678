"""`PoolSpec`: the shapes and options of one pooling, checked once."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

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
    def taps(self) -> list[tuple[int, ...]]:
        """The positions in the window, in row-major order."""
        return list(itertools.product(*map(range, self.window)))


def pool_spec(x_shape: Sequence[int], window: int | Sequence[int],
              strides: int | Sequence[int] | None = None, padding: Padding = "VALID",
              ceil_mode: bool = False, count_include_pad: bool = True) -> PoolSpec:
    """Checks a pooling of x [N, *spatial, C]; strides None = the window.

    `ceil_mode` rounds the output size up. As in PyTorch it leaves out a last window
    that would start beyond the image and its low padding.
    """
    x_shape = tuple(x_shape)
    if len(x_shape) < 3:
        raise ValueError(f"pooling takes x [N, *spatial, C], received x {x_shape}")
    spatial, where = x_shape[1:-1], f"pooling of x {x_shape}: "
    window = per_axis(f"{where}window", window, len(spatial))
    strides = window if strides is None else strides
    strides = per_axis(f"{where}strides", strides, len(spatial))
    padding = resolve_padding(padding, spatial, window, strides, where)
    if any(not 0 <= p < k for pair, k in zip(padding, window) for p in pair):
        raise ValueError(f"{where}padding {padding} must be at least 0 and less than "
                         f"the window {window}")
    if not isinstance(ceil_mode, bool):
        raise ValueError(f"{where}ceil_mode {ceil_mode!r} must be True or False")
    if 0 in spatial and any(map(any, padding)):
        raise ValueError(f"{where}there is no pixel beside the padding {padding}")
    out, full = [], []
    for n, k, s, (lo, hi) in zip(spatial, window, strides, padding):
        o = output_size(n + lo + hi, k, s)
        if ceil_mode and n + lo + hi >= k:
            o = -(-(n + lo + hi - k) // s) + 1
            o -= (o - 1) * s >= n + lo
        out.append(o)
        full.append((lo, max(hi, (o - 1) * s + k - n - lo)))
    counted = padding if count_include_pad else ((0, 0),) * len(spatial)
    return PoolSpec(x_shape, window, strides, tuple(full), counted, tuple(out))
