"""Convolution by XLA's own operation, its two gradients written as convolutions."""

from jax import lax

from cnn_jax.ops.geometry import ConvSpec, rotate, transposed
from cnn_jax.ops.trilinear import trilinear

SPATIAL = "DHW"  # the letters of up to three image axes


def _letters(spec: ConvSpec) -> str:
    rank = len(spec.kernel)
    if rank > 3:
        raise ValueError(f"convolution over {rank} spatial axes, the most is 3: "
                         f"x {spec.x_shape}, w {spec.w_shape}")
    return SPATIAL[-rank:]


def forward(x, w, spec: ConvSpec):
    a = _letters(spec)
    return lax.conv_general_dilated(
        x, w, spec.strides, spec.padding, spec.lhs_dilation, spec.rhs_dilation,
        (f"N{a}C", f"{a}IO", f"N{a}C"), spec.groups, precision=spec.precision)


def input_gradient(g, w, spec: ConvSpec):
    """g spread by the stride, correlated with the rotated kernel."""
    return forward(g, rotate(w, spec.groups), transposed(spec))


def weight_gradient(x, g, spec: ConvSpec):
    """x correlated with g spread by the stride; the batch takes the channels' place."""
    a = _letters(spec)
    padding = []
    for size, k, d, s, p, (lo, hi) in zip(
            spec.padded, spec.kernel, spec.rhs_dilation, spec.strides, spec.out,
            spec.padding):
        used = (k - 1) * d + 1 + (p - 1) * s  # rows that no window reached are cut
        padding.append((lo, hi - (size - used)))
    return lax.conv_general_dilated(
        x, g, spec.rhs_dilation, padding, spec.lhs_dilation, spec.strides,
        (f"C{a}N", f"I{a}O", f"{a}NC"), batch_group_count=spec.groups,
        precision=spec.precision)


passes = trilinear(forward, input_gradient, weight_gradient)
