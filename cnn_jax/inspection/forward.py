"""Compiles forward passes of a trained network over batches of pixels."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import ops
from cnn_jax.data.scaling import Scaling, scale

# (network, variables, the network's input [N, H, W, C], more arrays [N, ...]) -> a tree
# of arrays [N, ...]
NetworkFunction = Callable[..., Any]


def compute_logits(network: nn.Module, variables: Any, images: jax.Array) -> jax.Array:
    """Computes the logits of evaluation, float32 [N, classes] or [N, H, W, classes].
    """
    return jnp.asarray(network.apply(variables, images, train=False), jnp.float32)


@functools.lru_cache(maxsize=32)
def compiled(function: Callable) -> Callable:
    """Compiles function(network, ...) once for each network and shape."""
    return ops.jit(function, static_argnums=0)


def batch_program(function: NetworkFunction, network: nn.Module, variables: Any,
                  scaling: Scaling, size: int) -> Callable[..., Any]:
    """Compiles pixels, ... -> function(network, variables, inputs, ...), NumPy arrays.

    The pixels are uint8 [n, H, W, C] with n <= `size`. A smaller batch is padded, so
    that one program serves all batches; `function` must treat every image on its own.
    """
    # The variables are an argument: a closure would compile them in as constants.
    program = ops.jit(
        lambda variables, pixels, *more: function(
            network, variables, scale(pixels, scaling), *more))

    def compute(pixels: np.ndarray, *more: np.ndarray) -> Any:
        full = [np.resize(x, (size, *x.shape[1:])) for x in (pixels, *more)]
        return jax.tree.map(lambda x: np.asarray(x)[:len(pixels)],
                            program(variables, *full))
    return compute
