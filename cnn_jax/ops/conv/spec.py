"""`ConvSpec`: the shapes and options of one convolution, checked once.

It is static and hashable. Every pass of every algorithm reads its sizes from it.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from cnn_jax.ops.geometry import (Padding, Pairs, output_size, per_axis,
                                  resolve_padding)
from cnn_jax.ops.integers import is_integer


class ConvSpec(NamedTuple):
    """One convolution: its shapes (channels last) and options, one entry per axis."""

    x_shape: tuple[int, ...]  # [N, *spatial, C]
    w_shape: tuple[int, ...]  # [*kernel, C / groups, O]
    strides: tuple[int, ...]
    padding: Pairs
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    groups: int
    precision: Any = None  # as `lax.conv_general_dilated` takes it

    @property
    def kernel(self) -> tuple[int, ...]:
        return self.w_shape[:-2]

    @property
    def padded(self) -> tuple[int, ...]:
        return tuple(
            (n - 1) * e + 1 + lo + hi if n else lo + hi
            for n, e, (lo, hi) in zip(
                self.x_shape[1:-1], self.lhs_dilation, self.padding))

    @property
    def out(self) -> tuple[int, ...]:
        return tuple(
            output_size(p, k, s, d) for p, k, s, d in zip(
                self.padded, self.kernel, self.strides, self.rhs_dilation))

    @property
    def y_shape(self) -> tuple[int, ...]:  # [N, *out, O]
        return (self.x_shape[0], *self.out, self.w_shape[-1])

    @property
    def taps(self) -> list[tuple[int, ...]]:
        """The positions in the kernel, in row-major order."""
        return list(itertools.product(*map(range, self.kernel)))


def conv_shapes(x_shape: Sequence[int], w_shape: Sequence[int],
                w_axes: str = "[*kernel, C / groups, O]") -> str:
    """Names x and w for errors; ValueError if their ranks do not fit."""
    shapes = f"x {tuple(x_shape)} and w {tuple(w_shape)}"
    if len(x_shape) != len(w_shape) or len(x_shape) < 3:
        raise ValueError(f"{shapes} must have the same rank of at least 3: "
                         f"x [N, *spatial, C], w {w_axes}")
    return shapes


def group_count(groups: Any, shapes: str) -> int:
    """Checks a number of groups; the error names the shapes."""
    if not is_integer(groups) or groups < 1:
        raise ValueError(f"{shapes}: groups or feature_group_count {groups!r} must be "
                         "an integer >= 1")
    return int(groups)


def conv_spec(x_shape: Sequence[int], w_shape: Sequence[int],
              strides: int | Sequence[int] | None, padding: Padding,
              lhs_dilation: int | Sequence[int] | None = None,
              rhs_dilation: int | Sequence[int] | None = None,
              groups: int = 1, precision: Any = None) -> ConvSpec:
    """Checks a convolution of x [N, *spatial, C] with w [*kernel, C / groups, O]."""
    shapes = conv_shapes(x_shape, w_shape)
    rank = len(x_shape) - 2
    groups = group_count(groups, shapes)
    if x_shape[-1] != w_shape[-2] * groups:
        raise ValueError(
            f"{shapes} do not fit: x has {x_shape[-1]} channels, w takes "
            f"{w_shape[-2]} x {groups} groups = {w_shape[-2] * groups}")
    if w_shape[-1] % groups:
        raise ValueError(f"{shapes}: the {w_shape[-1]} output channels do not divide "
                         f"into {groups} groups")
    if 0 in w_shape[:-2]:
        raise ValueError(f"{shapes}: the kernel must have at least one tap along each "
                         "axis")
    strides = per_axis(f"{shapes}: window_strides", strides, rank)
    lhs_dilation = per_axis(f"{shapes}: lhs_dilation", lhs_dilation, rank)
    rhs_dilation = per_axis(f"{shapes}: rhs_dilation", rhs_dilation, rank)
    if isinstance(padding, str) and lhs_dilation != (1,) * rank:
        raise ValueError(f"{shapes}: padding {padding!r} is not defined with "
                         f"lhs_dilation {lhs_dilation}: give (low, high) pairs")
    reaches = [(k - 1) * d + 1 for k, d in zip(w_shape[:-2], rhs_dilation)]
    padding = resolve_padding(padding, x_shape[1:-1], reaches, strides, f"{shapes}: ")
    spec = ConvSpec(tuple(x_shape), tuple(w_shape), strides, padding, lhs_dilation,
                    rhs_dilation, groups, precision)
    if any(p < 0 for p in spec.padded):
        raise ValueError(f"{shapes}: padding {padding} cuts more than the image has")
    return spec


def need_floats(name: str, array: jax.Array, spec: ConvSpec) -> None:
    """Raises ValueError for integers, which the algorithm `name` would round."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"conv {name!r} takes floating-point arrays, received x "
                         f"{spec.x_shape} and w {spec.w_shape} of {array.dtype}")


def is_empty(spec: ConvSpec) -> bool:
    """Tells whether no product is summed, so that every pass returns zeros."""
    return 0 in spec.x_shape or 0 in spec.w_shape or 0 in spec.y_shape


def is_symbolic(spec: ConvSpec) -> bool:
    """Tells whether a program is exported for sizes that are not known yet."""
    return not all(map(is_integer, spec.x_shape + spec.w_shape))


def transposed(spec: ConvSpec) -> ConvSpec:
    """Describes the convolution that maps g to dx with the kernel `rotate(w)`.

    Input dilation and stride swap places. The padding makes the output as large as x.
    """
    padding = []
    for n, e, k, d, s, o, (lo, _) in zip(
            spec.x_shape[1:-1], spec.lhs_dilation, spec.kernel, spec.rhs_dilation,
            spec.strides, spec.out, spec.padding):
        reach, spread = (k - 1) * d, (o - 1) * s + 1
        low = reach - lo
        padding.append((low, (n - 1) * e + 1 + reach - spread - low))
    c, o = spec.w_shape[-2:]
    w_shape = (*spec.kernel, o // spec.groups, c * spec.groups)
    return ConvSpec(spec.y_shape, w_shape, spec.lhs_dilation, tuple(padding),
                    spec.strides, spec.rhs_dilation, spec.groups, spec.precision)


def rotate(w: jax.Array, groups: int = 1) -> jax.Array:
    """Rotates w [*k, C/G, O] by 180 degrees and swaps its channels: [*k, O/G, C]."""
    *kernel, c, o = w.shape
    w = lax.rev(w, range(len(kernel)))
    w = w.reshape(*kernel, c, groups, o // groups).swapaxes(-1, -3)
    return w.reshape(*kernel, o // groups, groups * c)


def tap_start(tap: Sequence[int], spec: ConvSpec) -> tuple[int, ...]:
    """Finds the pixel of the padded image that a tap of the first window reads."""
    return tuple(i * d for i, d in zip(tap, spec.rhs_dilation))
