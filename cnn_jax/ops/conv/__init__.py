"""Convolution: the operations, and one file per algorithm."""

from cnn_jax.ops.conv.operations import (CONVS, PASSES, conv_transpose, convolve,
                                         correlate, depthwise_conv, describe,
                                         implementation_of,
                                         pointwise_conv, separable_conv)
