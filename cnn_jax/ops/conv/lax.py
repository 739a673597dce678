"""Convolution by XLA's own operation, its two gradients written as convolutions."""

import string

import jax
from jax import lax
from jax.typing import DTypeLike

from cnn_jax.ops.conv.algorithm import Algorithm
from cnn_jax.ops.conv.spec import ConvSpec, rotate, transposed
from cnn_jax.ops.conv.vjp import Passes, trilinear
from cnn_jax.ops.geometry import pad_image


def _letters(spec: ConvSpec) -> str:
    """Names the spatial axes; N, C, I and O have other meanings."""
    return string.ascii_lowercase[:len(spec.kernel)]


def hits_xla_48713(spec: ConvSpec) -> bool:
    """Tells whether XLA may read beyond the image: openxla/xla#48713, jaxlib 0.10, CPU.

    It does where the padding is negative on the low side of an axis and positive on
    the high side.
    """
    return any(lo < 0 < hi for lo, hi in spec.padding)


def xla_is_correct(spec: ConvSpec) -> bool:
    """Tells whether XLA's own operation and its autodiff are correct.

    Neither y nor dx may hit the bug; dw hits it only where y does.
    """
    return not (hits_xla_48713(spec) or hits_xla_48713(transposed(spec)))


def pad_first(x: jax.Array, spec: ConvSpec) -> tuple[jax.Array, ConvSpec]:
    """Pads and spreads x; returns it and the convolution that is left to compute."""
    # Without the barrier XLA would fold the padding into the convolution again.
    xp = lax.optimization_barrier(pad_image(x, spec))
    ones = (1,) * len(spec.kernel)
    return xp, spec._replace(x_shape=xp.shape, padding=((0, 0),) * len(ones),
                             lhs_dilation=ones)


def forward(x: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    if hits_xla_48713(spec):
        x, spec = pad_first(x, spec)
    a = _letters(spec)
    return lax.conv_general_dilated(
        x, w, spec.strides, spec.padding, spec.lhs_dilation, spec.rhs_dilation,
        (f"N{a}C", f"{a}IO", f"N{a}C"), spec.groups, precision=spec.precision)


def input_gradient(g: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    """Correlates g, spread by the stride, with the rotated kernel."""
    return forward(g, rotate(w, spec.groups), transposed(spec))


def weight_gradient(x: jax.Array, g: jax.Array, spec: ConvSpec) -> jax.Array:
    """Correlates x with g, spread by the stride; batch and channels swap places."""
    if hits_xla_48713(spec):
        x, spec = pad_first(x, spec)
    a = _letters(spec)
    return _correlate(x, g, spec, (f"C{a}N", f"I{a}O", f"{a}NC"))


def weight_gradient_of_transposed(x: jax.Array, g: jax.Array,
                                  spec: ConvSpec) -> jax.Array:
    """Computes dw from x [C, *spatial, N] and g [*out, N, O], for groups = 1."""
    a = _letters(spec)
    return _correlate(x, g, spec, (f"N{a}C", f"{a}IO", f"{a}NC"))


def _correlate(x: jax.Array, g: jax.Array, spec: ConvSpec,
               letters: tuple[str, str, str]) -> jax.Array:
    padding = []
    for size, k, d, s, o, (lo, hi) in zip(
            spec.padded, spec.kernel, spec.rhs_dilation, spec.strides, spec.out,
            spec.padding):
        used = (k - 1) * d + 1 + (o - 1) * s  # rows that no window reached are cut
        padding.append((lo, hi - (size - used)))
    return lax.conv_general_dilated(
        x, g, spec.rhs_dilation, padding, spec.lhs_dilation, spec.strides, letters,
        batch_group_count=spec.groups, precision=spec.precision)


plain = Passes(forward, input_gradient, weight_gradient)
passes = trilinear(*plain)

AUTODIFF = Algorithm("lax", forward, passes.input_gradient, passes.weight_gradient)
BY_HAND = Algorithm("lax", *passes)


def select(spec: ConvSpec, dtype: DTypeLike) -> Algorithm:
    """Leaves the derivatives of the forward pass to JAX where XLA is correct.

    They then include forward mode.
    """
    return AUTODIFF if xla_is_correct(spec) else BY_HAND
