"""Pointwise (1 x 1) convolution as one matrix product over all pixels.

    X [M, C]: the pixels that the stride picks      y = X w,  dx = spread(g w^T),
    M = N x number of output pixels                 dw = X^T g
"""

import jax
import jax.numpy as jnp

from cnn_jax.ops.conv.spec import ConvSpec
from cnn_jax.ops.conv.vjp import in_float32, trilinear
from cnn_jax.ops.geometry import gather_tap, pad_image, scatter_tap, unpad_image


def _pixels(x: jax.Array, spec: ConvSpec) -> jax.Array:
    start = (0,) * len(spec.kernel)
    x = gather_tap(pad_image(x, spec), start, spec.out, spec.strides)
    return x.reshape(-1, x.shape[-1])


def _matrix(w: jax.Array) -> jax.Array:
    return w.reshape(w.shape[-2:])


@in_float32
def forward(x: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    y = jnp.matmul(_pixels(x, spec), _matrix(w), precision=spec.precision)
    return y.reshape(spec.y_shape)


@in_float32
def input_gradient(g: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    rows = g.reshape(-1, g.shape[-1])
    dx = jnp.matmul(rows, _matrix(w).T, precision=spec.precision)
    dx = dx.reshape(*g.shape[:-1], -1)
    start = (0,) * len(spec.kernel)
    return unpad_image(scatter_tap(dx, start, spec.padded, spec.strides), spec)


@in_float32
def weight_gradient(x: jax.Array, g: jax.Array, spec: ConvSpec) -> jax.Array:
    rows = g.reshape(-1, g.shape[-1])
    dw = jnp.matmul(_pixels(x, spec).T, rows, precision=spec.precision)
    return dw.reshape(spec.w_shape)


passes = trilinear(forward, input_gradient, weight_gradient)
