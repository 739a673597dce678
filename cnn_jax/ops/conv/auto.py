"""The fastest correct form for the shape and the device.

On a GPU or TPU it is XLA's convolution, with unchanged compiled code. On a CPU XLA is
slow for some shapes; the tables below say which form replaces it there. The first rule
that holds wins. Where oneDNN is installed, the library of cnn_jax.native takes all that
oneDNN has, some of it by Winograd's method in C++ (winograd_cost).
"""

import itertools
import math

import jax
from jax import lax
import jax.numpy as jnp

from cnn_jax.ops.conv import (banded as conv_banded, depthwise as conv_depthwise, im2col
                              as conv_im2col, lax as conv_lax, onednn as conv_onednn,
                              pointwise as conv_pointwise, taps as conv_taps)
from cnn_jax.ops.geometry import (ConvSpec, interleave, is_empty, is_symbolic,
                                  rotate, transposed)
from cnn_jax.ops.conv.vjp import trilinear


# A form's program grows with the taps or phases that it writes out: the gradients of
# 15 x 15 taps or of 16 x 16 phases took 20 s to compile.
MOST_DEPTHWISE_TAPS = 49  # 7 x 7
MOST_PHASES = 9


# What the rules ask of a convolution.

def pointwise(spec: ConvSpec) -> bool:
    return set(spec.kernel) == {1} and spec.groups == 1


def depthwise(spec: ConvSpec) -> bool:
    return (spec.groups == spec.x_shape[-1] > 1
            and len(spec.taps) <= MOST_DEPTHWISE_TAPS)


def smaller_than_kernel(spec: ConvSpec) -> bool:
    """Along some axis the image has fewer pixels than the kernel reaches."""
    return any(n < (k - 1) * d + 1 for n, k, d in zip(
        spec.x_shape[1:-1], spec.kernel, spec.rhs_dilation))


def cotangent_smaller_than_kernel(spec: ConvSpec) -> bool:
    """The same of the image that an input gradient convolves."""
    return max(spec.strides) == 1 and any(o < (k - 1) * d + 1 for o, k, d in zip(
        spec.out, spec.kernel, spec.rhs_dilation))


def strided(spec: ConvSpec) -> bool:
    return (1 < math.prod(spec.strides) <= MOST_PHASES
            and spec.groups == 1 and spec.x_shape[-1] > 4
            and max(spec.lhs_dilation + spec.rhs_dilation) == 1)


def one_channel_3x3(spec: ConvSpec) -> bool:
    return spec.w_shape[:-1] == (3, 3, 1)


def narrow(spec: ConvSpec) -> bool:
    """Few channels in and out on small images: LeNet's first layer."""
    return (spec.groups == 1 and spec.x_shape[-1] <= 4 and spec.w_shape[-1] <= 16
            and min(spec.kernel) >= 3 and max(spec.x_shape[-2], spec.out[-1]) <= 64)


def few_channels(spec: ConvSpec) -> bool:
    return spec.groups == 1 and spec.x_shape[-1] <= 4 and len(spec.taps) <= 25


def large_batch(spec: ConvSpec) -> bool:
    """Images that XLA would take long to transpose: C and N change places."""
    return (spec.groups == 1 and spec.x_shape[0] >= 64 and spec.x_shape[-1] >= 16
            and max(spec.lhs_dilation) == 1 and not conv_lax.misread(spec))


def always(spec: ConvSpec) -> bool:
    return True


LAX = conv_onednn.BY_LAX  # XLA's own three passes


# The forms that no other file has.

def padded_forward(x, w, spec: ConvSpec):
    """Pads first and convolves without padding."""
    xp, spec = conv_lax.pad_first(x, spec)
    return conv_lax.forward(xp, w, spec)


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


def turned_weight_gradient(x, g, spec: ConvSpec):
    """dw by XLA's convolution, of images turned from [N, .., C] to [C, .., N].

    A product with the identity turns them, exactly: XLA's own transposition goes one
    element at a time, and takes a batch norm before it along, which makes it slower.
    """
    inner = jnp.moveaxis(x, 0, -2)  # [*spatial, N, C]
    turned = lax.dot_general(
        jnp.eye(x.shape[-1], dtype=x.dtype), inner.reshape(-1, x.shape[-1]),
        (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)
    x = turned.reshape(x.shape[-1], *inner.shape[:-1])
    return conv_lax.weight_gradient_of_turned(x, jnp.moveaxis(g, 0, -2), spec)


def _stride_one(g, w, padding, size, precision):
    if 0 in w.shape or 0 in size:
        return jnp.zeros((g.shape[0], *size, w.shape[-1]), g.dtype)
    ones = (1,) * len(size)
    return conv_lax.forward(g, w, ConvSpec(
        g.shape, w.shape, ones, tuple(padding), ones, ones, 1, precision))


# XLA's time / the form's time, jaxlib 0.10.2, 2 cores of an AMD EPYC, float32. Ordinary
# convolutions of many channels stay XLA's: im2col, taps, FFT and Winograd are slower.
FORWARD = (
    (pointwise, conv_pointwise.forward),                # 1.0 - 2.0
    (depthwise, conv_depthwise.forward),                # 12 - 33
    (smaller_than_kernel, padded_forward),              # 70 - 130
    (one_channel_3x3, conv_taps.forward),               # 2 - 8
    (narrow, conv_banded.forward),                      # 1.6 - 3
    (always, conv_lax.forward),
)
INPUT_GRADIENT = (
    (pointwise, conv_pointwise.input_gradient),         # 1.0 - 1.5
    (depthwise, conv_depthwise.input_gradient),         # 35 - 100
    (smaller_than_kernel, padded_input_gradient),       # 80 - 90
    (cotangent_smaller_than_kernel, padded_input_gradient),  # 1.0 - 13
    (few_channels, conv_im2col.input_gradient),         # 2 - 5
    (strided, phases_input_gradient),                   # 0.9 - 1.3
    (always, conv_lax.input_gradient),
)
WEIGHT_GRADIENT = (
    (pointwise, conv_pointwise.weight_gradient),        # 1.3 - 2.4
    (depthwise, conv_depthwise.weight_gradient),        # 1.7 - 13
    (large_batch, turned_weight_gradient),              # whole steps: 1.01 - 1.15
    (always, conv_lax.weight_gradient),
)


def choose(rules, spec: ConvSpec):
    return next(form for holds, form in rules if holds(spec))


def forms(spec: ConvSpec, dtype) -> list:
    """What computes the three passes on a CPU."""
    if is_symbolic(spec):
        return list(LAX)
    if jax.default_backend() == "cpu" and conv_onednn.takes(spec, dtype):
        return list(conv_onednn.fastest)  # whole steps: 1.1 - 2.4
    tables = FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT
    return [choose(rules, spec) for rules in tables]


def form_name(form) -> str:
    """'banded' for `conv_banded.forward`; 'padded' and 'phases' are forms of this file.
    """
    if form.__module__ == __name__:
        return form.__name__.partition("_")[0]
    return form.__module__.rpartition("conv_")[2]


def _by_platform(kind, by_lax):
    def one_pass(a, b, spec: ConvSpec):
        form = forms(spec, a.dtype)[kind]
        if form is by_lax:
            return by_lax(a, b, spec)
        return lax.platform_dependent(
            a, b, cpu=lambda a, b: form(a, b, spec),
            default=lambda a, b: by_lax(a, b, spec))
    return one_pass


passes = trilinear(*map(_by_platform, range(3), LAX))


def one_implementation(spec: ConvSpec, dtype) -> str | None:
    """'lax' or 'native' where all three passes are that: it then knows forward mode."""
    if jax.default_backend() != "cpu" or is_empty(spec):
        found = list(LAX)
    else:
        found = forms(spec, dtype)
    if found == list(conv_onednn.fastest):
        return "native"
    # Read wrongly on a CPU: whatever the backend, the program may be lowered for one.
    return "lax" if found == list(LAX) and conv_lax.read_right(spec) else None
