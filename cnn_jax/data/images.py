"""Pictures in, uint8 arrays out: decoding, colour conversion and resizing.

The same conversion serves the stored sets, folders of pictures and the user's own
pictures at prediction time, so a network sees what it was trained on.
"""

import math
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cnn_jax.errors import InputError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff",
              ".webp")
# Decoders that may be used, whatever a file is called: no EPS, which runs a program.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 64_000_000
MAX_BYTES = 8 * 2**30  # of a set, which lies in memory as one array

_GREY = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")
_MODES = {1: "L", 3: "RGB"}

# Pillow only warns of a small picture that unpacks to a huge one.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def find_images(paths) -> list[Path]:
    """The picture files named by `paths`, folders searched through.

    A file that is named is taken whatever its extension; of a folder, the files in
    it and below with one of `EXTENSIONS`, sorted by path.

    Raises:
        InputError: a path that does not exist, a folder without a picture, or no path.
    """
    paths = [Path(path) for path in paths]
    if not paths:
        raise InputError("no picture was named; name at least one file or folder")
    found = []
    for path in paths:
        if path.is_dir():
            try:
                inside = sorted(p for p in path.rglob("*") if is_image(p))
            except RecursionError as error:
                raise InputError(f"{path} has hundreds of folders in each other; name "
                                 "the one with the pictures") from error
            if not inside:
                raise InputError(
                    f"{path} holds no picture; files are looked for that end in "
                    f'{", ".join(EXTENSIONS)}')
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"{path} does not exist; name a picture or a folder")
    return found


def is_image(path: Path) -> bool:
    """Whether a file is taken for a picture; hidden files (as ._x.jpg) are not."""
    return is_image_name(path.name) and path.is_file()


def is_image_name(name: str) -> bool:
    return Path(name).suffix.lower() in EXTENSIONS and not name.startswith(".")


def read_image(file, size: tuple[int, int] = (0, 0), channels: int = 0,
               name: str = "") -> np.ndarray:
    """Decodes one picture.

    The EXIF orientation is applied. Colour becomes grey by Pillow's 'L' weights
    (0.299 R + 0.587 G + 0.114 B), palettes and CMYK become RGB, transparent parts are
    put on white, and of 16-bit values the high byte is kept. Of an animation the
    first frame is read.

    Args:
        file: a path or an open binary file; its content counts, not its extension.
        size: (height, width) in pixels, reached by bilinear resizing with antialias;
            the aspect ratio is not kept. (0, 0) leaves the size.
        channels: 1 grey, 3 RGB, 0 as stored.
        name: for messages, in place of the path.

    Returns:
        uint8 [H, W, C].

    Raises:
        InputError: not a picture, damaged, over `MAX_PIXELS`, or with pixel values
            without a known range (32 bits).
    """
    path = name or file
    try:
        with Image.open(file, formats=_FORMATS) as image:
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                raise InputError(
                    f"{path} has {image.width} x {image.height} pixels, over the limit "
                    f"of {MAX_PIXELS:,}; make it smaller")
            image.load()
            image = _plain(ImageOps.exif_transpose(image), path)
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path} has over {MAX_PIXELS:,} pixels, the limit; make it smaller"
        ) from error
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; name a picture") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path} cannot be read as a picture (its content is none of "
                         f"{', '.join(_FORMATS)}); remove or replace it") from error
    except Exception as error:  # hostile bytes make decoders raise almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} cannot be read as a picture ({reason}); remove or replace it"
        ) from error
    return _to_array(_convert(image, size, channels))


def convert_images(images: np.ndarray, size: tuple[int, int], channels: int):
    """Resizes and recolours stored images as `read_image` does with a file.

    Args:
        images: uint8 [N, H, W, C] with C = 1 or 3.
        size: (height, width) in pixels; (0, 0) leaves the size.
        channels: 1 grey, 3 RGB, 0 as stored.

    Returns:
        uint8 [N, height, width, channels]; `images` itself where nothing changes.
    """
    count, height, width, depth = images.shape
    target = (*(size if any(size) else (height, width)), channels or depth)
    if target == (height, width, depth):
        return images
    result = empty(count, target)
    for source, into in zip(images, result):
        image = Image.fromarray(source[..., 0] if depth == 1 else source)
        into[...] = _to_array(_convert(image, size, channels))
    return result


def empty(count: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Room for images, uint8 [count, H, W, C]. Raises InputError over `MAX_BYTES`."""
    size_bytes = count * math.prod(shape)
    if size_bytes > MAX_BYTES:
        raise InputError(
            f"{count:,} images of {shape} would take {size_bytes / 2**30:.1f} GiB; "
            f"the limit is {MAX_BYTES / 2**30:.0f}: choose a smaller data.image_size")
    return np.empty((count, *shape), np.uint8)


def _plain(image: Image.Image, path) -> Image.Image:
    """Mode 'L' or 'RGB' of any mode that Pillow reads."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InputError(
            f"{path} has 32-bit pixels, whose range is not known; save it with 8 or "
            "16 bits")
    grey = image.mode in _GREY
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if grey else "RGB")


def _convert(image: Image.Image, size, channels) -> Image.Image:
    """Colour first, then size."""
    mode = _MODES.get(channels, image.mode)
    if image.mode != mode:
        image = image.convert(mode)
    height, width = size if any(size) else (image.height, image.width)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return image


def _to_array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).reshape(image.height, image.width, -1)
