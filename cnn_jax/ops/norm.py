"""Normalization: batch norm (training and inference) and local response norm."""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cnn_jax.ops._xla.shard_map import match_varying_axes
from cnn_jax.ops.conv.vjp import low_precision
from cnn_jax.ops.integers import is_integer
from cnn_jax.ops.moments import channel_sums


def batch_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float = 1e-5,
               axis_name: str | None = None,
               groups: int = 1) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalizes every channel by the statistics of its batch: batch norm in training.

        m = mean x,  v = max(0, mean x^2 - m^2)       over all axes but the last
        y = (x - m) / sqrt(v + eps) * scale + bias

    Args:
      x: [N, *spatial, C]; scale, bias: [C].
      axis_name: the mapped axis (pmap, shard_map, vmap) whose shards form one batch.
      groups: number of consecutive equal parts of the whole batch, each of which has
        its own m and v.

    Returns:
      y [N, *spatial, C], m [C] and v [C]. The last two are for the running averages:
      the means over the groups, v biased, both in float32 or wider.

    Raises ValueError if scale or bias is not [C], if x has no pixel, or if the groups
    do not divide the batch. Source: Ioffe and Szegedy, "Batch normalization", 2015; for
    groups: Hoffer, Hubara and Soudry, "Train longer, generalize better", 2017.
    """
    check_channels("batch norm", x, scale=scale, bias=bias)
    if 0 in x.shape[:-1]:
        raise ValueError(f"batch norm: x {x.shape} [N, *spatial, C] has no pixel to "
                         "take the mean of: give at least one image")
    if groups > 1:
        return _batch_norm_of_groups(x, scale, bias, eps, axis_name, groups)
    mean, square = _mean_and_square(x)
    if axis_name is not None:
        mean, square = lax.pmean((mean, square), axis_name)
    var = jnp.maximum(square - mean * mean, 0)
    return _normalize(*match_varying_axes(x, mean, var, scale, bias), eps), mean, var


def _batch_norm_of_groups(
        x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float,
        axis_name: str | None, groups: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalizes each group separately: a device has some groups, or part of one."""
    devices = 1 if axis_name is None else lax.axis_size(axis_name)
    local = max(1, groups // devices)  # groups on this device
    if local * devices % groups or x.shape[0] % local:
        raise ValueError(f"batch norm: {groups} groups do not divide {x.shape[0]} "
                         f"images on each of {devices} devices")
    grouped = x.reshape(local, x.shape[0] // local, *x.shape[1:])
    mean, square = jax.vmap(_mean_and_square)(grouped)  # [local, C]
    if groups < devices:  # [devices, C] -> that of this device's group
        group = lax.axis_index(axis_name) * groups // devices
        moments = lax.all_gather(jnp.concatenate([mean, square], 1), axis_name)
        of_groups = moments.reshape(groups, -1, 2 * x.shape[-1]).mean(1)
        mean, square = jnp.split(lax.dynamic_slice_in_dim(of_groups, group, 1), 2, 1)
    var = jnp.maximum(square - mean * mean, 0)
    y = jax.vmap(lambda *group: _normalize(
        *match_varying_axes(*group, scale, bias), eps))(grouped, mean, var)
    averages = mean.mean(0), var.mean(0)
    if axis_name is not None:
        averages = lax.pmean(averages, axis_name)
    return y.reshape(x.shape), *averages


def batch_norm_inference(x: jax.Array, mean: jax.Array, var: jax.Array,
                         scale: jax.Array, bias: jax.Array,
                         eps: float = 1e-5) -> jax.Array:
    """Normalizes by given statistics: y = (x - mean) / sqrt(var + eps) * scale + bias.

    x and y are [N, *spatial, C], the others [C].
    """
    check_channels("batch norm", x, mean=mean, var=var, scale=scale, bias=bias)
    return _normalize(*match_varying_axes(x, mean, var, scale, bias), eps)


@jax.custom_vjp
def _mean_and_square(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean x, mean x^2) over all axes but the last"""
    count, zeros = math.prod(x.shape[:-1]), jnp.zeros(x.shape[-1], statistics_dtype(x))
    total, of_squares = channel_sums(x, x, zeros)
    return total / count, of_squares / count


def _mean_and_square_backward(
        x: jax.Array, cotangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array]:
    """dx = (dm1 + 2 x dm2) / count"""
    dm1, dm2 = (_like(d / math.prod(x.shape[:-1]), x) for d in cotangents)
    return ((dm1 + 2 * dm2 * x).astype(x.dtype),)


_mean_and_square.defvjp(lambda x: (_mean_and_square(x), x), _mean_and_square_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _normalize(x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array,
               bias: jax.Array, eps: float) -> jax.Array:
    a = scale * lax.rsqrt(var + eps)  # so that a pixel takes one multiply and one add
    return (x * _like(a, x) + _like(bias - mean * a, x)).astype(x.dtype)


def _normalize_forward(x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array,
                       bias: jax.Array, eps: float
                       ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return _normalize(x, mean, var, scale, bias, eps), (x, mean, var, scale, bias)


def _normalize_backward(eps: float, residuals: tuple[jax.Array, ...],
                        g: jax.Array) -> tuple[jax.Array, ...]:
    """With r = 1 / sqrt(v + eps) and z = (x - m) r:

        dx = g scale r        dscale = sum g z      dbias = sum g
        dm = -scale r dbias   dv = -scale r^2 dscale / 2

    In training m and v depend on x; by `_mean_and_square` the whole gradient becomes
    dx = scale r (g - mean g - z mean(g z)).
    """
    x, mean, var, scale, bias = residuals
    r = lax.rsqrt(var + eps)
    dbias, dscale = channel_sums(g, x, mean)
    g = g.astype(jnp.promote_types(g.dtype, statistics_dtype(x)))
    dscale *= r
    dx = g * _like(scale * r, g)
    dmean, dvar = -scale * r * dbias, -scale * r * r * dscale / 2
    return tuple(d.astype(p.dtype)
                 for d, p in zip((dx, dmean, dvar, dscale, dbias), residuals))


_normalize.defvjp(_normalize_forward, _normalize_backward)


def statistics_dtype(x: jax.Array) -> DTypeLike:
    return jnp.float32 if low_precision(x.dtype) else x.dtype


def _like(vector: jax.Array, x: jax.Array) -> jax.Array:
    """Shapes [C] to [1, ..., 1, C], to be broadcast over x [..., C]."""
    return lax.broadcast_to_rank(vector, x.ndim)


def check_channels(norm: str, x: jax.Array, **vectors: jax.Array) -> None:
    """Raises ValueError unless x is floating-point and each vector is [C]."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise ValueError(f"{norm} takes floating-point x [N, *spatial, C], received "
                         f"{x.dtype} {x.shape}")
    for name, vector in vectors.items():
        if x.ndim < 2 or vector.shape != x.shape[-1:]:
            raise ValueError(f"{norm}: x {x.shape} [N, *spatial, C] needs {name} "
                             f"of shape [C], received {vector.shape}")


def local_response_norm(x: jax.Array, size: int = 5, k: float = 2.0,
                        alpha: float = 1e-4, beta: float = 0.75,
                        divide_by_size: bool = False) -> jax.Array:
    """Divides every entry by its neighbours' energy across the channels.

        s[c] = k + a * (sum of x[i]^2, i from c - size // 2 to c + (size - 1) // 2)
        y[c] = x[c] / s[c]^beta

    with a = alpha (the paper; TensorFlow, with size = 2 depth_radius + 1), or
    a = alpha / size if `divide_by_size` (Caffe, PyTorch). x and y are [..., C].
    Source: Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep
    convolutional neural networks", 2012.
    """
    if x.ndim < 1 or not jnp.issubdtype(x.dtype, jnp.inexact):
        raise ValueError("local response norm takes floating-point x [..., C], "
                         f"received {x.dtype} {x.shape}")
    if not is_integer(size) or size < 1:
        raise ValueError(f"local response norm of x {x.shape}: size {size!r} must be "
                         "an integer >= 1")
    size = int(size)
    return _response_norm(x, size, k, alpha / size if divide_by_size else alpha, beta)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _response_norm(x: jax.Array, size: int, k: float, a: float,
                   beta: float) -> jax.Array:
    wide = x.astype(statistics_dtype(x))
    s = k + a * _channel_sum(wide * wide, size // 2, (size - 1) // 2)
    return (wide * s ** -beta).astype(x.dtype)


def _response_norm_backward(size: int, k: float, a: float, beta: float, x: jax.Array,
                            g: jax.Array) -> tuple[jax.Array]:
    """dx[i] = g[i] s[i]^-beta
              - 2 a beta x[i] sum over c that see i of g[c] x[c] s[c]^(-beta - 1)"""
    wide, g = x.astype(statistics_dtype(x)), g.astype(statistics_dtype(x))
    before, after = size // 2, (size - 1) // 2
    s = k + a * _channel_sum(wide * wide, before, after)
    seen = _channel_sum(g * wide * s ** (-beta - 1), after, before)
    return ((g * s ** -beta - 2 * a * beta * wide * seen).astype(x.dtype),)


_response_norm.defvjp(
    lambda x, *options: (_response_norm(x, *options), x), _response_norm_backward)


def _channel_sum(x: jax.Array, before: int, after: int) -> jax.Array:
    """Sums x[..., i] over i from c - before to c + after, zeros outside."""
    c = x.shape[-1]
    xp = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(before, after)])
    return functools.reduce(jnp.add, (
        xp[..., i:i + c] for i in range(before + after + 1)))
