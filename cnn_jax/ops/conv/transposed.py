"""Weight gradient by XLA's convolution of images transposed to [C, *spatial, N].

A product with the identity matrix transposes them exactly. XLA's own transpose moves
one element at a time. It would also slow down a batch norm that XLA fuses into it.
"""

import jax
from jax import lax
import jax.numpy as jnp

from cnn_jax.ops.conv import lax as conv_lax
from cnn_jax.ops.conv.spec import ConvSpec


def weight_gradient(x: jax.Array, g: jax.Array, spec: ConvSpec) -> jax.Array:
    inner = jnp.moveaxis(x, 0, -2)  # [*spatial, N, C]
    product = lax.dot_general(
        jnp.eye(x.shape[-1], dtype=x.dtype), inner.reshape(-1, x.shape[-1]),
        (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)
    xt = product.reshape(x.shape[-1], *inner.shape[:-1])  # [C, *spatial, N]
    return conv_lax.weight_gradient_of_transposed(xt, jnp.moveaxis(g, 0, -2), spec)
