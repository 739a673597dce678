"""ReLU whose output more than one layer reads."""

import jax
from jax import lax
import jax.numpy as jnp

from cnn_jax.ops._xla.compiler import materialize


@jax.custom_jvp
def materialized_relu(x: jax.Array) -> jax.Array:
    """Computes max(x, 0) and materializes it on CPU; the derivative is 0 at 0.

    Residual blocks use it. Otherwise XLA would recompute the sum of all blocks before
    this one, for every reader and for the mask of the gradient.
    """
    return materialize(jnp.maximum(x, 0))


@materialized_relu.defjvp
def _materialized_relu_jvp(primals: tuple[jax.Array],
                           tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    y, t = materialized_relu(*primals), *tangents
    return y, lax.select(y > 0, t, lax.full_like(t, 0))
