"""Convolution as patches (im2col) and one matrix product; the backward is col2im.

    P  [N, *out, K, C]     P[.., k, :] = x as tap k sees it, K = number of taps
    y  = P w               one product over (k, c)
    dw = P^T g
    dx = col2im(g w^T)     each patch entry added back where it was read

Source: Chellapilla, Puri, Simard, "High performance convolutional neural networks for
document processing", 2006.
"""

import jax.numpy as jnp

from cnn_jax.ops.geometry import (ConvSpec, gather_tap, pad_image, scatter_tap,
                                  tap_start, unpad_image)
from cnn_jax.ops.trilinear import in_float32, trilinear


def im2col(x, spec: ConvSpec):
    """x [N, *spatial, C] -> patches [N, *out, K, C]"""
    xp = pad_image(x, spec)
    return jnp.stack([gather_tap(xp, tap_start(k, spec), spec.out, spec.strides)
                      for k in spec.taps], axis=-2)


def col2im(cols, spec: ConvSpec):
    """The transpose of `im2col`, overlaps added: [N, *out, K, C] -> [N, *spatial, C]"""
    dxp = sum(
        scatter_tap(cols[..., i, :], tap_start(k, spec), spec.padded, spec.strides)
        for i, k in enumerate(spec.taps))
    return unpad_image(dxp, spec)


def _split(cols, w, g, spec: ConvSpec):
    """Channels into groups: cols [.., K, G, c], w [K, c, G, o], g [.., G, o]."""
    taps, groups = len(spec.taps), spec.groups
    c, o = spec.w_shape[-2], spec.w_shape[-1] // groups
    return (None if cols is None else cols.reshape(*cols.shape[:-1], groups, c),
            None if w is None else w.reshape(taps, c, groups, o),
            None if g is None else g.reshape(*g.shape[:-1], groups, o))


@in_float32
def forward(x, w, spec: ConvSpec):
    cols, w, _ = _split(im2col(x, spec), w, None, spec)
    y = jnp.einsum("...kgc,kcgo->...go", cols, w, precision=spec.precision)
    return y.reshape(spec.y_shape)


@in_float32
def input_gradient(g, w, spec: ConvSpec):
    _, w, g = _split(None, w, g, spec)
    cols = jnp.einsum("...go,kcgo->...kgc", g, w, precision=spec.precision)
    return col2im(cols.reshape(*cols.shape[:-2], spec.x_shape[-1]), spec)


@in_float32
def weight_gradient(x, g, spec: ConvSpec):
    cols, _, g = _split(im2col(x, spec), None, g, spec)
    dw = jnp.einsum("...kgc,...go->kcgo", cols, g, precision=spec.precision)
    return dw.reshape(spec.w_shape)


passes = trilinear(forward, input_gradient, weight_gradient)
