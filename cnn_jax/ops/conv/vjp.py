"""One rule of differentiation for every implementation of convolution.

Convolution with a cotangent is a form that is linear in each of its three arguments:

    T(x, w, g) = sum over n, p, k, c, o of  x[n, s p + d k, c] w[k, c, o] g[n, p, o]

    forward          y  = dT/dg     [N, *out, O]
    input gradient   dx = dT/dx     [N, *spatial, C]
    weight gradient  dw = dT/dw     [*kernel, C / groups, O]

So the derivative of each pass is made of the other two, to any order. An implementation
writes these three functions; `Passes` ties them together. Forward-mode differentiation
(`jax.jvp`, `jax.jacfwd`) is not defined and raises JAX's TypeError that says so.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cnn_jax.ops.geometry import ConvSpec, is_empty
from cnn_jax.ops._xla.shard_map import vary_alike


class Passes(NamedTuple):
    forward: Callable  # (x, w, spec) -> y
    input_gradient: Callable  # (g, w, spec) -> dx
    weight_gradient: Callable  # (x, g, spec) -> dw


def trilinear(forward, input_gradient, weight_gradient) -> Passes:
    """The three passes, each with the other two as its hand-written VJP."""

    @functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
    def y(x, w, spec: ConvSpec):
        return _or_zeros(forward, x, w, spec, spec.y_shape)

    @functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
    def dx(g, w, spec: ConvSpec):
        return _or_zeros(input_gradient, g, w, spec, spec.x_shape)

    @functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
    def dw(x, g, spec: ConvSpec):
        return _or_zeros(weight_gradient, x, g, spec, spec.w_shape)

    # t is the cotangent of each pass: g-, x- and w-shaped in turn.
    y.defvjp(lambda x, w, spec: (y(x, w, spec), (x, w)),
             lambda spec, xw, t: (dx(t, xw[1], spec), dw(xw[0], t, spec)))
    dx.defvjp(lambda g, w, spec: (dx(g, w, spec), (g, w)),
              lambda spec, gw, t: (y(t, gw[1], spec), dw(t, gw[0], spec)))
    dw.defvjp(lambda x, g, spec: (dw(x, g, spec), (x, g)),
              lambda spec, xg, t: (dx(xg[1], t, spec), y(xg[0], t, spec)))
    return Passes(*(_with_like_operands(one_pass) for one_pass in (y, dx, dw)))


def _with_like_operands(one_pass):
    return lambda a, b, spec: one_pass(*vary_alike(a, b), spec)


def _or_zeros(one_pass, a, b, spec, shape):
    if is_empty(spec):
        return jnp.zeros(shape, a.dtype)
    return one_pass(a, b, spec)


def by_group(product, a, b, groups: int):
    """product(a, b) for each group of channels by itself.

    The last axis of a, of b and of the product holds the channels, group after group.
    """
    if groups == 1:
        return product(a, b)
    a, b = (t.reshape(*t.shape[:-1], groups, t.shape[-1] // groups) for t in (a, b))
    y = jax.vmap(product, in_axes=-2, out_axes=-2)(a, b)
    return y.reshape(*y.shape[:-2], -1)


def low_precision(dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def in_float32(one_pass):
    """Half-precision operands are summed in float32 and rounded once, at the end."""
    @functools.wraps(one_pass)
    def widened(a, b, spec):
        if low_precision(a.dtype):
            wide = one_pass(a.astype(jnp.float32), b.astype(jnp.float32), spec)
            return wide.astype(a.dtype)
        return one_pass(a, b, spec)
    return widened
