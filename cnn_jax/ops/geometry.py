"""Sizes and paddings of windows over an image, and how a window reads pixels.

Everything holds for any number of spatial axes. Along one axis of size n, with padding
(lo, hi), input dilation e, kernel size k, kernel dilation d and stride s:

    padded size   p = (n - 1) e + 1 + lo + hi
    window reach  r = (k - 1) d + 1
    output size   o = max(0, floor((p - r) / s) + 1)

Convolution and pooling share this file; `conv/spec.py` and `pool/spec.py` describe one
problem of each.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import jax
from jax import lax
import jax.numpy as jnp

from cnn_jax.ops.integers import integer

Pairs = tuple[tuple[int, int], ...]  # (low, high), one pair per axis
# 'SAME', 'SAME_LOWER', 'VALID', one int, or one int or (low, high) pair per axis.
Padding = str | int | Sequence[int | Sequence[int]]


class Padded(Protocol):
    """An image with padding around its pixels and zeros between them."""

    @property
    def padding(self) -> Pairs: ...

    @property
    def lhs_dilation(self) -> tuple[int, ...]: ...


def output_size(padded: int, kernel: int, stride: int, dilation: int = 1) -> int:
    """Counts the windows along one axis; the formula is above."""
    reach = (kernel - 1) * dilation + 1
    return max(0, (padded - reach) // stride + 1)


def resolve_padding(padding: Padding, sizes: Sequence[int], reaches: Sequence[int],
                    strides: Sequence[int], where: str = "") -> Pairs:
    """Turns any form of padding into one (low, high) pair per axis.

    SAME gives ceil(n / s) outputs. An odd total puts the extra zero at the high end;
    SAME_LOWER puts it at the low end. Errors begin with `where`.
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
    pairs: list[tuple[int, ...]] = []
    try:
        sides = padding if isinstance(padding, Iterable) else (padding,) * len(sizes)
        pairs = [tuple(map(integer, side if isinstance(side, Iterable)
                           else (side, side))) for side in sides]
    except TypeError:
        pass  # refused below, with what was received
    if len(pairs) != len(sizes) or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{where}padding {padding!r} must be 'SAME', 'VALID', an "
                         "integer or one (low, high) pair of integers for each spatial "
                         f"axis, their sizes are {tuple(sizes)}")
    return tuple((low, high) for low, high in pairs)


def per_axis(name: str, value: int | Sequence[int] | None, rank: int,
             least: int = 1) -> tuple[int, ...]:
    """Turns one int, None (= 1) or one int per axis into one int per axis.

    Each must be at least `least`. The error begins with `name`, which holds the shapes:
    "x (2, 4, 4, 3): window".
    """
    value = 1 if value is None else value
    values: tuple[int, ...] = ()
    try:
        values = tuple(map(
            integer, value if isinstance(value, Iterable) else (value,) * rank))
    except TypeError:
        pass  # refused below, with what was received
    if len(values) != rank or min(values, default=least) < least:
        raise ValueError(f"{name} {value!r} must be {rank} integers >= {least}, "
                         "one for each spatial axis")
    return values


def pad_image(x: jax.Array, spec: Padded, value: float = 0) -> jax.Array:
    """Pads x [N, *spatial, C] to [N, *padded, C]; negative padding crops."""
    config = [(0, 0, 0), *((lo, hi, e - 1) for (lo, hi), e in zip(
        spec.padding, spec.lhs_dilation)), (0, 0, 0)]
    return lax.pad(x, jnp.asarray(value, x.dtype), config)


def unpad_image(x: jax.Array, spec: Padded) -> jax.Array:
    """Transposes `pad_image`: [N, *padded, C] -> [N, *spatial, C]."""
    config = [(0, 0, 0), *((-lo, -hi, 0) for lo, hi in spec.padding), (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), config)
    return lax.slice(x, (0,) * x.ndim, x.shape, (1, *spec.lhs_dilation, 1))


def gather_tap(xp: jax.Array, start: Sequence[int], out: Sequence[int],
               strides: Sequence[int]) -> jax.Array:
    """Reads what one tap sees: xp [N, *padded, C] -> [N, *out, C], from `start` on."""
    stops = [a + s * (o - 1) + 1 for a, o, s in zip(start, out, strides)]
    return lax.slice(xp, (0, *start, 0), (xp.shape[0], *stops, xp.shape[-1]),
                     (1, *strides, 1))


def scatter_tap(t: jax.Array, start: Sequence[int], padded: Sequence[int],
                strides: Sequence[int]) -> jax.Array:
    """Transposes `gather_tap`: t [N, *out, C] put among zeros, [N, *padded, C]."""
    ends = [p - a - (s * (o - 1) + 1)
            for p, a, o, s in zip(padded, start, t.shape[1:-1], strides)]
    config = [(0, 0, 0), *zip(start, ends, [s - 1 for s in strides]), (0, 0, 0)]
    return lax.pad(t, jnp.zeros((), t.dtype), config)
