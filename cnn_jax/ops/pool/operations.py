"""Max and average pooling over windows, and over the whole image.

x is [N, *spatial, C] and y [N, *out, C]. Along an axis of size n,

    out = max(0, floor((n + lo + hi - (window - 1) * dilation - 1) / stride) + 1)

`POOLS` lists the implementations. All but 'loops' have second derivatives; for 'loops'
JAX raises its error that a callback has no derivative.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from cnn_jax.ops.conv.vjp import low_precision
from cnn_jax.ops.geometry import Padding
from cnn_jax.ops.pool import loops, reduce_window, windows
from cnn_jax.ops.pool.spec import PoolSpec, pool_spec

MOST_TAPS = 64  # 'auto' writes out no more slices than this

Arrays = tuple[jax.Array, jax.Array]
Pool = Callable[[jax.Array, PoolSpec], jax.Array]


class Pooling(NamedTuple):
    """One implementation, as functions of (x, spec)."""

    max: Pool
    mean: Pool
    max_indices: Pool  # int32, the row-major number of each maximum's pixel


def _fastest(on_cpu: Pool, elsewhere: Pool) -> Pool:
    """Chooses slices on a CPU, up to MOST_TAPS taps, and XLA's own pooling elsewhere.

    A program that is exported on a CPU for a GPU or TPU holds XLA's pooling.
    """
    def pool(x: jax.Array, spec: PoolSpec) -> jax.Array:
        if jax.default_backend() != "cpu" or len(spec.taps) > MOST_TAPS:
            return elsewhere(x, spec)
        return lax.platform_dependent(x, cpu=lambda x: on_cpu(x, spec),
                                      default=lambda x: elsewhere(x, spec))
    return pool


_LAX = Pooling(reduce_window.max_pool, reduce_window.mean_pool,
               reduce_window.max_indices)
_WINDOWS = Pooling(windows.max_pool, windows.mean_pool, windows.max_indices)
POOLS: dict[str, Pooling] = {
    "loops": Pooling(loops.max_pool, loops.mean_pool, loops.max_indices),
    "windows": _WINDOWS,
    "lax": _LAX,
    "auto": Pooling(*map(_fastest, _WINDOWS, _LAX)),
}


def _implementation(name: str) -> Pooling:
    if not isinstance(name, str) or name not in POOLS:
        raise ValueError(f"pooling {name!r} is not known: {', '.join(POOLS)}")
    return POOLS[name]


def max_pool(x: jax.Array, window: int | Sequence[int],
             strides: int | Sequence[int] | None = None, padding: Padding = "VALID",
             ceil_mode: bool = False, implementation: str = "auto",
             dilation: int | Sequence[int] = 1) -> jax.Array:
    """Computes y[n, p, c] = max over k of x[n, s p + d k - lo, c].

    strides None = the window. Padding is 'SAME', 'VALID', an int or (low, high) pairs,
    less than the reach (window - 1) d + 1, and is never the maximum. The gradient goes
    to the first maximum of a window in row-major order; overlapping windows add. ('lax'
    loses the gradient of a padded window in which all entries are -inf, XLA's rule.) A
    NaN in a window is its maximum. Raises ValueError for booleans.
    """
    pool = _implementation(implementation).max
    spec = _max_spec(x, window, strides, padding, ceil_mode, dilation)
    if 0 in spec.y_shape:
        return jnp.zeros(spec.y_shape, x.dtype)
    return pool(x, spec)


def max_pool_with_indices(
        x: jax.Array, window: int | Sequence[int],
        strides: int | Sequence[int] | None = None, padding: Padding = "VALID",
        ceil_mode: bool = False, implementation: str = "auto",
        dilation: int | Sequence[int] = 1) -> Arrays:
    """Returns `max_pool` and the index of each maximum, both [N, *out, C].

    The index is int32, the row-major number of the pixel in the image x[n, :, c]
    without padding (h W + w), as with PyTorch's `return_indices`. Of equal maxima, or
    of NaNs, it is the first one's. Only y has a gradient, that of `max_pool`.
    """
    pool = _implementation(implementation)
    spec = _max_spec(x, window, strides, padding, ceil_mode, dilation)
    if 0 in spec.y_shape:
        return jnp.zeros(spec.y_shape, x.dtype), jnp.zeros(spec.y_shape, np.int32)
    return pool.max(x, spec), pool.max_indices(lax.stop_gradient(x), spec)


def _max_spec(x: jax.Array, window: int | Sequence[int],
              strides: int | Sequence[int] | None, padding: Padding, ceil_mode: bool,
              dilation: int | Sequence[int]) -> PoolSpec:
    if x.dtype == bool:
        raise ValueError(f"max pooling takes numbers, received x bool {x.shape}: "
                         "convert it, for example to int8")
    return pool_spec(x.shape, window, strides, padding, ceil_mode, dilation=dilation)


def avg_pool(x: jax.Array, window: int | Sequence[int],
             strides: int | Sequence[int] | None = None, padding: Padding = "VALID",
             count_include_pad: bool = True, ceil_mode: bool = False,
             implementation: str = "auto",
             dilation: int | Sequence[int] = 1) -> jax.Array:
    """Computes y[n, p, c] = (sum over k of x[n, s p + d k - lo, c]) / count.

    The count is the number of window entries in the image. With `count_include_pad`
    (the default of Flax and PyTorch; Keras does not count padding) the entries in
    `padding` count too. strides None = the window. Integers and booleans are converted
    to float32, so y is float32.
    """
    pool = _implementation(implementation).mean
    spec = pool_spec(x.shape, window, strides, padding, ceil_mode, count_include_pad,
                     dilation)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        x = x.astype(jnp.float32)
    if 0 in spec.y_shape:
        return jnp.zeros(spec.y_shape, x.dtype)
    if low_precision(x.dtype):
        return pool(x.astype(jnp.float32), spec).astype(x.dtype)
    return pool(x, spec)


def _pixels(x: jax.Array) -> jax.Array:
    if x.ndim < 3 or 0 in x.shape[1:-1]:
        raise ValueError("global pooling takes x [N, *spatial, C] with at least one "
                         f"pixel, received x {x.shape}")
    return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])


def global_avg_pool(x: jax.Array) -> jax.Array:
    """Computes y[n, c] = mean of x[n, :, c] over all P pixels: [N, C];  dx = g / P."""
    x = _pixels(x)
    return _mean_pixels(x, x.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _mean_pixels(x: jax.Array, count: int) -> jax.Array:  # [N, P, C] -> [N, C]
    return x.mean(axis=1)


_mean_pixels.defvjp(
    lambda x, count: (_mean_pixels(x, count), None),
    lambda count, _, g: (jnp.repeat(g[:, None] / count, count, axis=1),))


def global_max_pool(x: jax.Array) -> jax.Array:
    """Computes y[n, c] = max of x[n, :, c]: [N, C]; g goes to the first maximum."""
    return _max_pixels(_pixels(x))[0]


@jax.custom_vjp
def _max_pixels(x: jax.Array) -> Arrays:  # [N, P, C] -> ([N, C], [N, C])
    return x.max(axis=1), x.argmax(axis=1)


def _max_pixels_forward(x: jax.Array) -> tuple[Arrays, Arrays]:
    y, first = _max_pixels(x)
    return (y, first), (first, x)


def _max_pixels_backward(residuals: Arrays, cotangents: Arrays) -> tuple[jax.Array]:
    first, x = residuals
    at = lax.broadcasted_iota(first.dtype, x.shape, 1)
    g, _ = cotangents
    return (jnp.where(at == first[:, None], g[:, None], jnp.zeros((), g.dtype)),)


_max_pixels.defvjp(_max_pixels_forward, _max_pixels_backward)
