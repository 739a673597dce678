"""NumPy code as an operation: run on the host, called back from compiled programs."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
import numpy as np


def on_host(function: Callable, shape: Callable, in_float64: bool = True) -> Callable:
    """`function(*arrays, spec)` on NumPy arrays -> the same under jit, vmap and pmap.

    shape(spec) is the shape of the result, whose dtype is that of the arrays. With
    `in_float64` the function works in float64 and the result is rounded once.
    """
    @functools.wraps(function)
    def called(*arguments):
        *arrays, spec = arguments
        dtype = np.dtype(arrays[0].dtype)
        # The thread of a callback does not know `enable_x64(True)` and would round
        # 8-byte numbers to 4 bytes, so they travel as pairs of 4-byte words.
        wide = dtype.itemsize == 8
        if dtype.kind == "c":
            raise ValueError(f"loops on the host take real arrays, received {dtype} "
                             f"{', '.join(str(a.shape) for a in arrays)}")

        def host(*arrays):
            arrays = [np.asarray(a) for a in arrays]
            if wide:
                arrays = [np.ascontiguousarray(a).view(dtype)[..., 0] for a in arrays]
            if in_float64:
                arrays = [a.astype(np.float64) for a in arrays]
            result = np.asarray(function(*arrays, spec), dtype)
            return result[..., None].view(np.uint32) if wide else result

        if wide:
            arrays = [lax.bitcast_convert_type(a, jnp.uint32) for a in arrays]
            result = jax.ShapeDtypeStruct((*shape(spec), 2), jnp.uint32)
        else:
            result = jax.ShapeDtypeStruct(shape(spec), dtype)
        result = jax.pure_callback(host, result, *arrays, vmap_method="sequential")
        return lax.bitcast_convert_type(result, dtype) if wide else result
    return called
