"""Augmentation equals torchvision's own code, given the same draws.

Needs torch and torchvision; then: pytest -m slow tests/data/test_peers_torchvision.py
"""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from cnn_jax.data import boxes, colour, crops
from cnn_jax.data import trivial_augment as trivial
from cnn_jax.data.images import Preprocessing, read_image

torch = pytest.importorskip("torch", reason="needs torch")
transforms = pytest.importorskip("torchvision.transforms.v2",
                                 reason="needs torchvision")
pytestmark = pytest.mark.slow

RNG = np.random.default_rng(4)
# Largest differences of float images, in levels of 255.
TOLERANCE = 2e-3


def as_tensor(image, floats):
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return tensor.float() / 255 if floats else tensor


def as_pixels(tensor, floats):
    return tensor.numpy().transpose(1, 2, 0) * (255.0 if floats else 1.0)


def pictures(count, channels=3):
    images = RNG.integers(0, 256, (count, 19, 26, channels), dtype=np.uint8)
    images[0] = images[0] // 4 + 90
    images[1] = 77
    return images


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "sharpness",
                                  "hue"])
def test_functions_of_torchvision(name, channels):
    if name == "hue" and channels == 1:
        pytest.skip("hue is refused for grey images")
    images = pictures(20, channels)
    amounts = RNG.uniform(*((-0.5, 0.5) if name == "hue" else (0, 2.5)), 20)
    got = jax.jit(getattr(colour, f"adjust_{name}"))(
        images.astype(np.float32), jnp.array(amounts, jnp.float32))
    theirs = getattr(transforms.functional, f"adjust_{name}")
    for image, amount, ours in zip(images, np.float32(amounts), got):
        want = as_pixels(theirs(as_tensor(image, True), float(amount)), True)
        np.testing.assert_allclose(ours, want, atol=TOLERANCE)


THEIR_NAMES = {"color": "Color", "autocontrast": "AutoContrast", "shear_x": "ShearX",
               "shear_y": "ShearY", "translate_x": "TranslateX",
               "translate_y": "TranslateY"}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", trivial.OPERATIONS)
def test_trivial_augment_at_every_magnitude(name, channels):
    """Posterize and equalize are equal on uint8; others are compared on floats."""
    magnitudes = trivial.MAGNITUDES[name]
    if name in trivial.SIGNED:
        magnitudes = np.concatenate([magnitudes, -magnitudes])
    images = pictures(len(magnitudes), channels)
    got, _ = jax.jit(trivial.apply_operations)(
        images, jnp.full(len(images), trivial.OPERATIONS.index(name)),
        jnp.array(magnitudes, jnp.float32))
    bilinear = transforms.InterpolationMode.BILINEAR
    theirs = transforms.TrivialAugmentWide(interpolation=bilinear)
    floats = name not in ("posterize", "equalize")
    for image, magnitude, ours in zip(images, magnitudes, got):
        scale = 255 if name == "solarize" else 1
        want = theirs._apply_image_or_video_transform(
            as_tensor(image, floats), THEIR_NAMES.get(name, name.capitalize()),
            float(magnitude) / scale, bilinear, theirs._fill)
        np.testing.assert_allclose(ours, as_pixels(want, floats), rtol=0,
                                   atol=TOLERANCE if floats else 0)


def test_trivial_augment_has_the_same_operations_and_magnitudes():
    space = transforms.TrivialAugmentWide._AUGMENTATION_SPACE
    assert [name.lower() for name in space] == [
        name.replace("_", "") for name in trivial.OPERATIONS]
    for (magnitudes, signed), (name, ours) in zip(space.values(),
                                                  trivial.MAGNITUDES.items()):
        theirs = magnitudes(trivial.BINS, 224, 224)
        assert signed == (name in trivial.SIGNED)
        if theirs is None:
            assert not ours.any()
        else:
            theirs = theirs.numpy().astype(float) * (255 if name == "solarize" else 1)
            if name.startswith("translate"):
                theirs = np.floor(theirs + 1e-4)  # theirs has 15.999999 pixels
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


def their_boxes(height, width, count):
    torch.manual_seed(0)
    theirs = transforms.RandomResizedCrop(224, (0.08, 1.0), (3 / 4, 4 / 3))
    image = torch.empty(3, height, width)
    made = [theirs.make_params([image]) for _ in range(count)]
    return np.array([[box[side] for side in ("top", "left", "height", "width")]
                     for box in made], float)


@pytest.mark.parametrize("height, width, count", [
    (375, 500, 100_000), (64, 640, 20_000)], ids=["photograph", "panorama"])
def test_random_resized_crops_have_the_same_distribution(height, width, count):
    """Moments agree to five standard errors, quantiles by the Kolmogorov-Smirnov test.
    """
    theirs = their_boxes(height, width, count)
    draw = functools.partial(boxes.draw_crop, height=height, width=width,
                             scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    host = np.array([crops.random_resized_crop(
        1, 0, n, height, width, (0.08, 1.0), (3 / 4, 4 / 3)) for n in range(count)],
        float)
    device = np.asarray(jax.jit(jax.vmap(draw))(
        jax.random.split(jax.random.key(0), count)), float)
    for ours in (host, device):
        a, b = (np.c_[x, x[:, 2] * x[:, 3], x[:, 3] / x[:, 2]] for x in (ours, theirs))
        for power in (1, 2, 3):
            x, y = ((z - b.mean(0)) ** power for z in (a, b))
            error = np.sqrt((x.var(0) + y.var(0)) / count)
            assert (np.abs(x.mean(0) - y.mean(0)) < 5 * error).all(), power
        for mine, other in zip(a.T, b.T):
            assert scipy.stats.ks_2samp(mine, other).pvalue > 1e-4


def test_random_erasing_has_the_same_distribution():
    count, image = 40_000, torch.empty(3, 40, 60)
    torch.manual_seed(0)
    theirs = transforms.RandomErasing(1.0)
    made = [theirs.make_params([image]) for _ in range(count)]
    want = np.array([[box[side] for side in "ijhw"] for box in made], float)
    draw = functools.partial(boxes.draw_erased, height=40, width=60, probability=1.0)
    got = np.asarray(jax.jit(jax.vmap(draw))(
        jax.random.split(jax.random.key(0), count)), float)
    error = np.sqrt((got.var(0) + want.var(0)) / count)
    assert (np.abs(got.mean(0) - want.mean(0)) < 5 * error).all()
    for mine, other in zip(got.T, want.T):
        assert scipy.stats.ks_2samp(mine, other).pvalue > 1e-4


def test_crops_read_from_files_equal_torchvision():
    """They equal resized_crop on a Pillow image, bit for bit."""
    picture = Image.fromarray(RNG.integers(0, 256, (90, 120, 3), dtype=np.uint8))
    file = io.BytesIO()
    picture.save(file, "PNG")
    for index in range(20):
        box = crops.random_resized_crop(2, 0, index, 90, 120, (0.08, 1.0),
                                        (3 / 4, 4 / 3))
        got = read_image(file, Preprocessing((50, 50), 3), crop=lambda *_: box)
        want = transforms.functional.resized_crop(picture, *box, size=[50, 50])
        np.testing.assert_array_equal(got, want)


def test_resized_crops_on_devices_are_those_on_tensors():
    images = pictures(12)
    cuts = np.array([crops.random_resized_crop(2, 0, n, 19, 26, (0.08, 1.0),
                                               (3 / 4, 4 / 3)) for n in range(12)])
    for size in ((19, 26), (12, 10), (40, 30)):
        got = jax.jit(boxes.resized_crop, static_argnums=2)(images, cuts, size)
        for image, cut, ours in zip(images, cuts, got):
            want = transforms.functional.resized_crop(
                as_tensor(image, True), *cut.tolist(), size=list(size))
            np.testing.assert_allclose(ours, as_pixels(want, True), atol=TOLERANCE)
