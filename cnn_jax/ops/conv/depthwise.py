"""Depthwise convolution as shifted multiply-adds: groups = C, w [*kernel, 1, C m].

    y[.., c, j]  = sum over k of x[s p + d k, c] w[k, c, j]
    dx           = the same with the rotated kernel, on g spread by the stride
    dw[k, c, j]  = sum over n, p of x[s p + d k, c] g[n, p, c, j]

XLA fuses the terms into one pass over the image. The weight gradient takes a few images
at a time and adds their products pixel by pixel; it sums the pixels last. Otherwise XLA
would write out the products of the whole batch, one image for each tap.
"""

from functools import reduce
from operator import add

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops._xla.shard_map import match_varying_axes
from cnn_jax.ops.conv.spec import ConvSpec, tap_start, transposed
from cnn_jax.ops.conv.vjp import in_float32, trilinear
from cnn_jax.ops.geometry import gather_tap, pad_image

IMAGES = 4  # per step of the weight gradient's loop, where 4 divides the batch


def _check(spec: ConvSpec) -> None:
    if spec.groups != spec.x_shape[-1]:
        raise ValueError(f"depthwise convolution of x {spec.x_shape} needs "
                         f"{spec.x_shape[-1]} groups, received {spec.groups}")


def _seen(x: jax.Array, spec: ConvSpec) -> list[jax.Array]:
    """Lists x as each tap sees it, [N, *out, C]."""
    xp = pad_image(x, spec)
    return [gather_tap(xp, tap_start(k, spec), spec.out, spec.strides)
            for k in spec.taps]


def _per_tap(w: jax.Array, spec: ConvSpec) -> jax.Array:
    """Shapes w to [K, 1, .., 1, C m], to be broadcast over images."""
    return w.reshape(len(spec.taps), *[1] * (w.ndim - 1), -1)


@in_float32
def forward(x: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    _check(spec)
    w = _per_tap(w, spec)
    m = w.shape[-1] // spec.groups
    x = x if m == 1 else jnp.repeat(x, m, axis=-1)
    return reduce(add, (t * w[k] for k, t in enumerate(_seen(x, spec))))


@in_float32
def input_gradient(g: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    _check(spec)
    back = transposed(spec)
    w = _per_tap(lax.rev(w, range(len(spec.kernel))), spec)
    dx = reduce(add, (t * w[k] for k, t in enumerate(_seen(g, back))))
    m = g.shape[-1] // spec.groups
    return dx if m == 1 else dx.reshape(*dx.shape[:-1], -1, m).sum(-1)


@in_float32
def weight_gradient(x: jax.Array, g: jax.Array, spec: ConvSpec) -> jax.Array:
    _check(spec)
    m = g.shape[-1] // spec.groups
    x = x if m == 1 else jnp.repeat(x, m, axis=-1)
    count = next(i for i in (IMAGES, 2, 1) if g.shape[0] % i == 0)
    # [steps, count, H, W, C]
    xs, gs = (a.reshape(-1, count, *a.shape[1:]) for a in (pad_image(x, spec), g))

    def add_images(sums: list[jax.Array], images: tuple[jax.Array, jax.Array]
                   ) -> tuple[list[jax.Array], None]:
        x, g = images
        return [s + g * gather_tap(x, tap_start(k, spec), spec.out, spec.strides)
                for s, k in zip(sums, spec.taps)], None

    zeros, _ = match_varying_axes(jnp.zeros(gs.shape[1:], g.dtype), gs)
    sums, _ = lax.scan(add_images, [zeros] * len(spec.taps), (xs, gs))
    dw = jnp.stack([s.sum(tuple(range(s.ndim - 1))) for s in sums])
    return dw.reshape(spec.w_shape)


passes = trilinear(forward, input_gradient, weight_gradient)
