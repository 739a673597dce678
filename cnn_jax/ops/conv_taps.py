"""Convolution as a sum over the taps of the kernel, one matrix product each.

    y  = sum over k of  X_k w[k]           X_k [N, *out, C]: x as tap k sees it
    dx = sum over k of  scatter_k(g w[k]^T)
    dw[k] = X_k^T g

With a single tap this is the pointwise (1 x 1) convolution: one matrix product.
"""

from functools import reduce
from operator import add

import jax.numpy as jnp

from cnn_jax.ops.geometry import (ConvSpec, gather_tap, pad_image, scatter_tap,
                                  tap_start, unpad_image)
from cnn_jax.ops.trilinear import in_float32, trilinear


def _grouped(a, groups):
    """[..., C] -> [..., G, C / G], left alone for one group"""
    return a if groups == 1 else a.reshape(*a.shape[:-1], groups, -1)


def _product(equation, a, b, spec: ConvSpec):
    if spec.groups == 1:
        equation = equation.replace("g", "")
    return jnp.einsum(equation, a, b, precision=spec.precision)


@in_float32
def forward(x, w, spec: ConvSpec):
    xp, w = pad_image(x, spec), _grouped(w, spec.groups)
    y = reduce(add, (
        _product("...gc,cgo->...go", _grouped(
            gather_tap(xp, tap_start(k, spec), spec.out, spec.strides), spec.groups),
            w[k], spec)
        for k in spec.taps))
    return y.reshape(spec.y_shape)


@in_float32
def input_gradient(g, w, spec: ConvSpec):
    shape = (*g.shape[:-1], spec.x_shape[-1])
    g, w = _grouped(g, spec.groups), _grouped(w, spec.groups)
    dxp = reduce(add, (
        scatter_tap(_product("...go,cgo->...gc", g, w[k], spec).reshape(shape),
                    tap_start(k, spec), spec.padded, spec.strides)
        for k in spec.taps))
    return unpad_image(dxp, spec)


@in_float32
def weight_gradient(x, g, spec: ConvSpec):
    xp, g = pad_image(x, spec), _grouped(g, spec.groups)
    dw = [_product("...gc,...go->cgo", _grouped(
              gather_tap(xp, tap_start(k, spec), spec.out, spec.strides), spec.groups),
              g, spec)
          for k in spec.taps]
    return jnp.stack(dw).reshape(spec.w_shape)


passes = trilinear(forward, input_gradient, weight_gradient)
