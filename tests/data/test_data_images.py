"""Pictures of every kind are found, read and resized correctly."""

import numpy as np
import pytest
from PIL import Image

from cnn_jax.data.images import (INTERPOLATIONS, Preprocessing, convert_images,
                                 find_images, read_image)
from cnn_jax.errors import InputError

RED, GREEN = (255, 0, 0), (0, 255, 0)


def saved(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_rgb_and_grey_as_stored(tmp_path):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    path = saved(tmp_path, Image.fromarray(pixels))
    np.testing.assert_array_equal(read_image(path), pixels)
    path = saved(tmp_path, Image.fromarray(pixels[..., 0]))
    np.testing.assert_array_equal(read_image(path), pixels[..., :1])


def test_colour_becomes_grey_by_the_stated_weights(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (1, 1), (100, 150, 200)))
    # 0.299 * 100 + 0.587 * 150 + 0.114 * 200 = 140.75
    assert read_image(path, Preprocessing(channels=1)).tolist() == [[[141]]]


def test_grey_becomes_colour(tmp_path):
    path = saved(tmp_path, Image.new("L", (1, 1), 7))
    assert read_image(path, Preprocessing(channels=3)).tolist() == [[[7, 7, 7]]]


def test_size_is_height_then_width(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (8, 4)))
    assert read_image(path, Preprocessing((3, 5), 1)).shape == (3, 5, 1)


def test_resizing_is_bilinear_with_antialias():
    # Halving weights 4 pixels by (1, 3, 3, 1) / 8; the edge cuts off some of them.
    images = np.array([0, 80, 160, 240], np.uint8).reshape(1, 1, 4, 1)
    left = (3 * 0 + 3 * 80 + 1 * 160) / 7
    right = (1 * 80 + 3 * 160 + 3 * 240) / 7
    resized = convert_images(images, Preprocessing((1, 2))).ravel()
    np.testing.assert_allclose(resized, [left, right], atol=0.51)


def test_stored_arrays_and_files_are_converted_alike(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    path = saved(tmp_path, Image.fromarray(pixels))
    for size, channels in (((5, 4), 1), ((20, 11), 3), (None, 1), ((9, 7), None)):
        preprocessing = Preprocessing(size, channels)
        np.testing.assert_array_equal(read_image(path, preprocessing),
                                      convert_images(pixels[None], preprocessing)[0])


def test_images_that_need_no_change_are_not_copied():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    assert convert_images(images, Preprocessing()) is images
    assert convert_images(images, Preprocessing((4, 4), 3)) is images


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (2, 1))
    image.putdata([RED, GREEN])
    exif = image.getexif()
    exif[0x0112] = 6  # taken with the camera turned: rotate by 90 degrees clockwise
    path = saved(tmp_path, image, exif=exif)
    assert read_image(path).tolist() == [[list(RED)], [list(GREEN)]]


def test_palette(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    assert read_image(saved(tmp_path, image)).tolist() == [[list(RED), list(GREEN)]]


def test_palette_with_a_transparent_entry_is_put_on_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    path = saved(tmp_path, image, transparency=0)
    assert read_image(path).tolist() == [[[255, 255, 255], list(GREEN)]]


def test_alpha_is_put_on_white(tmp_path):
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 51))  # 20 % black on white = 204
    assert read_image(saved(tmp_path, image)).tolist() == [[list(RED), [204, 204, 204]]]


def test_grey_with_alpha_stays_grey(tmp_path):
    image = Image.new("LA", (2, 1), (9, 255))
    image.putpixel((1, 0), (9, 0))
    assert read_image(saved(tmp_path, image)).tolist() == [[[9], [255]]]


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan: red
    pixels = read_image(saved(tmp_path, image, "a.jpg", quality=100))
    assert pixels.shape == (16, 16, 3)
    assert np.abs(pixels.astype(int) - RED).max() <= 4


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_keeps_the_high_byte(tmp_path, name):
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    path = saved(tmp_path, Image.fromarray(values), name)
    assert read_image(path).ravel().tolist() == [0, 0, 1, 128, 255]


def test_big_endian_16_bit_tiff(tmp_path):
    values = np.array([[0, 256, 32768]], ">u2")
    path = saved(tmp_path, Image.frombytes("I;16B", (3, 1), values.tobytes()), "a.tif")
    assert read_image(path).ravel().tolist() == [0, 1, 128]


def test_bilevel(tmp_path):
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert read_image(saved(tmp_path, image)).tolist() == [[[0], [255]]]


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("L", (2, 2), value) for value in (10, 200)]
    path = saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert (read_image(path, Preprocessing(channels=1)) == 10).all()


def test_formats_are_detected_by_content(tmp_path):
    path = saved(tmp_path, Image.new("L", (1, 1), 5), "a.jpg", format="PNG")
    assert read_image(path).tolist() == [[[5]]]


def test_find_images_searches_folders_in_order(tmp_path):
    for name in ("b/2.JPG", "b/10.jpg", "a.png", "note.txt", "._a.png", "c/d/x.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    pictures = [str(path.relative_to(tmp_path)) for path in find_images([tmp_path])]
    assert pictures == ["a.png", "b/10.jpg", "b/2.JPG", "c/d/x.webp"]
    named = [tmp_path / "note.txt", tmp_path / "b" / "2.JPG"]
    assert find_images(named) == named


def test_find_images_refuses_paths_without_pictures(tmp_path):
    with pytest.raises(InputError, match="picture"):
        find_images([])
    with pytest.raises(InputError, match=str(tmp_path / "nowhere")):
        find_images([tmp_path / "nowhere"])
    with pytest.raises(InputError, match=f"{tmp_path}.*\\.png"):
        find_images([tmp_path])


def test_shorter_side_keeps_the_aspect_ratio_and_cuts_the_centre(tmp_path):
    # Columns are numbered, so the cut shows which of them are kept.
    pixels = np.tile(np.arange(30, dtype=np.uint8)[None, :, None], (10, 1, 3))
    path = saved(tmp_path, Image.fromarray(pixels))
    cut = read_image(path, Preprocessing((10, 12), 3, shorter_side=10))
    assert cut.shape == (10, 12, 3) and cut[0, :, 0].tolist() == list(range(9, 21))
    tall = read_image(path, Preprocessing((8, 8), 3, shorter_side=20))  # to 20 x 60
    assert tall.shape == (8, 8, 3) and abs(int(tall[0, 0, 0]) - 13) <= 1
    uncut = read_image(path, Preprocessing(None, 3, shorter_side=7))
    assert uncut.shape == (7, 21, 3)


def test_half_pixels_of_a_centre_crop_are_rounded_to_even(tmp_path):
    # As torchvision does: (9 - 4) / 2 = 2.5 -> 2, (7 - 4) / 2 = 1.5 -> 2.
    pixels = np.arange(63, dtype=np.uint8).reshape(9, 7, 1)
    stored = convert_images(pixels[None], Preprocessing((4, 4), None, shorter_side=7))
    np.testing.assert_array_equal(stored[0], pixels[2:6, 2:6])


def test_interpolations_differ(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 9, 9, 3), np.uint8)
    results = {name: convert_images(pixels, Preprocessing((4, 4), 3, None, name))
               for name in INTERPOLATIONS}
    assert len({result.tobytes() for result in results.values()}) == 4
    assert set(results["nearest"].ravel()) <= set(pixels.ravel())
