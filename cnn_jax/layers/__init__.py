"""The layers that networks are made of: Linen modules over `cnn_jax.ops`.

`Layers` holds everything about a network that is not its architecture: which
implementation computes a convolution, the compute dtype, the initializer, the
batch-norm preset, and the mapped axis over which devices must agree. A network
receives one `Layers` and makes each of its layers through it, so that

    LeNet5(num_classes=10, layers=Layers(conv="im2col", dtype="bfloat16"))

is the same architecture with the same parameter tree. Images are NHWC, kernels HWIO.
"""

import cnn_jax.native.register  # gives its convolutions to ops
from cnn_jax.layers.make import IMAGE_NORMS, Layers
from cnn_jax.layers.modules import (Activation, AdaptiveAvgPool, Add, BatchNorm,
                                    Concat, Dropout, Flatten, GlobalAvgPool,
                                    GroupNorm, LayerNorm, LocalResponseNorm, Subsample,
                                    ZeroPad)
from cnn_jax.layers.presets import (ACTIVATIONS, BATCH_NORM, INITIALIZERS,
                                    BatchNormPreset, Initializers, lookup)
from cnn_jax.layers.shapes import eval_shape
from cnn_jax.layers.weighted import Conv, ConvTranspose, Dense
from cnn_jax.layers.windows import (AvgPool, MaxPool, Padding, Pair, WindowError,
                                    not_empty, pairs)

__all__ = [
    "ACTIVATIONS", "Activation", "AdaptiveAvgPool", "Add", "AvgPool", "BATCH_NORM",
    "BatchNorm", "Concat", "Conv", "ConvTranspose", "Dense", "Dropout", "Flatten",
    "GlobalAvgPool", "GroupNorm", "INITIALIZERS", "LayerNorm", "Layers",
    "LocalResponseNorm", "MaxPool", "Subsample", "ZeroPad", "eval_shape"]
