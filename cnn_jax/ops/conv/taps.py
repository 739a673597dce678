"""Convolution as a sum over the taps of the kernel, one matrix product each.

    y  = sum over k of  X_k w[k]           X_k [N, *out, C]: x as tap k sees it
    dx = sum over k of  scatter_k(g w[k]^T)
    dw[k] = X_k^T g
"""

from collections.abc import Sequence
from functools import reduce
from operator import add

import jax
import jax.numpy as jnp

from cnn_jax.ops.conv.spec import ConvSpec, tap_start
from cnn_jax.ops.conv.vjp import einsum_by_group, in_float32, trilinear
from cnn_jax.ops.geometry import gather_tap, pad_image, scatter_tap, unpad_image


def _seen(x: jax.Array, tap: Sequence[int], spec: ConvSpec) -> jax.Array:
    return gather_tap(x, tap_start(tap, spec), spec.out, spec.strides)


@in_float32
def forward(x: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    xp = pad_image(x, spec)
    return reduce(add, (einsum_by_group("...c,co->...o", _seen(xp, k, spec), w[k], spec)
                        for k in spec.taps))


@in_float32
def input_gradient(g: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    dxp = reduce(add, (
        scatter_tap(einsum_by_group("...o,co->...c", g, w[k], spec), tap_start(k, spec),
                    spec.padded, spec.strides)
        for k in spec.taps))
    return unpad_image(dxp, spec)


@in_float32
def weight_gradient(x: jax.Array, g: jax.Array, spec: ConvSpec) -> jax.Array:
    xp = pad_image(x, spec)
    dw = [einsum_by_group("...c,...o->co", _seen(xp, k, spec), g, spec)
          for k in spec.taps]
    return jnp.stack(dw).reshape(spec.w_shape)


def weight_gradient_unwidened(x: jax.Array, g: jax.Array, spec: ConvSpec) -> jax.Array:
    """Computes dw for groups = 1: multiplies in the operands' dtype, sums in float32.

    A TPU multiplies like this. The other passes convert their operands to float32.
    """
    xp, wide = pad_image(x, spec), jnp.promote_types(x.dtype, jnp.float32)
    dw = [jnp.einsum("...c,...o->co", _seen(xp, k, spec), g, precision=spec.precision,
                     preferred_element_type=wide) for k in spec.taps]
    return jnp.stack(dw).reshape(spec.w_shape).astype(x.dtype)


passes = trilinear(forward, input_gradient, weight_gradient)
