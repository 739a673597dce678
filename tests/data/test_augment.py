"""Augmentation equals scipy and cases by hand, for any sharding of the batch."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from tests.support.tiny_runs import end, start_module

from cnn_jax.data import augment, mixing, warp
from cnn_jax.tasks import TASKS
from configs import default, monkeys

pytestmark = pytest.mark.usefixtures("compiled_once")

KEY = jax.random.key(7)
ALL = {"rotation_range": 20.0, "horizontal_flip": True, "zoom_range": 0.2,
       "crop_padding": 2}
COUNT = 200  # images; most tests take as many, to share compiled programs


def config(**changes):
    out = default.get_config().augment
    out.update(changes)
    return out


def images(n=COUNT, height=8, width=10, channels=3):
    return np.random.default_rng(0).integers(
        0, 256, (n, height, width, channels), dtype=np.uint8)


@functools.cache
def compiled(changes, task, zero):
    return jax.jit(functools.partial(augment.augment, settings=config(**dict(changes)),
                                     task=TASKS[task], zero=zero))


def augmented(x, labels=None, key=KEY, task="classify", zero=0.0, positions=None,
              **changes):
    """Augments a whole batch; returns (images, targets)."""
    count = np.arange(len(x))
    run = compiled(tuple(sorted(changes.items())), task, zero)
    return run(key, x, count if labels is None else labels,
               count if positions is None else positions)


def matrices(n):
    """Draws n maps that rotate, shear, zoom and shift beyond the edges."""
    rng = np.random.default_rng(1)
    out = np.tile(np.eye(3), (n, 1, 1))
    out[:, :2, :2] += rng.uniform(-0.6, 0.6, (n, 2, 2))
    out[:, :2, 2] = rng.uniform(-9, 9, (n, 2))
    return out


def by_scipy(image, matrix, mode, order):
    """Calls scipy.ndimage.affine_transform, as Keras' ImageDataGenerator does."""
    centre = (np.array(image.shape) - 1) / 2
    offset = centre - matrix[:2, :2] @ centre + matrix[:2, 2]
    return scipy.ndimage.affine_transform(image, matrix[:2, :2], offset, order=order,
                                          mode=mode)


warp_images = jax.jit(warp.warp, static_argnums=2)
warp_labels = jax.jit(warp.warp_labels, static_argnums=2)


@pytest.mark.parametrize("mode", warp.FILL_MODES)
def test_warp_equals_scipy(mode):
    maps = matrices(6)
    for shape in ((9, 12, 2), (8, 5, 1), (1, 7, 3), (6, 1, 1)):
        x = images(6, *shape)
        want = np.stack([np.stack([
            by_scipy(image[..., c].astype(float), matrix, mode, 1)
            for c in range(shape[2])], -1) for image, matrix in zip(x, maps)])
        got = warp_images(x, maps.astype(np.float32), mode)
        np.testing.assert_allclose(got, want, atol=5e-3, err_msg=shape)  # of 255


@pytest.mark.parametrize("mode", warp.FILL_MODES)
def test_masks_are_warped_to_the_nearest_label(mode):
    masks, maps = images(6, 9, 12, 1)[..., 0], matrices(6)
    want = np.stack([by_scipy(mask, matrix, mode, 0)
                     for mask, matrix in zip(masks, maps)])
    got = warp_labels(masks, maps.astype(np.float32), mode)
    assert got.dtype == jnp.uint8
    np.testing.assert_array_equal(got, want)


def test_interpolation_on_a_tpu_gives_the_same_pixels(monkeypatch):
    """A TPU multiplies by weights; other devices gather pixels."""
    maps = matrices(6).astype(np.float32)
    for shape in ((9, 12, 2), (1, 7, 3)):
        x = images(6, *shape)
        gathered = [warp_images(x, maps, mode) for mode in warp.FILL_MODES]
        labels = warp_labels(x[..., 0], maps, "nearest")
        with monkeypatch.context() as patch:
            patch.setattr(jax, "default_backend", lambda: "tpu")
            for mode, want in zip(warp.FILL_MODES, gathered):
                np.testing.assert_allclose(jax.jit(functools.partial(
                    warp.warp, fill_mode=mode))(x, maps), want, atol=1e-3)
            np.testing.assert_array_equal(
                jax.jit(lambda x, maps: warp.warp_labels(x, maps, "nearest"))(
                    x[..., 0], maps), labels)


def test_fill_modes_by_hand():
    """The row 10 20 40 is read half a pixel and more beyond each edge."""
    x = np.array([10, 20, 40], np.uint8).reshape(1, 1, 3, 1)
    for shift, mode, want in (
            (-2, "nearest", [10, 10, 10]), (-2, "reflect", [20, 10, 10]),
            (-2, "constant", [0, 0, 10]), (2, "nearest", [40, 40, 40]),
            (2, "reflect", [40, 40, 20]), (2, "constant", [40, 0, 0]),
            (-0.5, "reflect", [10, 15, 30]), (-0.5, "constant", [0, 15, 30])):
        matrix = np.eye(3, dtype=np.float32)[None]
        matrix[0, 1, 2] = shift
        got = np.asarray(warp_images(x, matrix, mode)).ravel()
        np.testing.assert_allclose(got, want, err_msg=f"{mode} {shift}")


def test_default_settings_change_nothing():
    x = images(4)
    got, targets = augment.augment(KEY, x, jnp.arange(4), jnp.arange(4), config())
    np.testing.assert_array_equal(got, x)
    assert got.dtype == jnp.float32
    (labels, weight), = targets
    assert labels.tolist() == [0, 1, 2, 3] and weight == 1


def test_keys_of_earlier_purposes_never_change():
    """They are the eight parts of a split; keys of later purposes are folded in."""
    keys = augment.draw_keys(KEY, jnp.array([5, 0]))
    split = jax.random.split(jax.random.fold_in(KEY, 5), 8)
    for name, key in zip(("affine", "horizontal", "vertical", "crop", "cutout",
                          "choice", "weight", "box"), split):
        assert keys[name][0] == key, name
    data = [tuple(jax.random.key_data(key[0]).tolist()) for key in keys.values()]
    assert len(set(data)) == len(data) == 13


@pytest.mark.parametrize("changes", [
    {"shear_range": 20.0}, {"horizontal_flip": True}, {"vertical_flip": True},
    {"crop_padding": 2}, {"cutout": 4}, {"mixup": 0.4}, {"cutmix": 1.0},
    # test_crops.py and test_colour.py have fast tests of these.
    *(pytest.param(changes, marks=pytest.mark.slow) for changes in (
        {"crop_scale": (0.3, 0.9)}, {"trivial_augment": True}, {"random_erasing": 0.9},
        {"hue": 0.2}))], ids=str)
def test_each_setting_changes_images_reproducibly(changes):
    assert not augment.is_identity(config(**changes))
    x = images()
    got, _ = augmented(x, **changes)
    assert got.dtype == jnp.float32
    assert (np.asarray(got) != x).any()
    np.testing.assert_array_equal(got, augmented(x, **changes)[0])
    assert (got != augmented(x, key=jax.random.key(8), **changes)[0]).any()


def affine_matrices(**changes):
    """Draws 50 matrices for images of 9 x 12 pixels."""
    draw = functools.partial(augment.affine_matrix, row_sign=1.0, column_sign=1.0,
                             settings=config(**changes), height=9, width=12)
    return np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(KEY, 50)))


@pytest.mark.parametrize("name", [
    "rotation_range", "width_shift_range", "height_shift_range", "shear_range",
    "zoom_range"])
def test_each_range_changes_the_drawn_maps(name):
    assert augment.has_affine_map(config(**{name: 0.25}))
    assert not augment.is_identity(config(**{name: 0.25}))
    matrices = affine_matrices(**{name: 0.25})
    assert (matrices != np.eye(3)).any((1, 2)).all()


def test_shifts_stay_within_their_range_and_axis():
    matrices = affine_matrices(width_shift_range=0.25, height_shift_range=0.5)
    np.testing.assert_allclose(matrices[:, :2, :2], np.tile(np.eye(2), (50, 1, 1)),
                               atol=1e-6)
    rows, columns = np.abs(matrices[:, :2, 2]).max(0)
    assert 3.5 < rows <= 0.5 * 9 and 2.5 < columns <= 0.25 * 12


def test_rotation_preserves_lengths_and_stays_within_range():
    turn = affine_matrices(rotation_range=40.0)[:, :2, :2]
    np.testing.assert_allclose(turn @ turn.transpose(0, 2, 1),
                               np.tile(np.eye(2), (50, 1, 1)), atol=1e-5)
    angles = np.rad2deg(np.arctan2(turn[:, 1, 0], turn[:, 0, 0]))
    assert max(np.abs(angles)) <= 40 and max(angles) > 20 and min(angles) < -20


@pytest.mark.parametrize("name,mirror", [
    ("horizontal_flip", np.s_[:, :, ::-1]), ("vertical_flip", np.s_[:, ::-1])])
@pytest.mark.parametrize("more", [{}, {"rotation_range": 1e-9}],
                         ids=["alone", "in the map"])
def test_flips_happen_to_about_half_of_the_images(name, mirror, more):
    x = images()
    got = np.asarray(augmented(x, **{name: True}, **more)[0])
    flipped = np.isclose(got, x[mirror], atol=1e-3).all((1, 2, 3))
    same = np.isclose(got, x, atol=1e-3).all((1, 2, 3))
    assert (same | flipped).all() and 65 < flipped.sum() < 135  # five sigma


@pytest.mark.parametrize("mode,pad", [
    ("constant", "constant"), ("nearest", "edge"), ("reflect", "symmetric")])
def test_a_crop_is_one_of_the_windows_of_the_padded_image(mode, pad):
    x = images()
    got = np.asarray(augmented(x, crop_padding=2, fill_mode=mode)[0])
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)), pad), (8, 10), (1, 2))
    equal = (windows.transpose(0, 1, 2, 4, 5, 3) == got[:, None, None]).all((3, 4, 5))
    assert equal.shape == (COUNT, 5, 5) and equal.any((1, 2)).all()
    assert equal.any((0, 2)).all() and equal.any((0, 1)).all()  # each row and column


def test_cutout_blanks_a_square_cut_off_by_the_edges():
    x = np.full((COUNT, 8, 10, 3), 200, np.uint8)
    got, _ = augmented(x, cutout=4, zero=33.0)
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
    x = images()
    got, ((labels, weights), (partner_labels, partner_weights)) = augmented(
        x, mixup=0.4)
    assert labels.tolist() == list(range(COUNT))
    assert partner_labels.tolist() == list(range(COUNT))[::-1]
    own, pixels = np.asarray(weights)[:, None, None, None], x.astype(float)
    np.testing.assert_allclose(got, own * pixels + (1 - own) * pixels[::-1], atol=1e-3)
    np.testing.assert_allclose(partner_weights, 1 - weights, atol=1e-6)


def test_weights_have_the_moments_of_a_beta_distribution():
    """The mean is 1/2, the variance 1 / (4 (2 alpha + 1)), to five standard errors."""
    draw, keys = jax.jit(mixing.mix_weights), jax.random.split(KEY, 4000)
    for alpha in (0.2, 1.0, 4.0):
        weights = np.asarray(draw(keys, alpha))
        variance = 1 / (4 * (2 * alpha + 1))
        assert abs(weights.mean() - 0.5) < 5 * np.sqrt(variance / 4000)
        np.testing.assert_allclose(weights.var(), variance, rtol=0.08)


def test_cutmix_counts_the_pixels_of_the_partner():
    x = images()
    x[:100] //= 2  # partners never agree in all channels of a pixel
    x[100:] = 255 - x[100:] // 2
    got, ((_, weights), (partner_labels, partner_weights)) = augmented(x, cutmix=1.0)
    unmixed, partner = ((np.asarray(got) == y).all(-1) for y in (x, x[::-1]))
    assert (unmixed ^ partner).all() and partner_labels[3] == 196
    np.testing.assert_allclose(weights, unmixed.mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(partner_weights, partner.mean((1, 2)), atol=1e-6)
    boxes = [mask.any(1).sum() * mask.any(0).sum() for mask in partner]
    assert boxes == partner.sum((1, 2)).tolist()  # each a full box
    assert 0.2 < np.mean(partner_weights) < 0.5 and np.max(partner_weights) > 0.7


def test_with_mixup_and_cutmix_each_image_gets_one_of_them():
    x = np.full((COUNT, 8, 10, 3), 10, np.uint8)
    x[100:] = 250
    got = np.asarray(augmented(x, mixup=1.0, cutmix=1.0)[0])
    cut = np.isin(got, (10, 250)).all((1, 2, 3))
    even = (got == got[:, :1, :1]).all((1, 2, 3))
    assert (cut | even).all() and 60 < (~cut).sum() < 140


def test_augmentation_depends_only_on_the_position_in_the_global_batch():
    x, order = images(8), np.random.default_rng(3).permutation(8)
    settings = ALL | {"cutout": 3}
    whole, _ = augmented(x, **settings)
    shuffled, _ = augmented(x[order], positions=order, **settings)
    np.testing.assert_array_equal(shuffled, whole[order])


def test_the_monkeys_are_trained_as_the_tutorial_says():
    """The config has the values of the tutorial's ImageDataGenerator and fit call."""
    settings = monkeys.get_config()
    assert dict(settings.augment) == dict(config(
        rotation_range=40.0, width_shift_range=0.2, height_shift_range=0.2,
        shear_range=0.2, zoom_range=0.2, horizontal_flip=True, fill_mode="nearest"))
    assert (settings.batch_size, settings.epochs, settings.seed) == (64, 10, 7)
    assert settings.data.image_size == (128, 128) and settings.data.scaling == "unit"
    assert settings.optimizer.name == "adam"


@pytest.mark.parametrize("settings", [
    "few", pytest.param("all", marks=pytest.mark.slow)])
def test_three_devices_make_the_same_batch_and_only_partners_travel(settings):
    code, output, errors = end(start_module(
        "tests.support.augment_devices", settings, devices=3))
    assert code == 0, errors
    result = json.loads(output)
    assert result["mesh"] < 1e-3 and result["pmap"] < 1e-3
    assert result["collectives"] == ["collective-permute"]


def test_masks_move_with_their_images():
    """A mask equal to the image stays equal, up to interpolation at its borders."""
    masks = np.zeros((20, 16, 16), np.uint8)
    masks[:, 4:11, 3:9] = 1
    for changes in (ALL | {"fill_mode": "reflect"},
                    {"vertical_flip": True, "crop_padding": 3}):
        got, ((moved, _),) = augmented(masks[..., None] * 255, masks, task="segment",
                                       **changes)
        assert moved.dtype == jnp.uint8 and (moved != masks).any()
        picture = np.asarray(got[..., 0]) / 255
        sharp = np.abs(picture - 0.5) > 0.49
        np.testing.assert_array_equal(picture[sharp].round(), moved[sharp])
        assert sharp.mean() > 0.8


def test_cutout_fills_each_channel_with_its_own_zero():
    images = np.full((4, 8, 8, 3), 200, np.uint8)
    changed, _ = augmented(images, cutout=4, zero=(1.0, 2.0, 3.0))
    hidden = np.asarray(changed)[np.asarray(changed)[..., 0] != 200]
    assert len(hidden) and (hidden == [1, 2, 3]).all()
