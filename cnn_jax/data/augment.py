"""Random changes of training images, inside jit: pure (key, images) -> images.

One affine map per image, with the names, ranges and order of Keras'
`ImageDataGenerator`: an output pixel at p (relative to the centre) shows the input at

    R(theta) T(shift) S(shear) Z(zoom) p,   bilinearly interpolated.

Each image draws from its own key, so the result does not depend on how a batch is cut.
"""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

FILL_MODES = ("nearest", "constant", "reflect")


def affine_matrix(key: jax.Array, settings, height: int, width: int) -> jax.Array:
    """The 3x3 map from output to input positions (row, column, 1) of one image."""
    theta, rows, columns, shear, zoom_r, zoom_c = jax.random.uniform(
        key, (6,), minval=-1.0)
    theta *= jnp.deg2rad(settings.rotation_range)
    shear *= jnp.deg2rad(settings.shear_range)
    rotate = jnp.array([[jnp.cos(theta), -jnp.sin(theta), 0],
                        [jnp.sin(theta), jnp.cos(theta), 0], [0, 0, 1]])
    shift = jnp.array([[1, 0, rows * settings.height_shift_range * height],
                       [0, 1, columns * settings.width_shift_range * width],
                       [0, 0, 1]])
    slant = jnp.array([[1, -jnp.sin(shear), 0], [0, jnp.cos(shear), 0], [0, 0, 1]])
    zoom = jnp.diag(jnp.array([1 + zoom_r * settings.zoom_range,
                               1 + zoom_c * settings.zoom_range, 1]))
    return rotate @ shift @ slant @ zoom


def warp(image: jax.Array, matrix: jax.Array, fill_mode: str) -> jax.Array:
    """`image` [H, W, C] seen through a 3x3 map about its centre, outside -> inside."""
    height, width, _ = image.shape
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2])
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    positions = jnp.stack([rows - centre[0], columns - centre[1], jnp.ones(rows.shape)])
    source = jnp.tensordot(matrix[:2], positions, 1) + centre[:, None, None]
    return jax.vmap(lambda channel: map_coordinates(channel, source, 1, fill_mode),
                    in_axes=-1, out_axes=-1)(image)


def flip(key: jax.Array, image: jax.Array, axis: int) -> jax.Array:
    """Mirrors the image along `axis` with probability 1/2."""
    return jnp.where(jax.random.bernoulli(key), jnp.flip(image, axis), image)


def is_identity(settings) -> bool:
    """Whether these settings change nothing, so that the step can leave it out."""
    return not (moves(settings) or settings.horizontal_flip or settings.vertical_flip)


def moves(settings) -> bool:
    return any((settings.rotation_range, settings.width_shift_range,
                settings.height_shift_range, settings.shear_range, settings.zoom_range))


def augment(key: jax.Array, images: jax.Array, place: jax.Array, settings) -> jax.Array:
    """uint8 images [N, H, W, C] -> float32 images with pixels 0..255.

    place: [N], each image's position in the global batch, folded into its key.
    settings: the `augment` part of a config.
    """
    def one(image, position):
        draw, horizontal, vertical = jax.random.split(
            jax.random.fold_in(key, position), 3)
        if moves(settings):
            matrix = affine_matrix(draw, settings, *image.shape[:2])
            image = warp(image, matrix, settings.fill_mode)
        if settings.horizontal_flip:
            image = flip(horizontal, image, 1)
        if settings.vertical_flip:
            image = flip(vertical, image, 0)
        return image

    images = images.astype(jnp.float32)
    return images if is_identity(settings) else jax.vmap(one)(images, place)
