"""The bias of a convolution or a dense layer."""

import jax
from jax import lax
import jax.numpy as jnp

from cnn_jax.ops._xla.shard_map import match_varying_axes

Arrays = tuple[jax.Array, jax.Array]


def add_bias(y: jax.Array, b: jax.Array) -> jax.Array:
    """Adds a bias: y [..., O] + b [O];  db = sum of g over all axes but the last.

    Each gradient has the dtype of its operand; the dtypes may differ.
    """
    return _add_bias(*match_varying_axes(y, b))


@jax.custom_vjp
def _add_bias(y: jax.Array, b: jax.Array) -> jax.Array:
    return y + lax.broadcast_to_rank(b, y.ndim)


def _add_bias_backward(residuals: Arrays, g: jax.Array) -> Arrays:
    y, b = residuals
    return g.astype(y.dtype), g.sum(tuple(range(g.ndim - 1))).astype(b.dtype)


_add_bias.defvjp(  # keeps the dtype of y, not the image
    lambda y, b: (_add_bias(y, b), (jnp.zeros((), y.dtype), b)), _add_bias_backward)
