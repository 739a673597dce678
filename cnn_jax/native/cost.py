"""Decides which method of the native library computes a convolution.

F(4 x 4, 3 x 3) takes a quarter of the products of a convolution, F(2 x 2, 3 x 3) four
ninths. Both must transform the image, the result and the weights, which pays off only
with many channels. Tiles of 4 x 4 do not fit on images of 2 x 2. The costs below are
picoseconds of one core of an AMD EPYC (Zen 5, AVX-512) at 260 GFLOP/s. Only their
ratios matter; another processor may have other ratios.
"""

import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cnn_jax.native import library
from cnn_jax.ops.conv import (auto, lax as conv_lax, padded, phases, pointwise,
                              transposed)
from cnn_jax.ops.conv.spec import ConvSpec

# The passes, numbered as in convolution.cc.
FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = range(3)

# Methods, numbered as in convolution.cc: oneDNN, im2col (im2col.h), Winograd's
# F(2 x 2, 3 x 3) and F(4 x 4, 3 x 3) (winograd.h). OPS is what `ops` computes in JAX.
OPS, ONEDNN, IM2COL, WINOGRAD_2, WINOGRAD_4 = -1, 0, 1, 2, 4
NAMES = {ONEDNN: "onednn", IM2COL: "native im2col",
         WINOGRAD_2: "native Winograd F(2 x 2, 3 x 3)",
         WINOGRAD_4: "native Winograd F(4 x 4, 3 x 3)"}


class Few(NamedTuple):
    """Where im2col is faster than oneDNN: up to so many pixels of the batch."""

    pixels: int
    pointwise: int  # pixels, with 1 x 1 kernels
    channels: int   # at least so many, and outputs


FEW = {FORWARD: Few(1024, 4096, 24), INPUT_GRADIENT: Few(8192, 8192, 8),
       WEIGHT_GRADIENT: Few(4096, 50_000, 24)}
# XLA's product computes the input gradient of 1 x 1 kernels of so many channels.
MANY_CHANNELS = 1000
FEW_PIXELS, FEW_CHANNELS = 2048, 24  # against `ops`
FEW_PIXELS_BFLOAT16 = 512  # against oneDNN, with 1 x 1 kernels

# Without oneDNN, im2col replaces these passes of `ops`.
SLOWER = {*conv_lax.plain, padded.forward, padded.input_gradient,
          phases.input_gradient, transposed.weight_gradient, pointwise.weight_gradient}

CHANNELS = 16  # numbers of channels must be multiples: the library computes 16 at once


class Cost(NamedTuple):
    """Picoseconds of F(m x m, 3 x 3)."""

    product: float  # the products of a tile, for each pair of channel and output
    image: float    # transforming a tile, for each channel and for each output
    weights: float  # transforming the weights, for each pair of channel and output
    packed: float   # reading transformed weights from memory, by all threads, per pair


COSTS = {4: Cost(277, 7400, 6000, 32000), 2: Cost(123, 2500, 3400, 14000)}
# Picoseconds of a pixel in oneDNN, for each pair of channel and output. Those of
# bfloat16 were fitted on a Zen 4, in the unit of the other costs.
DIRECT = {jnp.dtype("float32"): 80, jnp.dtype("bfloat16"): 33}
DIRECT_PACKED = 1000  # reading packed weights, per pair


def has_default_precision(spec: ConvSpec) -> bool:
    """Tells whether the default precision is enough for this convolution.

    `spec.precision` or `jax.default_matmul_precision` may ask for more. The rounding
    errors of Winograd's method are relative to the largest products in a tile.
    """
    given = spec.precision if isinstance(spec.precision, tuple) else (spec.precision,)
    default = jax.config.values["jax_default_matmul_precision"]
    precisions = {precision or default for precision in given}
    return precisions <= {None, lax.Precision.DEFAULT, "default", "fastest", "bfloat16"}


def supports(spec: ConvSpec, dtype: DTypeLike) -> bool:
    """Tells whether the library supports Winograd's method for this convolution."""
    return (dtype in DIRECT and spec.kernel == (3, 3) and spec.groups == 1
            and max(spec.strides + spec.lhs_dilation + spec.rhs_dilation) == 1
            and spec.x_shape[-1] % CHANNELS == spec.w_shape[-1] % CHANNELS == 0
            and has_default_precision(spec))


def tile_of(spec: ConvSpec, dtype: DTypeLike, packed: bool = False) -> int:
    """Chooses m of F(m x m, 3 x 3) for a convolution and its gradients.

    It is 0 where oneDNN takes less time.
    packed: whether the weights have been packed, for either method.
    """
    dtype = jnp.dtype(dtype)
    if not supports(spec, dtype):
        return 0
    images, channels, outputs = spec.x_shape[0], spec.x_shape[-1], spec.w_shape[-1]
    weights = channels * outputs

    def cost(m: int) -> float:
        tiles = images * math.prod(-(-pixels // m) for pixels in spec.out)
        costs = COSTS[m]
        return (tiles * (costs.product * weights + costs.image * (channels + outputs))
                + (costs.packed if packed else costs.weights) * weights)

    best = min(COSTS, key=cost)
    direct = (DIRECT[dtype] * images * math.prod(spec.out)
              + DIRECT_PACKED * packed) * weights
    return best if cost(best) < direct else 0


def method_of(kind: int, spec: ConvSpec, dtype: DTypeLike) -> int:
    """Chooses the method for one pass of a convolution."""
    tile = tile_of(spec, dtype)
    if tile:
        return tile
    if prefers_im2col(kind, spec, dtype):
        return IM2COL
    return OPS if is_wide(kind, spec, dtype) else without_choice()


def without_choice() -> int:
    """Returns the method that computes all convolutions, with the least rounding."""
    return ONEDNN if library.wants_onednn() else OPS


def is_wide(kind: int, spec: ConvSpec, dtype: DTypeLike) -> bool:
    """Tells whether the pass is the input gradient of a 1 x 1 kernel of many channels.

    As a product of matrices in XLA it is 1.3 times as fast as oneDNN, and 1.1 times as
    fast as im2col (geometric means of 52 shapes; see `prefers_im2col`).
    """
    return (kind == INPUT_GRADIENT and dtype == jnp.float32 and auto.is_pointwise(spec)
            and max(spec.strides) == 1 and spec.w_shape[-2] >= MANY_CHANNELS)


def prefers_im2col(kind: int, spec: ConvSpec, dtype: DTypeLike) -> bool:
    """Tells whether im2col takes less time than oneDNN or, without it, than `ops`.

    It reads the weights where they lie. oneDNN copies them at each call, which is most
    of its work where there are few pixels. FEW and MANY_CHANNELS were fitted to the
    times of 200 shapes of the registered networks (`experiments/auto_grid.py`, two runs
    on 2 cores of an AMD EPYC, Zen 4).

    Against `ops`, on 111 shapes, it is 1.2 times as fast (geometric mean) in forward
    passes of 1 x 1 kernels and few pixels, 1.3 in their weight gradients, and 1.4, 1.4
    and 2.4 in the passes of larger kernels.

    In bfloat16 it computes all weight gradients: it is 2.0 times as fast as oneDNN in
    float32 (geometric mean of 35 layers of ResNet-50 and MobileNetV2). In the other
    passes it is faster with 1 x 1 kernels and few pixels alone: 1.3 times.
    """
    if spec.groups > 1 or is_wide(kind, spec, dtype):
        return False
    pixels = spec.x_shape[0] * math.prod(spec.out)
    if dtype == jnp.bfloat16:
        return kind == WEIGHT_GRADIENT or (
            auto.is_pointwise(spec) and pixels <= FEW_PIXELS_BFLOAT16)
    if library.wants_onednn():
        few = FEW[kind]
        most = few.pointwise if auto.is_pointwise(spec) else few.pixels
        return min(spec.w_shape[-2:]) >= few.channels and pixels <= most
    rows = (kind == FORWARD and auto.is_pointwise(spec) and pixels <= FEW_PIXELS)
    return max(spec.w_shape[-2:]) >= FEW_CHANNELS and (
        rows or auto.choose(auto.RULES[kind], spec) in SLOWER)
