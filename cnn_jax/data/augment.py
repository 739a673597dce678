"""Changes training images at random, inside jit, as a pure function of a key.

One affine map per image, with the names, ranges and order of Keras'
`ImageDataGenerator`: an output pixel at p (relative to the centre) shows the input at

    R(theta) T(shift) S(shear) Z(zoom) F(flips) p,   bilinearly interpolated.

(Later versions of Keras exchange the two axes of R T S Z, so that height_shift_range
moves along the width. Ours do what their names say, as Keras' first versions did.)
Then follow a crop of the padded image, cutout, mixup and cutmix. Each image has its own
key, derived from its position in the global batch, so the result does not depend on the
number of devices. Masks (a label for each pixel) move with their images.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from ml_collections import ConfigDict

from cnn_jax.data.scaling import per_channel
from cnn_jax.data.warp import warp, warp_labels
from cnn_jax.tasks import TASKS, Task

# Pairs (labels, weight of each example), whose weights add up to 1. The loss is the
# weighted sum of the losses against the labels of each pair.
Targets = tuple[tuple[jax.Array, jax.Array | float], ...]

# The purposes of an image's keys, in the order in which they are split.
_DRAWS = ("affine", "horizontal", "vertical", "crop", "cutout", "choice", "weight",
          "box")
_PAD_MODES = {"nearest": "edge", "constant": "constant", "reflect": "symmetric"}


def is_identity(settings: ConfigDict) -> bool:
    """Tells whether these settings change nothing."""
    return not (has_affine_map(settings) or has_mixing(settings)
                or settings.horizontal_flip or settings.vertical_flip
                or settings.crop_padding or settings.cutout)


def has_affine_map(settings: ConfigDict) -> bool:
    """Tells whether images are warped, not only flipped."""
    return any((settings.rotation_range, settings.width_shift_range,
                settings.height_shift_range, settings.shear_range, settings.zoom_range))


def has_mixing(settings: ConfigDict) -> bool:
    """Tells whether images are mixed in pairs."""
    return settings.mixup > 0 or settings.cutmix > 0


def augment(key: jax.Array, images: jax.Array, labels: jax.Array, positions: jax.Array,
            settings: ConfigDict,
            zero: float | tuple[float, ...] = 0.0, task: Task = TASKS["classify"],
            axis_name: str | None = None) -> tuple[jax.Array, Targets]:
    """Changes uint8 images [N, H, W, C] into float32 images, and makes their targets.

    Args:
        key: random key of the whole batch.
        images: their pixels are 0..255, and so are those of the result.
        labels: [N, ...], with the shape that the task defines.
        positions: int [N], the position of each image in the global batch, which is
            folded into its key.
        settings: the `augment` section of a config.
        zero: the pixel value that scaling maps to 0, one for all channels or one for
            each; cutout fills with it.
        task: decides whether labels move with their images, and whether they can mix.
        axis_name: the mapped axis over which the batch is sharded, if any. Mixing pairs
            images across it.
    """
    if is_identity(settings):
        return images.astype(jnp.float32), ((labels, 1.0),)
    assert task.can_mix or not (has_mixing(settings) or settings.cutout), settings
    has_masks = task.unit == "pixel"
    keys = draw_keys(key, positions)
    row_signs = flip_signs(keys["vertical"], settings.vertical_flip)
    column_signs = flip_signs(keys["horizontal"], settings.horizontal_flip)
    if has_affine_map(settings):
        draw_matrix = functools.partial(
            affine_matrix, settings=settings, height=images.shape[1],
            width=images.shape[2])
        matrices = jax.vmap(draw_matrix)(keys["affine"], row_signs, column_signs)
        if has_masks:
            labels = warp_labels(labels, matrices, settings.fill_mode)
        images = warp(images, matrices, settings.fill_mode)
    else:
        images = flip(flip(images, row_signs, 1), column_signs, 2)
        if has_masks:
            labels = flip(flip(labels, row_signs, 1), column_signs, 2)
    if settings.crop_padding:
        images = crop(images, keys["crop"], settings.crop_padding, settings.fill_mode)
        if has_masks:
            labels = crop(labels, keys["crop"], settings.crop_padding,
                          settings.fill_mode)
    images = images.astype(jnp.float32)
    if settings.cutout:
        hidden = cutout_mask(keys["cutout"], images, settings.cutout)
        images = jnp.where(hidden[..., None], per_channel(zero, images.ndim), images)
    if has_mixing(settings):
        return mix(images, labels, keys, settings, axis_name)
    return images, ((labels, 1.0),)


def draw_keys(key: jax.Array, positions: jax.Array) -> dict[str, jax.Array]:
    """Derives one key per image for each purpose: {purpose: keys [N]}."""
    keys = jax.vmap(lambda position: jax.random.split(
        jax.random.fold_in(key, position), len(_DRAWS)), out_axes=1)(positions)
    return dict(zip(_DRAWS, keys))


def affine_matrix(key: jax.Array, row_sign: jax.Array, column_sign: jax.Array,
                  settings: ConfigDict, height: int, width: int) -> jax.Array:
    """Draws the 3x3 map from output to input positions (row, column, 1) of one image.

    row_sign, column_sign: -1 flips this axis of the output, 1 does not.
    """
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
    # With the default precision, TPUs and GPUs would round positions to bfloat16 or so.
    matrix = functools.reduce(functools.partial(jnp.matmul, precision="highest"),
                              (rotate, shift, slant, zoom))
    return matrix * jnp.stack([row_sign, column_sign, 1.0])[None]


def flip_signs(keys: jax.Array, enabled: bool) -> jax.Array:
    """Draws float32 [N]: -1 for images to flip (half of them, if enabled), else 1."""
    if not enabled:
        return jnp.ones(len(keys))
    return 1.0 - 2.0 * jax.vmap(jax.random.bernoulli)(keys)


def flip(images: jax.Array, signs: jax.Array, axis: int) -> jax.Array:
    """Flips, along `axis`, the images whose sign is negative."""
    signs = signs.reshape(-1, *[1] * (images.ndim - 1))
    return jnp.where(signs < 0, jnp.flip(images, axis), images)


def crop(images: jax.Array, keys: jax.Array, padding: int, fill_mode: str) -> jax.Array:
    """Pads [N, H, W] or [N, H, W, C] on all sides, and cuts H x W from anywhere in it.
    """
    channel_axes = images.ndim - 3
    padded = jnp.pad(
        images, [(0, 0), (padding,) * 2, (padding,) * 2, *[(0, 0)] * channel_axes],
        mode=_PAD_MODES[fill_mode])

    def crop_one(key: jax.Array, image: jax.Array) -> jax.Array:
        start = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return lax.dynamic_slice(image, (*start, *[0] * channel_axes), images.shape[1:])

    return jax.vmap(crop_one)(keys, padded)


def cutout_mask(keys: jax.Array, images: jax.Array, side: int) -> jax.Array:
    """Marks a square of `side` pixels about a random pixel of each image, [N, H, W].

    The image's edges cut off what lies outside (DeVries, Taylor, Improved
    Regularization with Cutout, 2017).
    """
    centres = jax.vmap(lambda key: random_pixel(key, images))(keys)
    return box_mask(centres, jnp.full(centres.shape, side), images)


def random_pixel(key: jax.Array, images: jax.Array) -> jax.Array:
    """Draws a pixel, int32 [2] (row, column)."""
    return jax.random.randint(key, (2,), 0, jnp.array(images.shape[1:3]))


def box_mask(centres: jax.Array, sides: jax.Array, images: jax.Array) -> jax.Array:
    """Marks boxes of `sides` [N, 2] pixels about `centres` [N, 2], bool [N, H, W]."""
    first = centres - sides // 2
    rows, columns = ((jnp.arange(n)[None] >= first[:, i, None])
                     & (jnp.arange(n)[None] < (first + sides)[:, i, None])
                     for i, n in enumerate(images.shape[1:3]))
    return rows[:, :, None] & columns[:, None, :]


def mix(images: jax.Array, labels: jax.Array, keys: dict[str, jax.Array],
        settings: ConfigDict,
        axis_name: str | None = None) -> tuple[jax.Array, Targets]:
    """Mixes image i with image B - 1 - i of the global batch of B images.

    With the weight l ~ Beta(alpha, alpha) of the image x and 1 - l of its partner x':

    mixup: l x + (1 - l) x' (Zhang, Cisse, Dauphin, Lopez-Paz, 2018).
    cutmix: a box of x' with the area 1 - l covers x; then l is counted in pixels (Yun,
    Han, Oh, Chun, Choe, Yoo, 2019).

    If both are enabled, each image gets one of the two with probability 1/2.
    """
    partners = reverse_batch(images, axis_name)
    partner_labels = reverse_batch(labels, axis_name)
    if not settings.cutmix > 0:
        mixed, weights = mixup(images, partners, keys, settings.mixup)
    elif not settings.mixup > 0:
        mixed, weights = cutmix(images, partners, keys, settings.cutmix)
    else:
        blended, blend_weights = mixup(images, partners, keys, settings.mixup)
        cut, cut_weights = cutmix(images, partners, keys, settings.cutmix)
        is_blended = jax.vmap(jax.random.bernoulli)(keys["choice"])
        mixed = jnp.where(is_blended[:, None, None, None], blended, cut)
        weights = jnp.where(is_blended, blend_weights, cut_weights)
    return mixed, ((labels, weights), (partner_labels, 1 - weights))


def mixup(images: jax.Array, partners: jax.Array, keys: dict[str, jax.Array],
          alpha: float) -> tuple[jax.Array, jax.Array]:
    """Blends images with their partners; returns them and the weights [N] of `images`.
    """
    weights = mix_weights(keys["weight"], alpha)
    pixel_weights = weights[:, None, None, None]
    return pixel_weights * images + (1 - pixel_weights) * partners, weights


def cutmix(images: jax.Array, partners: jax.Array, keys: dict[str, jax.Array],
           alpha: float) -> tuple[jax.Array, jax.Array]:
    """Covers a box of images with their partners; returns them and the weights [N].

    A weight is the fraction of an image's pixels that is not covered.
    """
    side_fractions = jnp.sqrt(1 - mix_weights(keys["weight"], alpha))[:, None]
    sides = (side_fractions * jnp.array(images.shape[1:3])[None]).astype(jnp.int32)
    centres = jax.vmap(lambda key: random_pixel(key, images))(keys["box"])
    covered = box_mask(centres, sides, images)
    return (jnp.where(covered[..., None], partners, images),
            1 - covered.mean((1, 2), dtype=jnp.float32))


def mix_weights(keys: jax.Array, alpha: float) -> jax.Array:
    """Draws float32 [N] from Beta(alpha, alpha)."""
    return jax.vmap(lambda key: jax.random.beta(key, alpha, alpha))(keys)


def reverse_batch(rows: jax.Array, axis_name: str | None) -> jax.Array:
    """Reverses the global batch: row i of its B rows becomes row B - 1 - i."""
    if axis_name is not None:
        count = lax.axis_size(axis_name)
        rows = lax.ppermute(rows, axis_name,
                            [(i, count - 1 - i) for i in range(count)])
    return rows[::-1]
