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

from cnn_jax.ops.geometry import (PoolSpec, gather_tap, interleave, pad_image,
                                  scatter_tap, unpad_image)


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
    first, *others = _slices(x, spec, lowest(x.dtype))
    dtype = np.int8 if len(spec.taps) <= 128 else np.int32
    y, index = first, jnp.zeros(first.shape, dtype)
    for i, t in enumerate(others, 1):
        index = jnp.where(t > y, dtype(i), index)  # strict: the first one stays
        y = jnp.maximum(y, t)
    return y, index


def _max_forward(x, spec):
    y, index = _max_and_index(x, spec)
    return (y, index), index


def _max_backward(spec, index, cotangents):
    g, _ = cotangents
    return (_hand_back([jnp.where(index == i, g, jnp.zeros((), g.dtype))
                        for i in range(len(spec.taps))], spec),)


_max_and_index.defvjp(_max_forward, _max_backward)


def max_pool(x, spec: PoolSpec):
    return _max_and_index(x, spec)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def mean_pool(x, spec: PoolSpec):
    """y = sum over the taps / count"""
    return functools.reduce(jnp.add, _slices(x, spec, 0)) / counts(spec, x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _mean_gradient(g, spec: PoolSpec):
    """dx = g / count, handed to every pixel of the window"""
    return _hand_back([g / counts(spec, g.dtype)] * len(spec.taps), spec)


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


def _hand_back(parts, spec: PoolSpec):
    """Adds the parts [N, *out, C], one a tap, where the taps read: [N, *spatial, C]."""
    if spec.window == spec.strides:  # no overlap: each pixel is written once, not added
        dxp = interleave(parts, spec.strides)
        rest = [(0, p - n, 0) for p, n in zip(spec.padded, dxp.shape[1:-1])]
        dxp = lax.pad(dxp, jnp.zeros((), dxp.dtype), [(0, 0, 0), *rest, (0, 0, 0)])
    else:
        dxp = functools.reduce(jnp.add, (
            scatter_tap(t, k, spec.padded, spec.strides)
            for k, t in zip(spec.taps, parts)))
    return unpad_image(dxp, spec)
