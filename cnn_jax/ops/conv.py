"""Convolution: one signature, named implementations, and the operations made of it.

Images are [N, *spatial, C] and kernels [*kernel, C / groups, O] (NHWC and HWIO in two
dimensions). Networks call "convolution" what mathematics calls cross-correlation,

    y[n, p, o] = sum over k, c of  x[n, s p + d k - lo, c] w[k, c, o] + b[o]

and so does this file; `convolve` is the true convolution, with the kernel rotated.
Sizes are those of `geometry`. Every gradient has derivatives of any order; forward-mode
differentiation is for 'lax' alone, and JAX's TypeError says so elsewhere.
"""

from collections.abc import Callable, Sequence

import jax
from jax import lax
import jax.numpy as jnp

from cnn_jax.ops import (conv_auto, conv_fft, conv_im2col, conv_lax, conv_loops,
                         conv_numba, conv_taps, conv_winograd)
from cnn_jax.ops.dense import add_bias
from cnn_jax.ops.geometry import ConvSpec, conv_spec, per_axis, resolve_padding
from cnn_jax.ops.trilinear import Passes

# The three passes of each implementation: forward, input gradient, weight gradient.
PASSES: dict[str, Passes] = {
    "loops": conv_loops.passes,
    "numba": conv_numba.passes,
    "im2col": conv_im2col.passes,
    "taps": conv_taps.passes,
    "fft": conv_fft.passes,
    "winograd": conv_winograd.passes,
    "lax": conv_lax.passes,
    "auto": conv_auto.passes,
}


def _general(name: str) -> Callable:
    """The implementation with the signature of `lax.conv_general_dilated`."""

    def conv_general_dilated(
            lhs, rhs, window_strides, padding, lhs_dilation=None, rhs_dilation=None,
            dimension_numbers=None, feature_group_count=1, batch_group_count=1,
            precision=None, preferred_element_type=None):
        if lhs.dtype != rhs.dtype or lhs.ndim != rhs.ndim or lhs.ndim < 3:
            raise ValueError(
                f"conv {name!r}: x {lhs.dtype}{lhs.shape} and w {rhs.dtype}{rhs.shape} "
                "must have the same dtype and the same rank, at least 3")
        axes = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
        x_axes, w_axes, y_axes = (_channels_last(*axes) for axes in (
            axes.lhs_spec, (axes.rhs_spec[1], axes.rhs_spec[0], *axes.rhs_spec[2:]),
            axes.out_spec))
        x_shape = [lhs.shape[i] for i in x_axes]
        w_shape = [rhs.shape[i] for i in w_axes[1:-1] + w_axes[:1] + w_axes[-1:]]
        unusual = batch_group_count != 1 or preferred_element_type is not None
        if unusual and name not in ("lax", "auto"):
            raise ValueError(f"conv {name!r} takes no batch_group_count and no "
                             "preferred_element_type: use 'lax'")
        spec = None if unusual else conv_spec(
            x_shape, w_shape, window_strides, padding, lhs_dilation, rhs_dilation,
            feature_group_count, precision)
        if unusual or name == "lax" or name == "auto" and conv_auto.is_lax(spec):
            return lax.conv_general_dilated(
                lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation,
                dimension_numbers, feature_group_count, batch_group_count, precision,
                preferred_element_type)
        ...
    return conv_general_dilated
