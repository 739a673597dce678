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


def _grouped(a, groups):
    """[..., C] -> [..., G, C / G], left alone for one group"""
    return a if groups == 1 else a.reshape(*a.shape[:-1], groups, -1)


def _product(equation, a, b, spec: ConvSpec):
    if spec.groups == 1:
        equation = equation.replace("g", "")
    return jnp.einsum(equation, a, b, precision=spec.precision)


def _kernel(w, spec: ConvSpec):
    """w [*kernel, C / G, O] -> [K, C / G, G, O / G]"""
    return _grouped(w.reshape(-1, *w.shape[-2:]), spec.groups)


@in_float32
def forward(x, w, spec: ConvSpec):
    cols = _grouped(im2col(x, spec), spec.groups)
    y = _product("...kgc,kcgo->...go", cols, _kernel(w, spec), spec)
    return y.reshape(spec.y_shape)


@in_float32
def input_gradient(g, w, spec: ConvSpec):
    cols = _product("...go,kcgo->...kgc", _grouped(g, spec.groups), _kernel(w, spec),
                    spec)
    return col2im(cols.reshape(*g.shape[:-1], len(spec.taps), -1), spec)


@in_float32
def weight_gradient(x, g, spec: ConvSpec):
    cols = _grouped(im2col(x, spec), spec.groups)
    dw = _product("...kgc,...go->kcgo", cols, _grouped(g, spec.groups), spec)
    return dw.reshape(spec.w_shape)


passes = trilinear(forward, input_gradient, weight_gradient)
