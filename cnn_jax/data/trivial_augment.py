"""TrivialAugment Wide: one random operation of random strength for each image.

Source: Müller, Hutter, TrivialAugment: Tuning-free yet state-of-the-art data
augmentation, 2021. Operations and magnitudes are those of torchvision's
`TrivialAugmentWide(interpolation=BILINEAR)`: pixels outside the image are black.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.data import colour
from cnn_jax.data.warp import warp, warp_labels

BINS = 31
_FRACTIONS = np.arange(BINS) / (BINS - 1)
# The magnitudes of each operation, one for each bin.
MAGNITUDES = {
    "identity": 0 * _FRACTIONS,
    "shear_x": 0.99 * _FRACTIONS,               # pixels for each pixel
    "shear_y": 0.99 * _FRACTIONS,
    "translate_x": np.floor(32 * _FRACTIONS),   # pixels
    "translate_y": np.floor(32 * _FRACTIONS),
    "rotate": 135 * _FRACTIONS,                 # degrees
    "brightness": 0.99 * _FRACTIONS,            # the factor is 1 + this
    "color": 0.99 * _FRACTIONS,
    "contrast": 0.99 * _FRACTIONS,
    "sharpness": 0.99 * _FRACTIONS,
    "posterize": 8 - np.round(6 * _FRACTIONS),  # bits that are kept
    "solarize": 255 * (1 - _FRACTIONS),         # threshold
    "autocontrast": 0 * _FRACTIONS,
    "equalize": 0 * _FRACTIONS,
}
OPERATIONS = tuple(MAGNITUDES)
GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
# The image with which each blend mixes.
BLENDED = {"brightness": lambda images: jnp.zeros(()), "color": colour.grey,
           "contrast": colour.mean_grey, "sharpness": colour.smoothed}
SIGNED = (*GEOMETRIC, *BLENDED)


def draw_operation(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws the index of an operation and its magnitude, with a sign if in `SIGNED`."""
    which, how_much, sign = jax.random.split(key, 3)
    operation = jax.random.randint(which, (), 0, len(OPERATIONS))
    table = jnp.array([MAGNITUDES[name] for name in OPERATIONS], jnp.float32)
    magnitude = table[operation, jax.random.randint(how_much, (), 0, BINS)]
    negative = is_one_of(operation, SIGNED) & jax.random.bernoulli(sign)
    return operation, jnp.where(negative, -magnitude, magnitude)


def is_one_of(operations: jax.Array, names: tuple[str, ...]) -> jax.Array:
    """Tells which operations are among the named ones."""
    return jnp.isin(operations, jnp.array([OPERATIONS.index(name) for name in names]))


def apply_operations(images: jax.Array, operations: jax.Array, magnitudes: jax.Array,
                     masks: jax.Array | None = None
                     ) -> tuple[jax.Array, jax.Array | None]:
    """Applies an operation to each image, with its magnitude.

    All operations are computed for all images: their cost does not depend on the draw.

    Args:
        images: [N, H, W, C] with pixels 0..255, which are rounded first.
        operations: int [N], indices into `OPERATIONS`.
        magnitudes: float32 [N], see `MAGNITUDES`.
        masks: a label for each pixel, [N, H, W], which moves with the image; the label
            outside is 0.

    Returns:
        float32 images, and the masks.
    """
    images = jnp.round(images.astype(jnp.float32))
    matrices = jax.vmap(inverse_map, (0, 0, None, None))(
        operations, magnitudes, *images.shape[1:3])
    # A border of one black pixel, so that the edge is interpolated too.
    border = ((0, 0), (1, 1), (1, 1))
    inner = np.s_[:, 1:-1, 1:-1]
    moved = warp(jnp.pad(images, (*border, (0, 0))), matrices, "constant")[inner]
    if masks is not None:
        masks = warp_labels(jnp.pad(masks, border), matrices, "constant")[inner]

    def is_operation(*names: str) -> jax.Array:
        return colour.per_image(is_one_of(operations, names))

    others = jnp.zeros(())
    for name, blended_with in BLENDED.items():
        others = jnp.where(is_operation(name), blended_with(images), others)
    magnitudes_of_blends = jnp.where(is_one_of(operations, tuple(BLENDED)), magnitudes,
                                     0.0)
    result = colour.blend(images, others, 1 + magnitudes_of_blends)
    for names, changed in (
            (GEOMETRIC, moved),
            (("posterize",), colour.posterize(images, magnitudes)),
            (("solarize",), colour.solarize(images, magnitudes)),
            (("autocontrast",), colour.autocontrast(images)),
            (("equalize",), colour.equalize(images))):
        result = jnp.where(is_operation(*names), changed, result)
    return result, masks


def inverse_map(operation: jax.Array, magnitude: jax.Array, height: int,
                width: int) -> jax.Array:
    """Makes the 3x3 map from output to input positions of one image; see warp.py.

    A shear keeps the top left corner of the image, a rotation (counter-clockwise) its
    centre. Operations that move no pixel have the identity.
    """
    def amount(name: str) -> jax.Array:
        return jnp.where(operation == OPERATIONS.index(name), magnitude, 0.0)

    angle = jnp.deg2rad(amount("rotate"))
    shear_x, shear_y = amount("shear_x"), amount("shear_y")
    return jnp.array([
        [jnp.cos(angle), jnp.sin(angle) + shear_y,
         shear_y * width / 2 - amount("translate_y")],
        [shear_x - jnp.sin(angle), jnp.cos(angle),
         shear_x * height / 2 - amount("translate_x")],
        [0, 0, 1]])
