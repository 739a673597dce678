"""Our networks on Flax's own layers: what a user of `flax.linen` alone would write."""

import dataclasses

import flax.linen as nn

from cnn_jax.layers import BATCH_NORM, Layers, pairs


@dataclasses.dataclass(frozen=True)
class PlainFlax(Layers):
    """`nn.Conv`, `nn.BatchNorm` and XLA's `reduce_window`, with the same parameters."""

    pool: str = "lax"

    def convolution(self, features, kernel, strides=1, padding="SAME", **fields):
        fields.setdefault("kernel_init", self.initializers.kernel)
        return nn.Conv(features, kernel, strides, pairs(padding, kernel),
                       dtype=self.dtype, **fields)

    def batch_norm(self, train, epsilon=None, momentum=None, **fields):
        preset = BATCH_NORM[self.bn]
        if self.bn != "paper":
            epsilon = momentum = None
        return nn.BatchNorm(not train, dtype=self.dtype, **fields,
                            epsilon=epsilon or preset.epsilon,
                            momentum=momentum or preset.momentum)
