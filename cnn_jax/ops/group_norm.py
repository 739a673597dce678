"""Normalization of each image by itself: group norm, and layer norm over channels."""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

from cnn_jax.ops._xla.shard_map import match_varying_axes
from cnn_jax.ops.integers import is_integer
from cnn_jax.ops.norm import check_channels, statistics_dtype


def group_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int = 32,
               eps: float = 1e-5) -> jax.Array:
    """Normalizes every group of channels of every image by its own statistics.

        m = mean x,  v = mean (x - m)^2      over all pixels and the C / groups channels
        y = (x - m) / sqrt(v + eps) * scale + bias

    x and y are [N, *spatial, C]; scale, bias: [C]. Nothing depends on the batch or on
    `train`. groups = 1 is layer norm over the image, groups = C instance norm.
    Raises ValueError if groups does not divide C. Source: Wu and He, "Group
    normalization", 2018.
    """
    check_channels("group norm", x, scale=scale, bias=bias)
    channels = x.shape[-1]
    if not is_integer(groups) or groups < 1 or channels % groups:
        raise ValueError(f"group norm: groups {groups!r} must be an integer >= 1 that "
                         f"divides the {channels} channels of x {x.shape}")
    return _in_groups(x, scale, bias, int(groups), (1, 3), eps)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array,
               eps: float = 1e-6) -> jax.Array:
    """Normalizes every pixel by the statistics of its channels.

        m = mean x,  v = mean (x - m)^2                            over the last axis
        y = (x - m) / sqrt(v + eps) * scale + bias

    x and y are [N, *spatial, C]; scale, bias: [C]. Source: Ba, Kiros and Hinton, "Layer
    normalization", 2016; over the channels of images: Liu et al., "A ConvNet for the
    2020s", 2022.
    """
    check_channels("layer norm", x, scale=scale, bias=bias)
    return _in_groups(x, scale, bias, 1, (3,), eps)


def _in_groups(x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int,
               axes: tuple[int, ...], eps: float) -> jax.Array:
    """Normalizes x as [N, pixels, groups, channels of a group] over `axes`."""
    width = x.shape[-1] // groups
    x, scale, bias = match_varying_axes(x, scale, bias)
    wide = x.reshape(x.shape[0], math.prod(x.shape[1:-1]), groups, width)
    scale, bias = (v.reshape(1, 1, groups, width) for v in (scale, bias))
    return _normalize(wide, scale, bias, axes, eps).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, axes: tuple[int, ...],
               eps: float) -> jax.Array:
    return _forward(x, scale, bias, axes, eps)[0]


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array, axes: tuple[int, ...],
             eps: float) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    wide = x.astype(statistics_dtype(x))
    m = wide.mean(axes, keepdims=True)
    r = lax.rsqrt(jnp.square(wide - m).mean(axes, keepdims=True) + eps)
    y = ((wide - m) * r * scale + bias).astype(x.dtype)
    return y, (x, m, r, scale, bias)


def _backward(axes: tuple[int, ...], eps: float, residuals: tuple[jax.Array, ...],
              g: jax.Array) -> tuple[jax.Array, ...]:
    """With r = 1 / sqrt(v + eps), z = (x - m) r and h = g scale:

        dx = r (h - mean h - z mean(h z))    dscale = sum g z    dbias = sum g
    """
    x, m, r, scale, bias = residuals
    g, z = g.astype(m.dtype), (x - m) * r
    h = g * scale
    dx = r * (h - h.mean(axes, keepdims=True)
              - z * (h * z).mean(axes, keepdims=True))
    dscale, dbias = ((g * factor).sum((0, 1), keepdims=True) for factor in (z, 1))
    return dx.astype(x.dtype), dscale.astype(scale.dtype), dbias.astype(bias.dtype)


_normalize.defvjp(_forward, _backward)
