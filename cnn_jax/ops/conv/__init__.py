"""Convolution: the operations, and one file per algorithm."""

from cnn_jax.ops.conv.operations import (conv_general_dilated, conv_transpose,
                                         convolve, correlate, depthwise_conv,
                                         pointwise_conv, separable_conv)
from cnn_jax.ops.conv.registry import ALGORITHMS, select
from cnn_jax.ops.conv.spec import ConvSpec, conv_spec
