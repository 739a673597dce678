"""Random crops, on the host and on devices, and random erasing."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnn_jax.data import augment, boxes, crops
from cnn_jax.data.images import Preprocessing, convert_images, read_image
from configs import default

pytestmark = pytest.mark.usefixtures("compiled_once")

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
KEY = jax.random.key(9)
COUNT = 3000


def settings(**changes):
    out = default.get_config().augment
    out.update(changes)
    return out


def test_a_crop_is_a_pure_function_of_seed_epoch_and_index():
    """These values never change: runs resume with them."""
    draw = functools.partial(crops.random_resized_crop, height=480, width=640,
                             scale=SCALE, ratio=RATIO)
    assert draw(1, 2, 3) == (26, 249, 194, 219)
    assert draw(0, 0, 0) == (49, 24, 180, 155)
    assert draw(0, 0, 1) == (50, 35, 341, 356)
    assert len({draw(*key) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1),
                                       (2**31 - 1, 0, 0), (0, 0, 2**40))}) == 6


def test_a_picture_that_no_crop_fits_gets_the_central_one():
    assert crops.fallback_crop(10, 100, RATIO) == (0, 43, 10, 13)
    assert crops.fallback_crop(100, 10, RATIO) == (43, 0, 13, 10)
    assert crops.fallback_crop(30, 31, RATIO) == (0, 0, 30, 31)
    assert crops.random_resized_crop(0, 0, 0, 10, 1000, (0.9, 1.0), RATIO) == (
        0, 493, 10, 13)
    draw = functools.partial(boxes.draw_crop, height=10, width=1000, scale=(0.9, 1.0),
                             ratio=RATIO)
    actual = jax.jit(draw)(KEY)
    assert actual.tolist() == [0, 493, 10, 13]


@functools.cache
def drawn(where):
    """Draws boxes in pictures of 40 x 60 pixels, int [COUNT, 4]."""
    if where == "host":
        return np.array([crops.random_resized_crop(3, 1, n, 40, 60, SCALE, RATIO)
                         for n in range(COUNT)])
    draw = functools.partial(boxes.draw_crop, height=40, width=60, scale=SCALE,
                             ratio=RATIO)
    return np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(KEY, COUNT)))


@pytest.mark.parametrize("where", ["host", "device"])
def test_boxes_are_within_the_picture_and_the_ranges(where):
    top, left, height, width = drawn(where).T
    assert min(top) == min(left) == 0 and min(height) >= 1 and min(width) >= 1
    assert max(top + height) == 40 and max(left + width) == 60
    ratio, area = width / height, height * width / 2400
    assert 0.7 < ratio.min() < 0.78 and 1.28 < ratio.max() < 1.42
    assert 0.07 < area.min() < 0.09 and area.max() > 0.6


def test_boxes_on_devices_are_distributed_as_on_the_host():
    """All means agree to five standard errors."""
    host, device = (np.float64(drawn(where)) for where in ("host", "device"))
    for moment in (1, 2):
        error = np.sqrt((host ** moment).var(0) * 2 / COUNT)
        difference = (host ** moment).mean(0) - (device ** moment).mean(0)
        assert (np.abs(difference) < 5 * error).all()


def boxes_of(count, height, width):
    return np.array([crops.random_resized_crop(5, 0, n, height, width, SCALE, RATIO)
                     for n in range(count)])


@pytest.mark.parametrize("size", [(24, 30), (17, 11), (50, 61)])
def test_resized_crops_are_those_of_pillow(size):
    """Pillow rounds twice, once for each axis."""
    images = np.random.default_rng(0).integers(0, 256, (9, 24, 30, 3), dtype=np.uint8)
    cuts = boxes_of(9, 24, 30)
    got = jax.jit(boxes.resized_crop, static_argnums=2)(images, cuts, size)
    for image, cut, resized in zip(images, cuts, np.asarray(got)):
        top, left, height, width = cut.tolist()
        want = Image.fromarray(image).crop((left, top, left + width, top + height))
        want = want.resize(size[::-1], Image.Resampling.BILINEAR)
        assert np.abs(resized - np.asarray(want)).max() < 1.01


def test_masks_are_cropped_to_the_nearest_label():
    """No centre of these pixels is on the border of two labels."""
    masks = np.random.default_rng(0).integers(0, 9, (9, 24, 30), dtype=np.uint8)
    cuts = boxes_of(9, 24, 30)
    got = jax.jit(boxes.cropped_labels, static_argnums=2)(masks, cuts, (16, 32))
    assert got.dtype == jnp.uint8
    for mask, (top, left, height, width), moved in zip(masks, cuts, got):
        want = Image.fromarray(mask[top:top + height, left:left + width]).resize(
            (32, 16), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(moved, want)


def test_augment_cuts_random_boxes_of_stored_images():
    """Pixels whose values are their positions show where a picture was cut."""
    rows, columns = np.mgrid[:24, :32]
    images = np.tile(np.stack([rows * 8, columns * 6, rows], -1), (64, 1, 1, 1)).astype(
        np.uint8)
    change = jax.jit(functools.partial(augment.augment, settings=settings(
        crop_scale=(0.25, 0.5), crop_ratio=(1.0, 1.0))))
    got = np.asarray(change(KEY, images, np.arange(64), np.arange(64))[0])
    assert got.shape == images.shape
    heights = (got[:, -1, 0, 0] - got[:, 0, 0, 0]) / 8
    widths = (got[:, 0, -1, 1] - got[:, 0, 0, 1]) / 6
    area = (heights + 1) * (widths + 1) / 768  # of the pixels' centres
    assert 0.2 < area.min() < 0.3 and 0.45 < area.max() < 0.55
    assert len(np.unique(got[:, 0, 0, 1].round())) > 8


def test_images_that_come_cropped_are_only_flipped():
    images = np.random.default_rng(0).integers(0, 256, (6, 9, 9, 1), dtype=np.uint8)
    change = jax.jit(functools.partial(augment.augment, cropped=True, settings=settings(
        crop_scale=(0.1, 0.2), horizontal_flip=True)))
    got, _ = change(KEY, images, np.arange(6), np.arange(6))
    same, mirrored = ((np.asarray(got) == x).all((1, 2, 3))
                      for x in (images, images[:, :, ::-1]))
    assert (same | mirrored).all()


def test_augment_resizes_to_the_given_size():
    images = np.random.default_rng(0).integers(0, 256, (6, 20, 20, 3), dtype=np.uint8)
    change = jax.jit(functools.partial(augment.augment, settings=settings(),
                                       size=(10, 12)))
    got, _ = change(KEY, images, np.arange(6), np.arange(6))
    want = convert_images(images, Preprocessing((10, 12)))
    assert np.abs(np.asarray(got) - want).max() < 1.01


def test_random_erasing_fills_a_box_with_the_zero_of_the_scaling():
    images = np.full((400, 20, 30, 3), 200, np.uint8)
    change = jax.jit(functools.partial(augment.augment, zero=(1.0, 2.0, 3.0),
                                       settings=settings(random_erasing=0.25)))
    got = np.asarray(change(KEY, images, np.arange(400), np.arange(400))[0])
    hidden = got[..., 0] != 200
    assert (got[hidden] == [1, 2, 3]).all()
    erased = hidden.any((1, 2))
    assert abs(erased.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 400)
    heights, widths = (hidden[erased].any(axis).sum(1) for axis in (2, 1))
    pixels = hidden[erased].sum((1, 2))
    np.testing.assert_array_equal(heights * widths, pixels)  # full boxes
    shares = pixels / 600
    assert heights.max() < 20 and widths.max() < 30
    assert 0.01 < shares.min() < 0.06 and 0.25 < shares.max() < 0.36
    assert 0.25 < (heights / widths).min() < 0.5 and 2 < (heights / widths).max() < 4


def test_erasing_an_image_that_no_box_fits_hides_nothing():
    draw = functools.partial(boxes.draw_erased, height=1, width=1, probability=1.0)
    erased = jax.jit(jax.vmap(draw))(jax.random.split(KEY, 20))
    assert not boxes.box_mask(erased, 1, 1).any()


def test_read_image_cuts_a_box_of_the_upright_picture_and_resizes_it():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    seen = []

    def crop(height, width):
        seen.append((height, width))
        return crops.CropBox(3, 4, 10, 12)
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to the right
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    preprocessing = Preprocessing((8, 9), 1, shorter_side=15)
    got = read_image(io.BytesIO(file.getvalue()), preprocessing, crop=crop)
    upright = np.rot90(pixels, -1)
    want = Image.fromarray(upright).convert("L").crop((4, 3, 16, 13)).resize(
        (9, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(got[..., 0], want)
    np.testing.assert_array_equal(
        got, convert_images(upright[None], preprocessing, crop)[0])
    assert seen == [(30, 20)] * 2


def test_a_jpeg_of_the_right_size_is_cropped_too():
    """Without a crop, such a picture would skip every conversion."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "JPEG")
    got = read_image(file, Preprocessing((8, 8), 3),
                     crop=lambda *_: crops.CropBox(0, 0, 2, 3))
    assert got.shape == (8, 8, 3)
    image = read_image(file, crop=lambda *_: crops.CropBox(0, 0, 2, 3))
    assert image.shape == (8, 8, 3)
