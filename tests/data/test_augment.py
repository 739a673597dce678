"""Augmentation against scipy, by hand, and independent of how a batch is cut."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from tests.support.tiny_runs import end, start_python

from cnn_jax.data import augment, warp
from cnn_jax.tasks import TASKS
from configs import default, monkeys

KEY = jax.random.key(7)
ALL = {"rotation_range": 20.0, "horizontal_flip": True, "zoom_range": 0.2,
       "crop_padding": 2}


def config(**changes):
    out = default.get_config().augment
    for name, value in changes.items():
        out[name] = value
    return out


def images(n=4, height=9, width=12, channels=2):
    return np.random.default_rng(0).integers(
        0, 256, (n, height, width, channels), dtype=np.uint8)


def augmented(x, labels=None, key=KEY, **changes):
    """(images, targets) of a whole batch."""
    labels = jnp.arange(len(x)) if labels is None else labels
    task = TASKS["segment" if labels.ndim == 3 else "classify"]
    return augment.augment(key, x, labels, jnp.arange(len(x)), config(**changes),
                           task=task)


def matrices(n):
    """Maps that turn, shear, zoom and shift beyond the edges, each differently."""
    rng = np.random.default_rng(1)
    out = np.tile(np.eye(3), (n, 1, 1))
    out[:, :2, :2] += rng.uniform(-0.6, 0.6, (n, 2, 2))
    out[:, :2, 2] = rng.uniform(-9, 9, (n, 2))
    return out


def by_scipy(image, matrix, mode, order):
    """scipy.ndimage.affine_transform, which Keras' ImageDataGenerator calls too."""
    centre = (np.array(image.shape) - 1) / 2
    offset = centre - matrix[:2, :2] @ centre + matrix[:2, 2]
    return scipy.ndimage.affine_transform(image, matrix[:2, :2], offset, order=order,
                                          mode=mode)


@pytest.mark.parametrize("mode", warp.FILL_MODES)
@pytest.mark.parametrize("shape", [(9, 12, 2), (8, 5, 1), (1, 7, 3), (6, 1, 1)])
def test_warp_equals_scipy(mode, shape):
    x, maps = images(6, *shape), matrices(6)
    want = np.stack([np.stack([
        by_scipy(image[..., c].astype(float), matrix, mode, 1)
        for c in range(shape[2])], -1) for image, matrix in zip(x, maps)])
    got = warp.warp(x, jnp.asarray(maps, jnp.float32), mode)
    np.testing.assert_allclose(got, want, atol=5e-3)  # of 255


@pytest.mark.parametrize("mode", warp.FILL_MODES)
def test_masks_are_warped_to_the_nearest_label(mode):
    masks, maps = images(6, 9, 12, 1)[..., 0], matrices(6)
    want = np.stack([by_scipy(mask, matrix, mode, 0)
                     for mask, matrix in zip(masks, maps)])
    got = warp.warp_labels(jnp.asarray(masks), jnp.asarray(maps, jnp.float32), mode)
    assert got.dtype == jnp.uint8
    np.testing.assert_array_equal(got, want)


def test_fill_modes_by_hand():
    """Half a pixel beyond each edge and further, on the row 10 20 40."""
    x = np.array([10, 20, 40], np.uint8).reshape(1, 1, 3, 1)
    for shift, mode, want in (
            (-2, "nearest", [10, 10, 10]), (-2, "reflect", [20, 10, 10]),
            (-2, "constant", [0, 0, 10]), (2, "nearest", [40, 40, 40]),
            (2, "reflect", [40, 40, 20]), (2, "constant", [40, 0, 0]),
            (-0.5, "reflect", [10, 15, 30]), (-0.5, "constant", [0, 15, 30])):
        look = jnp.eye(3).at[1, 2].set(shift)[None]
        got = np.asarray(warp.warp(x, look, mode)).ravel()
        np.testing.assert_allclose(got, want, err_msg=f"{mode} {shift}")


def test_nothing_asked_for_changes_nothing():
    x = images()
    got, targets = augmented(x)
    np.testing.assert_array_equal(got, x)
    assert got.dtype == jnp.float32
    (labels, weight), = targets
    assert labels.tolist() == [0, 1, 2, 3] and weight == 1


@pytest.mark.parametrize("changes", [
    {"rotation_range": 30.0}, {"width_shift_range": 0.3}, {"height_shift_range": 0.3},
    {"shear_range": 20.0}, {"zoom_range": 0.3}, {"horizontal_flip": True},
    {"vertical_flip": True}, {"crop_padding": 2}, {"cutout": 3}, {"mixup": 0.5},
    {"cutmix": 1.0}])
def test_each_setting_changes_images_reproducibly(changes):
    x = images(16)
    got, _ = augmented(x, **changes)
    assert got.dtype == jnp.float32
    assert (np.asarray(got) != x).any()
    np.testing.assert_array_equal(got, augmented(x, **changes)[0])
    assert (got != augmented(x, key=jax.random.key(8), **changes)[0]).any()


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


@pytest.mark.parametrize("name,mirror", [
    ("horizontal_flip", np.s_[:, :, ::-1]), ("vertical_flip", np.s_[:, ::-1])])
@pytest.mark.parametrize("more", [{}, {"rotation_range": 1e-9}],
                         ids=["alone", "in the map"])
def test_flips_happen_to_about_half_of_the_images(name, mirror, more):
    x = images(400, 3, 4, 1)
    got = np.asarray(augmented(x, **{name: True}, **more)[0])
    flipped = np.isclose(got, x[mirror], atol=1e-3).all((1, 2, 3))
    same = np.isclose(got, x, atol=1e-3).all((1, 2, 3))
    assert (same | flipped).all() and 150 < flipped.sum() < 250


@pytest.mark.parametrize("mode,pad", [
    ("constant", "constant"), ("nearest", "edge"), ("reflect", "symmetric")])
def test_a_crop_is_one_of_the_windows_of_the_padded_image(mode, pad):
    x, padding = images(60, 4, 5, 2), 2
    got = np.asarray(augmented(x, crop_padding=padding, fill_mode=mode)[0])
    found = set()
    for image, cropped in zip(np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), pad), got):
        places = [(r, c) for r in range(5) for c in range(5)
                  if (image[r:r + 4, c:c + 5] == cropped).all()]
        assert places
        found.update(places)
    assert {r for r, _ in found} == {c for _, c in found} == set(range(5))


def test_cutout_blanks_a_square_cut_off_by_the_edges():
    x = np.full((300, 8, 10, 2), 200, np.uint8)
    got, _ = augment.augment(KEY, x, jnp.zeros(300, int), jnp.arange(300),
                             config(cutout=4), zero=33.0)
    blank = np.asarray(got) == 33
    assert ((got == 200) | blank).all() and (blank[..., 0] == blank[..., 1]).all()
    sizes = set()
    for mask in blank[..., 0]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        sizes.add((len(rows), len(columns)))
        assert mask.sum() == len(rows) * len(columns)  # a full box
        whole = 0 < rows[0] and rows[-1] < 7 and 0 < columns[0] and columns[-1] < 9
        assert not whole or (len(rows), len(columns)) == (4, 4)
    assert max(sizes) == (4, 4) and min(sizes)[0] == 2


def test_mixup_is_the_mean_of_an_image_and_its_partner():
    x, labels = images(50, 3, 4, 1), jnp.arange(50)
    got, ((own, share), (other, rest)) = augmented(x, labels, mixup=0.4)
    assert own.tolist() == list(range(50)) and other.tolist() == list(range(50))[::-1]
    share, pixels = np.asarray(share)[:, None, None, None], x.astype(float)
    np.testing.assert_allclose(got, share * pixels + (1 - share) * pixels[::-1],
                               atol=1e-3)
    np.testing.assert_allclose(rest, 1 - share.ravel(), atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_have_the_moments_of_a_beta_distribution(alpha):
    """Mean 1/2, variance 1 / (4 (2 alpha + 1)); five standard errors."""
    share = np.asarray(augment.shares(jax.random.split(KEY, 4000), alpha))
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(share.mean() - 0.5) < 5 * np.sqrt(variance / 4000)
    np.testing.assert_allclose(share.var(), variance, rtol=0.08)


def test_cutmix_counts_the_pixels_of_the_partner():
    x = images(200, 8, 10, 3)
    x[:100] //= 2  # partners never agree in all channels of a pixel
    x[100:] = 255 - x[100:] // 2
    got, ((_, share), (other, rest)) = augmented(x, cutmix=1.0)
    own, partner = ((np.asarray(got) == y).all(-1) for y in (x, x[::-1]))
    assert (own ^ partner).all() and other[3] == 196
    np.testing.assert_allclose(share, own.mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(rest, partner.mean((1, 2)), atol=1e-6)
    boxes = [mask.any(1).sum() * mask.any(0).sum() for mask in partner]
    assert boxes == partner.sum((1, 2)).tolist()  # each a full box
    assert 0.2 < np.mean(rest) < 0.5 and np.max(rest) > 0.7


def test_with_both_each_image_is_either_blended_or_cut():
    x = np.full((200, 4, 4, 1), 10, np.uint8)
    x[100:] = 250
    got = np.asarray(augmented(x, mixup=1.0, cutmix=1.0)[0])
    cut = np.isin(got, (10, 250)).all((1, 2, 3))
    even = (got == got[:, :1, :1]).all((1, 2, 3))
    assert (cut | even).all() and 60 < (~cut).sum() < 140


def test_an_image_is_changed_alike_in_any_cut_of_the_batch():
    x, labels = images(8), jnp.zeros(8, int)
    settings = config(**ALL, cutout=3)
    whole, _ = augment.augment(KEY, x, labels, jnp.arange(8), settings)
    halves = [augment.augment(KEY, x[k:k + 4], labels[k:k + 4], jnp.arange(k, k + 4),
                              settings)[0] for k in (0, 4)]
    np.testing.assert_allclose(whole, np.concatenate(halves), atol=1e-3)


@pytest.mark.parametrize("changes", [{"mixup": 1.0}, {"cutmix": 1.0},
                                     {"mixup": 1.0, "cutmix": 1.0, **ALL}])
def test_mixing_pairs_across_mapped_devices(changes):
    """vmap with an axis name stands for pmap: the same collectives."""
    x, labels, place = images(12), jnp.arange(12), jnp.arange(12)
    run = functools.partial(augment.augment, KEY, settings=config(**changes))
    want, ((own, share), (other, rest)) = run(x, labels, place)
    got, targets = jax.vmap(functools.partial(run, axis_name="batch"),
                            axis_name="batch")(
        *(a.reshape(3, 4, *a.shape[1:]) for a in (x, labels, place)))
    np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-3)
    for (ours, part), (theirs, whole) in zip(targets, ((own, share), (other, rest))):
        np.testing.assert_array_equal(ours.ravel(), theirs)
        np.testing.assert_allclose(part.ravel(), whole, atol=1e-6)


def test_the_monkeys_are_trained_as_the_tutorial_says():
    """Values of the tutorial's ImageDataGenerator and fit call."""
    settings = monkeys.get_config()
    assert dict(settings.augment) == dict(config(
        rotation_range=40.0, width_shift_range=0.2, height_shift_range=0.2,
        shear_range=0.2, zoom_range=0.2, horizontal_flip=True, fill_mode="nearest"))
    assert (settings.batch_size, settings.epochs, settings.seed) == (64, 10, 7)
    assert settings.data.image_size == (128, 128) and settings.data.scaling == "unit"
    assert settings.optimizer.name == "adam"


def test_two_devices_make_the_same_batch_and_only_partners_travel():
    """The script has the two devices; one weight of a plain batch is mapped to two."""
    code, output, errors = end(start_python(
        Path(__file__).parents[1] / "support" / "augment_devices.py", devices=2))
    assert code == 0, errors
    found = json.loads(output)
    for over_mesh, mapped, _ in found.values():
        assert over_mesh < 1e-3 and mapped < 1e-3, found
    assert found["moved"][2] == [] and found["mixed"][2] == ["collective-permute"]


def test_masks_move_with_their_images():
    """A mask equal to the image stays equal, up to interpolation at its borders."""
    masks = np.zeros((20, 16, 16), np.uint8)
    masks[:, 4:11, 3:9] = 1
    for changes in (ALL, {"vertical_flip": True, "crop_padding": 3},
                    {"width_shift_range": 0.3, "fill_mode": "reflect"}):
        got, ((moved, _),) = augmented(masks[..., None] * 255, masks, **changes)
        assert moved.dtype == jnp.uint8 and (moved != masks).any()
        picture = np.asarray(got[..., 0]) / 255
        sharp = np.abs(picture - 0.5) > 0.49
        np.testing.assert_array_equal(picture[sharp].round(), moved[sharp])
        assert sharp.mean() > 0.8
