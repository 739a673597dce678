"""Runs NumPy code on the host as an operation, called back from compiled programs."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
import numpy as np


def on_host(function: Callable[..., np.ndarray],
            shape: Callable[[Any], tuple[int, ...]],
            in_float64: bool = True,
            dtype: DTypeLike | None = None) -> Callable[..., jax.Array]:
    """Makes `function(*arrays, spec)` of NumPy arrays work under jit, vmap and pmap.

    The result has the shape shape(spec) and the dtype `dtype` (None: that of the
    arrays). With `in_float64` the function computes in float64 and the result is
    rounded once.
    """
    @functools.wraps(function)
    def called(*arguments: Any) -> jax.Array:
        *arrays, spec = arguments
        received = np.dtype(arrays[0].dtype)
        returned = np.dtype(dtype or received)
        # `enable_x64(True)` does not hold in a callback's thread, which would round
        # 8-byte numbers to 4 bytes. So they are passed as pairs of 4-byte words.
        wide = received.itemsize == 8
        if received.kind == "c":
            raise ValueError(f"loops on the host take real arrays, received {received} "
                             f"{', '.join(str(a.shape) for a in arrays)}: use 'lax'")

        def host(*arrays: Any) -> np.ndarray:
            operands = [np.asarray(a) for a in arrays]
            if wide:
                operands = [np.ascontiguousarray(a).view(received)[..., 0]
                            for a in operands]
            if in_float64:
                operands = [a.astype(np.float64) for a in operands]
            result = np.asarray(function(*operands, spec), returned)
            return (result[..., None].view(np.uint32) if returned.itemsize == 8
                    else result)

        if wide:
            arrays = [lax.bitcast_convert_type(a, jnp.uint32) for a in arrays]
        if returned.itemsize < 8:
            return jax.pure_callback(
                host, jax.ShapeDtypeStruct(shape(spec), returned), *arrays,
                vmap_method="sequential")
        word_pairs = jax.ShapeDtypeStruct((*shape(spec), 2), jnp.uint32)
        return lax.bitcast_convert_type(jax.pure_callback(
            host, word_pairs, *arrays, vmap_method="sequential"), returned)
    return called
