"""Convolution by plain loops: the specification of all other algorithms.

One product of a convolution is (input entry) x (weight entry), added to (output entry).
`products` lists all of them; the three passes read the same list:

    y[out]    += x[inp] w[wei]
    dx[inp]   += g[out] w[wei]
    dw[wei]   += g[out] x[inp]

It runs in NumPy on the host, in float64 for every input dtype, and rounds at the end.
Under `jit` the compiled program calls it back, so a (tiny) network trains on it.
"""

from collections.abc import Iterator

import numpy as np

from cnn_jax.ops._xla.callback import on_host
from cnn_jax.ops.conv.spec import ConvSpec
from cnn_jax.ops.conv.vjp import trilinear


Index = tuple[int, ...]


def products(spec: ConvSpec) -> Iterator[tuple[Index, Index, Index]]:
    """Yields the indices (inp, wei, out) of every product of the convolution."""
    batch, *spatial, _ = spec.x_shape
    *kernel, channels, outputs = spec.w_shape
    for n in range(batch):
        for at in np.ndindex(*spec.out):
            for tap in np.ndindex(*kernel):
                # The pixel that this tap reads, before input dilation.
                at_tap = [s * p + d * k - lo for s, p, d, k, (lo, _) in zip(
                    spec.strides, at, spec.rhs_dilation, tap, spec.padding)]
                pixel = [i // e for i, e in zip(at_tap, spec.lhs_dilation)]
                between = any(i % e for i, e in zip(at_tap, spec.lhs_dilation))
                outside = any(i < 0 or i >= size for i, size in zip(pixel, spatial))
                if between or outside:
                    continue  # a zero of the padding or of the input dilation
                for o in range(outputs):
                    group = o // (outputs // spec.groups)
                    for c in range(channels):
                        yield ((n, *pixel, group * channels + c), (*tap, c, o),
                               (n, *at, o))


def forward(x: np.ndarray, w: np.ndarray, spec: ConvSpec) -> np.ndarray:
    y = np.zeros(spec.y_shape)
    for inp, wei, out in products(spec):
        y[out] += x[inp] * w[wei]
    return y


def input_gradient(g: np.ndarray, w: np.ndarray, spec: ConvSpec) -> np.ndarray:
    dx = np.zeros(spec.x_shape)
    for inp, wei, out in products(spec):
        dx[inp] += g[out] * w[wei]
    return dx


def weight_gradient(x: np.ndarray, g: np.ndarray, spec: ConvSpec) -> np.ndarray:
    dw = np.zeros(spec.w_shape)
    for inp, wei, out in products(spec):
        dw[wei] += g[out] * x[inp]
    return dw


passes = trilinear(on_host(forward, lambda spec: spec.y_shape),
                   on_host(input_gradient, lambda spec: spec.x_shape),
                   on_host(weight_gradient, lambda spec: spec.w_shape))
