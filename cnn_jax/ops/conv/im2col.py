"""Convolution as patches (im2col) and one matrix product; the backward is col2im.

    P  [N, *out, K, C]     P[.., k, :] = x as tap k sees it, K = number of taps
    y  = P w               one product over (k, c)
    dw = P^T g
    dx = col2im(g w^T)     each patch entry added back where it was read

Source: Chellapilla, Puri, Simard, "High performance convolutional neural networks for
document processing", 2006.
"""

from functools import reduce
from operator import add

import jax
import jax.numpy as jnp

from cnn_jax.ops.conv.spec import ConvSpec, tap_start
from cnn_jax.ops.conv.vjp import by_group, in_float32, trilinear
from cnn_jax.ops.geometry import gather_tap, pad_image, scatter_tap, unpad_image


def im2col(x: jax.Array, spec: ConvSpec) -> jax.Array:
    """Gathers patches: x [N, *spatial, C] -> [N, *out, K, C]."""
    xp = pad_image(x, spec)
    return jnp.stack([gather_tap(xp, tap_start(k, spec), spec.out, spec.strides)
                      for k in spec.taps], axis=-2)


def col2im(cols: jax.Array, spec: ConvSpec) -> jax.Array:
    """Transposes `im2col`, overlaps added: [N, *out, K, C] -> [N, *spatial, C]."""
    dxp = reduce(add, (
        scatter_tap(cols[..., i, :], tap_start(k, spec), spec.padded, spec.strides)
        for i, k in enumerate(spec.taps)))
    return unpad_image(dxp, spec)


def _rows(a: jax.Array, width: int) -> jax.Array:
    """Flattens a [..., width], of one axis or more, to [M, width]."""
    return a.reshape(-1, width)


@in_float32
def forward(x: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    def product(cols: jax.Array, w: jax.Array) -> jax.Array:
        # [.., K, c], [K, c, o] -> [M, o]
        w = w.reshape(-1, w.shape[-1])
        return jnp.matmul(_rows(cols, w.shape[0]), w, precision=spec.precision)

    w = w.reshape(-1, *w.shape[-2:])
    return by_group(product, im2col(x, spec), w, spec.groups).reshape(spec.y_shape)


@in_float32
def input_gradient(g: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    def product(g: jax.Array, w: jax.Array) -> jax.Array:
        # [.., o], [K, c, o] -> [M, K, c]
        taps, c, o = w.shape
        cols = jnp.matmul(_rows(g, o), w.reshape(-1, o).T, precision=spec.precision)
        return cols.reshape(-1, taps, c)

    cols = by_group(product, g, w.reshape(-1, *w.shape[-2:]), spec.groups)
    return col2im(cols.reshape(*g.shape[:-1], *cols.shape[1:]), spec)


@in_float32
def weight_gradient(x: jax.Array, g: jax.Array, spec: ConvSpec) -> jax.Array:
    def product(cols: jax.Array, g: jax.Array) -> jax.Array:
        # [.., K, c], [.., o] -> [K, c, o]
        taps, c = cols.shape[-2:]
        dw = jnp.matmul(_rows(cols, taps * c).T, _rows(g, g.shape[-1]),
                        precision=spec.precision)
        return dw.reshape(taps, c, -1)

    return by_group(product, im2col(x, spec), g, spec.groups).reshape(spec.w_shape)


passes = trilinear(forward, input_gradient, weight_gradient)
