"""Depthwise convolution as shifted multiply-adds: groups = C, w [*kernel, 1, C m].

    y[.., c, j]  = sum over k of x[s p + d k, c] w[k, c, j]
    dx           = the same with the rotated kernel, on g spread by the stride
    dw[k, c, j]  = sum over n, p of x[s p + d k, c] g[n, p, c, j]

XLA fuses the terms into one pass over the image. The weight gradient adds its products
over the rows before it sums, so that they never lie in memory as whole images.
"""

from functools import reduce
from operator import add

import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.geometry import (ConvSpec, gather_tap, pad_image, tap_start,
                                  transposed)
from cnn_jax.ops.trilinear import in_float32, trilinear

MOST_BLOCKS = 16  # of rows, in the weight gradient


def _check(spec: ConvSpec):
    if spec.groups != spec.x_shape[-1]:
        raise ValueError(f"depthwise convolution of x {spec.x_shape} needs "
                         f"{spec.x_shape[-1]} groups, received {spec.groups}")


def _seen(x, spec):
    xp = pad_image(x, spec)
    return [gather_tap(xp, tap_start(k, spec), spec.out, spec.strides)
            for k in spec.taps]


@in_float32
def forward(x, w, spec: ConvSpec):
    _check(spec)
    w = w.reshape(len(spec.taps), -1)
    m = w.shape[-1] // spec.groups
    x = x if m == 1 else jnp.repeat(x, m, axis=-1)
    return reduce(add, (t * w[k] for k, t in enumerate(_seen(x, spec))))


@in_float32
def input_gradient(g, w, spec: ConvSpec):
    _check(spec)
    back = transposed(spec)
    w = lax.rev(w, range(len(spec.kernel))).reshape(len(spec.taps), -1)
    dx = reduce(add, (t * w[k] for k, t in enumerate(_seen(g, back))))
    m = g.shape[-1] // spec.groups
    return dx if m == 1 else dx.reshape(*dx.shape[:-1], -1, m).sum(-1)


@in_float32
def weight_gradient(x, g, spec: ConvSpec):
    _check(spec)
    m = g.shape[-1] // spec.groups
    x = x if m == 1 else jnp.repeat(x, m, axis=-1)
    rows = spec.out[0]
    blocks = max(b for b in range(1, MOST_BLOCKS + 1) if rows % b == 0)
    size = rows // blocks

    def tap_gradient(t):
        products = (t[:, i:i + size] * g[:, i:i + size] for i in range(0, rows, size))
        return reduce(add, products).sum(tuple(range(g.ndim - 1)))
    dw = jnp.stack([tap_gradient(t) for t in _seen(x, spec)])
    return dw.reshape(spec.w_shape)


passes = trilinear(forward, input_gradient, weight_gradient)
