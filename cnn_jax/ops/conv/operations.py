"""Convolution: one signature, named implementations, and the operations made of it.

Images are [N, *spatial, C] and kernels [*kernel, C / groups, O] (NHWC and HWIO in two
dimensions). As usual for networks, "convolution" means cross-correlation here;
`convolve` is the true convolution, with the kernel rotated. `ops/geometry.py` has the
formulas of the sizes. Every gradient has derivatives of any order.

Forward-mode differentiation (jvp) exists for 'lax' and 'onednn', and for 'auto' where
it selects XLA or `cnn_jax.native`; elsewhere JAX raises its TypeError. ('lax' has none
for the few convolutions that XLA would compute wrongly, see `xla_is_correct`.)
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
import numpy as np

from cnn_jax.ops.conv import lax as conv_lax
from cnn_jax.ops.conv.registry import check_name, select
from cnn_jax.ops.conv.spec import conv_shapes, conv_spec, group_count
from cnn_jax.ops.bias import add_bias
from cnn_jax.ops.geometry import Padding, per_axis, resolve_padding


def correlate(x: jax.Array, w: jax.Array, b: jax.Array | None = None,
              strides: int | Sequence[int] = 1, padding: Padding = "VALID",
              dilation: int | Sequence[int] = 1, groups: int = 1,
              implementation: str = "auto") -> jax.Array:
    """Computes the cross-correlation, which networks call "convolution".

        y[n, p, o] = sum over k, c of  x[n, s p + d k - lo, c] w[k, c, o] + b[o]

    x [N, *spatial, C], w [*kernel, C / groups, O], b [O] or None -> y [N, *out, O],
    out = floor((n + lo + hi - (k - 1) d - 1) / s) + 1. Padding is 'SAME', 'VALID', an
    int or one (low, high) pair per axis. db = sum of g over all axes but the last.
    """
    check_name(implementation)
    shapes = conv_shapes(x.shape, w.shape)
    _check_bias(b, w.shape[-1], shapes)
    _check_dtypes(x, w, shapes)
    rank = x.ndim - 2
    spec = conv_spec(x.shape, w.shape, per_axis(f"{shapes}: strides", strides, rank),
                     padding, None, per_axis(f"{shapes}: dilation", dilation, rank),
                     groups)
    y = select(implementation, spec, x.dtype).forward(x, w, spec)
    return y if b is None else add_bias(y, b)


def conv_general_dilated(implementation: str) -> Callable[..., jax.Array]:
    """Returns an implementation with the signature of `lax.conv_general_dilated`.

    Flax takes it as `nn.Conv(..., conv_general_dilated=...)`.
    """
    check_name(implementation)
    return _conv_general_dilated(implementation)


@functools.cache  # one object for each name, so that modules that hold it are equal
def _conv_general_dilated(name: str) -> Callable[..., jax.Array]:

    def convolution(
            lhs: jax.Array, rhs: jax.Array, window_strides: Sequence[int],
            padding: Padding, lhs_dilation: Sequence[int] | None = None,
            rhs_dilation: Sequence[int] | None = None, dimension_numbers: Any = None,
            feature_group_count: int = 1, batch_group_count: int = 1,
            precision: Any = None, preferred_element_type: Any = None) -> jax.Array:
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
        only_xla = batch_group_count != 1 or preferred_element_type is not None
        if only_xla and name not in ("lax", "onednn", "auto"):
            raise ValueError(f"{shapes}: conv {name!r} takes no batch_group_count "
                             "and no preferred_element_type: use 'lax' or 'auto'")
        if only_xla and not conv_lax.xla_is_correct(spec):
            raise ValueError(f"{shapes}: XLA may read beyond an image with padding "
                             f"{spec.padding}; with batch_group_count or preferred_"
                             "element_type pad it before the convolution")
        algorithm = None if only_xla else select(name, spec, lhs.dtype)
        if algorithm is None or algorithm is conv_lax.AUTODIFF:
            return lax.conv_general_dilated(  # takes any layout without a transpose
                lhs, rhs, spec.strides, spec.padding, spec.lhs_dilation,
                spec.rhs_dilation, dimension_numbers, spec.groups, batch_group_count,
                precision, preferred_element_type)
        y = algorithm.forward(lhs.transpose(x_axes), rhs.transpose(w_axes), spec)
        return y.transpose(np.argsort((y_axes[0], *y_axes[2:], y_axes[1])))

    convolution.__name__ = f"conv_{name}"
    return convolution


def _check_dtypes(x: jax.Array, w: jax.Array, shapes: str) -> None:
    if x.dtype != w.dtype:
        raise ValueError(f"{shapes} must have the same dtype, received x {x.dtype} and "
                         f"w {w.dtype}")


def _check_bias(b: jax.Array | None, outputs: int, shapes: str) -> None:
    if b is not None and getattr(b, "shape", None) != (outputs,):
        received = f"bias {b.shape}" if hasattr(b, "shape") else f"{type(b).__name__}"
        raise ValueError(f"{shapes} need a bias [O], an array of {outputs} entries, "
                         f"received {received}")


def convolve(x: jax.Array, w: jax.Array, b: jax.Array | None = None, *args: Any,
             **options: Any) -> jax.Array:
    """Computes the true convolution: `correlate`, the kernel rotated by 180 degrees.

        y[n, p, o] = sum over k, c of  x[n, s p - d k + d (K - 1) - lo, c] w[k, c, o]

    Example, the sum of two dice: [1/6] * 6 convolved with itself, padded by 5, gives
    the probabilities of 2, 3, ..., 12.
    """
    return correlate(x, lax.rev(w, range(w.ndim - 2)), b, *args, **options)


def conv_transpose(x: jax.Array, w: jax.Array, b: jax.Array | None = None,
                   strides: int | Sequence[int] = 1, padding: Padding = "VALID",
                   output_padding: int | Sequence[int] = 0,
                   dilation: int | Sequence[int] = 1, groups: int = 1,
                   implementation: str = "auto") -> jax.Array:
    """Computes a transposed convolution: the input gradient of a convolution.

        y[n, q, o] = sum over p, k, c with s p + d k - lo = q of  x[n, p, c] w[k, o, c]

    x [N, *spatial, C], w [*kernel, O / groups, C] (the kernel of the convolution from O
    to C channels, as in Keras; PyTorch's with its axes moved), y [N, *out, O] with

        out = (n - 1) s + (k - 1) d + 1 - lo - hi + output_padding

    SAME gives out = n s + output_padding. `output_padding` must be less than the stride
    or the dilation. Below the stride, it chooses among the sizes that the convolution
    would map to n. Pixels that no kernel reaches hold the bias alone.
    """
    check_name(implementation)
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
    # The convolution must map `out` to n pixels. Whole strides of extra pixels would
    # add windows, so its padding cuts them off.
    pairs = tuple((lo, hi - e // s * s)
                  for (lo, hi), e, s in zip(pairs, extra, strides))
    spec = conv_spec((x.shape[0], *out, w.shape[-2] * groups), w.shape, strides, pairs,
                     None, dilation, groups)
    assert spec.y_shape == x.shape, (spec, x.shape)
    y = select(implementation, spec, x.dtype).input_gradient(x, w, spec)
    return y if b is None else add_bias(y, b)


def depthwise_conv(x: jax.Array, w: jax.Array, b: jax.Array | None = None,
                   strides: int | Sequence[int] = 1, padding: Padding = "VALID",
                   dilation: int | Sequence[int] = 1,
                   implementation: str = "auto") -> jax.Array:
    """Convolves each channel with m kernels: w [*kernel, 1, C m], y [N, *out, C m].

        y[n, p, c m + j] = sum over k of  x[n, s p + d k - lo, c] w[k, 0, c m + j]
    """
    conv_shapes(x.shape, w.shape, "[*kernel, 1, C m]")
    return correlate(x, w, b, strides, padding, dilation, x.shape[-1], implementation)


def pointwise_conv(x: jax.Array, w: jax.Array, b: jax.Array | None = None,
                   implementation: str = "auto") -> jax.Array:
    """Applies a dense layer at every pixel: w [C, O], y [N, *spatial, O] = x w + b."""
    if x.ndim < 3 or w.ndim != 2:
        raise ValueError("pointwise_conv takes x [N, *spatial, C] and w [C, O], "
                         f"received x {x.shape} and w {w.shape}")
    w = w.reshape((1,) * (x.ndim - 2) + w.shape)
    return correlate(x, w, b, implementation=implementation)


def separable_conv(x: jax.Array, depthwise: jax.Array, pointwise: jax.Array,
                   b: jax.Array | None = None, strides: int | Sequence[int] = 1,
                   padding: Padding = "VALID", dilation: int | Sequence[int] = 1,
                   implementation: str = "auto") -> jax.Array:
    """Applies `depthwise_conv`, [*kernel, 1, C m], then `pointwise_conv`, [C m, O].

    Source: Chollet, "Xception", 2017.
    """
    shapes = (f"x {x.shape}, depthwise [*kernel, 1, C m] {depthwise.shape} and "
              f"pointwise [C m, O] {pointwise.shape}")
    if pointwise.ndim != 2 or pointwise.shape[0] != depthwise.shape[-1]:
        raise ValueError(f"{shapes} do not fit: pointwise needs "
                         f"{depthwise.shape[-1]} input channels")
    _check_bias(b, pointwise.shape[-1], shapes)
    x = depthwise_conv(x, depthwise, None, strides, padding, dilation, implementation)
    return pointwise_conv(x, pointwise, b, implementation)
