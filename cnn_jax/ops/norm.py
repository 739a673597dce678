"""Normalisation: batch norm (training and inference) and local response norm."""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

from cnn_jax.ops.mapped import mapped_axes, vary_alike
from cnn_jax.ops.trilinear import low_precision


def batch_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float = 1e-5,
               axis_name: str | None = None):
    """Batch norm in training: normalises every channel by its own batch.

        m = mean x,  v = max(0, mean x^2 - m^2)       over all axes but the last
        y = (x - m) / sqrt(v + eps) * scale + bias

    Args:
      x: [N, *spatial, C]; scale, bias: [C].
      axis_name: the mapped axis (pmap, shard_map, vmap) whose parts form one batch.

    Returns:
      y [N, *spatial, C], m [C], v [C] (biased, in float32 or wider), the last two for
      the running averages.

    Raises ValueError if scale or bias is not [C]. Source: Ioffe and Szegedy,
    "Batch normalization", 2015.
    """
    _check_channels(x, scale=scale, bias=bias)
    y, mean, var = _batch_norm(*vary_alike(x, scale, bias), eps, axis_name)
    if axis_name is not None and mapped_axes(mean):  # tells shard_map they are the same
        mean, var = lax.pmean((mean, var), axis_name)
    return y, mean, var


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _batch_norm(x, scale, bias, eps, axis_name):
    wide = x.astype(_statistics_dtype(x))
    mean = _mean(wide, axis_name)
    var = jnp.maximum(_mean(wide * wide, axis_name) - mean * mean, 0)
    # Folded to one multiply and one add a pixel.
    a = scale * lax.rsqrt(var + eps)
    y = (wide * a + (bias - mean * a)).astype(x.dtype)
    return y, *vary_alike(mean, var, x)[:2]


def _batch_norm_forward(x, scale, bias, eps, axis_name):
    y, mean, var = _batch_norm(x, scale, bias, eps, axis_name)
    return (y, mean, var), (x, scale, bias, mean, var)


def _batch_norm_backward(eps, axis_name, residuals, cotangents):
    """With z = (x - m) r, r = 1 / sqrt(v + eps), and means over the whole batch:

        dbias = sum g,  dscale = sum g z
        dx = scale r (g - mean g - z mean(g z)) + (dm + 2 dv (x - m)) / count

    dm and dv are the cotangents of the two statistics.
    """
    x, scale, bias, mean, var = residuals
    g, dmean, dvar = cotangents
    wide, g = x.astype(mean.dtype), g.astype(mean.dtype)
    r = lax.rsqrt(var + eps)
    z = (wide - mean) * r
    axes = tuple(range(x.ndim - 1))
    dbias, dscale = g.sum(axes), (g * z).sum(axes)
    count = math.prod(x.shape[:-1])
    mean_g, mean_gz = dbias / count, dscale / count
    dmean, dvar = dmean / count, dvar / count
    if axis_name is not None:
        mean_g, mean_gz = lax.pmean((mean_g, mean_gz), axis_name)
        dmean, dvar = lax.pmean((dmean, dvar), axis_name)
    dx = scale * r * (g - mean_g - z * mean_gz)
    dx = dx + dmean + 2 * dvar * (wide - mean)
    return (dx.astype(x.dtype), dscale.astype(scale.dtype), dbias.astype(bias.dtype))


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def batch_norm_inference(x: jax.Array, mean: jax.Array, var: jax.Array,
                         scale: jax.Array, bias: jax.Array, eps: float = 1e-5):
    """Batch norm by given statistics: y = (x - mean) / sqrt(var + eps) * scale + bias.

    x and y are [N, *spatial, C], the others [C]; folded to y = x a + b. All gradients
    are those of the formula.
    """
    _check_channels(x, mean=mean, var=var, scale=scale, bias=bias)
    a = scale * lax.rsqrt(var + eps)
    return _scale_shift(*vary_alike(x, a, bias - mean * a))


@jax.custom_vjp
def _scale_shift(x, a, b):
    return (x * a + b).astype(x.dtype)


def _scale_shift_backward(residuals, g):
    """dx = g a,  da = sum g x,  db = sum g"""
    x, a, b = residuals
    axes = tuple(range(x.ndim - 1))
    g = g.astype(jnp.promote_types(g.dtype, a.dtype))
    return ((g * a).astype(x.dtype), (g * x).sum(axes).astype(a.dtype),
            g.sum(axes).astype(b.dtype))


_scale_shift.defvjp(lambda x, a, b: (_scale_shift(x, a, b), (x, a, b)),
                    _scale_shift_backward)


def _statistics_dtype(x):
    return jnp.float32 if low_precision(x.dtype) else x.dtype


def _mean(x, axis_name):
    mean = x.mean(tuple(range(x.ndim - 1)))
    return mean if axis_name is None else lax.pmean(mean, axis_name)


def _check_channels(x, **vectors):
    for name, vector in vectors.items():
        if x.ndim < 2 or vector.shape != x.shape[-1:]:
            raise ValueError(f"batch norm: x {x.shape} [N, *spatial, C] needs {name} "
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
    if size < 1 or x.ndim < 1:
        raise ValueError(f"local response norm: size {size} must be at least 1 and x "
                         f"{x.shape} [..., C]")
    return _response_norm(x, size, k, alpha / size if divide_by_size else alpha, beta)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _response_norm(x, size, k, a, beta):
    wide = x.astype(_statistics_dtype(x))
    s = k + a * _channel_sum(wide * wide, size // 2, (size - 1) // 2)
    return (wide * s ** -beta).astype(x.dtype)


def _response_norm_backward(size, k, a, beta, x, g):
    """dx[i] = g[i] s[i]^-beta
              - 2 a beta x[i] sum over c that see i of g[c] x[c] s[c]^(-beta - 1)"""
    wide, g = x.astype(_statistics_dtype(x)), g.astype(_statistics_dtype(x))
    before, after = size // 2, (size - 1) // 2
    s = k + a * _channel_sum(wide * wide, before, after)
    seen = _channel_sum(g * wide * s ** (-beta - 1), after, before)
    return ((g * s ** -beta - 2 * a * beta * wide * seen).astype(x.dtype),)


_response_norm.defvjp(
    lambda x, *options: (_response_norm(x, *options), x), _response_norm_backward)


def _channel_sum(x, before: int, after: int):
    """sum of x[..., i] for i from c - before to c + after, zeros outside"""
    c = x.shape[-1]
    xp = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(before, after)])
    return functools.reduce(jnp.add, (
        xp[..., i:i + c] for i in range(before + after + 1)))
