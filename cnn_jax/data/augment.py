"""Changes training images at random, inside jit, as a pure function of a key.

One affine map per image, with the names, ranges and order of Keras'
`ImageDataGenerator`: an output pixel at p (relative to the centre) shows the input at

    R(theta) T(shift) S(shear) Z(zoom) F(flips) p,   bilinearly interpolated.

(Later versions of Keras exchange the two axes of R T S Z, so that height_shift_range
moves along the width. Ours do what their names say, as Keras' first versions did.)
A random-resized crop comes before it. Then follow, in this order, a crop of the padded
image, TrivialAugment, colour jitter, cutout, random erasing, and mixup or cutmix. Each
image has its own key, derived from its position in the global batch, so the result does
not depend on the number of devices. Masks (a label for each pixel) move with their
images.

A function of the user's own, `augment.own`, comes before mixup and cutmix.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from ml_collections import ConfigDict

from cnn_jax import tasks, user_code
from cnn_jax.data import boxes, colour
from cnn_jax.data.mixing import Targets, mix
from cnn_jax.data.scaling import per_channel
from cnn_jax.data.trivial_augment import apply_operations, draw_operation
from cnn_jax.data.warp import warp, warp_labels
from cnn_jax.errors import InputError
from cnn_jax.tasks import Task

# The purposes of an image's keys, in the order in which they are split. Each key may
# depend on the number of keys, so this list must not change.
_DRAWS = ("affine", "horizontal", "vertical", "crop", "cutout", "choice", "weight",
          "box")
# Purposes whose keys are folded in, each with a number of its own.
_FOLDED_DRAWS = {"resized_crop": 1000, "trivial_augment": 1001, "jitter": 1002,
                 "erasing": 1003, "own": 1004}
# Functions of your own by name: (key, float32 pixels [H, W, C] of 0..255) -> pixels of
# the same shape, for one image inside jit.
AUGMENTATIONS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {}
_PAD_MODES = {"nearest": "edge", "constant": "constant", "reflect": "symmetric"}


def is_identity(settings: ConfigDict) -> bool:
    """Tells whether these settings change nothing."""
    return not (has_affine_map(settings) or has_mixing(settings)
                or settings.horizontal_flip or settings.vertical_flip
                or settings.crop_scale or settings.crop_padding or settings.cutout
                or settings.trivial_augment or colour.active_jitters(settings)
                or settings.random_erasing or settings.own)


def has_affine_map(settings: ConfigDict) -> bool:
    """Tells whether images are warped, not only flipped."""
    return any((settings.rotation_range, settings.width_shift_range,
                settings.height_shift_range, settings.shear_range, settings.zoom_range))


def has_mixing(settings: ConfigDict) -> bool:
    """Tells whether images are mixed in pairs."""
    return settings.mixup > 0 or settings.cutmix > 0


def check_channels(settings: ConfigDict, channels: int) -> None:
    """Raises InputError for settings that need colour where images are grey."""
    for name in ("saturation", "hue"):
        if settings[name] and channels != 3:
            raise InputError(
                f"config.augment.{name} = {settings[name]:g} is for colour, but the "
                f"images have {channels} channel: set it to 0, or data.channels to 3")


def augment(key: jax.Array, images: jax.Array, labels: jax.Array, positions: jax.Array,
            settings: ConfigDict,
            zero: float | tuple[float, ...] = 0.0, task: Task = tasks.classify.TASK,
            axis_name: str | None = None, cropped: bool = False,
            size: tuple[int, int] | None = None) -> tuple[jax.Array, Targets]:
    """Changes uint8 images [N, H, W, C] into float32 images, and makes their targets.

    Args:
        key: random key of the whole batch.
        images: their pixels are 0..255, and so are those of the result.
        labels: [N, ...], with the shape that the task defines.
        positions: int [N], the position of each image in the global batch, which is
            folded into its key.
        settings: the `augment` section of a config.
        zero: the pixel value that scaling maps to 0, one for all channels or one for
            each; cutout and random erasing fill with it.
        task: decides whether labels move with their images, and whether they can mix.
        axis_name: the mapped axis over which the batch is sharded, if any. Mixing pairs
            images across it.
        cropped: whether workers have cut the random-resized crops already.
        size: (height, width) of the result; None: that of the images.
    """
    target = size or (images.shape[1], images.shape[2])
    if is_identity(settings) and target == images.shape[1:3]:
        return images.astype(jnp.float32), ((labels, 1.0),)
    assert task.can_mix or not (has_mixing(settings) or settings.cutout
                                or settings.random_erasing), settings
    keys = draw_keys(key, positions)
    masks = labels if task.unit == "pixel" else None
    if (settings.crop_scale and not cropped) or target != images.shape[1:3]:
        images, masks = resize(images, masks, keys["resized_crop"], settings, target,
                               cropped)
    images, masks = move(images, masks, keys, settings)
    images = images.astype(jnp.float32)
    if settings.trivial_augment:
        operations, magnitudes = jax.vmap(draw_operation)(keys["trivial_augment"])
        images, masks = apply_operations(images, operations, magnitudes, masks)
    labels = labels if masks is None else masks
    if colour.active_jitters(settings):
        images = colour.colour_jitter(keys["jitter"], images, settings)
    if settings.cutout:
        hidden = cutout_mask(keys["cutout"], images, settings.cutout)
        images = jnp.where(hidden[..., None], per_channel(zero, images.ndim), images)
    if settings.random_erasing:
        erased = jax.vmap(functools.partial(
            boxes.draw_erased, height=target[0], width=target[1],
            probability=settings.random_erasing))(keys["erasing"])
        hidden = boxes.box_mask(erased, *target)
        images = jnp.where(hidden[..., None], per_channel(zero, images.ndim), images)
    if settings.own:
        images = apply_own(settings.own, keys["own"], images)
    if has_mixing(settings):
        return mix(images, labels, keys, settings, axis_name)
    return images, ((labels, 1.0),)


def apply_own(name: str, keys: jax.Array, images: jax.Array) -> jax.Array:
    """Applies a function of the user's own, `augment.own`, to each image."""
    function = user_code.find(AUGMENTATIONS, name)
    with user_code.field_errors("augment.own", name):
        changed = jax.vmap(function)(keys, images).astype(jnp.float32)
    if changed.shape != images.shape:
        raise InputError(f"config.augment.own = {name}: the function made an image "
                         f"{changed.shape[1:]} of {images.shape[1:]}: it must keep the "
                         "shape")
    return changed


def resize(images: jax.Array, masks: jax.Array | None, keys: jax.Array,
           settings: ConfigDict, size: tuple[int, int],
           cropped: bool) -> tuple[jax.Array, jax.Array | None]:
    """Resizes a box of each image, and of its mask, to `size`.

    The box is a random-resized crop. It is the whole image without `crop_scale`, or if
    the images are cropped already.
    """
    height, width = images.shape[1:3]
    cuts = jnp.broadcast_to(jnp.array([0, 0, height, width]), (len(images), 4))
    if settings.crop_scale and not cropped:
        cuts = jax.vmap(functools.partial(
            boxes.draw_crop, height=height, width=width, scale=settings.crop_scale,
            ratio=settings.crop_ratio))(keys)
    if masks is not None:
        masks = boxes.cropped_labels(masks, cuts, size)
    return boxes.resized_crop(images, cuts, size), masks


def move(images: jax.Array, masks: jax.Array | None, keys: dict[str, jax.Array],
         settings: ConfigDict) -> tuple[jax.Array, jax.Array | None]:
    """Warps, flips and shifts images, and their masks with them."""
    row_signs = flip_signs(keys["vertical"], settings.vertical_flip)
    column_signs = flip_signs(keys["horizontal"], settings.horizontal_flip)
    if has_affine_map(settings):
        draw_matrix = functools.partial(
            affine_matrix, settings=settings, height=images.shape[1],
            width=images.shape[2])
        matrices = jax.vmap(draw_matrix)(keys["affine"], row_signs, column_signs)
        if masks is not None:
            masks = warp_labels(masks, matrices, settings.fill_mode)
        images = warp(images, matrices, settings.fill_mode)
    else:
        images = flip(flip(images, row_signs, 1), column_signs, 2)
        if masks is not None:
            masks = flip(flip(masks, row_signs, 1), column_signs, 2)
    if settings.crop_padding:
        images = crop(images, keys["crop"], settings.crop_padding, settings.fill_mode)
        if masks is not None:
            masks = crop(masks, keys["crop"], settings.crop_padding,
                         settings.fill_mode)
    return images, masks


def draw_keys(key: jax.Array, positions: jax.Array) -> dict[str, jax.Array]:
    """Derives one key per image for each purpose: {purpose: keys [N]}."""
    keys = jax.vmap(lambda position: jax.random.fold_in(key, position))(positions)
    split = jax.vmap(lambda key: jax.random.split(key, len(_DRAWS)), out_axes=1)(keys)
    return dict(zip(_DRAWS, split)) | {
        name: jax.vmap(jax.random.fold_in, (0, None))(keys, number)
        for name, number in _FOLDED_DRAWS.items()}


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
    """Pads [N, H, W] or [N, H, W, C] on all sides, and crops H x W at random."""
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
    centres = jax.vmap(lambda key: boxes.random_pixel(key, images))(keys)
    squares = boxes.about(centres, jnp.full(centres.shape, side))
    return boxes.box_mask(squares, *images.shape[1:3])
