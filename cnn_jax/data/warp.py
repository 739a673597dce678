"""Warps a batch of images, or of masks, by affine maps.

A map is a 3x3 matrix from output to input positions (row, column, 1), in pixels from
the centre of the image. `fill_mode` says what lies outside the image, as in Keras and
scipy.ndimage (for the pixels a b c d):

    nearest   a a a a | a b c d | d d d d
    reflect   d c b a | a b c d | d c b a     (half-sample symmetric, not `mirror`)
    constant  0 0 0 0 | a b c d | 0 0 0 0     (no interpolation across the edge)
"""

import jax
import jax.numpy as jnp
from jax import lax

FILL_MODES = ("nearest", "constant", "reflect")


def warp(images: jax.Array, matrices: jax.Array, fill_mode: str) -> jax.Array:
    """Warps images [N, H, W, C] by maps [N, 3, 3], bilinearly, to float32.

    A TPU multiplies by `matrix_of_weights`; other devices gather each pixel's
    neighbours.
    """
    height, width = images.shape[1:3]
    rows, columns, inside = source_positions(matrices, height, width, fill_mode)
    interpolate = by_products if jax.default_backend() == "tpu" else by_gather
    return jnp.where(inside[..., None], interpolate(images, rows, columns), 0)


def by_gather(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Interpolates images [N, H, W, C] at positions inside them, [N, h, w].

    Each output pixel gathers its 2 x 2 neighbours, all channels, as one slice. On a CPU
    that is ten times faster than a gather for each corner and channel.
    """
    images, (height, width) = pad_to_two(images), images.shape[1:3]
    top = jnp.minimum(rows.astype(jnp.int32), max(height - 2, 0))
    left = jnp.minimum(columns.astype(jnp.int32), max(width - 2, 0))
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    corners = gather_windows(images, top, left, 2).astype(jnp.float32)
    upper = corners[..., 0, 0, :] * (1 - right) + corners[..., 0, 1, :] * right
    lower = corners[..., 1, 0, :] * (1 - right) + corners[..., 1, 1, :] * right
    return upper * (1 - down) + lower * down


def by_products(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Interpolates like `by_gather`, with a matrix product along the rows.

        y[p] = sum over c of  B[p, c] (sum over r of A[p, r] x[r, c])

    A, B: `matrix_of_weights`. It takes H products for each pixel of the gather, but a
    TPU moves less memory: for 32 images of 128 x 128 x 3, libtpu 0.0.52 counts 1.2 GB,
    and 11.4 GB for the gather (`experiments/tpu_choices.py`).
    """
    count, height, width, channels = images.shape
    above = matrix_of_weights(rows, height).reshape(count, -1, height)
    beside = matrix_of_weights(columns, width).reshape(count, -1, width, 1)
    lines = jnp.einsum("npr,nrcd->npcd", above, images.astype(jnp.float32),
                       precision="highest")
    return (lines * beside).sum(2).reshape(*rows.shape, channels)


def matrix_of_weights(positions: jax.Array, length: int) -> jax.Array:
    """Computes the weight of each of `length` pixels at positions [...]: [..., length].

    It is max(0, 1 - |position - pixel|): 1 at a pixel, shared between two neighbours.
    """
    pixels = jnp.arange(length).reshape((1,) * positions.ndim + (-1,))
    return jnp.maximum(1 - jnp.abs(positions[..., None] - pixels), 0)


def warp_labels(labels: jax.Array, matrices: jax.Array, fill_mode: str) -> jax.Array:
    """Warps masks [N, H, W] by maps [N, 3, 3] to the label of the nearest pixel."""
    height, width = labels.shape[1:]
    rows, columns, inside = source_positions(matrices, height, width, fill_mode)
    rows, columns = jnp.floor(rows + 0.5), jnp.floor(columns + 0.5)
    if jax.default_backend() == "tpu":
        nearest = by_products(labels[..., None], rows, columns)[..., 0]
    else:
        nearest = gather_windows(labels[..., None], rows.astype(jnp.int32),
                                 columns.astype(jnp.int32), 1)[..., 0, 0, 0]
    return jnp.where(inside, nearest, 0).astype(labels.dtype)


def source_positions(matrices: jax.Array, height: int, width: int,
                     fill_mode: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes the position in the input that each output pixel shows.

    Returns: rows and columns within the image, float32 [N, H, W]; and bool [N, H, W],
    False where `fill_mode` leaves the pixel 0.
    """
    middle, centre = (height - 1) / 2, (width - 1) / 2
    row = (jnp.arange(height) - middle)[None, :, None]
    column = (jnp.arange(width) - centre)[None, None, :]
    m = matrices[..., None, None]
    rows = m[:, 0, 0] * row + m[:, 0, 1] * column + m[:, 0, 2] + middle
    columns = m[:, 1, 0] * row + m[:, 1, 1] * column + m[:, 1, 2] + centre
    inside = jnp.array(True)
    if fill_mode == "constant":
        inside = ((rows >= 0) & (rows <= height - 1)
                  & (columns >= 0) & (columns <= width - 1))
    elif fill_mode == "reflect":
        rows, columns = reflect(rows, height), reflect(columns, width)
    return (jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1),
            jnp.broadcast_to(inside, rows.shape))


def reflect(position: jax.Array, length: int) -> jax.Array:
    """Reflects positions into -0.5 .. length - 0.5, with the period 2 * length."""
    phase = jnp.mod(position + 0.5, 2 * length)
    return jnp.minimum(phase, 2 * length - phase) - 0.5


def pad_to_two(images: jax.Array) -> jax.Array:
    """Repeats the row or column of images that have only one."""
    padding = [(0, max(0, 2 - n)) for n in images.shape[1:3]]
    return jnp.pad(images, ((0, 0), *padding, (0, 0)), mode="edge")


def gather_windows(images: jax.Array, top: jax.Array, left: jax.Array,
                   side: int) -> jax.Array:
    """Gathers side x side pixels from (top, left) [N, h, w]: [N, h, w, side, side, C].
    """
    # Batching dimensions, instead of an index of the image, tell XLA that no device
    # needs the images of another.
    return lax.gather(
        images, jnp.stack([top, left], -1),
        lax.GatherDimensionNumbers(
            offset_dims=(3, 4, 5), collapsed_slice_dims=(), start_index_map=(1, 2),
            operand_batching_dims=(0,), start_indices_batching_dims=(0,)),
        (1, side, side, images.shape[-1]), mode="promise_in_bounds")
