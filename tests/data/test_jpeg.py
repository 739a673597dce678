"""simplejpeg and Pillow decode and refuse the same JPEG files, to the same pixels."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_jax.data import images
from cnn_jax.data.images import Preprocessing, read_image
from cnn_jax.errors import InputError

pytest.importorskip("simplejpeg", reason="needs the `fast_jpeg` extra")


def picture(width=33, height=21) -> Image.Image:
    """Draws smooth colours with some noise, like a photograph."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(x / 5 + phase) * np.cos(y / 7 - phase)
             for phase in range(3)]
    noise = np.random.default_rng(0).integers(0, 20, (height, width, 3))
    return Image.fromarray((np.stack(waves, -1) + noise).astype(np.uint8))


def encoded(image=picture(), **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def read(content: bytes, *preprocessing) -> np.ndarray | str:
    try:
        return read_image(io.BytesIO(content), *preprocessing, name="a.jpg")
    except InputError as error:
        return str(error)


def assert_same(monkeypatch, content: bytes, fast: bool | None, *preprocessing):
    """Compares both decoders.

    fast: whether simplejpeg must have decoded the file; None does not check it.
    """
    if fast is not None:
        with Image.open(io.BytesIO(content)) as opened:
            assert (images._decode_jpeg(opened) is not None) == fast
    ours = read(content, *preprocessing)
    with monkeypatch.context() as patch:
        patch.setattr(images, "simplejpeg", None)
        theirs = read(content, *preprocessing)
    assert type(ours) is type(theirs)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (33, 21), (16, 47), (100, 3)])
def test_sizes_and_chroma(monkeypatch, size):
    image = picture(*size)
    for options in ({"subsampling": "4:4:4"}, {"subsampling": "4:2:2"},
                    {"subsampling": "4:2:0"}, {"progressive": True}, {"quality": 5},
                    {"keep_rgb": True}, {"restart_marker_blocks": 1}):
        assert_same(monkeypatch, encoded(image, **options), True)
    for options in ({}, {"progressive": True, "quality": 100}):
        assert_same(monkeypatch, encoded(image.convert("L"), **options), True)


@pytest.mark.parametrize("preprocessing", [
    Preprocessing((9, 11)), Preprocessing(channels=1), Preprocessing(channels=3),
    Preprocessing((8, 8), 1, 16, "bicubic")])
def test_resized_and_converted(monkeypatch, preprocessing):
    for image in (picture(), picture().convert("L")):
        assert_same(monkeypatch, encoded(image), True, preprocessing)


def test_every_orientation(monkeypatch):
    upright = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(exif=exif)
        assert_same(monkeypatch, content, True)
        assert_same(monkeypatch, content, True, Preprocessing((9, 11)))
        upright.append(read(content))
    assert [image.shape[:2] for image in upright] == [(21, 33)] * 4 + [(33, 21)] * 4
    assert len({image.tobytes() for image in upright}) == 8


def test_what_simplejpeg_refuses_is_left_to_pillow(monkeypatch):
    good = encoded()
    middle = len(good) // 2
    assert_same(monkeypatch, encoded(picture().convert("CMYK")), False)
    assert_same(monkeypatch, good[:middle], None)
    assert_same(monkeypatch, good[:middle] + b"\xff\xd9", None)
    assert_same(monkeypatch, good[:-2], None)
    assert_same(monkeypatch, good + b"trailing", None)
    for start in range(200, len(good) - 20, 29):
        damaged = good[:start] + bytes(8) + good[start + 8:]
        assert_same(monkeypatch, damaged, None)
    file = io.BytesIO()
    picture().save(file, "PNG")  # by content, whatever its name
    assert_same(monkeypatch, file.getvalue(), False)


@pytest.mark.skipif("CNN_JAX_DATA" not in os.environ, reason="needs CNN_JAX_DATA")
@pytest.mark.parametrize("step", [
    25, pytest.param(1, marks=pytest.mark.slow)])
def test_photographs(monkeypatch, step):
    root = Path(os.environ["CNN_JAX_DATA"], "monkey_species")
    files = sorted(root.rglob("*.jpg"))
    assert len(files) == 1370
    for file in files[::step]:
        assert_same(monkeypatch, file.read_bytes(), True)
        assert_same(monkeypatch, file.read_bytes(), True, Preprocessing((64, 64), 3))
