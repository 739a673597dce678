"""Layers with a kernel and a bias: convolution, dense layer, transposed convolution.

Convolution and dense layer are Flax's, with an option that initializes the bias from
the fan-in.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import ops
from cnn_jax.layers.shapes import ShapedParams
from cnn_jax.layers.windows import Padding, Pair


class BiasByFanIn(ShapedParams):
    """Mixin: initializes the bias from the kernel's fan-in.

    Linen does not pass the fan-in to `bias_init`. The field `fan_in_bias` makes the
    initializer from it; None means `bias_init`.
    """

    def param(self: Any, name: str, init_fn: Callable, *args: Any,
              **kwargs: Any) -> Any:
        if name == "bias" and self.fan_in_bias is not None:
            kernel = self.get_variable("params", "kernel")  # made before the bias
            init_fn = self.fan_in_bias(math.prod(kernel.shape[:-1]))
        return ShapedParams.param(self, name, init_fn, *args, **kwargs)


class Conv(BiasByFanIn, nn.Conv):
    """Convolves [N, H, W, C] -> [N, H', W', features].

    The kernel is [h, w, C / groups, features]. Fields are those of `flax.linen.Conv`.
    """

    fan_in_bias: Callable[[int], Callable] | None = None


class Dense(BiasByFanIn, nn.Dense):
    """Computes y = x W + b over the last axis, with `flax.linen.Dense`'s fields."""

    fan_in_bias: Callable[[int], Callable] | None = None


class ConvTranspose(BiasByFanIn, nn.Module):
    """Computes a transposed convolution: the input gradient of a convolution.

    [N, H, W, C] -> [N, H', W', features], kernel [h, w, features / groups, C], the
    layout of Keras and, with its axes moved, of torch. SAME gives
    H' = H * stride + output_padding, other paddings give

        H' = (H - 1) * stride + (h - 1) * dilation + 1 - low - high + output_padding

    Initializers count features / groups * h * w as the fan-in, as Keras and torch do.
    See `ops.conv_transpose`. Source: Zeiler et al., Deconvolutional networks, 2010.

    implementation: a name in `ops.ALGORITHMS`, whose input gradient this is.
    """

    features: int
    kernel_size: Pair
    strides: Pair | int = 1
    padding: Padding = "SAME"
    output_padding: Pair | int = 0
    kernel_dilation: Pair | int = 1
    feature_group_count: int = 1
    use_bias: bool = True
    dtype: str | None = None
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = nn.initializers.zeros
    fan_in_bias: Callable[[int], Callable] | None = None
    implementation: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels, groups = x.shape[-1], self.feature_group_count
        if self.features % groups or channels % groups:
            raise ValueError(f"ConvTranspose: {channels} channels and {self.features} "
                             f"features must be multiples of {groups} groups")
        kernel = self.param("kernel", self.kernel_init, (
            *self.kernel_size, self.features // groups, channels), jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,),
                          jnp.float32) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return ops.conv_transpose(
            x, kernel, bias, self.strides, self.padding, self.output_padding,
            self.kernel_dilation, groups, self.implementation)
