"""The operations of convolutional networks as pure functions, with their gradients."""

from cnn_jax.ops._xla.compiler import compiler_options, jit
from cnn_jax.ops.activations import materialized_relu
from cnn_jax.ops.bias import add_bias
from cnn_jax.ops.conv import (ALGORITHMS, conv_general_dilated, conv_transpose,
                              convolve, correlate, depthwise_conv, pointwise_conv,
                              separable_conv)
from cnn_jax.ops.dense import dense, softmax_cross_entropy
from cnn_jax.ops.filters import FILTERS
from cnn_jax.ops.group_norm import group_norm, layer_norm
from cnn_jax.ops.integers import is_integer
from cnn_jax.ops.norm import batch_norm, batch_norm_inference, local_response_norm
from cnn_jax.ops.pool import (POOLS, avg_pool, global_avg_pool, global_max_pool,
                              max_pool, max_pool_with_indices)

__all__ = [
    "ALGORITHMS", "FILTERS", "POOLS", "add_bias", "avg_pool", "batch_norm",
    "batch_norm_inference", "conv_general_dilated", "conv_transpose", "convolve",
    "correlate", "dense", "depthwise_conv", "global_avg_pool", "global_max_pool",
    "group_norm", "jit", "layer_norm", "local_response_norm", "max_pool",
    "max_pool_with_indices", "pointwise_conv", "separable_conv",
    "softmax_cross_entropy"]
