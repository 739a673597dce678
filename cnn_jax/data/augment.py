"""Random changes of training images, inside jit: pure functions of a key.

One affine map per image, with the names, ranges and order of Keras'
`ImageDataGenerator`: an output pixel at p (relative to the centre) shows the input at

    R(theta) T(shift) S(shear) Z(zoom) F(flips) p,   bilinearly interpolated.

(Keras' later versions exchange the two axes of R T S Z, so that height_shift_range
moves along the width; ours are as named, and as in its first versions.) Then a crop of
the padded image, cutout, mixup and cutmix. Each image draws from a key of its own, by
its place in the global batch, so the number of devices does not matter. Masks (a label
for each pixel) move with their images.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax.data.warp import warp, warp_labels
from cnn_jax.tasks import TASKS, Task

# (labels, weight of each example) pairs, whose weights add up to 1: the loss is the
# weighted sum of the losses against each.
Targets = tuple[tuple[jax.Array, jax.Array | float], ...]

_DRAWS = ("affine", "horizontal", "vertical", "crop", "cutout", "choice", "share",
          "box")
_PAD_MODES = {"nearest": "edge", "constant": "constant", "reflect": "symmetric"}


def is_identity(settings) -> bool:
    """Whether these settings change nothing."""
    return not (moves(settings) or mixes(settings) or settings.horizontal_flip
                or settings.vertical_flip or settings.crop_padding or settings.cutout)


def moves(settings) -> bool:
    return any((settings.rotation_range, settings.width_shift_range,
                settings.height_shift_range, settings.shear_range, settings.zoom_range))


def mixes(settings) -> bool:
    return settings.mixup > 0 or settings.cutmix > 0


def augment(key: jax.Array, images: jax.Array, labels: jax.Array, place: jax.Array,
            settings, zero: float = 0.0, task: Task = TASKS["classify"],
            axis_name: str | None = None) -> tuple[jax.Array, Targets]:
    """uint8 images [N, H, W, C] -> float32 images with pixels 0..255, and targets.

    labels: [N, ...] by the task.
    place: [N], each image's position in the global batch, folded into its key.
    settings: the `augment` part of a config.
    zero: the pixel that scaling turns into 0, which fills what cutout removes.
    axis_name: where the batch is split over mapped devices; mixing pairs across them.
    """
    if is_identity(settings):
        return images.astype(jnp.float32), ((labels, 1.0),)
    assert task.can_mix or not (mixes(settings) or settings.cutout), settings
    masks = task.unit == "pixel"
    keys = dict(zip(_DRAWS, jax.vmap(
        lambda p: jax.random.split(jax.random.fold_in(key, p), len(_DRAWS)),
        out_axes=1)(place)))
    rows, columns = (flip_signs(keys[name], asked) for name, asked in (
        ("vertical", settings.vertical_flip), ("horizontal", settings.horizontal_flip)))
    if moves(settings):
        matrices = jax.vmap(lambda k, *signs: affine_matrix(
            k, settings, *images.shape[1:3]) * jnp.stack([*signs, 1.0]))(
                keys["affine"], rows, columns)
        if masks:
            labels = warp_labels(labels, matrices, settings.fill_mode)
        images = warp(images, matrices, settings.fill_mode)
    else:
        images = flip(flip(images, rows, 1), columns, 2)
        if masks:
            labels = flip(flip(labels, rows, 1), columns, 2)
    if settings.crop_padding:
        images = crop(images, keys["crop"], settings.crop_padding, settings.fill_mode)
        if masks:
            labels = crop(labels, keys["crop"], settings.crop_padding,
                          settings.fill_mode)
    images = images.astype(jnp.float32)
    if settings.cutout:
        images = jnp.where(square(keys["cutout"], images, settings.cutout)[..., None],
                           zero, images)
    if mixes(settings):
        return mix(images, labels, keys, settings, axis_name)
    return images, ((labels, 1.0),)


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
    # TPUs and GPUs would round positions to bfloat16 or so.
    return functools.reduce(functools.partial(jnp.matmul, precision="highest"),
                            (rotate, shift, slant, zoom))


def flip_signs(keys: jax.Array, asked: bool) -> jax.Array:
    """[N], -1 for each image that is to be mirrored (half of them, if asked), else 1"""
    if not asked:
        return jnp.ones(len(keys))
    return 1.0 - 2.0 * jax.vmap(jax.random.bernoulli)(keys)


def flip(images: jax.Array, signs: jax.Array, axis: int) -> jax.Array:
    """Mirrors, along `axis`, the images whose sign is negative."""
    signs = signs.reshape(-1, *[1] * (images.ndim - 1))
    return jnp.where(signs < 0, jnp.flip(images, axis), images)


def crop(images: jax.Array, keys: jax.Array, padding: int, fill_mode: str) -> jax.Array:
    """A window of the old size, anywhere in the images padded on all sides; [N, H, W]
    or [N, H, W, C]."""
    rest = [(0, 0)] * (images.ndim - 3)
    padded = jnp.pad(images, [(0, 0), (padding,) * 2, (padding,) * 2, *rest],
                     mode=_PAD_MODES[fill_mode])

    def one(key, image):
        start = jax.random.randint(key, (2,), 0, 2 * padding + 1)
        return lax.dynamic_slice(image, (*start, *[0] * len(rest)), images.shape[1:])

    return jax.vmap(one)(keys, padded)


def square(keys: jax.Array, images: jax.Array, side: int) -> jax.Array:
    """bool [N, H, W]: a square of `side` pixels about a random pixel, cut off by the
    edges (DeVries, Taylor, Improved Regularization with Cutout, 2017)."""
    centres = jax.vmap(lambda key: centre(key, images))(keys)
    return box(centres, jnp.full(centres.shape, side), images)


def centre(key: jax.Array, images: jax.Array) -> jax.Array:
    """A random pixel (row, column)."""
    return jax.random.randint(key, (2,), 0, jnp.array(images.shape[1:3]))


def box(centres: jax.Array, sides: jax.Array, images: jax.Array) -> jax.Array:
    """bool [N, H, W]: boxes of `sides` [N, 2] pixels about `centres` [N, 2]."""
    first = centres - sides // 2
    rows, columns = ((jnp.arange(n) >= first[:, i, None])
                     & (jnp.arange(n) < (first + sides)[:, i, None])
                     for i, n in enumerate(images.shape[1:3]))
    return rows[:, :, None] & columns[:, None, :]


def mix(images: jax.Array, labels: jax.Array, keys: dict[str, jax.Array], settings,
        axis_name: str | None = None) -> tuple[jax.Array, Targets]:
    """Each image with some of its partner, the one as far from the batch's end as it
    is from the start; l ~ Beta(alpha, alpha) is its own share.

    mixup: l x + (1 - l) x' (Zhang, Cisse, Dauphin, Lopez-Paz, 2018).
    cutmix: a box of the area 1 - l from x' over x; the share is then counted in pixels
    (Yun, Han, Oh, Chun, Choe, Yoo, 2019). Where both are set, each image gets one of
    the two with probability 1/2.
    """
    others, names = mirrored(images, axis_name), mirrored(labels, axis_name)
    blended = cut = None
    if settings.mixup > 0:
        share = shares(keys["share"], settings.mixup)
        part = share[:, None, None, None]
        blended = part * images + (1 - part) * others, share
    if settings.cutmix > 0:
        sides = jnp.sqrt(1 - shares(keys["share"], settings.cutmix))[:, None]
        sides = (sides * jnp.array(images.shape[1:3])).astype(jnp.int32)
        centres = jax.vmap(lambda key: centre(key, images))(keys["box"])
        inside = box(centres, sides, images)
        cut = (jnp.where(inside[..., None], others, images),
               1 - inside.mean((1, 2), dtype=jnp.float32))
    if blended and cut:
        first = jax.vmap(jax.random.bernoulli)(keys["choice"])
        mixed = jnp.where(first[:, None, None, None], blended[0], cut[0])
        share = jnp.where(first, blended[1], cut[1])
    else:
        mixed, share = blended or cut
    return mixed, ((labels, share), (names, 1 - share))


def shares(keys: jax.Array, alpha: float) -> jax.Array:
    return jax.vmap(lambda key: jax.random.beta(key, alpha, alpha))(keys)


def mirrored(rows: jax.Array, axis_name: str | None) -> jax.Array:
    """Row i of the global batch, of B rows, becomes row B - 1 - i."""
    if axis_name is not None:
        count = lax.axis_size(axis_name)
        rows = lax.ppermute(rows, axis_name,
                            [(i, count - 1 - i) for i in range(count)])
    return rows[::-1]
