"""Measures the peak of this machine by a matrix product."""

import time

import jax
import jax.numpy as jnp


def matrix_gflops(size: int = 2048) -> float:
    """Measures a float32 matrix product of this machine, the best of 10."""
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.matmul).lower(a, a).compile()
    seconds = []
    for _ in range(10):
        begun = time.perf_counter()
        jax.block_until_ready(product(a, a))
        seconds.append(time.perf_counter() - begun)
    return 2 * size ** 3 / min(seconds) / 1e9
