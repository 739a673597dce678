"""Convolution by the Fourier transform: a product for every frequency.

With X, W, G the transforms of the padded image, the kernel (spread by its dilation) and
the cotangent (spread by the stride), all of the padded image's size, and channels
summed:

    y  = F^-1(X conj W)     cross-correlation; its first entries, every s-th of them
    dx = F^-1(G W)          true convolution: the rotated kernel
    dw = F^-1(X conj G)     at the positions of the kernel's taps

Nothing wraps around, because every window lies inside the padded image.
Source: Mathieu, Henaff, LeCun, "Fast training of convolutional networks through FFTs",
2014.
"""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.ops.conv.spec import ConvSpec, need_floats
from cnn_jax.ops.conv.vjp import einsum_by_group, in_float32, trilinear
from cnn_jax.ops.geometry import unpad_image


def _image_axes(spec: ConvSpec) -> tuple[int, ...]:
    return tuple(range(1, 1 + len(spec.kernel)))


def _transform(x: jax.Array, spec: ConvSpec, padding: Iterable[tuple[int, int]],
               spread: Sequence[int]) -> jax.Array:
    """Spreads and pads [N, *size, C] to [N, *padded, C] and transforms it."""
    need_floats("fft", x, spec)
    config = [(0, 0, 0), *((lo, hi, e - 1) for (lo, hi), e in zip(padding, spread)),
              (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), config)
    return jnp.fft.rfftn(x, axes=_image_axes(spec))


def _inverse(product: jax.Array, spec: ConvSpec) -> jax.Array:
    """Maps [N, *frequencies, C] back to [N, *padded, C]."""
    return jnp.fft.irfftn(product, s=spec.padded, axes=_image_axes(spec))


def _image(x: jax.Array, spec: ConvSpec) -> jax.Array:
    return _transform(x, spec, spec.padding, spec.lhs_dilation)


def _kernel(w: jax.Array, spec: ConvSpec) -> jax.Array:
    """Transforms w to [C / G, *frequencies, O]; input channels act as the batch."""
    zeros = [(0, p - (k - 1) * d - 1)
             for p, k, d in zip(spec.padded, spec.kernel, spec.rhs_dilation)]
    return _transform(jnp.moveaxis(w, -2, 0), spec, zeros, spec.rhs_dilation)


def _cotangent(g: jax.Array, spec: ConvSpec) -> jax.Array:
    zeros = [(0, p - (o - 1) * s - 1)
             for p, o, s in zip(spec.padded, spec.out, spec.strides)]
    return _transform(g, spec, zeros, spec.strides)


def _take_strided(y: jax.Array, size: Sequence[int], step: Sequence[int]) -> jax.Array:
    """Takes the first `size` entries, `step` apart, along every image axis."""
    stops = [(n - 1) * s + 1 for n, s in zip(size, step)]
    return lax.slice(y, (0,) * y.ndim, (y.shape[0], *stops, y.shape[-1]), (1, *step, 1))


@in_float32
def forward(x: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    product = einsum_by_group("n...c,c...o->n...o", _image(x, spec),
                              _kernel(w, spec).conj(), spec)
    return _take_strided(_inverse(product, spec), spec.out, spec.strides)


@in_float32
def input_gradient(g: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    product = einsum_by_group("n...o,c...o->n...c", _cotangent(g, spec),
                              _kernel(w, spec), spec)
    return unpad_image(_inverse(product, spec), spec)


@in_float32
def weight_gradient(x: jax.Array, g: jax.Array, spec: ConvSpec) -> jax.Array:
    product = einsum_by_group("n...c,n...o->c...o", _image(x, spec),
                              _cotangent(g, spec).conj(), spec)
    dw = _take_strided(_inverse(product, spec), spec.kernel, spec.rhs_dilation)
    return jnp.moveaxis(dw, 0, -2)


passes = trilinear(forward, input_gradient, weight_gradient)
