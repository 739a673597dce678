"""Bounds the time of a layer, or of a program, by the peaks of a device (a roofline).

    time >= max(FLOPs / peak FLOP/s, bytes / memory bandwidth)

Source: Williams, Waterman and Patterson, "Roofline: an insightful visual performance
model for multicore architectures", 2009.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cnn_jax.errors import first_line


class Peak(NamedTuple):
    """The peak rates of a device, without sparsity.

    The FLOP/s are those of the products that JAX computes by default for each dtype:
    for float32 TF32, or one pass of bfloat16, where the hardware has it.
    """

    bfloat16: float   # FLOP/s
    float32: float    # FLOP/s
    bandwidth: float  # bytes/s
    memory: float     # bytes

    def seconds(self, flops: float, size: float, dtype: str = "bfloat16") -> float:
        """Returns the least time in seconds for `flops` FLOPs that move `size` bytes.
        """
        return max(flops / getattr(self, dtype), size / self.bandwidth)


def peak(bfloat16: float, float32: float, bandwidth: float, memory: float) -> Peak:
    """Makes a `Peak` from TFLOP/s, TFLOP/s, GB/s and GiB."""
    return Peak(bfloat16 * 1e12, float32 * 1e12, bandwidth * 1e9, memory * 2**30)


PEAKS = {
    # Google Cloud's pages on each TPU version; figures of one chip.
    "tpu-v2": peak(46, 46, 600, 16),
    "tpu-v3": peak(123, 123, 900, 32),
    "tpu-v4": peak(275, 275, 1228, 32),
    "tpu-v5e": peak(197, 197, 819, 16),
    "tpu-v5p": peak(459, 459, 2765, 95),
    "tpu-v6e": peak(918, 918, 1640, 32),
    # NVIDIA's data sheets. T4 and V100 have no bfloat16: XLA computes it in float32.
    "t4": peak(8.1, 8.1, 320, 16),
    "v100": peak(15.7, 15.7, 900, 16),
    "l4": peak(121, 60, 300, 24),
    "a10": peak(125, 62.5, 600, 24),
    "a100-40gb": peak(312, 156, 1555, 40),
    "a100": peak(312, 156, 2039, 80),
    "h100": peak(989, 495, 3350, 80),
    "h200": peak(989, 495, 4800, 141),
}
HERE = "cpu"  # measured, see `measure`


def peak_of(name: str) -> Peak:
    """Returns the peaks of a device.

    'cpu' is this machine's CPU; measuring its peaks takes seconds.
    Raises ValueError for an unknown name, or where JAX_PLATFORMS leaves out the CPU.
    """
    if name == HERE:
        return measure()
    if name not in PEAKS:
        raise ValueError(f"{name!r} is not known: {', '.join(PEAKS)}, or {HERE} for "
                         "this machine's CPU")
    return PEAKS[name]


def measure(side: int = 1024, numbers: int = 2**25, rounds: int = 5) -> Peak:
    """Measures this machine's CPU: products of matrices, and sums over an array.

    side: of the square matrices. numbers: of float32 in the array that is read.
    rounds: number of timings of each; the fastest counts.
    """
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        raise ValueError(f"{HERE!r}: JAX has no CPU here ({first_line(error)}): append "
                         "',cpu' to JAX_PLATFORMS") from error

    def rate(function: Callable, argument: Any, work: float) -> float:
        program = jax.jit(function)
        jax.block_until_ready(program(argument))
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            jax.block_until_ready(program(argument))
            seconds.append(time.perf_counter() - start)
        return work / min(seconds)

    with jax.default_device(cpu):
        flops = {dtype: rate(lambda x: x @ x, jnp.ones((side, side), dtype),
                             2.0 * side**3) for dtype in ("bfloat16", "float32")}
        bandwidth = rate(jnp.sum, jnp.ones(numbers), 4.0 * numbers)
    return Peak(flops["bfloat16"], flops["float32"], bandwidth, float("nan"))
