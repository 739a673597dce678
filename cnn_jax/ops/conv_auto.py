"""The fastest correct form for the shape and the device.

On a GPU or TPU it is XLA's convolution, with unchanged compiled code. On a CPU XLA is
slow for some shapes; the tables below say which form replaces it there, the first rule
that holds wins. Figures: time of XLA's form / time of this one.
"""

import itertools

import jax
from jax import lax
import jax.numpy as jnp

from cnn_jax.ops import conv_depthwise, conv_im2col, conv_lax, conv_pointwise, conv_taps
from cnn_jax.ops.geometry import (ConvSpec, interleave, is_empty, pad_image, rotate,
                                  transposed)
from cnn_jax.ops.trilinear import trilinear


# What the rules ask of a convolution.

def pointwise(spec: ConvSpec) -> bool:
    return set(spec.kernel) == {1} and spec.groups == 1


def depthwise(spec: ConvSpec) -> bool:
    return spec.groups == spec.x_shape[-1] > 1


def smaller_than_kernel(spec: ConvSpec) -> bool:
    """Along some axis the image has fewer pixels than the kernel reaches."""
    return any(n < (k - 1) * d + 1 for n, k, d in zip(
        spec.x_shape[1:-1], spec.kernel, spec.rhs_dilation))


def strided(spec: ConvSpec) -> bool:
    return (max(spec.strides) > 1 and spec.groups == 1
            and max(spec.lhs_dilation + spec.rhs_dilation) == 1)


def one_channel_3x3(spec: ConvSpec) -> bool:
    return spec.w_shape[:-1] == (3, 3, 1)


def few_channels(spec: ConvSpec) -> bool:
    return spec.groups == 1 and spec.x_shape[-1] <= 4


def always(spec: ConvSpec) -> bool:
    return True


# The forms that no other file has.

def padded_forward(x, w, spec: ConvSpec):
    """Pads first and convolves without padding."""
    # Without the barrier XLA would fold the padding into the convolution again.
    xp = lax.optimization_barrier(pad_image(x, spec))
    ones = (1,) * len(spec.kernel)
    return conv_lax.forward(xp, w, spec._replace(
        x_shape=xp.shape, padding=((0, 0),) * len(ones), lhs_dilation=ones))


def padded_input_gradient(g, w, spec: ConvSpec):
    return padded_forward(g, rotate(w, spec.groups), transposed(spec))


def phases_input_gradient(g, w, spec: ConvSpec):
    """dx by the residues of its pixels: every s-th pixel sees only every s-th tap.

    Along an axis, pixel s q + b reads the taps k = a + s t of g[q + shift - t], where
    a = (b + lo) mod s and shift = (b + lo) div s: a convolution of g itself, without
    the zeros that the stride would spread into it.
    """
    most = tuple(-(-n // s) for n, s in zip(spec.x_shape[1:-1], spec.strides))
    parts = []
    for residue in itertools.product(*map(range, spec.strides)):
        taps, padding, size = [slice(None)] * w.ndim, [], []
        for axis, (b, n, s, o, (lo, _)) in enumerate(zip(
                residue, spec.x_shape[1:-1], spec.strides, spec.out, spec.padding)):
            shift, a = divmod(b + lo, s)
            taps[axis] = slice(a, None, s)
            size.append(len(range(b, n, s)))
            seen = len(range(a, spec.kernel[axis], s))
            padding.append((seen - 1 - shift, size[-1] - o + shift))
        part = _stride_one(g, rotate(w[tuple(taps)]), padding, size, spec.precision)
        rest = [(0, m - n, 0) for m, n in zip(most, size)]
        parts.append(lax.pad(part, jnp.zeros((), g.dtype),
                             [(0, 0, 0), *rest, (0, 0, 0)]))
    dx = interleave(parts, spec.strides)
    return lax.slice(dx, (0,) * dx.ndim, spec.x_shape)


def _stride_one(g, w, padding, size, precision):
    if 0 in w.shape or 0 in size:
        return jnp.zeros((g.shape[0], *size, w.shape[-1]), g.dtype)
    ones = (1,) * len(size)
    return conv_lax.forward(g, w, ConvSpec(
        g.shape, w.shape, ones, tuple(padding), ones, ones, 1, precision))


FORWARD = (
    (pointwise, conv_pointwise.forward),
    (depthwise, conv_depthwise.forward),
    (smaller_than_kernel, padded_forward),
    (one_channel_3x3, conv_taps.forward),
    (always, conv_lax.forward),
)
INPUT_GRADIENT = (
    (pointwise, conv_pointwise.input_gradient),
    (depthwise, conv_depthwise.input_gradient),
    (smaller_than_kernel, padded_input_gradient),
    (strided, phases_input_gradient),
    (always, conv_lax.input_gradient),
)
WEIGHT_GRADIENT = (
    (pointwise, conv_pointwise.weight_gradient),
    (depthwise, conv_depthwise.weight_gradient),
    (few_channels, conv_im2col.weight_gradient),
    (always, conv_lax.weight_gradient),
)


def choose(rules, spec: ConvSpec):
    return next(form for holds, form in rules if holds(spec))


def _by_platform(rules, by_lax):
    def one_pass(a, b, spec: ConvSpec):
        form = choose(rules, spec)
        if form is by_lax:
            return by_lax(a, b, spec)
        return lax.platform_dependent(
            a, b, cpu=lambda a, b: form(a, b, spec),
            default=lambda a, b: by_lax(a, b, spec))
    return one_pass


passes = trilinear(_by_platform(FORWARD, conv_lax.forward),
                   _by_platform(INPUT_GRADIENT, conv_lax.input_gradient),
                   _by_platform(WEIGHT_GRADIENT, conv_lax.weight_gradient))


def is_lax(spec: ConvSpec) -> bool:
    """True when no rule replaces XLA's convolution in any of the three passes."""
    return (jax.default_backend() != "cpu" or is_empty(spec) or (
        choose(FORWARD, spec) is conv_lax.forward
        and choose(INPUT_GRADIENT, spec) is conv_lax.input_gradient
        and choose(WEIGHT_GRADIENT, spec) is conv_lax.weight_gradient))
