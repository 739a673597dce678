"""Layers without kernels.

Joining, padding and reshaping are modules too, so that tables and pictures show them
and the receptive field can be computed through every branch.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax import ops
from cnn_jax.layers.presets import ACTIVATIONS, lookup
from cnn_jax.layers.shapes import ShapedParams, of_same_shape, only_shapes
from cnn_jax.layers.windows import Pair


class Activation(nn.Module):
    """Applies an elementwise non-linearity.

    kind: a name in `ACTIVATIONS`.
    materialized: whether 'relu' is `ops.materialized_relu`.
    """

    kind: str
    materialized: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        function = lookup(ACTIVATIONS, "activation", self.kind)
        if only_shapes.get():
            return of_same_shape(x)
        if self.materialized and self.kind == "relu":
            return ops.materialized_relu(x)
        return function(x)


class Flatten(nn.Module):
    """Flattens [N, H, W, C] to [N, H*W*C], in that order (torch flattens C, H, W)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))  # -1 fails for 0 images


class Add(nn.Module):
    """Adds a residual and its shortcut: x + y."""

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        return x + y


class Concat(nn.Module):
    """Concatenates branches along the channels."""

    @nn.compact
    def __call__(self, *branches: jax.Array) -> jax.Array:
        return jnp.concatenate(branches, axis=-1)


class ZeroPad(nn.Module):
    """Pads the image with zeros: padding is ((top, bottom), (left, right))."""

    padding: tuple[Pair, Pair]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, 0), *self.padding, (0, 0)))


class Subsample(nn.Module):
    """Takes every `stride`-th pixel and adds zero channels before and after x's."""

    stride: int
    channels: Pair = (0, 0)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x[:, ::self.stride, ::self.stride]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), self.channels))


class AdaptiveAvgPool(nn.Module):
    """Averages over nearly equal windows: [N, H, W, C] -> [N, size, size, C].

    Along an axis of n pixels, output i averages the pixels floor(i n / size) to
    ceil((i + 1) n / size) - 1, as in torch. Where size does not divide n, windows
    differ in length and share pixels.
    """

    size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for axis in (1, 2):
            n = x.shape[axis]
            x = jnp.concatenate([
                lax.slice_in_dim(x, i * n // self.size, -(-(i + 1) * n // self.size),
                                 axis=axis).mean(axis, keepdims=True)
                for i in range(self.size)], axis)
        return x


class GlobalAvgPool(nn.Module):
    """Averages over all pixels: [N, H, W, C] -> [N, C]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return ops.global_avg_pool(x)


class LocalResponseNorm(nn.Module):
    """Computes y = x / (k + a * sum of x^2 over `size` neighbouring channels)^beta.

    divide_by_size: a = alpha / size as in Caffe and torch; else alpha as in the paper.
    See `ops.local_response_norm`. Source: Krizhevsky et al., 2012.
    """

    size: int = 5
    k: float = 2.0
    alpha: float = 1e-4
    beta: float = 0.75
    divide_by_size: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return ops.local_response_norm(x, self.size, self.k, self.alpha, self.beta,
                                       self.divide_by_size)


class BatchNorm(ShapedParams, nn.Module):
    """Normalizes over all axes but the last by batch norm; see `ops.batch_norm`.

    Parameters, statistics and fields are those of `flax.linen.BatchNorm`, plus the two
    fields below. Flax's layer keeps one more image for the gradient, a third of a
    ResNet's working memory.

    unbiased: whether the running variance has the factor n / (n - 1), as in torch.
    groups: number of equal parts of the batch that are normalized separately.
    """

    use_running_average: bool
    epsilon: float = 1e-5
    momentum: float = 0.99
    unbiased: bool = False
    dtype: str | None = None
    axis_name: str | None = None
    groups: int = 1
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Callable = nn.initializers.ones
    bias_init: Callable = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale, bias = scale_and_bias(self, x.shape[-1])
        x = x.astype(self.dtype or jnp.result_type(x, scale))
        if only_shapes.get():
            return of_same_shape(x)
        if self.use_running_average:
            return ops.batch_norm_inference(x, mean.value, var.value, scale, bias,
                                            self.epsilon)
        learns = not self.is_initializing()
        axis_name = self.axis_name if learns else None
        groups = self.groups if learns else 1
        y, new_mean, new_var = ops.batch_norm(x, scale, bias, self.epsilon, axis_name,
                                              groups)
        if learns:
            if self.unbiased:
                devices = lax.psum(1, axis_name) if axis_name else 1
                count = devices * (x.size // x.shape[-1]) / groups
                new_var *= count / max(count - 1, 1)
            for running, new in ((mean, new_mean), (var, new_var)):
                running.value = (self.momentum * running.value
                                 + (1 - self.momentum) * new)
        return y


class GroupNorm(ShapedParams, nn.Module):
    """Normalizes groups of channels of each image; see `ops.group_norm`.

    It has the parameters of `flax.linen.GroupNorm`, and no running statistics.
    groups: the largest number of groups; `group_count` gives the number for C channels.
    """

    groups: int = 32
    epsilon: float = 1e-5
    dtype: str | None = None
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Callable = nn.initializers.ones
    bias_init: Callable = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale, bias = scale_and_bias(self, x.shape[-1])
        x = x.astype(self.dtype or jnp.result_type(x, scale))
        return ops.group_norm(x, scale, bias, group_count(self.groups, x.shape[-1]),
                              self.epsilon)


def group_count(most: int, channels: int) -> int:
    """Returns gcd(most, channels), halved where a group would be a single channel."""
    groups = math.gcd(most, channels)
    return groups if groups < channels else max(1, groups // 2)


class LayerNorm(ShapedParams, nn.Module):
    """Normalizes the channels of each pixel; see `ops.layer_norm`.

    It has the parameters of `flax.linen.LayerNorm`.
    """

    epsilon: float = 1e-6
    dtype: str | None = None
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Callable = nn.initializers.ones
    bias_init: Callable = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale, bias = scale_and_bias(self, x.shape[-1])
        x = x.astype(self.dtype or jnp.result_type(x, scale))
        return ops.layer_norm(x, scale, bias, self.epsilon)


def scale_and_bias(norm: Any, channels: int) -> tuple[jax.Array, jax.Array]:
    """Makes the parameters of a norm, each [C]; ones and zeros for those it lacks."""
    shape_and_dtype = (channels,), jnp.float32
    scale = (norm.param("scale", norm.scale_init, *shape_and_dtype) if norm.use_scale
             else jnp.ones(*shape_and_dtype))
    bias = (norm.param("bias", norm.bias_init, *shape_and_dtype) if norm.use_bias
            else jnp.zeros(*shape_and_dtype))
    return scale, bias


class Dropout(nn.Module):
    """Computes y = x * m / (1 - rate), with m ~ Bernoulli(1 - rate) for each element.

    Every example has its own key, folded from its index in the global batch. So one
    device, a sharded batch and `pmap` over `axis_name` drop the same elements.
    Source: Srivastava et al., 2014.
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if not train or self.rate == 0:
            return x
        index = jnp.arange(x.shape[0])
        if self.axis_name is not None:
            index += x.shape[0] * lax.axis_index(self.axis_name)
        keys = jax.vmap(functools.partial(jax.random.fold_in,
                                          self.make_rng("dropout")))(index)
        keep = jax.vmap(lambda key: jax.random.bernoulli(
            key, 1 - self.rate, x.shape[1:]))(keys)
        return jnp.where(keep, x / (1 - self.rate), jnp.zeros_like(x))
