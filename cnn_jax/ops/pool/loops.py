"""Pooling by plain loops: the specification of all other algorithms.

It runs in NumPy on the host; under `jit` the compiled program calls it back.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from cnn_jax.ops._xla.callback import on_host
from cnn_jax.ops.pool.spec import PoolSpec


Index = tuple[int, ...]


def windows(spec: PoolSpec) -> Iterator[tuple[Index, list[Index]]]:
    """Yields (output entry, the entries of x in its window, in row-major order)."""
    batch, *spatial, channels = spec.x_shape
    for n in range(batch):
        for at in np.ndindex(*spec.out):
            taps = [[s * p + k - lo for s, p, k, (lo, _) in zip(
                spec.strides, at, tap, spec.padding)] for tap in spec.taps]
            inside = [pixel for pixel in taps
                      if all(0 <= i < size for i, size in zip(pixel, spatial))]
            for c in range(channels):
                yield (n, *at, c), [(n, *pixel, c) for pixel in inside]


def count(out: Index, pixels: Sequence[Index], spec: PoolSpec) -> int:
    """Counts the entries over which the average of a window is taken."""
    if not any(map(any, spec.counted)):
        return len(pixels)
    size = 1
    for n, r, d, s, p, (lo, _), (_, hi) in zip(
            spec.x_shape[1:-1], spec.reach, spec.dilation, spec.strides, out[1:-1],
            spec.padding, spec.counted):
        size *= sum(s * p + i - lo < n + hi for i in range(0, r, d))
    return size


def max_forward(x: np.ndarray, spec: PoolSpec) -> np.ndarray:
    y = np.zeros(spec.y_shape)
    for out, pixels in windows(spec):
        y[out] = np.max([x[i] for i in pixels])  # NaN if one is
    return y


def first_maximum(x: np.ndarray, pixels: Sequence[Index]) -> Index:
    return pixels[int(np.argmax([x[i] for i in pixels]))]  # NaN before any number


def max_backward(x: np.ndarray, g: np.ndarray, spec: PoolSpec) -> np.ndarray:
    dx = np.zeros(spec.x_shape)
    for out, pixels in windows(spec):
        dx[first_maximum(x, pixels)] += g[out]
    return dx


def argmax(x: np.ndarray, spec: PoolSpec) -> np.ndarray:
    index = np.zeros(spec.y_shape, np.int32)
    for out, pixels in windows(spec):
        _, *pixel, _ = first_maximum(x, pixels)
        index[out] = np.ravel_multi_index(pixel, spec.x_shape[1:-1])
    return index


def mean_forward(x: np.ndarray, spec: PoolSpec) -> np.ndarray:
    y = np.zeros(spec.y_shape)
    for out, pixels in windows(spec):
        y[out] = sum(x[i] for i in pixels) / count(out, pixels, spec)
    return y


def mean_backward(x: np.ndarray, g: np.ndarray, spec: PoolSpec) -> np.ndarray:
    dx = np.zeros(spec.x_shape)
    for out, pixels in windows(spec):
        for i in pixels:
            dx[i] += g[out] / count(out, pixels, spec)
    return dx


def _pooling(forward: Callable[..., np.ndarray], backward: Callable[..., np.ndarray]
             ) -> Callable[[jax.Array, PoolSpec], jax.Array]:
    y_of = on_host(forward, lambda spec: spec.y_shape)
    dx_of = on_host(backward, lambda spec: spec.x_shape)

    @functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
    def pool(x: jax.Array, spec: PoolSpec) -> jax.Array:
        return y_of(x, spec)

    pool.defvjp(lambda x, spec: (pool(x, spec), x),
                lambda spec, x, g: (dx_of(x, g, spec),))
    return pool


max_pool = _pooling(max_forward, max_backward)
max_indices = on_host(argmax, lambda spec: spec.y_shape, dtype=np.int32)
mean_pool = _pooling(mean_forward, mean_backward)
