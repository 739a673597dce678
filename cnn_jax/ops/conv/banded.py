"""Convolution as products of whole image rows with a banded (Toeplitz) matrix.

Along the last spatial axis (W pixels in, W' out) a kernel row acts on an image row as a
matrix that is zero off a band; along the other axes the rows are put side by side:

    P  [N, *out', K', W C]     the K' image rows that each output row sees
    T  [K', W C, W' O]         T[k', (q, c), (p, o)] = w[k', k, c, o] where q is the
                               pixel that tap k of output p reads, else 0
    y  = P T                   one product over (k', q, c);  out' without the last axis
    dx = the same with the rotated kernel
    dw[k', k] = sum of (P^T g)[k', q, p] over the (q, p) of tap k

It computes about W / k times as many products as needed, but as one large matrix
product. On a CPU, XLA has nothing faster for few channels on small images, as in LeNet.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax.ops.conv.spec import ConvSpec, rotate, transposed
from cnn_jax.ops.conv.vjp import by_group, in_float32, trilinear
from cnn_jax.ops.geometry import gather_tap, pad_image


def band(spec: ConvSpec) -> np.ndarray:
    """Marks the pixel q that tap k of output p reads, on the last axis: [k, W', W]."""
    k, p, q = np.ogrid[:spec.kernel[-1], :spec.out[-1], :spec.x_shape[-2]]
    read = spec.strides[-1] * p + spec.rhs_dilation[-1] * k - spec.padding[-1][0]
    return read == spec.lhs_dilation[-1] * q


def seen_rows(x: jax.Array, spec: ConvSpec) -> jax.Array:
    """Collects the image rows that each output row sees: P [N * *out', K' W C]."""
    not_last = spec._replace(  # pads all axes but the last
        padding=(*spec.padding[:-1], (0, 0)), lhs_dilation=(*spec.lhs_dilation[:-1], 1))
    xp = pad_image(x, not_last)
    width = spec.x_shape[-2]
    rows = [gather_tap(
        xp, (*(k * d for k, d in zip(tap, spec.rhs_dilation)), 0),
        (*spec.out[:-1], width), (*spec.strides[:-1], 1))
        for tap in np.ndindex(*spec.kernel[:-1])]
    return jnp.stack(rows, -3).reshape(-1, len(rows) * width * spec.x_shape[-1])


def one_group(spec: ConvSpec) -> ConvSpec:
    """Describes the convolution of one group of channels."""
    return spec._replace(
        x_shape=(*spec.x_shape[:-1], spec.x_shape[-1] // spec.groups),
        w_shape=(*spec.w_shape[:-1], spec.w_shape[-1] // spec.groups), groups=1)


@in_float32
def forward(x: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    group = one_group(spec)

    def product(x: jax.Array, w: jax.Array) -> jax.Array:
        w = w.reshape(-1, *w.shape[-3:])
        matrix = jnp.einsum("hkco,kpq->hqcpo", w, band(group).astype(w.dtype),
                            precision=lax.Precision.HIGHEST)  # copies exactly
        rows = seen_rows(x, group)
        y = jnp.matmul(rows, matrix.reshape(rows.shape[1], -1),
                       precision=spec.precision)
        return y.reshape(group.y_shape)

    return by_group(product, x, w, spec.groups)


@in_float32
def input_gradient(g: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    return forward(g, rotate(w, spec.groups), transposed(spec))


@in_float32
def weight_gradient(x: jax.Array, g: jax.Array, spec: ConvSpec) -> jax.Array:
    group = one_group(spec)

    def product(x: jax.Array, g: jax.Array) -> jax.Array:
        rows = seen_rows(x, group)
        matrix = jnp.matmul(rows.T, g.reshape(rows.shape[0], -1),
                            precision=spec.precision)
        c, o = group.w_shape[-2:]
        matrix = matrix.reshape(-1, group.x_shape[-2], c, group.out[-1], o)
        dw = jnp.einsum("hqcpo,kpq->hkco", matrix, band(group).astype(matrix.dtype),
                        precision=lax.Precision.HIGHEST)
        return dw.reshape(group.w_shape)

    return by_group(product, x, g, spec.groups)


passes = trilinear(forward, input_gradient, weight_gradient)
