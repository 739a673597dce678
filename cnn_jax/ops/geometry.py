"""Sizes and paddings of windows over an image, and the two moves every window makes.

Written for any number of spatial axes. Along one axis of size n, with padding
(lo, hi), input dilation e, kernel size k, kernel dilation d and stride s:

    padded size   p = (n - 1) e + 1 + lo + hi
    window reach  r = (k - 1) d + 1
    output size   o = max(0, floor((p - r) / s) + 1)

`ConvSpec` is static and hashable: every pass of a convolution reads its sizes here.
"""

import itertools
import operator
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jax import lax
import jax.numpy as jnp

Pairs = tuple[tuple[int, int], ...]


class ConvSpec(NamedTuple):
    """One convolution: its shapes (channels last) and options, one entry an axis."""

    x_shape: tuple[int, ...]  # [N, *spatial, C]
    w_shape: tuple[int, ...]  # [*kernel, C / groups, O]
    strides: tuple[int, ...]
    padding: Pairs
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    groups: int
    precision: object = None

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


def output_size(padded: int, kernel: int, stride: int, dilation: int = 1) -> int:
    reach = (kernel - 1) * dilation + 1
    return max(0, (padded - reach) // stride + 1)


def integer(value) -> int:
    """A Python or NumPy integer as an int; TypeError for a bool and all else."""
    if isinstance(value, bool):
        raise TypeError(f"{value} is not an integer")
    return operator.index(value)


def is_integer(value) -> bool:
    try:
        integer(value)
    except TypeError:
        return False
    return True


def resolve_padding(padding, sizes, reaches, strides, where: str = "") -> Pairs:
    """'SAME', 'SAME_LOWER', 'VALID', one int, or (lo, hi) an axis -> (lo, hi) an axis.

    SAME gives ceil(n / s) outputs; an odd total puts the extra zero at the high end
    (at the low end for SAME_LOWER). Errors begin with `where`.
    """
    if isinstance(padding, str):
        name = padding.upper()
        if name == "VALID":
            return ((0, 0),) * len(sizes)
        if name in ("SAME", "SAME_LOWER"):
            totals = [max((-(-n // s) - 1) * s + r - n, 0)
                      for n, r, s in zip(sizes, reaches, strides)]
            if name == "SAME":
                return tuple((t // 2, t - t // 2) for t in totals)
            return tuple((t - t // 2, t // 2) for t in totals)
        raise ValueError(f"{where}padding {padding!r} is not known: 'SAME', "
                         "'SAME_LOWER', 'VALID', an integer or one (low, high) pair "
                         "for each spatial axis")
    try:
        sides = padding if isinstance(padding, Iterable) else (padding,) * len(sizes)
        pairs = tuple(tuple(map(integer, p if isinstance(p, Iterable) else (p, p)))
                      for p in sides)
    except TypeError:
        pairs = ()
    if len(pairs) != len(sizes) or any(len(p) != 2 for p in pairs):
        raise ValueError(f"{where}padding {padding!r} must be 'SAME', 'VALID', an "
                         "integer or one (low, high) pair of integers for each spatial "
                         f"axis, their sizes are {tuple(sizes)}")
    return pairs


def per_axis(name: str, value: int | Sequence[int] | None, rank: int,
             least: int = 1) -> tuple[int, ...]:
    """One int, None (= 1) or one int an axis -> one int an axis, each at least `least`.

    `name` begins the error, after the shapes: "x (2, 4, 4, 3): window".
    """
    value = 1 if value is None else value
    try:
        values = tuple(map(
            integer, value if isinstance(value, Iterable) else (value,) * rank))
    except TypeError:
        values = ()
    if len(values) != rank or min(values, default=least) < least:
        raise ValueError(f"{name} {value!r} must be {rank} integers >= {least}, "
                         "one for each spatial axis")
    return values


def conv_shapes(x_shape, w_shape, w_axes: str = "[*kernel, C / groups, O]") -> str:
    """How errors name x and w; ValueError if their ranks do not fit."""
    shapes = f"x {tuple(x_shape)} and w {tuple(w_shape)}"
    if len(x_shape) != len(w_shape) or len(x_shape) < 3:
        raise ValueError(f"{shapes} must both have 2 axes more than the image, the "
                         f"same rank of at least 3: x [N, *spatial, C], w {w_axes}")
    return shapes


def group_count(groups, shapes: str) -> int:
    if not is_integer(groups) or groups < 1:
        raise ValueError(f"{shapes}: groups or feature_group_count {groups!r} must be "
                         "an integer >= 1")
    return int(groups)


def conv_spec(x_shape, w_shape, strides, padding, lhs_dilation=None, rhs_dilation=None,
              groups=1, precision=None) -> ConvSpec:
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


def need_floats(name: str, array, spec: ConvSpec) -> None:
    """ValueError for integers, which the implementation of that name would round."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"conv {name!r} takes floating-point arrays, received x "
                         f"{spec.x_shape} and w {spec.w_shape} of {array.dtype}")


def is_empty(spec: ConvSpec) -> bool:
    """True when no product is summed: the result of every pass is zeros (or empty)."""
    return 0 in spec.x_shape or 0 in spec.w_shape or 0 in spec.y_shape


def is_symbolic(spec: ConvSpec) -> bool:
    """True in a program that is exported for sizes not known yet."""
    return not all(map(is_integer, spec.x_shape + spec.w_shape))


def transposed(spec: ConvSpec) -> ConvSpec:
    """The convolution that maps g to dx: its kernel is `rotate(w)`.

    Spreading (lhs_dilation) and stride swap places, and the padding is what makes the
    output as large as x.
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


def rotate(w, groups: int = 1):
    """w [*k, C/G, O] turned by 180 degrees, input and output swapped: [*k, O/G, C]"""
    *kernel, c, o = w.shape
    w = lax.rev(w, range(len(kernel)))
    w = w.reshape(*kernel, c, groups, o // groups).swapaxes(-1, -3)
    return w.reshape(*kernel, o // groups, groups * c)


def pad_image(x, spec, value=0):
    """x [N, *spatial, C] -> [N, *padded, C]; negative padding cuts."""
    config = [(0, 0, 0), *((lo, hi, e - 1) for (lo, hi), e in zip(
        spec.padding, spec.lhs_dilation)), (0, 0, 0)]
    return lax.pad(x, jnp.asarray(value, x.dtype), config)


def unpad_image(x, spec):
    """The transpose of `pad_image`: [N, *padded, C] -> [N, *spatial, C]."""
    config = [(0, 0, 0), *((-lo, -hi, 0) for lo, hi in spec.padding), (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), config)
    return lax.slice(x, (0,) * x.ndim, x.shape, (1, *spec.lhs_dilation, 1))


def tap_start(tap: Sequence[int], spec: ConvSpec) -> tuple[int, ...]:
    return tuple(i * d for i, d in zip(tap, spec.rhs_dilation))


def gather_tap(xp, start: Sequence[int], out: Sequence[int], strides: Sequence[int]):
    """What one tap sees: xp [N, *padded, C] -> [N, *out, C], read from `start` on."""
    stops = [a + s * (o - 1) + 1 for a, o, s in zip(start, out, strides)]
    return lax.slice(xp, (0, *start, 0), (xp.shape[0], *stops, xp.shape[-1]),
                     (1, *strides, 1))


def scatter_tap(t, start: Sequence[int], padded: Sequence[int], strides: Sequence[int]):
    """The transpose of `gather_tap`: t [N, *out, C] among zeros [N, *padded, C]."""
    ends = [p - a - (s * (o - 1) + 1)
            for p, a, o, s in zip(padded, start, t.shape[1:-1], strides)]
    config = [(0, 0, 0), *zip(start, ends, [s - 1 for s in strides]), (0, 0, 0)]
    return lax.pad(t, jnp.zeros((), t.dtype), config)


def interleave(parts: Sequence, steps: Sequence[int]):
    """Parts [N, *size, C], one for every place in a block of `steps` pixels (row-major)
    -> the image [N, *(size * steps), C] of these blocks."""
    parts = list(parts)
    for axis in range(len(steps), 0, -1):  # the last axis first: its parts are adjacent
        s = steps[axis - 1]
        shape = list(parts[0].shape)
        shape[axis] *= s
        parts = [jnp.stack(parts[i:i + s], axis + 1).reshape(shape)
                 for i in range(0, len(parts), s)]
    return parts[0]


class PoolSpec(NamedTuple):
    """One pooling: its shapes and options, one entry an axis."""

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


def pool_spec(x_shape, window, strides=None, padding="VALID", ceil_mode=False,
              count_include_pad=True) -> PoolSpec:
    """Checks a pooling of x [N, *spatial, C]; strides None = the window.

    With `ceil_mode` the output size rounds up, and a last window that would start
    beyond the image and its low padding is left out (the rule of PyTorch).
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
