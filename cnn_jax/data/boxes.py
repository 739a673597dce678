"""Draws boxes in images at random; cuts, resizes or erases them, inside jit.

A box is int32 [4]: top, left, height, width, in pixels. `crops.py` draws the boxes of
images that are still on the host.
"""

import math

import jax
import jax.numpy as jnp

from cnn_jax.data.crops import TRIES, fallback_crop
from cnn_jax.data.warp import gather_windows

Interval = tuple[float, float]
# Random erasing as in torchvision: fractions of the image's area; height / width.
ERASED_SCALE, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)


def draw_crop(key: jax.Array, height: int, width: int, scale: Interval,
              ratio: Interval) -> jax.Array:
    """Draws the box of a random-resized crop.

    Its distribution is that of `crops.random_resized_crop`.
    """
    size_key, position_key = jax.random.split(key)
    widths, heights = draw_sides(size_key, height * width, scale, ratio)
    fits = (0 < widths) & (widths <= width) & (0 < heights) & (heights <= height)
    first = fits.argmax()
    box = random_position(position_key, height, width, heights[first], widths[first])
    return jnp.where(fits.any(), box, jnp.array(fallback_crop(height, width, ratio)))


def draw_erased(key: jax.Array, height: int, width: int,
                probability: float) -> jax.Array:
    """Draws the box that random erasing hides; its height is 0 where it hides none.

    As in torchvision's RandomErasing, it is the first of 10 draws that is smaller than
    the image in both axes; if there is none, nothing is hidden (Zhong, Zheng, Kang, Li,
    Yang, 2020).
    """
    chance_key, size_key, position_key = jax.random.split(key, 3)
    heights, widths = draw_sides(size_key, height * width, ERASED_SCALE, ERASED_RATIO)
    fits = (heights < height) & (widths < width)
    first = fits.argmax()
    erases = fits.any() & jax.random.bernoulli(chance_key, probability)
    return random_position(position_key, height, width,
                           jnp.where(erases, heights[first], 0), widths[first])


def draw_sides(key: jax.Array, area: int, scale: Interval,
               ratio: Interval) -> tuple[jax.Array, jax.Array]:
    """Draws sides a, b of `TRIES` boxes, each int32 [TRIES].

    a * b is a uniform fraction of the area, and log(a / b) is uniform in the logarithm
    of `ratio`; the sides are rounded to pixels.
    """
    fraction_key, log_key = jax.random.split(key)
    fractions = jax.random.uniform(fraction_key, (TRIES,), minval=scale[0],
                                   maxval=scale[1])
    logs = jax.random.uniform(log_key, (TRIES,), minval=math.log(ratio[0]),
                              maxval=math.log(ratio[1]))
    root = jnp.sqrt(jnp.exp(logs))
    sides = jnp.sqrt(area * fractions)
    return (jnp.round(sides * root).astype(jnp.int32),
            jnp.round(sides / root).astype(jnp.int32))


def random_position(key: jax.Array, height: int, width: int, box_height: jax.Array,
                    box_width: jax.Array) -> jax.Array:
    """Draws the position of a box in an image; all positions are equally likely."""
    row_key, column_key = jax.random.split(key)
    top = jax.random.randint(row_key, (), 0, jnp.maximum(1, height - box_height + 1))
    left = jax.random.randint(column_key, (), 0, jnp.maximum(1, width - box_width + 1))
    return jnp.stack([top, left, box_height, box_width])


def random_pixel(key: jax.Array, images: jax.Array) -> jax.Array:
    """Draws a pixel, int32 [2] (row, column)."""
    return jax.random.randint(key, (2,), 0, jnp.array(images.shape[1:3]))


def about(centres: jax.Array, sides: jax.Array) -> jax.Array:
    """Makes the boxes of `sides` [N, 2] pixels about `centres` [N, 2]."""
    return jnp.concatenate([centres - sides // 2, sides], 1)


def box_mask(boxes: jax.Array, height: int, width: int) -> jax.Array:
    """Marks the pixels in boxes [N, 4], bool [N, H, W]."""
    top, left, box_height, box_width = (side[:, None] for side in boxes.T)
    row, column = jnp.arange(height)[None], jnp.arange(width)[None]
    rows = (row >= top) & (row < top + box_height)
    columns = (column >= left) & (column < left + box_width)
    return rows[:, :, None] & columns[:, None, :]


def resized_crop(images: jax.Array, boxes: jax.Array,
                 size: tuple[int, int]) -> jax.Array:
    """Cuts boxes [N, 4] out of images [N, H, W, C] and resizes them to `size`, float32.

    Bilinear and antialiased, as Pillow resizes the cropped image, but not rounded.
    """
    top, left, heights, widths = boxes.T
    rows = resize_weights(top, heights, images.shape[1], size[0])
    columns = resize_weights(left, widths, images.shape[2], size[1])
    # With the default precision, TPUs and GPUs would round pixels.
    images = jnp.einsum("nrh,nhwc->nrwc", rows, images.astype(jnp.float32),
                        precision="highest")
    return jnp.einsum("nsw,nrwc->nrsc", columns, images, precision="highest")


def resize_weights(starts: jax.Array, lengths: jax.Array, source: int,
                   target: int) -> jax.Array:
    """Computes the weight of source pixels in target pixels, [N, target, source].

    The pixels from `start` on, `length` of them, become `target` pixels. A target pixel
    sees a triangle about its centre, whose half width is one source or one target
    pixel, whichever is wider; pixels outside the box have no weight.
    """
    starts, lengths = starts[:, None, None], lengths[:, None, None]
    scale = lengths / target
    pixels = jnp.arange(source)[None, None, :]
    centres = starts + (jnp.arange(target)[None, :, None] + 0.5) * scale
    weights = jnp.maximum(
        0, 1 - jnp.abs(pixels + 0.5 - centres) / jnp.maximum(1, scale))
    weights *= (pixels >= starts) & (pixels < starts + lengths)
    return weights / weights.sum(-1, keepdims=True)


def cropped_labels(labels: jax.Array, boxes: jax.Array,
                   size: tuple[int, int]) -> jax.Array:
    """Cuts boxes out of masks [N, H, W], with the label of the nearest pixel."""
    top, left, heights, widths = (side[:, None] for side in boxes.T)
    rows = top + (2 * jnp.arange(size[0])[None] + 1) * heights // (2 * size[0])
    columns = left + (2 * jnp.arange(size[1])[None] + 1) * widths // (2 * size[1])
    shape = (len(labels), *size)
    return gather_windows(
        labels[..., None], jnp.broadcast_to(rows[:, :, None], shape),
        jnp.broadcast_to(columns[:, None, :], shape), 1)[..., 0, 0, 0]
