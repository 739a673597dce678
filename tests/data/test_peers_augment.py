"""Augmentation equals Keras' own code, given the same draws.

Needs the `peers` extra; then: pytest -m slow tests/data/test_peers_augment.py
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.data import augment, boxes, mixing, warp
from configs import default

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras", reason="needs the `peers` extra: keras")
pytestmark = pytest.mark.slow

RNG = np.random.default_rng(2)


def settings(**changes):
    out = default.get_config().augment
    out.update(changes)
    return out


def draws(images):
    """Draws the keys of each purpose, as `augment` does for the first batch."""
    return augment.draw_keys(jax.random.key(5), jnp.arange(len(images)))


@pytest.mark.parametrize("mode", warp.FILL_MODES)
def test_image_data_generator(mode):
    """Our map equals ImageDataGenerator's apply_affine_transform, then its flips.

    Keras' present version exchanges the axes of the map; its first versions did not. On
    transposed square images it does what its first versions and our map do.
    """
    from keras.src.legacy.preprocessing.image import apply_affine_transform
    shifts = settings(rotation_range=40.0, width_shift_range=0.2,
                      height_shift_range=0.1, shear_range=15.0, zoom_range=0.3,
                      horizontal_flip=True, vertical_flip=True, fill_mode=mode)
    images = RNG.integers(0, 256, (12, 17, 17, 3), dtype=np.uint8)
    got, _ = augment.augment(jax.random.key(5), images, jnp.zeros(12, int),
                             jnp.arange(12), shifts)
    keys = draws(images)
    signs = [np.asarray(augment.flip_signs(keys[name], True))
             for name in ("vertical", "horizontal")]
    assert {-1.0, 1.0} == set(signs[0]) == set(signs[1])
    for n, image in enumerate(images):
        theta, row, column, shear, zoom_r, zoom_c = np.asarray(
            jax.random.uniform(keys["affine"][n], (6,), minval=-1.0), np.float64)
        want = apply_affine_transform(
            image.astype(np.float64).transpose(1, 0, 2), theta=40 * theta,
            tx=0.1 * 17 * row, ty=0.2 * 17 * column, shear=15 * shear,
            zx=1 + 0.3 * zoom_r, zy=1 + 0.3 * zoom_c, row_axis=0, col_axis=1,
            channel_axis=2, fill_mode=mode).transpose(1, 0, 2)
        want = want[::int(signs[0][n]), ::int(signs[1][n])]
        np.testing.assert_allclose(got[n], want, atol=0.05)  # of 255


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixing_layers(name):
    """keras.layers.MixUp and CutMix equal ours, given our partners and weights."""
    images = RNG.integers(0, 256, (10, 8, 9, 3), dtype=np.uint8)
    labels = jnp.arange(10)
    got, ((own, weights), (other, partner_weights)) = augment.augment(
        jax.random.key(5), images, labels, jnp.arange(10), settings(**{name: 0.7}))
    weights = np.asarray(weights)
    order = {"permutation_order": np.arange(10)[::-1]}
    if name == "mixup":
        layer = keras.layers.MixUp(0.7)
        given = order | {"mix_weight": weights}
    else:
        keys = draws(images)
        sides = np.sqrt(1 - mixing.mix_weights(keys["weight"], 0.7))[:, None] * (8, 9)
        centres = jax.vmap(lambda key: boxes.random_pixel(key, images))(keys["box"])
        inside = boxes.box_mask(boxes.about(centres, jnp.asarray(sides, jnp.int32)),
                                *images.shape[1:3])
        layer = keras.layers.CutMix(0.7)
        given = order | {"mix_weight": 1 - np.asarray(inside).mean((1, 2)),
                         "batch_masks": np.repeat(inside[..., None], 3, -1)}
    want = layer.transform_images(images, given, training=True)
    np.testing.assert_allclose(got, want, atol=1e-3)
    soft = np.eye(10, dtype=np.float32)
    mixed = layer.transform_labels(soft, given, training=True)
    ours = (weights[:, None] * soft[own]
            + np.asarray(partner_weights)[:, None] * soft[other])
    np.testing.assert_allclose(ours, mixed, atol=1e-6)
