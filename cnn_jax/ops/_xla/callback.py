"""Runs NumPy code on the host as an operation, called back from compiled programs."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
import numpy as np


def on_host(function: Callable[..., np.ndarray],
            shape: Callable[[Any], tuple[int, ...]],
            in_float64: bool = True) -> Callable[..., jax.Array]:
    """Makes `function(*arrays, spec)` of NumPy arrays work under jit, vmap and pmap.

    shape(spec) is the shape of the result; its dtype is that of the arrays. With
    `in_float64` the function computes in float64 and the result is rounded once.
    """
    @functools.wraps(function)
    def called(*arguments: Any) -> jax.Array:
        *arrays, spec = arguments
        dtype = np.dtype(arrays[0].dtype)
        # The thread of a callback does not know `enable_x64(True)` and would round
        # 8-byte numbers to 4 bytes, so they travel as pairs of 4-byte words.
        wide = dtype.itemsize == 8
        if dtype.kind == "c":
            raise ValueError(f"loops on the host take real arrays, received {dtype} "
                             f"{', '.join(str(a.shape) for a in arrays)}")

        def host(*arrays: Any) -> np.ndarray:
            operands = [np.asarray(a) for a in arrays]
            if wide:
                operands = [np.ascontiguousarray(a).view(dtype)[..., 0]
                            for a in operands]
            if in_float64:
                operands = [a.astype(np.float64) for a in operands]
            result = np.asarray(function(*operands, spec), dtype)
            return result[..., None].view(np.uint32) if wide else result

        if wide:
            arrays = [lax.bitcast_convert_type(a, jnp.uint32) for a in arrays]
            result = jax.ShapeDtypeStruct((*shape(spec), 2), jnp.uint32)
        else:
            result = jax.ShapeDtypeStruct(shape(spec), dtype)
        result = jax.pure_callback(host, result, *arrays, vmap_method="sequential")
        return lax.bitcast_convert_type(result, dtype) if wide else result
    return called
