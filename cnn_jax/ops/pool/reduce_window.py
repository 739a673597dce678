"""Pooling by XLA's `reduce_window`, for GPUs and TPUs."""

import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from cnn_jax.ops.pool import windows
from cnn_jax.ops.pool.spec import PoolSpec


def _options(spec: PoolSpec) -> dict[str, Any]:
    return {"window_dimensions": (1, *spec.window, 1),
            "window_strides": (1, *spec.strides, 1),
            "padding": ((0, 0), *spec.padding, (0, 0)),
            "window_dilation": (1, *spec.dilation, 1)}


def max_pool(x: jax.Array, spec: PoolSpec) -> jax.Array:
    return (_max if max(spec.dilation) == 1 else _dilated_max)(x, spec)


def _max(x: jax.Array, spec: PoolSpec) -> jax.Array:
    return lax.reduce_window(x, windows.lowest(x.dtype), lax.max, **_options(spec))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _dilated_max(x: jax.Array, spec: PoolSpec) -> jax.Array:
    return _max(x, spec)


# JAX has no gradient of a dilated maximum. XLA's select_and_scatter has no dilation.
_dilated_max.defvjp(
    lambda x, spec: (_dilated_max(x, spec), x),
    lambda spec, x, g: jax.vjp(lambda x: windows.max_pool(x, spec), x)[1](g))


def mean_pool(x: jax.Array, spec: PoolSpec) -> jax.Array:
    total = lax.reduce_window(x, np.zeros((), x.dtype), lax.add, **_options(spec))
    return total / windows.counts(spec, x.dtype)[None]


def max_indices(x: jax.Array, spec: PoolSpec) -> jax.Array:
    """Reduces pairs of a value and the number of its pixel."""
    image = 1, *spec.x_shape[1:-1], 1
    number = jnp.broadcast_to(
        np.arange(np.prod(image), dtype=np.int32).reshape(image), x.shape)
    last = np.asarray(np.iinfo(np.int32).max, np.int32)
    return lax.reduce_window((x, number), (windows.lowest(x.dtype), last), _first_max,
                             **_options(spec))[1]


def _first_max(a: windows.Arrays, b: windows.Arrays) -> windows.Arrays:
    """Chooses the greater value; of equals, and of NaNs, the first pixel's."""
    (x, i), (y, j) = a, b
    x_is_nan, y_is_nan = x != x, y != y
    tie = (x == y) | (x_is_nan & y_is_nan)
    first = (x > y) | (x_is_nan & ~y_is_nan) | (tie & (i < j))
    return lax.select(first, x, y), lax.select(first, i, j)
