"""Convolution: one signature, named implementations, and the operations made of it.

Images are [N, *spatial, C] and kernels [*kernel, C / groups, O] (NHWC and HWIO in two
dimensions). Networks call "convolution" what mathematics calls cross-correlation,

    y[n, p, o] = sum over k, c of  x[n, s p + d k - lo, c] w[k, c, o] + b[o]

and so does this file; `convolve` is the true convolution, with the kernel rotated.
Sizes are those of `geometry`. Every gradient has derivatives of any order; forward-mode
differentiation (jvp) is for 'lax' and 'onednn', elsewhere JAX's TypeError says so.
"""

from collections.abc import Callable, Sequence

import jax
from jax import lax
import numpy as np

from cnn_jax.ops.conv import (auto as conv_auto, banded as conv_banded, fft as conv_fft,
                              im2col as conv_im2col, lax as conv_lax, loops as
                              conv_loops, numba as conv_numba, onednn as conv_onednn,
                              taps as conv_taps, winograd as conv_winograd,
                              winograd_cost)
from cnn_jax.ops.dense import add_bias
from cnn_jax.ops.geometry import (ConvSpec, conv_shapes, conv_spec, group_count,
                                  per_axis, resolve_padding)
from cnn_jax.ops.conv.vjp import Passes

# The three passes of each implementation: forward, input gradient, weight gradient.
# 'native' has no name of its own among `CONVS`: it is what 'auto' is, where it can be.
PASSES: dict[str, Passes] = {
    "loops": conv_loops.passes,
    "numba": conv_numba.passes,
    "im2col": conv_im2col.passes,
    "taps": conv_taps.passes,
    "banded": conv_banded.passes,
    "fft": conv_fft.passes,
    "winograd": conv_winograd.passes,
    "lax": conv_lax.passes,
    "onednn": conv_onednn.passes,
    "native": conv_onednn.fastest,
    "auto": conv_auto.passes,
}


def implementation_of(name: str, spec: ConvSpec, dtype) -> str:
    """The implementation that the name of one stands for, here and for this problem.

    'onednn' is 'auto' where oneDNN cannot be had and 'lax' for what oneDNN does not
    take; 'auto' is 'lax' or 'native' where all three passes are that.
    """
    if name == "onednn" and not conv_onednn.here():
        name = "auto"
    if name == "onednn" and not conv_onednn.takes(spec, dtype):
        return "lax"
    if name == "auto":
        return conv_auto.one_implementation(spec, dtype) or "auto"
    return name


def describe(name: str, spec: ConvSpec, dtype) -> str:
    """What computes this convolution here: 'onednn', 'native Winograd F(4 x 4, 3 x 3)',
    or where the passes differ 'banded / im2col / lax', for the forward pass and the two
    gradients."""
    used = implementation_of(name, spec, dtype)
    if used == "auto":
        return " / ".join(conv_auto.form_name(form)
                          for form in conv_auto.forms(spec, dtype))
    if used == "native":
        m = winograd_cost.tile_of(spec, dtype)
        used = f"native Winograd F({m} x {m}, 3 x 3)" if m else "onednn"
    if used == "onednn" and conv_onednn.weight_gradient_by_lax(spec):
        return "onednn / onednn / lax"
    return used


def _named(name: str) -> Callable:
    """The implementation with the signature of `lax.conv_general_dilated`."""

    def conv_general_dilated(
            lhs, rhs, window_strides, padding, lhs_dilation=None, rhs_dilation=None,
            dimension_numbers=None, feature_group_count=1, batch_group_count=1,
            precision=None, preferred_element_type=None):
        shapes = conv_shapes(lhs.shape, rhs.shape)
        _check_dtypes(lhs, rhs, shapes)
        n, o, y_axes = lax.conv_dimension_numbers(
            lhs.shape, rhs.shape, dimension_numbers)
        x_axes = (n[0], *n[2:], n[1])  # to channels last
        w_axes = (*o[2:], o[1], o[0])
        spec = conv_spec(
            [lhs.shape[i] for i in x_axes], [rhs.shape[i] for i in w_axes],
            window_strides, padding, lhs_dilation, rhs_dilation, feature_group_count,
            precision)
        if batch_group_count != 1 or preferred_element_type is not None:
            if name not in ("lax", "onednn", "auto"):
                raise ValueError(f"{shapes}: conv {name!r} takes no batch_group_count "
                                 "and no preferred_element_type: use 'lax' or 'auto'")
            if not conv_lax.read_right(spec):
                raise ValueError(f"{shapes}: XLA may misread an image with padding "
                                 f"{spec.padding}; with batch_group_count or preferred_"
                                 "element_type pad it before the convolution")
            return lax.conv_general_dilated(
                lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation,
                dimension_numbers, feature_group_count, batch_group_count, precision,
                preferred_element_type)
        used = implementation_of(name, spec, lhs.dtype)
        if used == "lax" and conv_lax.read_right(spec):
            return lax.conv_general_dilated(
                lhs, rhs, spec.strides, spec.padding, spec.lhs_dilation,
                spec.rhs_dilation, dimension_numbers, spec.groups, precision=precision)
        y = PASSES[used].forward(lhs.transpose(x_axes), rhs.transpose(w_axes), spec)
        return y.transpose(np.argsort((y_axes[0], *y_axes[2:], y_axes[1])))

    conv_general_dilated.__name__ = f"conv_{name}"
    return conv_general_dilated


CONVS: dict[str, Callable] = {
    "loops": _named("loops"),
    "numba": _named("numba"),
    "im2col": _named("im2col"),
    "taps": _named("taps"),
    "banded": _named("banded"),
    "fft": _named("fft"),
    "winograd": _named("winograd"),
    "lax": _named("lax"),
    "onednn": _named("onednn"),
    "auto": _named("auto"),
}


def _lookup(implementation: str) -> str:
    if not isinstance(implementation, str) or implementation not in CONVS:
        raise ValueError(f"conv {implementation!r} is not known: {', '.join(CONVS)}")
    return implementation


def _check_dtypes(x, w, shapes):
    if x.dtype != w.dtype:
        raise ValueError(f"{shapes} must have the same dtype, received x {x.dtype} and "
                         f"w {w.dtype}")


def _check_bias(b, outputs, shapes):
    if b is not None and getattr(b, "shape", None) != (outputs,):
        received = f"bias {b.shape}" if hasattr(b, "shape") else f"{type(b).__name__}"
        raise ValueError(f"{shapes} need a bias [O], an array of {outputs} entries, "
                         f"received {received}")


def correlate(x: jax.Array, w: jax.Array, b: jax.Array | None = None,
              strides: int | Sequence[int] = 1, padding="VALID",
              dilation: int | Sequence[int] = 1, groups: int = 1,
              implementation: str = "auto") -> jax.Array:
    """Cross-correlation, the "convolution" of networks (formula above).

    x [N, *spatial, C], w [*kernel, C / groups, O], b [O] or None -> y [N, *out, O],
    out = floor((n + lo + hi - (k - 1) d - 1) / s) + 1. Padding is 'SAME', 'VALID', an
    int or one (low, high) pair an axis. db = sum of g over all axes but the last.
    """
    conv = CONVS[_lookup(implementation)]
    shapes = conv_shapes(x.shape, w.shape)
    _check_bias(b, w.shape[-1], shapes)
    rank = x.ndim - 2
    y = conv(x, w, per_axis(f"{shapes}: strides", strides, rank), padding,
             rhs_dilation=per_axis(f"{shapes}: dilation", dilation, rank),
             dimension_numbers=_channels_last(x, w), feature_group_count=groups)
    return y if b is None else add_bias(y, b)


def convolve(x: jax.Array, w: jax.Array, b: jax.Array | None = None, *args,
             **options) -> jax.Array:
    """True convolution: `correlate` with the kernel rotated by 180 degrees.

        y[n, p, o] = sum over k, c of  x[n, s p - d k + d (K - 1) - lo, c] w[k, c, o]

    The sum of two dice: [1/6] * 6 convolved with itself, padded by 5, gives the chances
    of 2, 3, ..., 12.
    """
    return correlate(x, lax.rev(w, range(w.ndim - 2)), b, *args, **options)


def conv_transpose(x: jax.Array, w: jax.Array, b: jax.Array | None = None,
                   strides: int | Sequence[int] = 1, padding="VALID",
                   output_padding: int | Sequence[int] = 0,
                   dilation: int | Sequence[int] = 1, groups: int = 1,
                   implementation: str = "auto") -> jax.Array:
    """Transposed convolution: the input gradient of a convolution, as a layer.

        y[n, s p + d k - lo, o] = sum over p, k, c of  x[n, p, c] w[k, o, c]

    x [N, *spatial, C], w [*kernel, O / groups, C] (the kernel of the convolution from O
    to C channels, as in Keras; PyTorch's with its axes moved), y [N, *out, O] with

        out = (n - 1) s + (k - 1) d + 1 - lo - hi + output_padding

    SAME gives out = n s + output_padding. Output padding is less than the stride or the
    dilation; below the stride it chooses among the sizes that the convolution would map
    to n. Pixels that no kernel reaches are the bias.
    """
    name = _lookup(implementation)
    shapes = "conv_transpose: " + conv_shapes(
        x.shape, w.shape, "[*kernel, O / groups, C]")
    _check_dtypes(x, w, shapes)
    groups = group_count(groups, shapes)
    if x.shape[-1] != w.shape[-1] or x.shape[-1] % groups:
        raise ValueError(
            f"{shapes} [*kernel, O / groups, C] do not fit: x has {x.shape[-1]} "
            f"channels, w takes {w.shape[-1]} in {groups} groups")
    _check_bias(b, w.shape[-2] * groups, shapes)
    rank = x.ndim - 2
    strides = per_axis(f"{shapes}: strides", strides, rank)
    dilation = per_axis(f"{shapes}: dilation", dilation, rank)
    extra = per_axis(f"{shapes}: output_padding", output_padding, rank, least=0)
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilation)):
        raise ValueError(f"{shapes}: output_padding {output_padding!r} must be less "
                         f"than the stride {strides} or the dilation {dilation}")
    reaches = [(k - 1) * d + 1 for k, d in zip(w.shape, dilation)]
    same = [n * s for n, s in zip(x.shape[1:], strides)]
    pairs = resolve_padding(padding, same, reaches, strides, f"{shapes}: ")
    if isinstance(padding, str) and padding.upper() != "VALID":
        extra = tuple(e + max(0, s - r) for e, s, r in zip(extra, strides, reaches))
    out = [(n - 1) * s + r - lo - hi + e for n, s, r, (lo, hi), e in zip(
        x.shape[1:], strides, reaches, pairs, extra)]
    if min(out) < 1:
        raise ValueError(f"{shapes}: padding {pairs} leaves no output, size {out}")
    # Whole strides of extra pixels are cut off again where the convolution begins.
    pairs = [(lo, hi - e // s * s) for (lo, hi), e, s in zip(pairs, extra, strides)]
    spec = conv_spec((x.shape[0], *out, w.shape[-2] * groups), w.shape, strides, pairs,
                     None, dilation, groups)
    assert spec.y_shape == x.shape, (spec, x.shape)
    name = implementation_of(name, spec, x.dtype)
    y = PASSES[name].input_gradient(x, w, spec)
    return y if b is None else add_bias(y, b)


def depthwise_conv(x: jax.Array, w: jax.Array, b: jax.Array | None = None,
                   strides: int | Sequence[int] = 1, padding="VALID",
                   dilation: int | Sequence[int] = 1,
                   implementation: str = "auto") -> jax.Array:
    """Each channel with its own m kernels: w [*kernel, 1, C m], y [N, *out, C m].

        y[n, p, c m + j] = sum over k of  x[n, s p + d k - lo, c] w[k, 0, c m + j]
    """
    conv_shapes(x.shape, w.shape, "[*kernel, 1, C m]")
    return correlate(x, w, b, strides, padding, dilation, x.shape[-1], implementation)


def pointwise_conv(x: jax.Array, w: jax.Array, b: jax.Array | None = None,
                   implementation: str = "auto") -> jax.Array:
    """A dense layer at every pixel: w [C, O], y [N, *spatial, O] = x w + b."""
    if x.ndim < 3 or w.ndim != 2:
        raise ValueError("pointwise_conv takes x [N, *spatial, C] and w [C, O], "
                         f"received x {x.shape} and w {w.shape}")
    w = w.reshape((1,) * (x.ndim - 2) + w.shape)
    return correlate(x, w, b, implementation=implementation)


def separable_conv(x: jax.Array, depthwise: jax.Array, pointwise: jax.Array,
                   b: jax.Array | None = None, strides: int | Sequence[int] = 1,
                   padding="VALID", dilation: int | Sequence[int] = 1,
                   implementation: str = "auto") -> jax.Array:
    """`depthwise_conv` with [*kernel, 1, C m], then `pointwise_conv` with [C m, O].

    Source: Chollet, "Xception", 2017.
    """
    shapes = (f"x {x.shape}, depthwise [*kernel, 1, C m] {depthwise.shape} and "
              f"pointwise [C m, O] {pointwise.shape}")
    if pointwise.ndim != 2 or pointwise.shape[0] != depthwise.shape[-1]:
        raise ValueError(f"{shapes} do not fit")
    _check_bias(b, pointwise.shape[-1], shapes)
    x = depthwise_conv(x, depthwise, None, strides, padding, dilation, implementation)
    return pointwise_conv(x, pointwise, b, implementation)


def _channels_last(x, w) -> lax.ConvDimensionNumbers:
    x_axes = (0, x.ndim - 1, *range(1, x.ndim - 1))
    return lax.ConvDimensionNumbers(
        x_axes, (w.ndim - 1, w.ndim - 2, *range(w.ndim - 2)), x_axes)
