"""Selects the fastest correct algorithm for a shape and a device.

On a GPU or TPU it selects XLA's convolution, except for one weight gradient that the
TPU's compiler takes long to compile (`slow_on_tpu`). On a CPU, XLA is slow for some
shapes: for each pass, a table below names what replaces it there. The first rule that
holds decides. Where `cnn_jax.native` has its library, the library computes every
convolution that it supports; without oneDNN, only those for which it is faster.
"""

import functools
import math
from collections.abc import Callable

import jax
from jax import lax
from jax.typing import DTypeLike

from cnn_jax.ops.conv import (addon, banded, depthwise, im2col, lax as conv_lax,
                              padded, phases, pointwise, taps, transposed)
from cnn_jax.ops.conv.algorithm import Algorithm, Pass
from cnn_jax.ops.conv.spec import ConvSpec, is_empty, is_symbolic
from cnn_jax.ops.conv.vjp import trilinear

# A program grows with the taps or phases that it writes out: the gradients of 15 x 15
# taps or of 16 x 16 phases took 20 s to compile.
MOST_TAPS = 49  # 7 x 7
MOST_PHASES = 9


# The conditions of the rules.

def is_pointwise(spec: ConvSpec) -> bool:
    return set(spec.kernel) == {1} and spec.groups == 1


def is_grouped(spec: ConvSpec) -> bool:
    return spec.groups > 1 and len(spec.taps) <= MOST_TAPS


def is_depthwise(spec: ConvSpec) -> bool:
    return is_grouped(spec) and spec.groups == spec.x_shape[-1]


def is_grouped_and_strided(spec: ConvSpec) -> bool:
    return is_grouped(spec) and max(spec.strides) > 1


def image_smaller_than_kernel(spec: ConvSpec) -> bool:
    """Tells whether the kernel reaches further than the image along some axis."""
    return any(n < (k - 1) * d + 1 for n, k, d in zip(
        spec.x_shape[1:-1], spec.kernel, spec.rhs_dilation))


def cotangent_smaller_than_kernel(spec: ConvSpec) -> bool:
    """Tells whether the kernel reaches further than the cotangent at stride 1."""
    return max(spec.strides) == 1 and any(o < (k - 1) * d + 1 for o, k, d in zip(
        spec.out, spec.kernel, spec.rhs_dilation))


def is_strided(spec: ConvSpec) -> bool:
    return (1 < math.prod(spec.strides) <= MOST_PHASES
            and spec.groups == 1 and spec.x_shape[-1] > 4
            and max(spec.lhs_dilation + spec.rhs_dilation) == 1)


def one_channel_3x3(spec: ConvSpec) -> bool:
    return spec.w_shape[:-1] == (3, 3, 1)


def is_narrow(spec: ConvSpec) -> bool:
    """Tells whether few channels go in and out of small images, as in LeNet."""
    return (spec.groups == 1 and spec.x_shape[-1] <= 4 and spec.w_shape[-1] <= 16
            and min(spec.kernel) >= 3 and max(spec.x_shape[-2], spec.out[-1]) <= 64)


def few_channels(spec: ConvSpec) -> bool:
    return spec.groups == 1 and spec.x_shape[-1] <= 4 and len(spec.taps) <= 25


def large_batch(spec: ConvSpec) -> bool:
    """Tells whether XLA would take long to transpose the images."""
    return (spec.groups == 1 and spec.x_shape[0] >= 64 and spec.x_shape[-1] >= 16
            and max(spec.lhs_dilation) == 1 and not conv_lax.hits_xla_48713(spec))


def always(spec: ConvSpec) -> bool:
    return True


Rules = tuple[tuple[Callable[[ConvSpec], bool], Pass], ...]

# Right: XLA's time / the time of that pass, jaxlib 0.10.2, 2 cores of an AMD EPYC,
# float32. XLA computes ordinary convolutions of many channels: im2col, taps, FFT and
# Winograd are slower.
FORWARD: Rules = (
    (is_pointwise, pointwise.forward),                      # 1.0 - 2.0
    (is_depthwise, depthwise.forward),                      # 12 - 33
    (image_smaller_than_kernel, padded.forward),            # 70 - 130
    (one_channel_3x3, taps.forward),                        # 2 - 8
    (is_narrow, banded.forward),                            # 1.6 - 3
    (always, conv_lax.forward),
)
INPUT_GRADIENT: Rules = (
    (is_pointwise, pointwise.input_gradient),               # 1.0 - 1.5
    (is_depthwise, depthwise.input_gradient),               # 35 - 100
    (image_smaller_than_kernel, padded.input_gradient),     # 80 - 90
    (cotangent_smaller_than_kernel, padded.input_gradient),  # 1.0 - 13
    (few_channels, im2col.input_gradient),                  # 2 - 5
    (is_grouped_and_strided, im2col.input_gradient),        # 1.2 - 4
    (is_strided, phases.input_gradient),                    # 0.9 - 1.3
    (always, conv_lax.input_gradient),
)
WEIGHT_GRADIENT: Rules = (
    (is_pointwise, pointwise.weight_gradient),              # 1.3 - 2.4
    (is_depthwise, depthwise.weight_gradient),              # 1.7 - 13
    (is_grouped, taps.weight_gradient),                     # 5 - 170
    (large_batch, transposed.weight_gradient),              # whole steps: 1.01 - 1.15
    (always, conv_lax.weight_gradient),
)


RULES = FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT


def choose(rules: Rules, spec: ConvSpec) -> Pass:
    """Returns the pass of the first rule that holds."""
    return next(one_pass for holds, one_pass in rules if holds(spec))


def slow_on_tpu(spec: ConvSpec) -> bool:
    """Tells whether libtpu would take long to compile XLA's weight gradient.

    For 5 x 5 kernels on 64 grey images of 28 x 28 pixels (LeNet-5) libtpu 0.0.52 took
    36 s of processor time and 1.3 GB. One matrix product per tap compiles in 2 s
    (`experiments/tpu_choices.py`).
    """
    return (spec.groups == 1 and spec.x_shape[-1] <= 4 and len(spec.taps) >= 25
            and spec.strides == (1, 1) and conv_lax.xla_is_correct(spec))


def select(spec: ConvSpec, dtype: DTypeLike) -> Algorithm:
    """Resolves 'auto' for this machine and this convolution."""
    if jax.default_backend() == "tpu" and not is_symbolic(spec) and slow_on_tpu(spec):
        return ON_TPU
    if jax.default_backend() != "cpu" or is_empty(spec) or is_symbolic(spec):
        return conv_lax.select(spec, dtype)
    native = addon.installed.convolution("native", spec, dtype)
    if native is not None:  # whole steps: 1.1 - 2.4
        return native
    passes = [choose(rules, spec) for rules in RULES]
    if passes == list(conv_lax.plain):
        return conv_lax.select(spec, dtype)
    return mixed(*passes)


def name_of(one_pass: Pass) -> str:
    """Returns the name of the file that holds a pass."""
    return one_pass.__module__.rpartition(".")[2]


@functools.cache
def mixed(*passes: Pass) -> Algorithm:
    """Makes one algorithm of three passes from different files."""
    names = [*map(name_of, passes)]
    return Algorithm(" / ".join(names if len(set(names)) > 1 else names[:1]),
                     *trilinear(*map(_on_cpu, passes, conv_lax.plain)))


ON_TPU = Algorithm("lax / lax / taps", *trilinear(
    conv_lax.forward, conv_lax.input_gradient, taps.weight_gradient_unwidened))


def _on_cpu(one_pass: Pass, by_lax: Pass) -> Pass:
    """Leaves the pass to XLA in a program that is exported for a GPU or TPU."""
    if one_pass is by_lax:
        return by_lax

    def of_platform(a: jax.Array, b: jax.Array, spec: ConvSpec) -> jax.Array:
        return lax.platform_dependent(
            a, b, cpu=lambda a, b: one_pass(a, b, spec),
            default=lambda a, b: by_lax(a, b, spec))
    return of_platform
