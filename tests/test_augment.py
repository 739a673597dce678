"""Augmentation against scipy, by hand, and independent of how a batch is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from cnn_jax.data import augment
from configs import default

KEY = jax.random.key(7)
SCIPY_MODES = {"nearest": "nearest", "constant": "grid-constant", "reflect": "reflect"}


def config(**changes):
    out = default.get_config().augment
    for name, value in changes.items():
        out[name] = value
    return out


def images(n=4, height=9, width=12, channels=2):
    return np.random.default_rng(0).integers(
        0, 256, (n, height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("mode", augment.FILL_MODES)
@pytest.mark.parametrize("shape", [(9, 12, 2), (8, 5, 1)])
def test_warp_equals_scipy(mode, shape):
    """scipy.ndimage.affine_transform, linear, is the independent implementation."""
    image = np.random.default_rng(1).normal(size=shape)
    matrix = np.array([[0.9, -0.3, 1.2], [0.25, 1.1, -0.7], [0, 0, 1]])
    centre = (np.array(shape[:2]) - 1) / 2
    offset = centre - matrix[:2, :2] @ centre + matrix[:2, 2]
    want = np.stack([
        scipy.ndimage.affine_transform(image[..., c], matrix[:2, :2], offset, order=1,
                                       mode=SCIPY_MODES[mode])
        for c in range(shape[2])], -1)
    got = augment.warp(jnp.asarray(image, jnp.float32), jnp.asarray(matrix), mode)
    np.testing.assert_allclose(got, want, atol=2e-4)


def test_nothing_asked_for_changes_nothing():
    x = images()
    got = augment.augment(KEY, x, jnp.arange(4), config())
    np.testing.assert_array_equal(got, x)
    assert got.dtype == jnp.float32


@pytest.mark.parametrize("changes", [
    {"rotation_range": 30.0}, {"width_shift_range": 0.3}, {"height_shift_range": 0.3},
    {"shear_range": 20.0}, {"zoom_range": 0.3}, {"horizontal_flip": True},
    {"vertical_flip": True}])
def test_each_setting_changes_images_reproducibly(changes):
    x = images(16)
    got = augment.augment(KEY, x, jnp.arange(16), config(**changes))
    assert (np.asarray(got) != x).any()
    np.testing.assert_array_equal(
        got, augment.augment(KEY, x, jnp.arange(16), config(**changes)))
    assert (got != augment.augment(jax.random.key(8), x, jnp.arange(16),
                                   config(**changes))).any()


def test_shift_matrix_moves_by_a_fraction_of_the_size():
    """A map that looks one column to the right moves the picture to the left."""
    x = jnp.asarray(images()[0], jnp.float32)
    matrix = jnp.array([[1.0, 0, 0], [0, 1, 1], [0, 0, 1]])
    got = augment.warp(x, matrix, "nearest")
    np.testing.assert_allclose(got[:, :-1], x[:, 1:], atol=1e-4)
    np.testing.assert_allclose(got[:, -1], x[:, -1], atol=1e-4)


@pytest.mark.parametrize("name,row,column", [
    ("width_shift_range", 0, 12), ("height_shift_range", 9, 0)])
def test_shifts_stay_within_their_range_and_axis(name, row, column):
    for seed in range(50):
        matrix = augment.affine_matrix(jax.random.key(seed), config(**{name: 0.25}),
                                       9, 12)
        assert abs(matrix[0, 2]) <= 0.25 * row and abs(matrix[1, 2]) <= 0.25 * column
        np.testing.assert_allclose(matrix[:2, :2], np.eye(2), atol=1e-6)


def test_rotation_preserves_lengths_and_stays_within_range():
    angles = []
    for seed in range(50):
        matrix = augment.affine_matrix(jax.random.key(seed),
                                       config(rotation_range=40.0), 9, 12)[:2, :2]
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(2), atol=1e-5)
        angles.append(np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0])))
    assert max(np.abs(angles)) <= 40 and max(angles) > 20 and min(angles) < -20


def test_flips_happen_to_about_half_of_the_images():
    x = images(400, 3, 4, 1)
    got = np.asarray(augment.augment(KEY, x, jnp.arange(400),
                                     config(horizontal_flip=True)))
    flipped = (got == x[:, :, ::-1]).all((1, 2, 3))
    assert ((got == x).all((1, 2, 3)) | flipped).all()
    assert 150 < flipped.sum() < 250


def test_an_image_is_changed_alike_in_any_cut_of_the_batch():
    x = images(8)
    settings = config(rotation_range=20.0, horizontal_flip=True, zoom_range=0.2)
    whole = augment.augment(KEY, x, jnp.arange(8), settings)
    halves = [augment.augment(KEY, x[k:k + 4], jnp.arange(k, k + 4), settings)
              for k in (0, 4)]
    np.testing.assert_allclose(whole, np.concatenate(halves), atol=1e-4)
