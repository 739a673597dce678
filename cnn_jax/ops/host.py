"""NumPy code as an operation: run on the host, called back from compiled programs."""

import functools
from collections.abc import Callable

import jax
import numpy as np


def on_host(function: Callable, shape: Callable, in_float64: bool = True) -> Callable:
    """`function(*arrays, spec)` on NumPy arrays -> the same under jit, vmap and pmap.

    shape(spec) is the shape of the result, whose dtype is that of the arrays. With
    `in_float64` the function works in float64 and the result is rounded once.
    """
    @functools.wraps(function)
    def called(*arguments):
        *arrays, spec = arguments
        dtype = arrays[0].dtype

        def host(*arrays):
            arrays = [np.asarray(a, np.float64 if in_float64 else None) for a in arrays]
            return np.asarray(function(*arrays, spec), dtype)
        result = jax.ShapeDtypeStruct(shape(spec), dtype)
        return jax.pure_callback(host, result, *arrays, vmap_method="sequential")
    return called
