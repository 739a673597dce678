"""One rule of differentiation for every implementation of convolution.

Convolution with a cotangent is a form that is linear in each of its three arguments:

    T(x, w, g) = sum over n, p, k, c, o of  x[n, s p + d k, c] w[k, c, o] g[n, p, o]

    forward          y  = dT/dg     [N, *out, O]
    input gradient   dx = dT/dx     [N, *spatial, C]
    weight gradient  dw = dT/dw     [*kernel, C / groups, O]

So the derivative of each pass is made of the other two, to any order. An implementation
writes these three functions; `trilinear` ties them together. Forward-mode
differentiation (`jax.jvp`, `jax.jacfwd`) is not defined: JAX raises a TypeError that
says so.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cnn_jax.ops._xla.shard_map import match_varying_axes
from cnn_jax.ops.conv.algorithm import Pass
from cnn_jax.ops.conv.spec import ConvSpec, is_empty


class Passes(NamedTuple):
    forward: Pass          # (x, w, spec) -> y
    input_gradient: Pass   # (g, w, spec) -> dx
    weight_gradient: Pass  # (x, g, spec) -> dw


def trilinear(forward: Pass, input_gradient: Pass, weight_gradient: Pass) -> Passes:
    """Gives each pass the other two as its hand-written VJP."""

    @functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
    def y(x: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
        return _or_zeros(forward, x, w, spec, spec.y_shape)

    @functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
    def dx(g: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
        return _or_zeros(input_gradient, g, w, spec, spec.x_shape)

    @functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
    def dw(x: jax.Array, g: jax.Array, spec: ConvSpec) -> jax.Array:
        return _or_zeros(weight_gradient, x, g, spec, spec.w_shape)

    # t is the cotangent of each pass: g-, x- and w-shaped in turn.
    y.defvjp(lambda x, w, spec: (y(x, w, spec), (x, w)),
             lambda spec, xw, t: (dx(t, xw[1], spec), dw(xw[0], t, spec)))
    dx.defvjp(lambda g, w, spec: (dx(g, w, spec), (g, w)),
              lambda spec, gw, t: (y(t, gw[1], spec), dw(t, gw[0], spec)))
    dw.defvjp(lambda x, g, spec: (dw(x, g, spec), (x, g)),
              lambda spec, xg, t: (dx(xg[1], t, spec), y(xg[0], t, spec)))
    return Passes(*(_with_matching_axes(one_pass) for one_pass in (y, dx, dw)))


def _with_matching_axes(one_pass: Pass) -> Pass:
    def matched(a: jax.Array, b: jax.Array, spec: ConvSpec) -> jax.Array:
        a, b = match_varying_axes(a, b)
        return one_pass(a, b, spec)
    return matched


def _or_zeros(one_pass: Pass, a: jax.Array, b: jax.Array, spec: ConvSpec,
              shape: tuple[int, ...]) -> jax.Array:
    if is_empty(spec):
        return jnp.zeros(shape, a.dtype)
    return one_pass(a, b, spec)


def by_group(product: Callable[[jax.Array, jax.Array], jax.Array], a: jax.Array,
             b: jax.Array, groups: int) -> jax.Array:
    """Computes product(a, b) for each group of channels separately.

    The last axis of a, of b and of the product holds the channels, group after group.
    """
    if groups == 1:
        return product(a, b)
    a, b = (t.reshape(*t.shape[:-1], groups, t.shape[-1] // groups) for t in (a, b))
    y = jax.vmap(product, in_axes=-2, out_axes=-2)(a, b)
    return y.reshape(*y.shape[:-2], -1)


def einsum_by_group(equation: str, a: jax.Array, b: jax.Array,
                    spec: ConvSpec) -> jax.Array:
    """Computes `jnp.einsum` of a and b for each group of channels separately."""
    return by_group(lambda a, b: jnp.einsum(equation, a, b, precision=spec.precision),
                    a, b, spec.groups)


def low_precision(dtype: DTypeLike) -> bool:
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def in_float32(one_pass: Pass) -> Pass:
    """Sums half-precision operands in float32 and rounds once, at the end."""
    @functools.wraps(one_pass)
    def widened(a: jax.Array, b: jax.Array, spec: ConvSpec) -> jax.Array:
        if low_precision(a.dtype):
            wide = one_pass(a.astype(jnp.float32), b.astype(jnp.float32), spec)
            return wide.astype(a.dtype)
        return one_pass(a, b, spec)
    return widened
