"""Pooling by plain loops: the specification that every other form must equal.

NumPy on the host, called back from a compiled program under `jit`.
"""

import functools

import jax
import numpy as np

from cnn_jax.ops.geometry import PoolSpec
from cnn_jax.ops._xla.callback import on_host


def windows(spec: PoolSpec):
    """Yields (output entry, the entries of x in its window, in row-major order)."""
    batch, *spatial, channels = spec.x_shape
    for n in range(batch):
        for at in np.ndindex(*spec.out):
            places = [[s * p + k - lo for s, p, k, (lo, _) in zip(
                spec.strides, at, tap, spec.padding)] for tap in spec.taps]
            inside = [place for place in places
                      if all(0 <= i < size for i, size in zip(place, spatial))]
            for c in range(channels):
                yield (n, *at, c), [(n, *place, c) for place in inside]


def count(out, pixels, spec: PoolSpec) -> int:
    """What an average divides by: the pixels of the window and the counted padding."""
    if not any(map(any, spec.counted)):
        return len(pixels)
    size = 1
    for n, k, s, p, (lo, _), (_, hi) in zip(
            spec.x_shape[1:-1], spec.window, spec.strides, out[1:-1], spec.padding,
            spec.counted):
        size *= sum(s * p + i - lo < n + hi for i in range(k))
    return size


def max_forward(x, spec):
    y = np.zeros(spec.y_shape)
    for out, pixels in windows(spec):
        y[out] = np.max([x[i] for i in pixels])  # NaN if one is
    return y


def max_backward(x, g, spec):
    dx = np.zeros(spec.x_shape)
    for out, pixels in windows(spec):
        first = np.argmax([x[i] for i in pixels])  # of equals the first
        dx[pixels[first]] += g[out]
    return dx


def mean_forward(x, spec):
    y = np.zeros(spec.y_shape)
    for out, pixels in windows(spec):
        y[out] = sum(x[i] for i in pixels) / count(out, pixels, spec)
    return y


def mean_backward(x, g, spec):
    dx = np.zeros(spec.x_shape)
    for out, pixels in windows(spec):
        for i in pixels:
            dx[i] += g[out] / count(out, pixels, spec)
    return dx


def _pooling(forward, backward):
    forward = on_host(forward, lambda spec: spec.y_shape)
    backward = on_host(backward, lambda spec: spec.x_shape)

    @functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
    def pool(x, spec):
        return forward(x, spec)

    pool.defvjp(lambda x, spec: (pool(x, spec), x),
                lambda spec, x, g: (backward(x, g, spec),))
    return pool


max_pool = _pooling(max_forward, max_backward)
mean_pool = _pooling(mean_forward, mean_backward)
