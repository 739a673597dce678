"""Convolution by XLA's own operation, its two gradients written as convolutions."""

from jax import lax

from cnn_jax.ops.geometry import ConvSpec, pad_image, rotate, transposed
from cnn_jax.ops.conv.vjp import trilinear

SPATIAL = "DHW"  # the letters of up to three image axes


def _letters(spec: ConvSpec) -> str:
    rank = len(spec.kernel)
    if rank > 3:
        raise ValueError(f"convolution over {rank} spatial axes, the most is 3: "
                         f"x {spec.x_shape}, w {spec.w_shape}")
    return SPATIAL[-rank:]


def misread(spec: ConvSpec) -> bool:
    """True if XLA may read beyond the image: openxla/xla#48713, jaxlib 0.10 on a CPU.

    It does where it cuts the low side and pads the high side of an axis.
    """
    return any(lo < 0 < hi for lo, hi in spec.padding)


def read_right(spec: ConvSpec) -> bool:
    """True if XLA's own operation and its autodiff are right: neither y nor dx is
    misread (dw is misread only where y is)."""
    return not (misread(spec) or misread(transposed(spec)))


def pad_first(x, spec: ConvSpec):
    """x padded and spread, and what is left to do: a convolution without padding."""
    # Without the barrier XLA would fold the padding into the convolution again.
    xp = lax.optimization_barrier(pad_image(x, spec))
    ones = (1,) * len(spec.kernel)
    return xp, spec._replace(x_shape=xp.shape, padding=((0, 0),) * len(ones),
                             lhs_dilation=ones)


def forward(x, w, spec: ConvSpec):
    if misread(spec):
        x, spec = pad_first(x, spec)
    a = _letters(spec)
    return lax.conv_general_dilated(
        x, w, spec.strides, spec.padding, spec.lhs_dilation, spec.rhs_dilation,
        (f"N{a}C", f"{a}IO", f"N{a}C"), spec.groups, precision=spec.precision)


def input_gradient(g, w, spec: ConvSpec):
    """g spread by the stride, correlated with the rotated kernel."""
    return forward(g, rotate(w, spec.groups), transposed(spec))


def weight_gradient(x, g, spec: ConvSpec):
    """x correlated with g spread by the stride; the batch takes the channels' place."""
    if misread(spec):
        x, spec = pad_first(x, spec)
    a = _letters(spec)
    return _correlated(x, g, spec, (f"C{a}N", f"I{a}O", f"{a}NC"))


def weight_gradient_of_turned(x, g, spec: ConvSpec):
    """The same of x [C, *spatial, N] and g [*out, N, O], for groups = 1."""
    a = _letters(spec)
    return _correlated(x, g, spec, (f"N{a}C", f"{a}IO", f"{a}NC"))


def _correlated(x, g, spec: ConvSpec, letters):
    padding = []
    for size, k, d, s, o, (lo, hi) in zip(
            spec.padded, spec.kernel, spec.rhs_dilation, spec.strides, spec.out,
            spec.padding):
        used = (k - 1) * d + 1 + (o - 1) * s  # rows that no window reached are cut
        padding.append((lo, hi - (size - used)))
    return lax.conv_general_dilated(
        x, g, spec.rhs_dilation, padding, spec.lhs_dilation, spec.strides, letters,
        batch_group_count=spec.groups, precision=spec.precision)


passes = trilinear(forward, input_gradient, weight_gradient)
