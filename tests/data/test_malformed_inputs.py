"""Each damaged picture or class folder gives one InputError and writes nothing."""

import gzip
import io
import struct
import zlib

import numpy as np
import pytest
from tests.support.data_samples import data_config
from PIL import Image

from cnn_jax import data
from cnn_jax.data import images
from cnn_jax.data.images import read_image
from cnn_jax.errors import InputError, one_line


def refused(function, path, *facts):
    """Asserts that `function(path)` raises one line with the facts, writing nothing."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(InputError) as caught:
        function(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    for fact in (str(path), *facts):
        assert fact in message, message
    assert sorted(path.parent.rglob("*")) == before


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


# Pictures

def encoded(image, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_of_size(width, height) -> bytes:
    """Makes a PNG that declares a size, with one row of data at most."""
    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b""))


NOISE = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
PNG, JPEG = encoded(NOISE), encoded(NOISE, "JPEG")


@pytest.mark.parametrize("content", [
    b"", b"not a picture", PNG[:20], PNG[:len(PNG) // 2], JPEG[:len(JPEG) // 2],
    JPEG[:20], PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:], png_of_size(0, 5),
    png_of_size(5, 0), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    encoded(NOISE, "PCX"), gzip.compress(b"x" * 50),
], ids=["empty", "text", "PNG header", "PNG half", "JPEG half", "JPEG header",
        "PNG flipped bit", "no width", "no height", "EPS", "format not allowed",
        "gzip"])
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_bad_picture(tmp_path, content, name):
    refused(read_image, write(tmp_path, name, content))


# images.py sets this filter too, but pytest resets the filters for each test.
@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("width, height", [
    (8001, 8000), (10_000, 10_000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_picture_over_the_limit_is_not_decoded(tmp_path, width, height):
    assert images.MAX_PIXELS == 8000 * 8000
    path = write(tmp_path, "a.png", png_of_size(width, height))
    refused(read_image, path, "64,000,000")


def test_picture_with_32_bit_values(tmp_path):
    path = write(tmp_path, "a.tif", encoded(Image.new("F", (2, 2)), "TIFF"))
    refused(read_image, path, "32-bit")


def test_picture_that_is_missing_or_a_folder(tmp_path):
    refused(read_image, tmp_path / "a.png", "does not exist")
    refused(read_image, tmp_path, "cannot be read")


# Class folders

@pytest.fixture
def root(tmp_path, monkeypatch):
    """Makes two classes of ten pictures."""
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "cache"))
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for k in range(10):
            Image.new("L", (4, 4), k).save(tmp_path / "set" / name / f"{k}.png")
    return tmp_path / "set"


def load(path):
    return data.load(data_config(name="folder", dir=str(path)), 0)


def test_a_folder_whose_name_cannot_be_printed(root):
    (root / "b").rename(root / "b\x1b[2J\n")
    refused(load, root, r"'b\x1b[2J\n'")


def test_pictures_that_would_not_fit_into_memory(root, monkeypatch):
    """They are refused before memory is allocated; one file may have many names."""
    monkeypatch.setattr(images, "MAX_BYTES", 20 * 4 * 4 - 1)
    made = []
    monkeypatch.setattr(np, "empty", lambda *args: made.append(args))
    with pytest.raises(InputError, match=r"20 images of \(4, 4, 1\)"):
        load(root)
    assert not made


def test_a_name_of_several_lines_is_one_line(root):
    (root / "a" / "new\nline\x1b[2J.png").write_bytes(b"no picture")
    with pytest.raises(InputError) as caught:
        load(root)
    line = one_line(str(caught.value))
    assert f"{root}/a/new\\nline\\x1b[2J.png" in line
    assert line.isprintable() and one_line("café 'ß' \udcff") == "café 'ß' \\udcff"


@pytest.mark.parametrize("name", ["folder", "mnist", "tfds:mnist"])
def test_a_home_folder_of_nobody(name):
    with pytest.raises(InputError, match="data.dir.*'~nobody_here/x'"):
        data.load(data_config(name=name, dir="~nobody_here/x"), 0)


@pytest.mark.parametrize("variable", ["CNN_JAX_DATA", "TFDS_DATA_DIR"])
def test_a_home_folder_of_nobody_in_the_environment(monkeypatch, variable):
    monkeypatch.delenv("CNN_JAX_DATA", raising=False)
    monkeypatch.setenv(variable, "~nobody_here/x")
    with pytest.raises(InputError, match=f"{variable}.*'~nobody_here/x'"):
        data.load(data_config(name="mnist"), 0)
