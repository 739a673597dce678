"""Pooling as elementwise work on shifted slices, one for each tap of the window.

On a CPU this is several times faster than `lax.reduce_window`, above all the gradient
of the maximum: the forward pass saves the index of the maximum, and the backward pass
hands the cotangent back by it.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from cnn_jax.ops.geometry import (PoolSpec, gather_tap, pad_image, scatter_tap,
                                  unpad_image)


def lowest(dtype):
    """The value that is never a maximum: what max pooling pads with."""
    if jnp.issubdtype(dtype, jnp.inexact):
        return np.asarray(-np.inf, dtype)
    return np.asarray(jnp.iinfo(dtype).min, dtype)


def _slices(x, spec: PoolSpec, value):
    xp = pad_image(x, spec, value)
    return [gather_tap(xp, k, spec.out, spec.strides) for k in spec.taps]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_and_index(x, spec: PoolSpec):
    """(y, index of the first maximum among the taps), each [N, *out, C]"""
    y, *others = _slices(x, spec, lowest(x.dtype))
    dtype = np.int8 if len(spec.taps) <= 128 else np.int32
    index = jnp.broadcast_to(_first_inside(spec).astype(dtype), y.shape)
    for i, t in enumerate(others, 1):
        index = jnp.where(t > y, dtype(i), index)  # strict: the first one stays
        y = jnp.maximum(y, t)
    return y, index


def _max_forward(x, spec):
    y, index = _max_and_index(x, spec)
    return (y, index), index


def _max_backward(spec, index, cotangents):
    g, _ = cotangents
    zero = jnp.zeros((), g.dtype)
    if spec.window == spec.strides:
        taps = np.arange(len(spec.taps), dtype=index.dtype)
        taps = taps.reshape([1, *(a for k in spec.window for a in (1, k)), 1])
        return (_tile(jnp.where(_blocks(index) == taps, _blocks(g), zero), spec),)
    parts = [jnp.where(index == i, g, zero) for i in range(len(spec.taps))]
    return (_scatter_sum(parts, spec),)


_max_and_index.defvjp(_max_forward, _max_backward)


def _first_inside(spec: PoolSpec) -> np.ndarray:
    """Index of each window's first tap in the image, not in the padding: [*out, 1]"""
    index = np.zeros((1,), int)
    for k, s, o, (lo, _) in zip(spec.window, spec.strides, spec.out, spec.padding):
        first = np.maximum(lo - np.arange(o) * s, 0)
        index = index[..., None, :] * k + first[:, None]
    return index


def max_pool(x, spec: PoolSpec):
    return _max_and_index(x, spec)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def mean_pool(x, spec: PoolSpec):
    """y = sum over the taps / count"""
    return functools.reduce(jnp.add, _slices(x, spec, 0)) / counts(spec, x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _mean_gradient(g, spec: PoolSpec):
    """dx = g / count, handed to every pixel of the window"""
    share = g / counts(spec, g.dtype)
    if spec.window == spec.strides:
        return _tile(_blocks(share), spec)
    return _scatter_sum([share] * len(spec.taps), spec)


# Both are linear, so each is the gradient of the other, to any order.
mean_pool.defvjp(lambda x, spec: (mean_pool(x, spec), None),
                 lambda spec, _, g: (_mean_gradient(g, spec),))
_mean_gradient.defvjp(lambda g, spec: (_mean_gradient(g, spec), None),
                      lambda spec, _, t: (mean_pool(t, spec),))


def counts(spec: PoolSpec, dtype) -> np.ndarray:
    """How many entries each window averages over: [*out, 1]"""
    count = np.ones((1,))
    for n, k, s, o, (lo, _), (counted_lo, counted_hi) in zip(
            spec.x_shape[1:-1], spec.window, spec.strides, spec.out, spec.padding,
            spec.counted):
        start = np.arange(o) * s - lo
        inside = (np.minimum(start + k, n + counted_hi)
                  - np.maximum(start, -counted_lo))
        count = count[..., None, :] * inside[:, None]
    return count.astype(dtype)


def _scatter_sum(parts, spec: PoolSpec):
    """Adds the parts [N, *out, C], one a tap, where the taps read: [N, *spatial, C]."""
    return unpad_image(functools.reduce(jnp.add, (
        scatter_tap(t, k, spec.padded, spec.strides)
        for k, t in zip(spec.taps, parts))), spec)


def _blocks(a):
    """[N, o1, o2, C] -> [N, o1, 1, o2, 1, C]: room for the pixels of each window"""
    return a.reshape(a.shape[0], *(i for o in a.shape[1:-1] for i in (o, 1)),
                     a.shape[-1])


def _tile(blocks, spec: PoolSpec):
    """[N, o1, k1, o2, k2, C] -> [N, *spatial, C]: windows without overlap write every
    pixel once."""
    shape = [a for o, k in zip(spec.out, spec.window) for a in (o, k)]
    n, c = blocks.shape[0], blocks.shape[-1]
    image = jnp.broadcast_to(blocks, (n, *shape, c))
    image = image.reshape(n, *(o * k for o, k in zip(spec.out, spec.window)), c)
    rest = [(0, p - m, 0) for p, m in zip(spec.padded, image.shape[1:-1])]
    image = lax.pad(image, jnp.zeros((), image.dtype), [(0, 0, 0), *rest, (0, 0, 0)])
    return unpad_image(image, spec)
