"""Convolution by the loops of `loops.py`, compiled by numba (pip install numba).

One nest of loops serves the three passes, because all of them visit the same products.
Images of one and two axes get leading axes of size 1. Sums are in the input's dtype,
but in float32 for half precision.
"""

import functools
from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np

from cnn_jax.ops._xla.callback import on_host
from cnn_jax.ops.conv.algorithm import Pass
from cnn_jax.ops.conv.spec import ConvSpec
from cnn_jax.ops.conv.vjp import in_float32, trilinear

FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = range(3)


def _nest(which: int, x: np.ndarray, w: np.ndarray, y: np.ndarray,
          strides: Sequence[int], low: Sequence[int], spread: Sequence[int],
          dilation: Sequence[int], groups: int) -> None:
    """Adds every product to x, w or y: x [N,A,B,C,ci], w [I,J,K,ci/G,o], y [N,..,o]"""
    channels, outputs = w.shape[3], w.shape[4] // groups
    for n in range(y.shape[0]):
        for at in np.ndindex(y.shape[1:4]):
            for tap in np.ndindex(w.shape[:3]):
                a = strides[0] * at[0] + dilation[0] * tap[0] - low[0]
                b = strides[1] * at[1] + dilation[1] * tap[1] - low[1]
                c = strides[2] * at[2] + dilation[2] * tap[2] - low[2]
                if a % spread[0] or b % spread[1] or c % spread[2]:
                    continue  # a zero of the input dilation
                a, b, c = a // spread[0], b // spread[1], c // spread[2]
                if not (0 <= a < x.shape[1] and 0 <= b < x.shape[2]
                        and 0 <= c < x.shape[3]):
                    continue  # a zero of the padding
                ys = y[n, at[0], at[1], at[2]]
                xs = x[n, a, b, c]
                ws = w[tap[0], tap[1], tap[2]]
                for group in range(groups):
                    for i in range(channels):
                        xi = group * channels + i
                        if which == FORWARD:
                            for o in range(group * outputs, (group + 1) * outputs):
                                ys[o] += xs[xi] * ws[i, o]
                        elif which == INPUT_GRADIENT:
                            for o in range(group * outputs, (group + 1) * outputs):
                                xs[xi] += ys[o] * ws[i, o]
                        else:
                            for o in range(group * outputs, (group + 1) * outputs):
                                ws[i, o] += ys[o] * xs[xi]


@functools.cache
def _compiled() -> Callable[..., None]:
    try:
        import numba
    except ImportError as error:
        raise ValueError("conv 'numba' needs the package numba: pip install numba, "
                         "or choose 'im2col'") from error
    return numba.njit(_nest, nogil=True)


def _run(which: int, x: np.ndarray, w: np.ndarray, y: np.ndarray,
         spec: ConvSpec) -> np.ndarray:
    missing = 3 - len(spec.kernel)

    def three(values: Iterable[int], neutral: int) -> tuple[int, ...]:
        return (neutral,) * missing + tuple(values)

    # Copies, because what a callback receives is read-only and numba has no const.
    x, w, y = (np.array(a, order="C") for a in (x, w, y))
    ones = (1,) * missing
    _compiled()(
        which, x.reshape(x.shape[0], *ones, *x.shape[1:]), w.reshape(*ones, *w.shape),
        y.reshape(y.shape[0], *ones, *y.shape[1:]), three(spec.strides, 1),
        three([lo for lo, _ in spec.padding], 0), three(spec.lhs_dilation, 1),
        three(spec.rhs_dilation, 1), spec.groups)
    return (y, x, w)[which]


def forward(x: np.ndarray, w: np.ndarray, spec: ConvSpec) -> np.ndarray:
    return _run(FORWARD, x, w, np.zeros(spec.y_shape, x.dtype), spec)


def input_gradient(g: np.ndarray, w: np.ndarray, spec: ConvSpec) -> np.ndarray:
    return _run(INPUT_GRADIENT, np.zeros(spec.x_shape, g.dtype), w, g, spec)


def weight_gradient(x: np.ndarray, g: np.ndarray, spec: ConvSpec) -> np.ndarray:
    return _run(WEIGHT_GRADIENT, x, np.zeros(spec.w_shape, x.dtype), g, spec)


def _called(one_pass: Callable[..., np.ndarray],
            shape: Callable[[ConvSpec], tuple[int, ...]]) -> Pass:
    called = in_float32(on_host(one_pass, shape, in_float64=False))

    def checked(a: jax.Array, b: jax.Array, spec: ConvSpec) -> jax.Array:
        # Refuse here: an exception inside the callback would lose its message.
        if len(spec.kernel) > 3:
            raise ValueError("conv 'numba' takes at most 3 spatial axes, received "
                             f"x {spec.x_shape} and w {spec.w_shape}")
        _compiled()
        return called(a, b, spec)
    return checked


passes = trilinear(_called(forward, lambda spec: spec.y_shape),
                   _called(input_gradient, lambda spec: spec.x_shape),
                   _called(weight_gradient, lambda spec: spec.w_shape))
