"""Colour operations equal Pillow's and cases by hand, and are drawn uniformly."""

import colorsys
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from cnn_jax.data import augment, colour
from cnn_jax.data import trivial_augment as trivial
from cnn_jax.errors import InputError
from configs import default

pytestmark = pytest.mark.usefixtures("compiled_once")

KEY = jax.random.key(5)
PICTURES = np.random.default_rng(0).integers(0, 256, (14, 9, 12, 3), dtype=np.uint8)
PICTURES[3] = PICTURES[3] // 4 + 90  # of low contrast
PICTURES[4] = 77                     # of one colour
PICTURES[5, ..., 1] = 30             # with a channel of one value


def settings(**changes):
    out = default.get_config().augment
    out.update(changes)
    return out


def by_operation(images, name, magnitude):
    """Applies one operation of TrivialAugment to all images."""
    count = len(images)
    return np.asarray(applied(
        images, jnp.full(count, trivial.OPERATIONS.index(name)),
        jnp.full(count, magnitude, jnp.float32))[0])


applied = jax.jit(trivial.apply_operations)


@pytest.mark.parametrize("name, enhance", [
    ("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast),
    ("color", ImageEnhance.Color), ("sharpness", ImageEnhance.Sharpness)])
@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
def test_blends_are_those_of_pillow(name, enhance, factor):
    """Pillow rounds the grey and the result to whole numbers."""
    got = by_operation(PICTURES, name, factor - 1)
    want = np.stack([np.asarray(enhance(Image.fromarray(pixels)).enhance(factor))
                     for pixels in PICTURES])
    bound = 0 if factor == 1 else 1 + 1.5 * abs(factor - 1)
    assert np.abs(got - want).max() <= bound


@pytest.mark.parametrize("name, magnitude, operation, bound", [
    ("posterize", 3, functools.partial(ImageOps.posterize, bits=3), 0),
    ("posterize", 8, functools.partial(ImageOps.posterize, bits=8), 0),
    ("solarize", 100.5, functools.partial(ImageOps.solarize, threshold=100.5), 0),
    ("solarize", 77, functools.partial(ImageOps.solarize, threshold=77), 0),
    ("autocontrast", 0, ImageOps.autocontrast, 1),  # Pillow cuts off the fraction
    ("equalize", 0, ImageOps.equalize, 0)])
def test_tables_are_those_of_pillow(name, magnitude, operation, bound):
    got = by_operation(PICTURES, name, magnitude)
    want = np.stack([np.asarray(operation(Image.fromarray(pixels)))
                     for pixels in PICTURES])
    assert np.abs(got - want).max() <= bound
    grey = by_operation(PICTURES[..., :1], name, magnitude)[..., 0]
    want = np.stack([np.asarray(operation(Image.fromarray(pixels)))
                     for pixels in PICTURES[..., 0]])
    assert np.abs(grey - want).max() <= bound


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.3])
def test_hue_is_that_of_colorsys(turn):
    pixels = [(10, 200, 90), (250, 3, 4), (60, 60, 61), (0, 0, 255), (9, 9, 9),
              (0, 0, 0), (255, 255, 0)]
    got = colour.adjust_hue(jnp.array(pixels, jnp.float32).reshape(1, 1, -1, 3),
                            jnp.array([turn]))
    want = []
    for pixel in pixels:
        hue, saturation, value = colorsys.rgb_to_hsv(*(v / 255 for v in pixel))
        want.append(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value))
    np.testing.assert_allclose(got[0, 0], 255 * np.array(want), atol=2e-3)


def test_geometry_by_hand():
    picture = np.zeros((2, 4, 4, 1), np.uint8)
    picture[:, :2, :, 0] = [[10, 20, 40, 80], [100, 110, 130, 170]]

    def first_rows(name, magnitude):
        return by_operation(picture, name, magnitude)[0, :2, :, 0]
    # Row y (0.5, 1.5, ... from the top) reads x + 0.5 y: it moves by 0.25, 0.75, ...
    np.testing.assert_allclose(first_rows("shear_x", 0.5), [
        [12.5, 25, 50, 60], [107.5, 125, 160, 42.5]], atol=1e-3)
    # Column x reads y + 0.5 x: it moves by 0.25, 0.75, 1.25, 1.75.
    np.testing.assert_allclose(first_rows("shear_y", 0.5)[0], [
        0.75 * 10 + 0.25 * 100, 0.25 * 20 + 0.75 * 110, 0.75 * 130, 0.25 * 170],
        atol=1e-3)
    np.testing.assert_allclose(first_rows("translate_x", 1), [
        [0, 10, 20, 40], [0, 100, 110, 130]], atol=1e-3)
    np.testing.assert_allclose(first_rows("translate_y", -1), [
        [100, 110, 130, 170], [0, 0, 0, 0]], atol=1e-3)
    np.testing.assert_allclose(by_operation(picture, "rotate", 90)[0],
                               np.rot90(picture[0]), atol=1e-2)


def test_geometry_moves_masks_and_colours_do_not():
    masks = np.zeros((14, 9, 12), np.uint8)
    masks[:, 2:6, 3:9] = 1
    for name, magnitude in (("rotate", 30.0), ("translate_y", -2.0), ("equalize", 0.0)):
        operations = jnp.full(14, trivial.OPERATIONS.index(name))
        moved, moved_masks = applied(masks[..., None] * np.uint8(255), operations,
                                     jnp.full(14, magnitude), masks)
        assert moved_masks.dtype == jnp.uint8
        assert (moved_masks != masks).any() == (name != "equalize")
        sharp = np.abs(np.asarray(moved[..., 0]) / 255 - 0.5) > 0.49
        np.testing.assert_array_equal(np.asarray(moved[..., 0])[sharp] > 128,
                                      np.asarray(moved_masks)[sharp])


def test_trivial_augment_draws_operations_and_bins_uniformly():
    """All 14 operations and 31 bins are equally frequent, to five sigma."""
    operations, magnitudes = jax.vmap(trivial.draw_operation)(
        jax.random.split(KEY, 14 * 31 * 40))
    operations, magnitudes = np.asarray(operations), np.asarray(magnitudes)
    counts = np.bincount(operations, minlength=14)
    expected = len(operations) / 14
    assert abs(((counts - expected) ** 2 / expected).sum() - 13) < 5 * np.sqrt(2 * 13)
    for index, (name, table) in enumerate(trivial.MAGNITUDES.items()):
        drawn = magnitudes[operations == index]
        values, copies = np.unique(np.float32(table), return_counts=True)
        counts = (np.abs(drawn)[:, None] == values).sum(0)
        assert counts.sum() == len(drawn), name
        expected = copies * len(drawn) / 31
        chi = ((counts - expected) ** 2 / expected).sum()
        assert chi - (len(values) - 1) < 5 * np.sqrt(2 * len(values)), name
        signed = drawn[drawn != 0]
        negative = (signed < 0).mean() if len(signed) else 0
        assert (abs(negative - 0.5) < 2.5 / np.sqrt(len(signed))
                if name in trivial.SIGNED else negative == 0), name


def test_jitter_draws_factors_and_orders_uniformly():
    """Factors are in [max(0, 1 - b), 1 + b], and there are 24 orders; to five sigma."""
    draw = functools.partial(colour.draw_jitter, settings=settings(
        brightness=0.4, contrast=1.5, saturation=0.0, hue=0.2))
    count = 24 * 200
    amounts, ranks = map(np.asarray, jax.vmap(draw)(jax.random.split(KEY, count)))
    for drawn, (low, high) in zip(amounts.T, (
            (0.6, 1.4), (0.0, 2.5), (1.0, 1.0), (-0.2, 0.2))):
        spread = high - low
        assert low <= drawn.min() <= low + 0.01 * spread + 1e-6
        assert high - 0.01 * spread - 1e-6 <= drawn.max() <= high
        assert abs(drawn.mean() - (low + high) / 2) <= (
            5 * spread / np.sqrt(12 * count) + 1e-6)
    _, orders = np.unique(ranks, axis=0, return_counts=True)
    assert len(orders) == 24
    assert abs(((orders - 200) ** 2 / 200).sum() - 23) < 5 * np.sqrt(2 * 23)


def test_jitter_applies_what_it_draws_in_the_order_it_draws():
    strengths = settings(brightness=0.6, contrast=0.6, saturation=0.6, hue=0.3)
    images = PICTURES[:5].astype(np.float32)
    keys = jax.random.split(KEY, 5)
    jitter = functools.partial(colour.colour_jitter, settings=strengths)
    got = jax.jit(jitter)(keys, images)
    amounts, ranks = jax.vmap(lambda key: colour.draw_jitter(key, strengths))(keys)
    operations = list(map(jax.jit, (
        colour.adjust_brightness, colour.adjust_contrast, colour.adjust_saturation,
        colour.adjust_hue)))
    for n, image in enumerate(images[:, None]):
        for which in np.argsort(ranks[n]):
            image = operations[which](image, amounts[n, which][None])
        np.testing.assert_allclose(got[n], image[0], atol=0.01)


@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_jitter_of_one_kind_works_on_grey_images(name):
    images = PICTURES[..., :1]
    got, _ = jax.jit(functools.partial(
        augment.augment, settings=settings(**{name: 0.5})))(
            KEY, images, np.arange(14), np.arange(14))
    other = {"brightness": 0.0, "contrast": images.mean((1, 2, 3), keepdims=True)}[name]
    amounts, _ = jax.vmap(lambda key: colour.draw_jitter(key, settings(**{name: 0.5})))(
        augment.draw_keys(KEY, jnp.arange(14))["jitter"])
    factors = np.asarray(amounts)[:, colour.JITTERS.index(name), None, None, None]
    np.testing.assert_allclose(
        got, np.clip(factors * images + (1 - factors) * other, 0, 255), atol=0.01)


@pytest.mark.parametrize("name", ["saturation", "hue"])
def test_grey_images_refuse_colour_in_one_line(name):
    with pytest.raises(InputError, match=f"augment.{name}.*1 channel"):
        augment.check_channels(settings(**{name: 0.1}), 1)
    augment.check_channels(settings(**{name: 0.1}), 3)
    augment.check_channels(settings(brightness=0.1, trivial_augment=True), 1)
