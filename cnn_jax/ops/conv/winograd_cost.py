"""Which 3 x 3 convolutions the native library computes by Winograd's method.

F(4 x 4, 3 x 3) takes a quarter of the products of a convolution, F(2 x 2, 3 x 3) four
ninths. Both must transform the image, the result and the weights, which pays only with
many channels, and tiles of 4 x 4 do not fit on images of 2 x 2. The costs below are
picoseconds of one core of an AMD EPYC (Zen 5, AVX-512) at 260 GFLOP/s; the choice is
made by their ratios, which another processor may have otherwise.
"""

import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from cnn_jax.ops.geometry import ConvSpec

CHANNELS = 16  # what the library computes at a time; channels are multiples of it


class Cost(NamedTuple):
    """Of F(m x m, 3 x 3)."""

    product: float    # of a tile, for each channel and output
    image: float      # a tile, for each channel or output: to transform both
    weights: float    # for each channel and output: to transform the weights


COSTS = {4: Cost(277, 7400, 6000), 2: Cost(123, 2500, 3400)}
# Of a pixel in oneDNN, for each channel and output.
DIRECT = {jnp.dtype("float32"): 80, jnp.dtype("bfloat16"): 50}


def of_default_precision(spec: ConvSpec) -> bool:
    """False if more is asked for, of this convolution or by
    `jax.default_matmul_precision`: the errors of a tile are of the size of its largest
    products."""
    each = spec.precision if isinstance(spec.precision, tuple) else (spec.precision,)
    asked = {one or jax.config.jax_default_matmul_precision for one in each}
    return asked <= {None, lax.Precision.DEFAULT, "default", "fastest", "bfloat16"}


def takes(spec: ConvSpec, dtype) -> bool:
    """True if the library has this convolution by Winograd's method."""
    return (dtype in DIRECT and spec.kernel == (3, 3) and spec.groups == 1
            and max(spec.strides + spec.lhs_dilation + spec.rhs_dilation) == 1
            and spec.x_shape[-1] % CHANNELS == spec.w_shape[-1] % CHANNELS == 0
            and of_default_precision(spec))


def tile_of(spec: ConvSpec, dtype) -> int:
    """m of F(m x m, 3 x 3), which computes this convolution and its gradients; 0 if
    oneDNN does it in less time."""
    dtype = jnp.dtype(dtype)
    if not takes(spec, dtype):
        return 0
    images, channels, outputs = spec.x_shape[0], spec.x_shape[-1], spec.w_shape[-1]
    weights = channels * outputs

    def cost(m: int) -> float:
        tiles = images * math.prod(-(-pixels // m) for pixels in spec.out)
        one = COSTS[m]
        return (tiles * (one.product * weights + one.image * (channels + outputs))
                + one.weights * weights)

    best = min(COSTS, key=cost)
    direct = DIRECT[dtype] * images * math.prod(spec.out) * weights
    return best if cost(best) < direct else 0
