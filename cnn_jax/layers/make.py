"""`Layers`: what all layers of a network share; it makes each of them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from cnn_jax import ops
from cnn_jax.layers.modules import BatchNorm, Dropout, GroupNorm, LayerNorm
from cnn_jax.layers.presets import (BATCH_NORM, INITIALIZERS, BatchNormPreset,
                                    Initializers, lookup)
from cnn_jax.layers.weighted import Conv, ConvTranspose, Dense
from cnn_jax.layers.windows import AvgPool, MaxPool, Padding, Pair, fitting, pairs
from cnn_jax.ops.pool.spec import reach_of


# Values of `Layers.bn` without batch statistics: each image is normalized by itself.
IMAGE_NORMS: dict[str, Callable[..., nn.Module]] = {
    "group_norm": functools.partial(GroupNorm, groups=32, epsilon=1e-5),  # the paper's
    "layer_norm": functools.partial(LayerNorm, epsilon=1e-6),  # ConvNeXt's
}


@dataclasses.dataclass(frozen=True)
class Layers:
    """Makes the layers of a network; its fields are what all of them share.

    conv, pool: names in `ops.ALGORITHMS` and `ops.POOLS`.
    dtype: of the computation; parameters and running statistics stay float32.
    init: a name in `INITIALIZERS`, for convolutions and dense layers.
    bn: a name in `BATCH_NORM`, or in `IMAGE_NORMS`, whose layers replace batch norm.
        Under "paper" a network's own epsilon and momentum hold.
    bn_groups: number of equal parts of a batch that batch norm normalizes separately.
    axis_name: the mapped axis of `pmap`, else None.
    remat: whether the gradient recomputes the layers of a block, see `block`.
    """

    conv: str = "auto"
    pool: str = "auto"
    dtype: str = "float32"
    init: str = "flax"
    bn: str = "paper"
    bn_groups: int = 1
    axis_name: str | None = None
    remat: bool = False

    def block(self, kind: Callable, train: bool) -> Callable:
        """Returns a class of blocks, whose `__call__` takes (x, train).

        With `remat`, training keeps only a block's input for the gradient, which
        recomputes the block (Chen, Xu, Zhang, Guestrin: Training deep nets with
        sublinear memory cost, 2016). Parameters and their names are the same.
        """
        return rematerialized(kind) if self.remat and train else kind

    @property
    def initializers(self) -> Initializers:
        return lookup(INITIALIZERS, "initializer", self.init)

    @property
    def implementation(self) -> Callable:
        lookup(ops.ALGORITHMS, "convolution", self.conv)
        return fitting(ops.conv_general_dilated(self.conv))

    def weighted(self, fields: dict) -> dict:
        """Adds the fields that all layers with a kernel share."""
        return {"kernel_init": self.initializers.kernel,
                "fan_in_bias": self.initializers.bias, "dtype": self.dtype} | fields

    def convolution(self, features: int, kernel: Pair, strides: Pair | int = 1,
                    padding: Padding = "SAME", **fields: Any) -> Conv:
        return Conv(features=features, kernel_size=kernel, strides=strides,
                    padding=pairs(padding, kernel),
                    conv_general_dilated=self.implementation, **self.weighted(fields))

    def conv_transpose(self, features: int, kernel: Pair, strides: Pair | int = 1,
                       padding: Padding = "SAME", **fields: Any) -> ConvTranspose:
        lookup(ops.ALGORITHMS, "convolution", self.conv)
        return ConvTranspose(features=features, kernel_size=kernel, strides=strides,
                             padding=pairs(padding, kernel), implementation=self.conv,
                             **self.weighted(fields))

    def dense(self, features: int, **fields: Any) -> Dense:
        return Dense(features=features, **self.weighted(fields))

    def batch_norm(self, train: bool, epsilon: float | None = None,
                   momentum: float | None = None, **fields: Any) -> nn.Module:
        """Makes batch norm, or the norm of `IMAGE_NORMS` that `bn` names.

        epsilon, momentum: the network's own values, which bn="paper" takes.
        """
        if self.bn in IMAGE_NORMS:
            return IMAGE_NORMS[self.bn](dtype=self.dtype, **fields)
        preset = lookup(BATCH_NORM, "batch-norm preset", self.bn)
        if self.bn == "paper":
            preset = BatchNormPreset(epsilon or preset.epsilon,
                                     momentum or preset.momentum)
        return BatchNorm(not train, dtype=self.dtype,
                         axis_name=self.axis_name if train else None,
                         groups=self.bn_groups if train else 1,
                         **preset._asdict(), **fields)

    def dropout(self, rate: float, **fields: Any) -> Dropout:
        if not 0 <= rate < 1:
            raise ValueError(f"dropout rate {rate} must be at least 0 and below 1")
        return Dropout(rate, self.axis_name, **fields)

    def max_pool(self, window: Pair, strides: Pair | None = None,
                 padding: Padding = "VALID", dilation: Pair = (1, 1),
                 **fields: Any) -> MaxPool:
        return MaxPool(window, strides or window,
                       pairs(padding, reach_of(window, dilation)), dilation=dilation,
                       implementation=self.pool, **fields)

    def avg_pool(self, window: Pair, strides: Pair | None = None,
                 padding: Padding = "VALID", dilation: Pair = (1, 1),
                 **fields: Any) -> AvgPool:
        return AvgPool(window, strides or window,
                       pairs(padding, reach_of(window, dilation)), dilation=dilation,
                       implementation=self.pool, **fields)


@functools.cache
def rematerialized(kind: Callable) -> Callable:
    """Wraps a class of blocks in `jax.checkpoint`."""
    return nn.remat(kind, static_argnums=(2,))  # self, x, train
