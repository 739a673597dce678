"""Input gradient of a strided convolution: one convolution for each phase of pixels.

With stride s every s-th pixel sees only every s-th tap. Along an axis, pixel s q + b
receives w[a + s t] g[q + shift - t] for every t, where a = (b + lo) mod s and
shift = (b + lo) div s. That is a convolution of g itself, without the zeros that the
stride would spread into it.
"""

import itertools
from collections.abc import Sequence

import jax
from jax import lax
import jax.numpy as jnp

from cnn_jax.ops.conv import lax as conv_lax
from cnn_jax.ops.conv.spec import ConvSpec, rotate
from cnn_jax.ops.geometry import Pairs


def input_gradient(g: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    largest = tuple(-(-n // s) for n, s in zip(spec.x_shape[1:-1], spec.strides))
    phases = []
    for residue in itertools.product(*map(range, spec.strides)):
        taps, padding, size = [slice(None)] * w.ndim, [], []
        for axis, (b, n, s, o, (lo, _)) in enumerate(zip(
                residue, spec.x_shape[1:-1], spec.strides, spec.out, spec.padding)):
            shift, a = divmod(b + lo, s)
            taps[axis] = slice(a, None, s)
            size.append(len(range(b, n, s)))
            tap_count = len(range(a, spec.kernel[axis], s))
            padding.append((tap_count - 1 - shift, size[-1] - o + shift))
        phase = _stride_one(g, rotate(w[tuple(taps)]), tuple(padding), size, spec)
        missing = [(0, m - n, 0) for m, n in zip(largest, size)]
        phases.append(lax.pad(phase, jnp.zeros((), g.dtype),
                              [(0, 0, 0), *missing, (0, 0, 0)]))
    dx = interleave(phases, spec.strides)
    return lax.slice(dx, (0,) * dx.ndim, spec.x_shape)


def _stride_one(g: jax.Array, w: jax.Array, padding: Pairs, size: Sequence[int],
                spec: ConvSpec) -> jax.Array:
    """Convolves g with some of the taps: [N, *size, C]."""
    if 0 in w.shape or 0 in size:
        return jnp.zeros((g.shape[0], *size, w.shape[-1]), g.dtype)
    ones = (1,) * len(size)
    return conv_lax.forward(g, w, ConvSpec(
        g.shape, w.shape, ones, padding, ones, ones, 1, spec.precision))


def interleave(images: Sequence[jax.Array], steps: Sequence[int]) -> jax.Array:
    """Interleaves the pixels of images [N, *size, C]: [N, *(size * steps), C].

    There is one image for each pixel of a block of `steps` pixels, in row-major order.
    """
    images = list(images)
    for axis in range(len(steps), 0, -1):  # last axis first: its images are adjacent
        s = steps[axis - 1]
        shape = list(images[0].shape)
        shape[axis] *= s
        images = [jnp.stack(images[i:i + s], axis + 1).reshape(shape)
                  for i in range(0, len(images), s)]
    return images[0]
