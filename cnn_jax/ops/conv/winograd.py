"""3 x 3 convolution by Winograd's F(2 x 2, 3 x 3): 16 products for 4 outputs, not 36.

The padded image is cut into tiles d of 4 x 4 pixels, 2 apart. For every tile

    U = G w G^T        V = B^T d B        M = sum over c of U V        y = A^T M A

and the gradients are the same steps transposed, in the reverse order:

    dM = A g A^T       dV = sum over o of U dM      dx = B dV B^T, overlaps added
                       dU = sum over tiles of V dM  dw = G^T dU G

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016.
"""

import itertools
from functools import reduce
from operator import add

import jax
import jax.numpy as jnp
from jax import lax
import numpy as np

from cnn_jax.ops.conv.spec import ConvSpec, need_floats
from cnn_jax.ops.conv.vjp import einsum_by_group, in_float32, trilinear
from cnn_jax.ops.geometry import gather_tap, pad_image, scatter_tap, unpad_image

B = np.array([[1, 0, 0, 0], [0, 1, -1, 1], [-1, 1, 1, 0], [0, 0, 0, -1]])
G = np.array([[1, 0, 0], [.5, .5, .5], [.5, -.5, .5], [0, 0, 1]])
A = np.array([[1, 0], [1, 1], [1, -1], [0, -1]])
TILE = list(itertools.product(range(4), range(4)))  # the pixels of a tile


def _check(spec: ConvSpec) -> None:
    if (spec.kernel != (3, 3) or spec.strides != (1, 1)
            or spec.rhs_dilation != (1, 1)):
        raise ValueError(
            "conv 'winograd' takes 3 x 3 kernels with stride 1 and no kernel dilation, "
            f"received x {spec.x_shape}, w {spec.w_shape}, strides {spec.strides}, "
            f"rhs_dilation {spec.rhs_dilation}")


def _both_sides(matrix: np.ndarray, blocks: jax.Array) -> jax.Array:
    """Computes matrix^T blocks matrix over the two leading axes of `blocks`."""
    m = jnp.asarray(matrix, blocks.dtype)
    return jnp.einsum("ia,jb,ij...->ab...", m, m, blocks, precision="highest")


def _tile_counts(spec: ConvSpec) -> tuple[int, ...]:
    return tuple(-(-o // 2) for o in spec.out)


def _margin(spec: ConvSpec) -> list[tuple[int, int, int]]:
    """Computes how far the tiles reach beyond the padded image, as `lax.pad` takes it.

    A negative number counts pixels at the end that no tile reaches.
    """
    return [(0, 2 * t + 2 - p, 0) for t, p in zip(_tile_counts(spec), spec.padded)]


def _tiles(x: jax.Array, spec: ConvSpec) -> jax.Array:
    """Transforms x [N, H, W, C] to V [4, 4, N, th, tw, C]."""
    need_floats("winograd", x, spec)
    xp = lax.pad(pad_image(x, spec), jnp.zeros((), x.dtype),
                 [(0, 0, 0), *_margin(spec), (0, 0, 0)])
    d = jnp.stack([gather_tap(xp, at, _tile_counts(spec), (2, 2)) for at in TILE])
    return _both_sides(B, d.reshape(4, 4, *d.shape[1:]))


def _kernel(w: jax.Array) -> jax.Array:
    """Transforms w [3, 3, C / G, O] to U [4, 4, C / G, O]."""
    return _both_sides(G.T, w)


def _output_tiles(g: jax.Array, spec: ConvSpec) -> jax.Array:
    """Transforms g [N, *out, O] to dM [4, 4, N, th, tw, O]."""
    need_floats("winograd", g, spec)
    th, tw = _tile_counts(spec)
    g = lax.pad(g, jnp.zeros((), g.dtype), [
        (0, 0, 0), *((0, o % 2, 0) for o in spec.out), (0, 0, 0)])
    g = g.reshape(g.shape[0], th, 2, tw, 2, g.shape[-1]).transpose(2, 4, 0, 1, 3, 5)
    return _both_sides(A.T, g)


@in_float32
def forward(x: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    _check(spec)
    m = einsum_by_group("abnhwc,abco->abnhwo", _tiles(x, spec), _kernel(w), spec)
    y = _both_sides(A, m)  # [2, 2, N, th, tw, O]
    _, _, n, th, tw, o = y.shape
    y = y.transpose(2, 3, 0, 4, 1, 5).reshape(n, 2 * th, 2 * tw, o)
    return y[:, :spec.out[0], :spec.out[1]]


@in_float32
def input_gradient(g: jax.Array, w: jax.Array, spec: ConvSpec) -> jax.Array:
    _check(spec)
    dv = einsum_by_group("abnhwo,abco->abnhwc", _output_tiles(g, spec), _kernel(w),
                         spec)
    d = _both_sides(B.T, dv)  # [4, 4, N, th, tw, C]
    reach = [2 * t + 2 for t in _tile_counts(spec)]
    dxp = reduce(add, (scatter_tap(d[at], at, reach, (2, 2)) for at in TILE))
    dxp = lax.pad(dxp, jnp.zeros((), dxp.dtype), [
        (0, 0, 0), *((0, -hi, 0) for _, hi, _ in _margin(spec)), (0, 0, 0)])
    return unpad_image(dxp, spec)


@in_float32
def weight_gradient(x: jax.Array, g: jax.Array, spec: ConvSpec) -> jax.Array:
    _check(spec)
    du = einsum_by_group("abnhwc,abnhwo->abco", _tiles(x, spec),
                         _output_tiles(g, spec), spec)
    return _both_sides(G, du)


passes = trilinear(forward, input_gradient, weight_gradient)
